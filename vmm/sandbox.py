"""Host side: runs the payload on one image in a fresh virtual machine, and collects what it says.

Everything that the guest does ends in one of three ways: an outcome, whose staged writes are still
to be judged; a GuestFault; or a HostError. Nothing here writes to the image.
"""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    AMEND_ACTION_AMENDED,
    AMEND_ACTION_NOOP,
    AMEND_CONFIG_MAGIC,
    AMEND_FLAG_COMPAT_V3,
    AMEND_FLAG_LAZY_ON,
    AMEND_FLAG_PROGRESS,
    AMEND_FLAG_QUIET,
    AMEND_FLAG_SET_COMPAT,
    AMEND_FLAG_SET_LAZY,
    AMEND_FORMAT_QCOW2,
    AMEND_OK,
    AMEND_RESULT_MAGIC,
    FRAME_PROGRESS,
    FRAME_REFUSALS,
    FRAME_RESULT,
    INSTAR_BLOCK_QUEUE,
    INSTAR_PORT_EXIT,
    INSTAR_PORT_NOTIFY,
    INSTAR_PORT_SERIAL,
    INSTAR_RAM_SIZE,
    INSTAR_TRANSMIT_QUEUE,
    OPERATION_CONFIG_ADDR,
    REFUSAL_MAX,
    AmendConfig_FORMAT,
    AmendProgress_FORMAT,
    AmendRefusal_FORMAT,
    AmendResult_FORMAT,
)
from instar.vmm import boot
from instar.vmm.block import BlockDevice
from instar.vmm.contract import Claim
from instar.vmm.deadline import Deadline
from instar.vmm.errors import GuestFault, HostError
from instar.vmm.kvm.exits import Interrupted, IoIn, IoOut, Mmio, Other, Shutdown
from instar.vmm.kvm.system import Kvm
from instar.vmm.memory import GuestMemory
from instar.vmm.record import record
from instar.vmm.serial import SerialPort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from instar.vmm.image_file import ImageFile
    from instar.vmm.kvm.vcpu import Vcpu
    from instar.vmm.payload import Payload
    from instar.vmm.probe import FixedHeader
    from instar.vmm.request import AmendRequest

    T = TypeVar("T")

_CONFIG = Struct(AmendConfig_FORMAT)
_RESULT = Struct(AmendResult_FORMAT)
_REFUSAL = Struct(AmendRefusal_FORMAT)
_PROGRESS = Struct(AmendProgress_FORMAT)

EXIT_BUDGET = 250_000
"""How often a guest may stop for the host."""


@record
class Outcome:
    """What a guest that ended in the regular way said and staged."""

    claim: Claim
    """What it says it did; meaningless if there are refusals."""
    refusals: tuple[tuple[int, ...], ...]
    """AmendRefusals: (reason, error, three details)."""
    phases: list[dict[int, bytes]]
    """The sectors it staged, by phase."""
    vm_exits: int
    """How often it stopped for the host."""


@record
class Descriptors:
    """What a run uses of the process, once it was prepared."""

    image: int
    """The image's descriptor."""
    image_size: int
    """In bytes."""
    vcpu: int
    """The vCPU's descriptor."""


def pack_config(
    header: FixedHeader, request: AmendRequest, image_size: int, *, progress: bool, debug: bool
) -> bytes:
    """The AmendConfig for what the host saw of the header and what is asked for."""
    flags = AMEND_FLAG_SET_COMPAT if request.version else 0
    flags |= AMEND_FLAG_COMPAT_V3 if request.version == 3 else 0
    flags |= AMEND_FLAG_SET_LAZY if request.lazy_refcounts is not None else 0
    flags |= AMEND_FLAG_LAZY_ON if request.lazy_refcounts else 0
    flags |= AMEND_FLAG_PROGRESS if progress else 0
    flags |= AMEND_FLAG_QUIET if not debug else 0
    return _CONFIG.pack(
        *(AMEND_CONFIG_MAGIC, AMEND_FORMAT_QCOW2, flags, 512),
        *(header.cluster_size, header.version, header.refcount_bits, 0),
        *(header.incompatible_features, header.compatible_features, header.size),
        *(image_size, header.autoclear_features, b""),
    )


