"""Test side: the guest's address space, read as the processor reads it, opens what it must only."""

from __future__ import annotations

from collections.abc import Mapping
from struct import unpack_from
from types import SimpleNamespace
from typing import Any

import pytest

from instar import abi
from instar.vmm.devices.memory import PAGE_SIZE, GuestMemory
from instar.vmm.kvm.structs import KVM_DTABLE, KVM_REGS, KVM_SEGMENT, KVM_SREGS
from instar.vmm.machine import boot
from instar.vmm.machine.payload import PF_R, PF_W, PF_X, Payload, load_payload

PRESENT, WRITE, USER, LARGE, NO_EXECUTE = 1, 2, 4, 0x80, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
OPEN_PORTS = {abi.INSTAR_PORT_EXIT, abi.INSTAR_PORT_NOTIFY, abi.INSTAR_PORT_SERIAL}


class FakeVcpu:
    """Takes registers."""

    def __init__(self) -> None:
        self.regs = b""
        self.sregs = bytes(KVM_SREGS.extent)

    def get_sregs(self) -> dict[str, Any]:
        return KVM_SREGS.unpack(self.sregs)

    def set_sregs(self, sregs: Mapping[str, Any]) -> None:
        self.sregs = bytes(KVM_SREGS.pack(sregs))

    def set_regs(self, regs: Mapping[str, Any]) -> None:
        self.regs = bytes(KVM_REGS.pack(regs))


def read_sregs(raw: bytes) -> SimpleNamespace:
    """The registers of a struct kvm_sregs by their names, and so the parts of each."""
    found = SimpleNamespace(**KVM_SREGS.unpack(raw))
    for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"):
        setattr(found, name, SimpleNamespace(**KVM_SEGMENT.unpack(getattr(found, name))))
    for name in ("gdt", "idt"):
        setattr(found, name, SimpleNamespace(**KVM_DTABLE.unpack(getattr(found, name))))
    return found


