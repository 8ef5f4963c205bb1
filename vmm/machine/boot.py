"""Host side: the guest's address space and first registers. No ring 0, no IDT, no writable code.

Guest memory, guest-virtual = guest-physical (addresses from abi/instar_abi.h):

    0x000000  not mapped; page tables from 0x1000 on
    0x008000  virtqueues RW
    0x00a000  AmendConfig R
    0x00b000  stack RW
    0x00f000  TSS, supervisor only
    0x010000  executor: call table and constants R, text RX, data RW
    0x018000  operation: constants R, text RX, data RW
    0x048000  DMA window RW, to the end of RAM; beyond the first 2 MiB in pages of that size

A fault is dear where KVM keeps page tables of its own. At each, it maps up to eight pages, those
from the last multiple of eight to the first that is not there, in the guest's tables or the host's.
So what every run touches lies without gaps, and the host has it before the guest starts.
"""

from __future__ import annotations

from struct import pack_into

from instar.abi import (
    INSTAR_AHEAD_ADDR,
    INSTAR_DMA_ADDR,
    INSTAR_PORT_EXIT,
    INSTAR_PORT_NOTIFY,
    INSTAR_PORT_SERIAL,
    INSTAR_QUEUE_ADDR,
    INSTAR_QUEUE_PAGES_SIZE,
    INSTAR_RAM_SIZE,
    INSTAR_STACK_ADDR,
    INSTAR_STACK_SIZE,
    OPERATION_CONFIG_ADDR,
    OPERATION_CONFIG_SIZE,
)

from ..devices.memory import PAGE_SIZE
from ..kvm.structs import KVM_DTABLE, KVM_SEGMENT
from .payload import PF_R, PF_W, PF_X

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..devices.memory import GuestMemory
    from ..kvm.vcpu import Vcpu
    from .payload import Image, Payload

_PML4, _PDPT, _PD, _PT = (PAGE_SIZE + i * PAGE_SIZE for i in range(4))
_TSS = INSTAR_STACK_ADDR + INSTAR_STACK_SIZE
_MAPPED_AT_A_FAULT = 8  # pages: PTE_PREFETCH_NUM of Linux, arch/x86/kvm/mmu/mmu.c
LARGE_PAGE_SIZE = INSTAR_RAM_SIZE
"""What one page table covers, and the processor's next larger page."""

# Intel SDM vol. 3A, 4.5.4: page table entries. Accessed and dirty are set beforehand, which spares
# the processor, or a software-paged KVM, a write to the tables.
_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _NO_EXECUTE = 1, 2, 4, 0x20, 0x40, 1 << 63
_LARGE = 0x80
_TABLE = _PRESENT | _WRITE | _USER | _ACCESSED

# Intel SDM vol. 3A, 2.5 and 2.2.1: 64-bit mode with SSE state enabled, write protection, NX.
_CR0 = 0x80050033  # PG AM WP NE ET MP PE
_CR4 = 0x620  # OSXMMEXCPT OSFXSR PAE
_EFER = 0xD00  # NXE LMA LME
_RFLAGS = 0x2  # IOPL 0: ports are open by the TSS's bitmap only

_IO_MAP_BASE = 104  # Intel SDM vol. 3A, 8.7: the bitmap may start right after the 64-bit TSS
_IO_MAP_BYTES = 0x400 // 8
_OPEN_PORTS = (INSTAR_PORT_EXIT, INSTAR_PORT_NOTIFY, INSTAR_PORT_SERIAL)
_BUSY_TSS = 11


def mappings(payload: Payload) -> list[tuple[int, int, int]]:
    """All pages of the first 2 MiB that the guest can touch.

    Each is (address, size, PF_R or that with one of PF_W and PF_X).
    """
    segments = [s for image in payload.images for s in image.segments]
    return [
        *((s.address, s.size, s.flags) for s in segments),
        (INSTAR_STACK_ADDR, INSTAR_STACK_SIZE, PF_R | PF_W),
        (INSTAR_QUEUE_ADDR, INSTAR_QUEUE_PAGES_SIZE, PF_R | PF_W),
        (OPERATION_CONFIG_ADDR, OPERATION_CONFIG_SIZE, PF_R),
        (INSTAR_DMA_ADDR, INSTAR_RAM_SIZE - INSTAR_DMA_ADDR, PF_R | PF_W),
    ]