class Sandbox:
    """A virtual machine for one run of a payload; a context manager.

    It is made before any byte of an image is read, so that the process can confine itself between.
    """

    def __init__(self, payload: Payload) -> None:
        """Set up memory, tables and registers. HostError if this machine cannot."""
        self._payload = payload
        self.vm_exits = 0
        try:
            self._memory = GuestMemory(INSTAR_RAM_SIZE)
        except OSError as error:
            raise HostError(f"no memory for the guest: {error.strerror}") from error
        self._closers = [self._memory.close]
        boot.load(self._memory, payload, boot.system_pages(payload))
        self._messages = _Messages()
        self._serial = SerialPort(self._memory, self._messages.receive)
        try:
            self._vcpu = self._create_vcpu()
        except OSError as error:
            self.close()
            raise HostError(_explain(error)) from error

    def _create_vcpu(self) -> Vcpu:
        with Kvm.open() as kvm:
            vm = kvm.create_vm()
        self._closers.append(vm.close)
        # SAFETY: close() closes the VM before it unmaps the memory.
        vm.set_user_memory_region(0, 0, self._memory.host_address, self._memory.size)
        vcpu = vm.create_vcpu(0)
        self._closers.append(vcpu.close)
        boot.set_registers(vcpu, *self._payload.images)
        return vcpu

    def prepare(self, image: ImageFile) -> Descriptors:
        """Have KVM do what it does but once per machine; say what the run on `image` will use.

        From here on the run opens nothing and starts no thread. HostError if KVM fails.
        """
        _kvm(self._vcpu.run_immediate_exit)
        return Descriptors(image.fd, image.size, self._vcpu.fd)

    def close(self) -> None:
        """End the virtual machine."""
        while self._closers:
            _kvm(self._closers.pop())

    def run(
        self,
        image: ImageFile,
        config: bytes,
        timeout: float,
        progress: Callable[[int, int], None] | None = None,
        debug: Callable[[str], None] | None = None,
    ) -> Outcome:
        """Run the payload on `image` to its end; once only.

        `config` is a packed AmendConfig; `timeout` is in seconds. Raises GuestFault if the guest
        breaks a rule or exceeds a budget, HostError if the file or KVM fails.
        """
        self._messages.progress = progress
        self._memory.write(OPERATION_CONFIG_ADDR, config)
        block = BlockDevice(self._memory, image)
        try:
            self._run_guest(block, timeout)
        finally:
            if debug and self._serial.text:
                debug(self._serial.text.decode("ascii", "replace"))
        self._serial.check_ended()
        refusals, claim = self._messages.complete()
        phases = block.staged.written_phases()
        return Outcome(claim, refusals, phases, self.vm_exits)

    def _run_guest(self, block: BlockDevice, timeout: float) -> None:
        with Deadline(timeout) as deadline:
            _kvm(self._vcpu.set_signal_mask, deadline.run_mask)
            self._loop(block, deadline, timeout)

    def _loop(self, block: BlockDevice, deadline: Deadline, timeout: float) -> None:
        while True:
            event = _kvm(self._vcpu.run)
            self.vm_exits += not isinstance(event, Interrupted)
            # A write of one byte is all that the contract knows.
            if isinstance(event, IoOut) and len(event.data) == 1:
                if event.port == INSTAR_PORT_EXIT:
                    if event.data != b"\0":
                        raise GuestFault(f"the guest gave up with code {event.data[0]}")
                    return
                self._write_port(block, event.port, event.data)
            elif not isinstance(event, Interrupted):
                raise GuestFault(self._describe(event))
            if deadline.passed():
                raise GuestFault(f"the guest did not finish within {timeout:g} s")
            if self.vm_exits >= EXIT_BUDGET:
                raise GuestFault(f"the guest stopped for the host {EXIT_BUDGET} times")

    def _write_port(self, block: BlockDevice, port: int, data: bytes) -> None:
        if port == INSTAR_PORT_NOTIFY and data[0] == INSTAR_BLOCK_QUEUE:
            block.notify()
        elif port == INSTAR_PORT_NOTIFY and data[0] == INSTAR_TRANSMIT_QUEUE:
            self._serial.notify()
        elif port == INSTAR_PORT_SERIAL:
            self._serial.write_register(data)
        else:
            raise GuestFault(f"the guest wrote {data.hex()} to port {port:#x}")

    def _describe(self, event: object) -> str:
        rip = _kvm(self._vcpu.get_regs).rip
        place = f"at {rip:#x} ({self._payload.locate(rip)})"
        if isinstance(event, Shutdown):
            address = _kvm(self._vcpu.get_sregs).cr2
            return f"the guest faulted {place}, last page fault at {address:#x}"
        if isinstance(event, IoOut | IoIn):
            return f"the guest used port {event.port:#x} against the rules {place}"
        if isinstance(event, Mmio):
            return f"the guest touched {event.address:#x}, where nothing is, {place}"
        assert isinstance(event, Other)  # noqa: S101 - the exits are a closed set
        return f"the guest stopped with {event.name} {place}"

    def __enter__(self) -> Sandbox:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