class Machine:
    """What the processor sees: memory and registers."""

    def __init__(self, payload: Payload, ram_size: int = abi.INSTAR_RAM_SIZE) -> None:
        self.payload = payload
        memory = GuestMemory(ram_size)
        boot.load(memory, payload, boot.page_tables(payload, ram_size))
        self.memory = memory.read(0, memory.size)
        memory.close()
        vcpu = FakeVcpu()
        boot.set_registers(vcpu, ram_size, *payload.images)  # type: ignore[arg-type]
        self.regs = SimpleNamespace(**KVM_REGS.unpack(vcpu.regs))
        self.sregs = read_sregs(vcpu.sregs)
        self.pages = dict(self._walk(self.sregs.cr3, 3, 0, USER | WRITE))

    def _walk(self, table: int, level: int, start: int, rights: int) -> list[tuple[int, int]]:
        """Every present page: its address, and flags as they are in effect.

        Intel SDM vol. 3A, 4.5 and 4.6: writing and user access take all levels, NX any of them.
        """
        found = []
        for index in range(512):
            (entry,) = unpack_from("<Q", self.memory, table + 8 * index)
            if not entry & PRESENT:
                continue
            address = start + (index << (12 + 9 * level))
            effective = (entry & rights & (USER | WRITE)) | ((entry | rights) & NO_EXECUTE)
            if level == 1 and entry & LARGE:
                found += [(address + at, effective) for at in range(0, 2 << 20, PAGE_SIZE)]
            elif level:
                assert not entry & LARGE, "a page of 1 GiB"
                found += self._walk(entry & ADDRESS, level - 1, address, effective)
            else:
                assert entry & ADDRESS == address, "guest-virtual is guest-physical"
                found.append((address, effective))
        return found

    def can(self, address: int) -> str:
        """What ring 3 may do at an address, as a part of "rwx"."""
        flags = self.pages.get(address // PAGE_SIZE * PAGE_SIZE, 0)
        if not flags & USER:
            return ""
        return "r" + ("w" if flags & WRITE else "") + ("" if flags & NO_EXECUTE else "x")

    def may_access(self, port: int, size: int) -> bool:
        """Whether the I/O bitmap lets ring 3 at a port: Intel SDM vol. 1, 19.5.2."""
        tss, limit = self.sregs.tr.base, self.sregs.tr.limit
        (base,) = unpack_from("<H", self.memory, tss + 102)
        at = base + port // 8
        if at + 1 > limit:
            return False
        (bits,) = unpack_from("<H", self.memory, tss + at)
        return not bits >> port % 8 & ((1 << size) - 1)


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(load_payload())


def pages(start: int, size: int) -> set[int]:
    return set(range(start, start + size, PAGE_SIZE))


def test_no_page_is_writable_and_executable(machine: Machine) -> None:
    assert machine.pages
    for address in machine.pages:
        assert "wx" not in machine.can(address), hex(address)


def test_ring_3_sees_what_the_abi_lists_and_nothing_else(machine: Machine) -> None:
    images = [
        page
        for image in machine.payload.images
        for segment in image.segments
        for page in pages(segment.address, segment.size)
    ]
    expected = {
        *images,
        *pages(abi.INSTAR_STACK_ADDR, abi.INSTAR_STACK_SIZE),
        *pages(abi.INSTAR_QUEUE_ADDR, abi.INSTAR_QUEUE_PAGES_SIZE),
        abi.OPERATION_CONFIG_ADDR,
        *pages(abi.INSTAR_DMA_ADDR, abi.INSTAR_RAM_SIZE - abi.INSTAR_DMA_ADDR),
    }
    assert {address for address in machine.pages if machine.can(address)} == expected
    assert len(images) == len(set(images))


@pytest.mark.parametrize("ram_size", [2 * abi.INSTAR_RAM_SIZE, abi.INSTAR_RAM_MAX])
def test_all_ram_beyond_the_least_is_dma_window(ram_size: int) -> None:
    least, more = Machine(load_payload()), Machine(load_payload(), ram_size)
    extra = pages(abi.INSTAR_RAM_SIZE, ram_size - abi.INSTAR_RAM_SIZE)
    assert more.pages.keys() == least.pages.keys() | extra
    assert {more.can(page) for page in extra} == {"rw"}
    assert more.regs.rsi == ram_size


def test_every_segment_has_its_rights(machine: Machine) -> None:
    names = {PF_R: "r", PF_R | PF_W: "rw", PF_R | PF_X: "rx"}
    for image in machine.payload.images:
        for segment in image.segments:
            for page in pages(segment.address, segment.size):
                assert machine.can(page) == names[segment.flags]


def test_the_call_table_and_the_request_can_only_be_read(machine: Machine) -> None:
    assert machine.can(abi.INSTAR_CALL_TABLE_ADDR) == "r"
    assert machine.can(abi.OPERATION_CONFIG_ADDR) == "r"


def test_data_are_not_executable(machine: Machine) -> None:
    for address in (abi.INSTAR_STACK_ADDR, abi.INSTAR_QUEUE_ADDR, abi.INSTAR_DMA_ADDR):
        assert machine.can(address) == "rw"


def test_text_is_executable_and_entries_are_text(machine: Machine) -> None:
    core, operation = machine.payload.images
    assert machine.regs.rip == core.entry
    assert machine.regs.rdi == operation.entry
    assert machine.can(core.entry) == machine.can(operation.entry) == "rx"


@pytest.mark.parametrize(
    "address",
    [
        0,
        PAGE_SIZE - 1,
        abi.INSTAR_CORE_ADDR - 1,
        abi.INSTAR_STACK_ADDR + abi.INSTAR_STACK_SIZE,
        abi.INSTAR_QUEUE_ADDR - 1,
        abi.INSTAR_DMA_ADDR - 1,
        abi.INSTAR_RAM_SIZE,
        1 << 30,
        1 << 47,
        (1 << 64) - 1,
    ],
    ids=hex,
)
def test_nothing_is_mapped_around_the_regions(machine: Machine, address: int) -> None:
    assert machine.can(address) == ""


def test_what_every_run_touches_is_mapped_at_one_fault_for_eight_pages(machine: Machine) -> None:
    group = 8 * PAGE_SIZE
    every_run = (
        machine.regs.rsp,
        abi.OPERATION_CONFIG_ADDR,
        machine.sregs.tr.base,
        abi.INSTAR_TRANSMIT_USED_ADDR,
        abi.INSTAR_AHEAD_END - 1,
        *(image.segments[-1].address for image in machine.payload.images),
    )
    for address in every_run:
        # KVM starts there, and stops at the first page that is not in the tables.
        first = address // group * group
        assert pages(first, address - first + 1) <= machine.pages.keys(), hex(address)


def test_the_host_has_what_every_run_touches_before_the_guest_starts() -> None:
    payload, memory = load_payload(), GuestMemory(abi.INSTAR_RAM_SIZE)
    asked = []
    memory.populate = lambda *pages: asked.append(pages)  # type: ignore[method-assign]
    boot.load(memory, payload, boot.page_tables(payload))
    memory.close()
    assert asked == [(0, boot.code_end(payload)), (abi.INSTAR_AHEAD_ADDR, 8 * PAGE_SIZE)]


def test_the_page_tables_are_not_mapped(machine: Machine) -> None:
    tables = pages(boot.tables_address(), 4 * PAGE_SIZE)
    assert machine.sregs.cr3 in tables
    assert tables.isdisjoint(machine.pages)


def test_the_tss_is_for_the_supervisor_and_read_only(machine: Machine) -> None:
    flags = machine.pages[machine.sregs.tr.base]
    assert not flags & (USER | WRITE)
    assert flags & NO_EXECUTE
    supervisors = {page for page in machine.pages if not machine.can(page)}
    assert supervisors == {machine.sregs.tr.base}


def test_the_stack_starts_as_after_a_call(machine: Machine) -> None:
    assert machine.regs.rsp % 16 == 8
    assert machine.can(machine.regs.rsp) == "rw"
    assert machine.regs.rsp > abi.INSTAR_STACK_ADDR
    assert machine.regs.rsp + 8 == abi.INSTAR_STACK_ADDR + abi.INSTAR_STACK_SIZE


class TestPorts:
    def test_three_ports_are_open_for_single_bytes(self, machine: Machine) -> None:
        opened = {port for port in range(0x10000) if machine.may_access(port, 1)}
        assert opened == OPEN_PORTS

    @pytest.mark.parametrize("size", [2, 4])
    def test_none_is_open_for_more(self, machine: Machine, size: int) -> None:
        assert not any(machine.may_access(port, size) for port in range(0x10000))

    def test_the_tss_is_busy_and_ends_in_its_page(self, machine: Machine) -> None:
        tr = machine.sregs.tr
        assert (tr.type, tr.present, tr.s) == (11, 1, 0)
        assert tr.base % PAGE_SIZE == 0
        assert tr.limit < PAGE_SIZE

    def test_there_is_no_stack_for_another_ring(self, machine: Machine) -> None:
        (map_base,) = unpack_from("<H", machine.memory, machine.sregs.tr.base + 102)
        assert map_base == 104
        assert not any(machine.memory[machine.sregs.tr.base : machine.sregs.tr.base + 102])


class TestRegisters:
    def test_the_guest_is_in_ring_3_of_64_bit_mode(self, machine: Machine) -> None:
        sregs = machine.sregs
        assert (sregs.cs.dpl, sregs.cs.selector & 3, sregs.cs.l, sregs.cs.db) == (3, 3, 1, 0)
        assert (sregs.ss.dpl, sregs.ss.selector & 3) == (3, 3)
        assert sregs.efer & 0x500 == 0x500
        assert sregs.cr4 & 0x20

    def test_each_segment_has_the_rights_that_an_entry_to_64_bit_mode_asks_for(
        self, machine: Machine
    ) -> None:
        """Intel SDM vol. 3C, 27.3.1.2: flat code and data, accessed, and a TSS that is busy."""
        none = dict.fromkeys(KVM_SEGMENT.kinds, 0)
        flat = {**none, "limit": 0xFFFFFFFF, "present": 1, "dpl": 3, "s": 1, "g": 1}
        data = {**flat, "selector": 0x2B, "type": 3, "db": 1}
        tss = {"base": machine.sregs.tr.base, "limit": 104 + 128, "selector": 0x40}
        expected = {
            "cs": {**flat, "selector": 0x33, "type": 11, "l": 1},
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
            "tr": {**none, **tss, "type": 11, "present": 1},
            "ldt": {**none, "unusable": 1},
        }
        assert {name: vars(getattr(machine.sregs, name)) for name in expected} == expected

    def test_control_registers_have_what_64_bit_mode_needs_and_no_more(
        self, machine: Machine
    ) -> None:
        sregs = machine.sregs
        assert (sregs.cr0, sregs.cr4, sregs.efer) == (0x80050033, 0x620, 0xD00)
        assert (sregs.cr2, sregs.cr8, sregs.apic_base, any(sregs.interrupt_bitmap)) == (
            0,
            0,
            0,
            False,
        )

    def test_it_has_no_io_privilege_and_no_interrupts(self, machine: Machine) -> None:
        assert machine.regs.rflags == 0x2

    def test_write_protection_and_nx_are_on(self, machine: Machine) -> None:
        assert machine.sregs.cr0 & 0x80010001 == 0x80010001
        assert machine.sregs.efer & 0x800

    def test_there_are_no_system_calls(self, machine: Machine) -> None:
        assert not machine.sregs.efer & 1

    def test_there_are_no_descriptor_tables(self, machine: Machine) -> None:
        for table in (machine.sregs.gdt, machine.sregs.idt):
            assert (table.base, table.limit) == (0, 0)
        assert machine.sregs.ldt.unusable

    def test_other_registers_tell_the_guest_nothing(self, machine: Machine) -> None:
        used = ("rip", "rdi", "rsi", "rsp", "rflags")
        assert not any(value for name, value in vars(machine.regs).items() if name not in used)


def test_page_tables_do_not_depend_on_what_came_before() -> None:
    payload = load_payload()
    assert boot.page_tables(payload) == boot.page_tables(payload)
    assert boot.tables_address() + len(boot.page_tables(payload)) <= abi.INSTAR_QUEUE_ADDR