def code_end(payload: Payload) -> int:
    """The address after the last page of both images; below it lies all but the DMA window."""
    end = max(s.address + s.size for image in payload.images for s in image.segments)
    return -(-end // PAGE_SIZE) * PAGE_SIZE


def page_tables(payload: Payload, ram_size: int = INSTAR_RAM_SIZE) -> bytearray:
    """The page tables, for the memory from tables_address() on.

    `ram_size` is a multiple of LARGE_PAGE_SIZE, in bytes.
    """
    tables = bytearray(4 * PAGE_SIZE)
    for table, target in ((_PML4, _PDPT), (_PDPT, _PD), (_PD, _PT)):
        pack_into("<Q", tables, table - _PML4, target | _TABLE)
    for address, size, flags in mappings(payload):
        bits = _rights(flags)
        for page in range(address, address + size, PAGE_SIZE):
            pack_into("<Q", tables, _PT - _PML4 + page // PAGE_SIZE * 8, page | bits)
    for page in range(LARGE_PAGE_SIZE, ram_size, LARGE_PAGE_SIZE):
        entry = page | _LARGE | _rights(PF_R | PF_W)
        pack_into("<Q", tables, _PD - _PML4 + page // LARGE_PAGE_SIZE * 8, entry)
    tss_entry = _TSS | _PRESENT | _ACCESSED | _NO_EXECUTE
    pack_into("<Q", tables, _PT - _PML4 + _TSS // PAGE_SIZE * 8, tss_entry)
    return tables


def _rights(flags: int) -> int:
    bits = _PRESENT | _USER | _ACCESSED
    bits |= _WRITE | _DIRTY if flags & PF_W else 0
    return bits | (0 if flags & PF_X else _NO_EXECUTE)


def tables_address() -> int:
    """Where page_tables() belong."""
    return _PML4


def _make_task_state() -> bytes:
    """The TSS, whose bitmap opens the three ports."""
    # One more byte of ones ends the bitmap: the processor reads two bytes for every access.
    bitmap = bytearray(b"\xff" * (_IO_MAP_BYTES + 1))
    for port in _OPEN_PORTS:
        bitmap[port // 8] &= ~(1 << port % 8)
    head = bytearray(_IO_MAP_BASE)
    pack_into("<H", head, 102, _IO_MAP_BASE)
    return bytes(head + bitmap)


_TASK_STATE = _make_task_state()


_latest: list[tuple[Payload, int, bytes]] = []


def cached_page_tables(payload: Payload, ram_size: int) -> bytes:
    """What page_tables() returns; that of the latest payload is kept, for it takes 60 us."""
    for known, size, tables in _latest:
        if known is payload and size == ram_size:
            return tables
    tables = bytes(page_tables(payload, ram_size))
    _latest[:] = [(payload, ram_size, tables)]  # in one step, for all threads
    return tables


def load(memory: GuestMemory, payload: Payload, tables: bytes | bytearray) -> None:
    """Put the images, the TSS and `tables`, which are page_tables(), into fresh memory."""
    memory.populate(0, code_end(payload))
    memory.populate(INSTAR_AHEAD_ADDR, _MAPPED_AT_A_FAULT * PAGE_SIZE)
    for image in payload.images:
        for segment in image.segments:
            memory.write(segment.address, segment.data)
    memory.write(tables_address(), tables)
    memory.write(_TSS, _TASK_STATE)


def set_registers(vcpu: Vcpu, ram_size: int, core: Image, operation: Image) -> None:
    """Put the vCPU into 64-bit ring 3 at the executor's entry. OSError from KVM."""
    # Of what is not named here KVM has the values that a processor starts with.
    flat = {"limit": 0xFFFFFFFF, "present": 1, "dpl": 3, "s": 1, "g": 1}
    data = KVM_SEGMENT.pack({**flat, "selector": 0x2B, "type": 3, "db": 1})
    task = {"base": _TSS, "limit": _IO_MAP_BASE + _IO_MAP_BYTES, "selector": 0x40, "present": 1}
    tables = KVM_DTABLE.pack({})
    vcpu.set_sregs(
        {
            **vcpu.get_sregs(),
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
            "cs": KVM_SEGMENT.pack({**flat, "selector": 0x33, "type": 11, "l": 1}),
            "tr": KVM_SEGMENT.pack({**task, "type": _BUSY_TSS}),
            "ldt": KVM_SEGMENT.pack({"unusable": 1}),
            "gdt": tables,
            "idt": tables,
            "cr0": _CR0,
            "cr3": _PML4,
            "cr4": _CR4,
            "efer": _EFER,
        }
    )
    # The stack is as after a call: 8 below a multiple of 16 (System V ABI, 3.2.2).
    stack = INSTAR_STACK_ADDR + INSTAR_STACK_SIZE - 8
    arguments = {"rdi": operation.entry, "rsi": ram_size}
    vcpu.set_regs({"rip": core.entry, **arguments, "rsp": stack, "rflags": _RFLAGS})