class _Messages:
    """Takes the frames of one run and judges each as it comes."""

    def __init__(self) -> None:
        self.progress: Callable[[int, int], None] | None = None
        self._refusals: tuple[tuple[int, ...], ...] = ()
        self._result: tuple[int, ...] | None = None

    def receive(self, kind: int, payload: bytes) -> None:
        """Take one frame. GuestFault if it is malformed or out of order."""
        if kind == FRAME_PROGRESS and len(payload) == _PROGRESS.size:
            done, total = _PROGRESS.unpack(payload)
            if self.progress and 0 <= done <= total:
                self.progress(done, total)
        elif kind == FRAME_REFUSALS and not self._refusals:
            if not payload or len(payload) % _REFUSAL.size:
                raise GuestFault(f"refusals of {len(payload)} bytes")
            self._refusals = tuple(_REFUSAL.iter_unpack(payload))
        elif kind == FRAME_RESULT and len(payload) == _RESULT.size:
            self._result = _RESULT.unpack(payload)
        else:
            raise GuestFault(f"frame of type {kind} with {len(payload)} bytes")

    def complete(self) -> tuple[tuple[tuple[int, ...], ...], Claim]:
        """Judge the result. GuestFault if it contradicts itself."""
        if self._result is None:
            raise GuestFault("the guest ended without a result")
        magic, form, action, error, version, lazy, atomic, count, *words, reserved = self._result
        if (magic, form, reserved) != (AMEND_RESULT_MAGIC, AMEND_FORMAT_QCOW2, 0):
            raise GuestFault("a result with a bad magic, format or reserved field")
        if count != len(self._refusals) or count > REFUSAL_MAX or bool(count) != bool(error):
            raise GuestFault(f"a result with error {error} and {count} refusals")
        if error == AMEND_OK and action not in (AMEND_ACTION_NOOP, AMEND_ACTION_AMENDED):
            raise GuestFault(f"a result with action {action}")
        if lazy != words[1] & 1 or atomic > 1:
            raise GuestFault("a result that contradicts itself")
        names = ("incompatible_features", "compatible_features", "autoclear_features")
        fields = {"version": version, **dict(zip(names, words, strict=True))}
        return self._refusals, Claim(action == AMEND_ACTION_AMENDED, bool(atomic), fields)


def _kvm(call: Callable[..., T], *arguments: object) -> T:
    """Call the binding; what the kernel refuses in a run is the host's fault."""
    try:
        return call(*arguments)
    except OSError as error:
        raise HostError(f"KVM: {error.strerror}; see instar doctor") from error


def _explain(error: OSError) -> str:
    advice = {
        "ENOENT": "load the kvm module, or enable virtualisation (nested, in a virtual machine)",
        "EACCES": "ask for access to it, usually by joining the group kvm",
        "EPERM": "ask for access to it, usually by joining the group kvm",
    }
    from errno import errorcode

    what = advice.get(errorcode.get(error.errno or 0, ""), "see instar doctor")
    return f"could not use /dev/kvm: {error.strerror}; {what}"
