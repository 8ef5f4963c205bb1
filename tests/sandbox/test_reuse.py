"""Test side: what one image's guest leaves in the machine never meets the next one's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import instar
from instar.abi import (
    INSTAR_AHEAD_ADDR,
    INSTAR_DMA_ADDR,
    INSTAR_PORT_NOTIFY,
    INSTAR_RAM_SIZE,
    INSTAR_STACK_ADDR,
    INSTAR_TRANSMIT_DESC_ADDR,
    INSTAR_TRANSMIT_USED_ADDR,
)
from instar.vmm.amend import plan
from instar.vmm.amend.messages import GuestRun
from instar.vmm.devices.memory import PAGE_SIZE
from instar.vmm.image.image_file import ImageFile
from instar.vmm.kvm import state
from instar.vmm.kvm.exits import IoOut, Shutdown
from instar.vmm.kvm.ioctls import ior, iow
from instar.vmm.kvm.structs import KVM_SEGMENT
from instar.vmm.kvm.system import Kvm
from instar.vmm.kvm.vcpu import Vcpu
from instar.vmm.kvm.vm import KVM_CAP_SYNC_REGS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_XSAVE2, Vm
from instar.vmm.machine import Machine, boot
from instar.vmm.machine import reset as snapshot
from instar.vmm.machine.payload import PF_W, Payload, load_payload
from instar.vmm.request.keywords import make_request
from tests.sandbox.rogues import Rogues
from tests.support.forge import Image

if TYPE_CHECKING:
    from instar.vmm.kvm.exits import VcpuExit

pytestmark = pytest.mark.kvm

REQUEST = make_request({"lazy_refcounts": True, "timeout": 10})
TRACE = 0x5A
RAM_SIZE = 2 * INSTAR_RAM_SIZE
"""What these guests have: some in pages of either size."""

# MSRs that are or hold a time, which goes on: TSC, its deadline and offset, and KVM's clocks.
CLOCKS = {0x10, 0x3B, 0x6E0, 0x11, 0x12, 0x4B564D00, 0x4B564D01}

XCRS_SIZE = 392  # struct kvm_xcrs
KVM_GET_XCRS, KVM_SET_XCRS = ior(0xA6, XCRS_SIZE), iow(0xA7, XCRS_SIZE)
XCR0 = 16
"""Where the value of the first register is in it."""


def all_msrs() -> tuple[int, ...]:
    """KVM_GET_MSR_INDEX_LIST: every MSR that KVM would have saved to move a guest elsewhere."""
    with Kvm.open() as kvm:
        buffer = bytearray(struct.pack("<I", 1000) + bytes(4000))
        ioctl(kvm.fd, 0xC004AE02, buffer)
    (count,) = struct.unpack_from("<I", buffer)
    return tuple(set(struct.unpack_from(f"<{count}I", buffer, 4)) - CLOCKS)


class Inspected(Machine):
    """A machine that can be looked at."""

    def look(self) -> dict[str, bytes]:
        """All registers that KVM tells of, and all of the memory."""
        fd = self._vcpu.fd
        xsave_size = self._vm.check_extension(KVM_CAP_XSAVE2)
        seen = {name: bytes(value) for name, value in state.read_state(fd, xsave_size).items()}
        # XSTATE_BV: a component that holds its initial values may be marked as in use or not, as
        # the host happened to save and restore it. KVM tells the values in both cases.
        seen["xsave"] = seen["xsave"][:512] + bytes(8) + seen["xsave"][520:]
        seen["xcrs"] = bytes(self.xcrs())
        seen |= {f"msr {n:#x}": bytes(state.read_msrs(fd, (n,))) for n in all_msrs()}
        return seen | {"memory": self._memory.read(0, self._memory.size)}

    def xcrs(self) -> bytearray:
        """KVM_GET_XCRS."""
        xcrs = bytearray(XCRS_SIZE)
        ioctl(self._vcpu.fd, KVM_GET_XCRS, xcrs)
        return xcrs

    def run_in_ring_0(self, code: bytes) -> VcpuExit:
        """What comes of this code and a doorbell after it, as if a guest had got into ring 0."""
        doorbell = b"\x66\xba" + struct.pack("<H", INSTAR_PORT_NOTIFY) + b"\xee"  # mov, out
        self._memory.write(self._payload.images[0].entry, code + doorbell)
        flat = {"limit": 0xFFFFFFFF, "present": 1, "s": 1, "g": 1}
        segments = {
            "cs": KVM_SEGMENT.pack({**flat, "selector": 0x10, "type": 11, "l": 1}),
            "ss": KVM_SEGMENT.pack({**flat, "selector": 0x18, "type": 3, "db": 1}),
        }
        self._vcpu.set_sregs({**self._vcpu.get_sregs(), **segments})
        return self._vcpu.run()

    def forget(self, what: str) -> None:
        """Leave one part of the state out of the next reset."""
        kept: Any = self._snapshot
        if what == "memory":
            kept._memory = _Forgetful()
        else:
            kept._registers[what] = state.read_state(self._vcpu.fd, 0)[what]

    def enter(self) -> None:
        """What KVM left for the next entry happens now."""
        self._vcpu.run_immediate_exit()


# Where the result waits for the doorbell, which is the last that the guest does: its descriptor and
# the rings that offer it and take it back, and the frame itself in the executor's transmit buffer.
RESULT = (
    (INSTAR_TRANSMIT_DESC_ADDR, INSTAR_TRANSMIT_USED_ADDR + 16),
    (INSTAR_AHEAD_ADDR + 0x2000, INSTAR_AHEAD_ADDR + 0x2100),
)


def writable(payload: Payload) -> list[tuple[int, int]]:
    """The pages that the guest can write but for RESULT, the most of the DMA window last."""
    mappings = [(at, -(-size // PAGE_SIZE)) for at, size, f in boot.mappings(payload) if f & PF_W]
    areas = [(address, address + pages * PAGE_SIZE) for address, pages in mappings]
    for start, end in RESULT:
        whole = next(area for area in areas if area[0] <= start < area[1])
        at = areas.index(whole)
        areas[at : at + 1] = [(whole[0], start), (end, whole[1])]
    areas.insert(-1, (INSTAR_RAM_SIZE, RAM_SIZE))
    return [(start, end - start) for start, end in areas]


@contextmanager
def inspected(*, kept: bool = True) -> Iterator[Inspected]:
    machine = Inspected(load_payload())
    with machine:
        if kept:
            machine.keep()
        yield machine


def write_image(path: Path, payload: Payload) -> None:
    """An image whose last sector tells traces.c where it can leave traces."""
    Image().write(path)
    areas = writable(payload)
    words = [len(areas), *(word for area in areas for word in area)]
    with path.open("ab") as file:
        file.write(struct.pack(f"<{len(words)}Q", *words).ljust(512, b"\0"))


def run(machine: Machine, path: Path) -> GuestRun:
    with ImageFile.open(str(path), writable=False) as image:
        return plan(machine, image, REQUEST)


@pytest.fixture(params=["traces", "more_traces"])
def payload(request: pytest.FixtureRequest, rogues: Rogues) -> Payload:
    return rogues.payload(f"traces/{request.param}")


@pytest.fixture
def machine(payload: Payload) -> Iterator[Inspected]:
    machine = Inspected(payload, RAM_SIZE)
    with machine:
        machine.keep()
        yield machine


def leaves_traces(machine: Machine, path: Path, payload: Payload) -> bool:
    """Whether it could: a processor may refuse what more_traces.c does, and ends it so."""
    try:
        assert not run(machine, path).refusals
    except instar.GuestFault:
        if payload.images[1].name == "traces":
            raise
        return False
    return True


def differences(seen: dict[str, bytes], pristine: dict[str, bytes]) -> set[str]:
    return {name for name, value in seen.items() if value != pristine[name]}


def test_a_guest_that_leaves_traces_everywhere_leaves_none_behind_a_reset(
    machine: Inspected, payload: Payload, path: Path
) -> None:
    write_image(path, payload)
    pristine = machine.look()
    registers = {"regs", "xsave"} if payload.images[1].name == "traces" else {"regs", "sregs"}
    for filled_to in (0, INSTAR_DMA_ADDR + 1, INSTAR_DMA_ADDR + 0x42ABC, RAM_SIZE, 1 << 63):
        if not leaves_traces(machine, path, payload):
            return
        machine._filled_to = filled_to
        dirty = machine.look()
        assert registers | {"memory"} <= differences(dirty, pristine)
        for address, size in writable(payload):
            spared = 16 if address == INSTAR_STACK_ADDR else 0  # by MXCSR and the flags
            assert dirty["memory"][address : address + size].count(TRACE) >= size - spared
        machine.reset()
        machine.enter()
        assert differences(machine.look(), pristine) == set()
        machine.enter()
        assert differences(machine.look(), pristine) == set()


def test_events_that_no_guest_can_leave_go_back_too(
    machine: Inspected, payload: Payload, path: Path
) -> None:
    write_image(path, payload)
    if not leaves_traces(machine, path, payload):
        return
    pristine = machine.look()
    events = bytearray(pristine["vcpu_events"])
    events[14] ^= 1  # nmi.masked
    ioctl(machine._vcpu.fd, state.KINDS["vcpu_events"][2], events)
    assert "vcpu_events" in differences(machine.look(), pristine)
    machine.reset()
    machine.enter()
    assert machine.look()["vcpu_events"] == pristine["vcpu_events"]


@pytest.mark.parametrize("forgotten", ["xsave", "memory"])
def test_the_next_guest_finds_no_trace_but_would_if_anything_were_forgotten(
    machine: Inspected, payload: Payload, path: Path, forgotten: str
) -> None:
    write_image(path, payload)
    if not leaves_traces(machine, path, payload):
        return
    machine.reset()
    assert run(machine, path).vm_exits == 2
    machine.forget(forgotten)
    machine.reset()
    with pytest.raises(instar.GuestFault, match=f"gave up with code {TRACE}"):
        run(machine, path)


def _have_kvm_say(monkeypatch: pytest.MonkeyPatch, capability: int, value: int) -> None:
    asked = Vm.check_extension
    monkeypatch.setattr(
        *(Vm, "check_extension"),
        lambda vm, what: value if what == capability else asked(vm, what),
    )


def test_a_kvm_that_would_not_take_registers_at_the_entry_is_refused(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    # It would ignore them, and the next guest would go on where this one ended.
    _have_kvm_say(monkeypatch, KVM_CAP_SYNC_REGS, 3)
    Image().write(path)
    before = path.read_bytes()
    with instar.Sandbox() as sandbox, pytest.raises(instar.HostError, match=r"Linux 4\.17"):
        sandbox.amend(path, lazy_refcounts=True)
    assert path.read_bytes() == before
    instar.amend(path, lazy_refcounts=True)  # which needs no second run


READ_LSTAR = b"\xb9\x82\0\0\xc0\x0f\x32"  # mov ecx, 0xc0000082; rdmsr
WRITE_LSTAR = b"\xb9\x82\0\0\xc0\x0f\x30"  # mov ecx, 0xc0000082; wrmsr
LSTAR = 0xC0000082


@pytest.mark.parametrize("code", [READ_LSTAR, WRITE_LSTAR], ids=["read", "write"])
def test_a_guest_of_a_kept_machine_that_got_into_ring_0_would_reach_no_msr(code: bytes) -> None:
    with inspected(kept=False) as machine:
        assert isinstance(machine.run_in_ring_0(code), IoOut)
    with inspected() as machine:
        assert isinstance(machine.run_in_ring_0(b""), IoOut)
    with inspected() as machine:
        assert isinstance(machine.run_in_ring_0(code), Shutdown)


def test_where_kvm_cannot_deny_msrs_they_go_back(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    _have_kvm_say(monkeypatch, KVM_CAP_X86_MSR_FILTER, 0)
    Image().write(path)
    with inspected() as machine:
        pristine = machine.look()
        assert isinstance(machine.run_in_ring_0(b"\xb0\x08" + WRITE_LSTAR), IoOut)
        assert f"msr {LSTAR:#x}" in differences(machine.look(), pristine)
        machine.reset()
        machine.enter()
        assert differences(machine.look(), pristine) == set()


@pytest.mark.parametrize("value", [0, 3, 7, 0xE7])
def test_xcr0_of_a_machine_has_but_one_value(value: int) -> None:
    with inspected() as machine:
        xcrs = machine.xcrs()
        assert struct.unpack_from("<Q", xcrs, XCR0) == (1,)
        ioctl(machine._vcpu.fd, KVM_SET_XCRS, xcrs)
        struct.pack_into("<Q", xcrs, XCR0, value)
        with pytest.raises(OSError, match="Invalid argument"):
            ioctl(machine._vcpu.fd, KVM_SET_XCRS, xcrs)


def _rax(value: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", value)  # mov rax, value


# Each changes something without an MSR; a processor may refuse it, which ends the machine.
IN_RING_0 = {
    "cr0": b"\x0f\x20\xc0\x48\x83\xc8\x08\x0f\x22\xc0",  # set TS
    "cr2": _rax(0xDEAD) + b"\x0f\x22\xd0",
    "cr4": b"\x0f\x20\xe0\x48\x83\xc8\x04\x0f\x22\xe0",  # set TSD
    "cr8": _rax(5) + b"\x44\x0f\x22\xc0",
    "dr0": _rax(0x1234) + b"\x0f\x23\xc0",
    "dr6": _rax(0xFFFF4FFF) + b"\x0f\x23\xf0",
    "dr7": _rax(0x402) + b"\x0f\x23\xf8",
    "swapgs": (
        b"\x0f\x20\xe0\x48\x0d\x00\x00\x01\x00\x0f\x22\xe0"  # set FSGSBASE in CR4
        + (_rax(0x5EC7E7510BAD) + b"\xf3\x48\x0f\xae\xd8")  # wrgsbase rax
        + b"\x0f\x01\xf8"  # swapgs
    ),
}


@pytest.mark.parametrize("code", IN_RING_0.values(), ids=IN_RING_0)
def test_what_a_guest_in_ring_0_would_change_goes_back(code: bytes) -> None:
    with inspected() as machine:
        pristine = machine.look()
        if isinstance(machine.run_in_ring_0(code), Shutdown):
            return
        assert differences(machine.look(), pristine) - {"memory", "regs"}
        machine.reset()
        machine.enter()
        assert differences(machine.look(), pristine) == set()
        machine.enter()
        assert differences(machine.look(), pristine) == set()


class _Forgetful:
    """A memory that keeps what it should lose."""

    size = RAM_SIZE

    def write(self, _address: int, _data: bytes) -> None: ...

    def discard(self, _address: int, _size: int) -> None: ...


def test_the_pending_exit_is_completed_before_the_registers_are_set(
    machine: Inspected, payload: Payload, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which KVM, on some processors, would otherwise do with the new registers.
    write_image(path, payload)
    if not leaves_traces(machine, path, payload):
        return
    steps: list[str] = []
    complete, write_state = Vcpu.run_immediate_exit, state.write_state

    def complete_and_note(vcpu: Vcpu) -> None:
        steps.append("complete")
        complete(vcpu)

    def set_and_note(vcpu: Vcpu, registers: dict[str, bytearray]) -> None:
        steps.append("set")
        write_state(vcpu, registers)

    monkeypatch.setattr(Vcpu, "run_immediate_exit", complete_and_note)
    monkeypatch.setattr(snapshot, "write_state", set_and_note)
    machine.reset()
    assert steps == ["complete", "set"]
