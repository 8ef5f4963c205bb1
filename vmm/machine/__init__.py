"""Host side: a virtual machine that runs the payload on an image, and collects what it says.

Everything that the guest does ends in one of three ways: an outcome, whose staged writes are still
to be judged; a GuestFault; or a HostError. Nothing here writes to the image.
"""

from __future__ import annotations

from sys import abiflags

from instar.abi import (
    INSTAR_BLOCK_QUEUE,
    INSTAR_BOTH_QUEUES,
    INSTAR_PORT_EXIT,
    INSTAR_PORT_NOTIFY,
    INSTAR_PORT_SERIAL,
    INSTAR_RAM_SIZE,
    INSTAR_TRANSMIT_QUEUE,
    OPERATION_CONFIG_ADDR,
)

from ..base.errors import RAISE_FILES, GuestFault, HostError, reason_of_thread
from ..base.streams import StreamsKept
from ..devices.block import BlockDevice
from ..devices.memory import GuestMemory
from ..devices.serial import SerialPort
from ..kvm.exits import Interrupted, IoIn, IoOut, Mmio, Other, Shutdown
from ..kvm.structs import SYNC_REGS
from ..kvm.system import Kvm
from ..kvm.vm import KVM_CAP_SYNC_REGS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_XSAVE2
from . import boot
from .deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from ..image.staging import StagedWrites
    from ..image.view import AnyImage
    from ..kvm.vcpu import Vcpu
    from .payload import Payload
    from .reset import Snapshot

    T = TypeVar("T")

_QUEUES = (INSTAR_BLOCK_QUEUE, INSTAR_TRANSMIT_QUEUE, INSTAR_BOTH_QUEUES)

EXIT_BUDGET = 250_000
"""How often a guest may stop for the host, and again for each WORK_OF_EXITS of its budget."""
WORK_OF_EXITS = 32 << 30
"""Bytes of work, which take no more than half as many requests, and words about the progress."""


