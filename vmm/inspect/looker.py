"""Host side: a virtual machine whose guest only looks at images, one after the other."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    INSPECT_CONFIG_MAGIC,
    INSPECT_FLAG_PROGRESS,
    INSPECT_FLAG_QUIET,
    INSTAR_RAM_SIZE,
    InspectConfig_FORMAT,
)

from ..machine import Machine
from ..machine.payload import choose_payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..image.image_file import ImageFile
    from ..machine.payload import Payload

_CONFIG = Struct(InspectConfig_FORMAT)


class Looker:
    """Runs one operation that writes nothing, on any number of images; a context manager.

    The machine goes back to its first state after each image, and is given up after anything but a
    regular end of the guest, as that of an instar.Sandbox is.
    """

    def __init__(
        self, operation: str, *, payload: Payload | None = None, ram_size: int = INSTAR_RAM_SIZE
    ) -> None:
        """Take the name of the operation, or the payload itself. HostError if it is not there."""
        self._payload = choose_payload(payload, operation)
        self._ram_size = ram_size
        self._machine: Machine | None = None
        self.vm_exits = 0
        """How often the guest of the last run stopped for the host."""

    @property
    def payload_sha256(self) -> str:
        """The SHA-256 of the payload, in hexadecimal."""
        return self._payload.sha256

    def provide(self, ram_size: int) -> None:
        """Have the machine for the next image have that much RAM, or more."""
        if ram_size > self._ram_size:
            self.close()
            self._ram_size = ram_size

    def prepare(self) -> int:
        """Make the machine now; return its vCPU's descriptor. HostError if this machine cannot."""
        if self._machine is None:
            self._machine = Machine(self._payload, self._ram_size)
        return self._machine.prepare_vcpu()

    def keep(self) -> None:
        """Have one machine for all images that follow. HostError if this machine cannot."""
        self.prepare()
        assert self._machine is not None  # noqa: S101 - it was just made
        self._machine.keep()

    def look(
        self,
        image: ImageFile,
        receive: Callable[[int, bytes], None],
        timeout: float,
        *,
        progress: bool = False,
        debug: Callable[[str], None] | None = None,
        work_max: int | None = None,
    ) -> None:
        """Run the guest on an image that is open and locked. GuestFault, HostError.

        `receive` is called with each frame, as Machine.run() has it; `progress` asks for those.
        `work_max` is what the guest may spend, if not what an amend may.
        """
        flags = INSPECT_FLAG_PROGRESS if progress else 0
        flags |= 0 if debug else INSPECT_FLAG_QUIET
        work_max = image.work_max if work_max is None else work_max
        config = _CONFIG.pack(INSPECT_CONFIG_MAGIC, flags, image.size, work_max, 0)
        if self._machine is None:
            self.keep()
        machine = self._machine
        assert machine is not None  # noqa: S101 - see above
        try:
            machine.run(image, config, timeout, receive, debug, read_only=True)
            self.vm_exits = machine.vm_exits
            if machine.is_kept:
                machine.reset()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the virtual machine."""
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()

    def __enter__(self) -> Looker:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()
