"""Host side: instar.Sandbox, which keeps a virtual machine ready for the next image."""

from __future__ import annotations

import os
import sys
from _collections_abc import Callable  # collections would cost 1 ms
from _thread import allocate_lock  # threading would cost 4 ms

from ..base.errors import ImageRejected, UsageError
from ..machine import Machine
from ..machine.payload import Payload, choose_payload
from ..request.keywords import (
    PathLike,
    announce,
    check_callbacks,
    check_path,
    make_request,
)
from ..request.signature import takes_keywords
from . import NO_VCPU, carry_out, open_image, plan_steps
from .result import AmendResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Unpack

    from ..image.image_file import ImageFile
    from ..request import AmendRequest
    from ..request.options import Keywords
    from .messages import Plan


class Sandbox:
    """Amends one image after the other in one virtual machine; a context manager.

    After each image, all that its guest could have touched goes back to what it was before the
    first one: memory, registers, FPU and vector state, MSRs, the pending exit, queues and serial
    port. After anything but a regular end of the guest, the machine is closed and the next image
    gets a new one, as it does in a forked child. docs/threat-model.md says what this rests on;
    instar.amend() uses a machine for each image.

    Not for two threads at once, which raises UsageError: give each thread a Sandbox of its own.
    """

    def __init__(self, *, payload: Payload | None = None) -> None:
        """Take the payload, or the installed one. HostError if that cannot be loaded.

        The virtual machine is made for the first image.
        """
        self._payload = choose_payload(payload)
        self._machine: Machine | None = None
        self._closed = False
        self._owner = os.getpid()
        self._busy = allocate_lock()

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        """Refuse to be copied or pickled: KVM serves none but its maker's memory. UsageError."""
        raise UsageError("a Sandbox cannot be copied or pickled; make another one")

    @takes_keywords
    def amend(
        self,
        path: PathLike,
        *,
        progress: Callable[[int, int], None] | None = None,
        debug: Callable[[str], None] | None = None,
        **keywords: Unpack[Keywords],
    ) -> AmendResult:
        """Do what instar.amend() does, with the same result and errors.

        Raises UsageError, too, if the sandbox is closed or busy in another thread.

        Args:
            path: the image, a regular file or a block device.
            {keywords}
            progress: called as progress(done, total) during a long scan.
            debug: called with the guest's debug text.
        """
        request = make_request(keywords)
        check_callbacks(progress=progress, debug=debug)
        check_path(path)
        return self.carry_out(path, request, progress, debug)

    def carry_out(
        self,
        path: PathLike,
        request: AmendRequest,
        progress: Callable[[int, int], None] | None = None,
        debug: Callable[[str], None] | None = None,
    ) -> AmendResult:
        """Do what amend() does, for arguments that are checked."""

        def act() -> AmendResult:
            self._begin()
            try:
                announce(path, request)
                with open_image(path, request) as image:
                    return self._amend(image, request, progress, debug)
            finally:
                self._busy.release()

        if "logging" not in sys.modules:
            return act()
        from .audit import logged

        return logged(path, request, self._payload.sha256, act)

    def amend_open(self, image: ImageFile, request: AmendRequest) -> AmendResult:
        """Do what amend() does with an image that is open; it is locked, but not closed, here."""
        self._begin()
        try:
            return self._amend(image, request, None, None)
        finally:
            self._busy.release()

    def _begin(self) -> None:
        self._enter_process()
        if not self._busy.acquire(blocking=False):
            raise UsageError("a Sandbox was used by two threads at once; give each one its own")
        if self._closed:
            self._busy.release()
            raise UsageError("the Sandbox is closed")

    def prepare(self, request: AmendRequest) -> int:
        """Make what such requests need now, not for the first image; return the vCPU's descriptor.

        From here on nothing is opened but images, and no thread is started. NO_VCPU where there is
        no guest. HostError if this machine cannot.
        """
        if not request.needs_guest:
            return NO_VCPU
        return self._machine_for(request.ram_size).prepare_vcpu()

    def is_ready(self, request: AmendRequest) -> bool:
        """Whether the next image can be amended so with what there is."""
        return not self._closed and (self._machine is not None or not request.needs_guest)

    def _amend(
        self,
        image: ImageFile,
        request: AmendRequest,
        progress: Callable[[int, int], None] | None,
        debug: Callable[[str], None] | None,
    ) -> AmendResult:
        warning = image.lock()
        if not request.needs_guest:
            from .keys import plan_luks

            return carry_out(image, request, plan_luks(image, request, progress), "", warning)
        plans = self._plan(image, request, progress, debug)
        return carry_out(image, request, plans, self._payload.sha256, warning)

    def _plan(
        self,
        image: ImageFile,
        request: AmendRequest,
        progress: Callable[[int, int], None] | None,
        debug: Callable[[str], None] | None,
    ) -> tuple[Plan, ...]:
        """Run the machine, and make it ready again or close it, before anything is written."""
        try:
            machine = self._machine_for(request.ram_size)
            return plan_steps(machine, image, request.steps(), progress, debug)
        except ImageRejected:  # the guest was not run, or the machine is ready again
            raise
        except BaseException:
            self._discard()
            raise

    def _machine_for(self, ram_size: int) -> Machine:
        """The machine at hand, or a new one if that has less RAM than is needed."""
        if self._machine is not None and self._machine.ram_size < ram_size:
            self._discard()
        return self._machine or self._make(ram_size)

    def _make(self, ram_size: int) -> Machine:
        self._machine = Machine(self._payload, ram_size)
        self._machine.keep()
        return self._machine

    def _enter_process(self) -> None:
        """Leave the machine of the parent process alone: KVM serves none but its maker's memory."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            # The lock may be held by a thread that does not exist here.
            self._busy = allocate_lock()
            self._discard()

    def _discard(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()

    def renew(self) -> None:
        """Have the next image get a new virtual machine. UsageError as from close()."""
        self._enter_process()
        if not self._busy.acquire(blocking=False):
            raise UsageError("the Sandbox is in use by another thread, and cannot be closed")
        try:
            self._discard()
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the virtual machine. UsageError if another thread is using it."""
        self.renew()
        self._closed = True

    def __enter__(self) -> Sandbox:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()