class Machine:
    """A virtual machine for one run of a payload, or for one after the other; a context manager.

    It is made before any byte of an image is read, so that the process can confine itself between.
    """

    def __init__(self, payload: Payload, ram_size: int = INSTAR_RAM_SIZE) -> None:
        """Set up memory, tables and registers. HostError if this machine or Python cannot.

        `ram_size` is what the guest has, in bytes: a multiple of INSTAR_RAM_SIZE up to
        INSTAR_RAM_MAX.
        """
        if is_free_threaded():
            raise HostError(
                "free-threaded builds of Python are not supported; use the ordinary build"
            )
        self._payload = payload
        self.ram_size = ram_size
        self._snapshot: Snapshot | None = None
        self._filled_to = 0
        self.vm_exits = 0
        """How often the guest of the last run stopped for the host."""
        try:
            self._memory = GuestMemory(ram_size)
        except OSError as error:
            raise HostError(_explain_memory(error)) from error
        self._closers = [self._memory.close]
        boot.load(self._memory, payload, boot.cached_page_tables(payload, ram_size))
        try:
            self._vcpu = self._create_vcpu()
        except OSError as error:
            self.close()
            raise HostError(_explain(error)) from error

    def _create_vcpu(self) -> Vcpu:
        with StreamsKept():
            with Kvm.open() as kvm:
                self._vm = vm = kvm.create_vm()
            self._closers.append(vm.close)
            # SAFETY: close() closes the VM before it unmaps the memory.
            vm.set_user_memory_region(0, 0, self._memory.host_address, self._memory.size)
            vcpu = vm.create_vcpu(0)
            self._closers.append(vcpu.close)
        boot.set_registers(vcpu, self.ram_size, *self._payload.images)
        return vcpu

    def prepare_vcpu(self) -> int:
        """Have KVM do what it does but once per machine; return the vCPU's descriptor.

        From here on the run opens nothing and starts no thread. HostError if KVM fails.
        """
        _kvm(self._vcpu.run_immediate_exit)
        return self._vcpu.fd

    def keep(self) -> None:
        """Remember the machine as it is, before its first run, so that reset() can be used.

        HostError if KVM fails.
        """
        from ..kvm.state import KERNEL_GS_BASE, MSRS, read_msrs, read_state
        from .reset import Snapshot

        if _kvm(self._vm.check_extension, KVM_CAP_SYNC_REGS) & SYNC_REGS != SYNC_REGS:
            raise HostError("KVM cannot reset a machine here; use Linux 4.17 or later")
        xsave_size = _kvm(self._vm.check_extension, KVM_CAP_XSAVE2)
        registers = _kvm(read_state, self._vcpu.fd, xsave_size)
        msrs: tuple[int, ...] = MSRS
        if _kvm(self._vm.check_extension, KVM_CAP_X86_MSR_FILTER):
            _kvm(self._vm.deny_msrs)
            msrs = (KERNEL_GS_BASE,)
        registers["msrs"] = _kvm(read_msrs, self._vcpu.fd, msrs)
        code_end = boot.code_end(self._payload)
        self._snapshot = Snapshot(self._memory, code_end, self._vcpu, registers)

    @property
    def is_kept(self) -> bool:
        """Whether reset() can be used."""
        return self._snapshot is not None

    def reset(self) -> None:
        """Make memory and registers what they were at keep(); each run has devices of its own.

        Only after a run that returned an outcome: a guest that broke a rule is not to be trusted
        with another image. HostError if KVM fails; the machine must be closed then.
        """
        assert self._snapshot is not None  # noqa: S101 - a mistake of this package, not of a guest
        _kvm(self._snapshot.restore, self._filled_to)

    def close(self) -> None:
        """End the virtual machine."""
        while self._closers:
            _kvm(self._closers.pop())

    def run(
        self,
        image: AnyImage,
        config: bytes,
        timeout: float,
        receive: Callable[[int, bytes], None],
        debug: Callable[[str], None] | None = None,
        *,
        along: Iterable[int] = (),
        table: tuple[int, int] = (0, 0),
        spent: float = 0.0,
        read_only: bool = False,
    ) -> StagedWrites:
        """Run the payload on `image` to its end; once, or once after each reset().

        Returns what the guest wrote.

        Args:
            image: the image file.
            config: what the operation is told, as the ABI has it.
            timeout: in seconds, with those that are spent already.
            receive: called with the type and the payload of each frame; what it raises ends the
                run.
            debug: called with the guest's debug text.
            along: offsets in bytes of sectors that the guest gets with the image's head, before it
                starts.
            table: offset and size of a part of a table that it gets then, too.
            spent: seconds of the timeout that runs before this one took.
            read_only: whether a request to write is a fault of the guest.

        Raises:
            GuestFault: the guest breaks a rule or exceeds a budget.
            HostError: the file or KVM fails.
        """
        self.vm_exits = 0
        self._serial = SerialPort(self._memory, receive)
        self._memory.write(OPERATION_CONFIG_ADDR, config)
        block = BlockDevice(self._memory, image, image.max_growth, read_only=read_only)
        block.read_ahead(along, table)
        try:
            self._run_guest(block, timeout, spent)
        finally:
            self._filled_to = block.filled_to
            if debug and self._serial.text:
                debug(self._serial.text.decode("ascii", "replace"))
        self._serial.check_ended()
        return block.staged

    def _run_guest(self, block: BlockDevice, timeout: float, spent: float) -> None:
        with Deadline(timeout - spent) as deadline:
            _kvm(self._vcpu.set_signal_mask, deadline.run_mask)
            self._loop(block, deadline, timeout)

    def _loop(self, block: BlockDevice, deadline: Deadline, timeout: float) -> None:
        exits = EXIT_BUDGET * (1 + block.budget // WORK_OF_EXITS)

        def check_time() -> None:
            if deadline.passed():
                written = "" if block.read_only else ", and nothing was written"
                raise GuestFault(
                    f"the sandbox did not finish within {timeout:g} s{written}; a slow disk or a "
                    "large image may take longer: allow it with --timeout"
                )

        while True:
            event = _kvm(self._vcpu.run)
            self.vm_exits += not isinstance(event, Interrupted)
            # A write of one byte is all that the contract knows.
            if isinstance(event, IoOut) and len(event.data) == 1:
                if event.port == INSTAR_PORT_EXIT:
                    if event.data != b"\0":
                        raise GuestFault(f"the guest gave up with code {event.data[0]}")
                    return
                self._write_port(block, event.port, event.data, check_time)
                if self._serial.finished:
                    return  # nothing that the guest could do now would count
            elif not isinstance(event, Interrupted):
                raise GuestFault(self._describe(event))
            check_time()
            if self.vm_exits >= exits:
                raise GuestFault(f"the guest stopped for the host {exits} times")

    def _write_port(
        self, block: BlockDevice, port: int, data: bytes, check_time: Callable[[], None]
    ) -> None:
        if port == INSTAR_PORT_NOTIFY and data[0] in _QUEUES:
            if data[0] != INSTAR_TRANSMIT_QUEUE:
                block.notify(check_time)
            if data[0] != INSTAR_BLOCK_QUEUE:
                self._serial.notify()
        elif port == INSTAR_PORT_SERIAL:
            self._serial.write_register(data)
        else:
            raise GuestFault(f"the guest wrote {data.hex()} to port {port:#x}")

    def _describe(self, event: object) -> str:
        rip = _kvm(self._vcpu.get_regs)["rip"]
        place = f"at {rip:#x} ({self._payload.locate(rip)})"
        if isinstance(event, Shutdown):
            address = _kvm(self._vcpu.get_sregs)["cr2"]
            return f"the guest faulted {place}, last page fault at {address:#x}"
        if isinstance(event, IoOut | IoIn):
            return f"the guest used port {event.port:#x} against the rules {place}"
        if isinstance(event, Mmio):
            return f"the guest touched {event.address:#x}, where nothing is, {place}"
        assert isinstance(event, Other)  # noqa: S101 - the exits are a closed set
        return f"the guest stopped with {event.name} {place}"

    def __enter__(self) -> Machine:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()


def is_free_threaded() -> bool:
    """Whether this build of Python has no GIL (PEP 703), on which this package is not tested."""
    return "t" in abiflags


def _kvm(call: Callable[..., T], *arguments: object) -> T:
    """Call the binding; what the kernel refuses in a run is the host's fault."""
    try:
        return call(*arguments)
    except OSError as error:
        # A virtual machine may need a thread of the kernel's, which counts as the user's.
        raise HostError(f"KVM: {reason_of_thread(error)}; see instar doctor") from error


_ADVICE = {
    "ENOENT": (
        "load the module kvm_intel or kvm_amd, in a virtual machine enable nested virtualisation, "
        "start a container with --device /dev/kvm"
    ),
    "EMFILE": RAISE_FILES,
}
_MEMORY_LIMITS = (9, "address space (ulimit -v)"), (2, "data (ulimit -d)")
"""RLIMIT_AS and RLIMIT_DATA (asm-generic/resource.h), and what they are called."""
_ACCESS = "ask for access to it, usually by joining the group kvm"
_ACCESS_OF_ROOT = "start the container with --device /dev/kvm"


def _explain_memory(error: OSError) -> str:
    from ..base.c import UNLIMITED, get_limits

    told = f"no memory for the guest: {error.strerror}"
    for number, what in _MEMORY_LIMITS:
        try:
            limit = get_limits(number)[0]
        except OSError:  # a filter of system calls may deny it
            break
        if limit < UNLIMITED:
            told += f"; raise the limit of {what} of {limit >> 10} KiB"
    return told


def _explain(error: OSError) -> str:
    from errno import errorcode
    from os import geteuid

    name = errorcode.get(error.errno or 0, "")
    advice = _ADVICE.get(name, "")
    if name in ("EACCES", "EPERM"):  # root needs no group, but is not let in everywhere either
        advice = _ACCESS if geteuid() else _ACCESS_OF_ROOT
    advice = f"{advice}, and see instar doctor" if advice else "see instar doctor"
    return f"could not use /dev/kvm: {error.strerror}; {advice}"
