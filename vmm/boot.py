"""Host side: the guest's address space and first registers. No ring 0, no IDT, no writable code.

Guest memory, guest-virtual = guest-physical (addresses from abi/instar_abi.h):

    0x000000  not mapped
    0x010000  executor: call table and constants R, text RX, data RW
    0x018000  operation: constants R, text RX, data RW
    0x022000  stack RW, unmapped pages below and above
    0x028000  virtqueues RW
    0x02b000  AmendConfig R
    0x030000  DMA window RW
    0x1e0000  not mapped
    0x1f0000  page tables, not mapped; one page with the TSS, supervisor only
"""

from __future__ import annotations

from struct import pack_into

from instar.abi import (
    INSTAR_DMA_ADDR,
    INSTAR_DMA_SIZE,
    INSTAR_PORT_EXIT,
    INSTAR_PORT_NOTIFY,
    INSTAR_PORT_SERIAL,
    INSTAR_QUEUE_ADDR,
    INSTAR_QUEUE_PAGES_SIZE,
    INSTAR_RAM_SIZE,
    INSTAR_STACK_ADDR,
    INSTAR_STACK_SIZE,
    OPERATION_CONFIG_ADDR,
)
from instar.vmm.kvm.structs import KvmDtable, KvmRegs, KvmSegment
from instar.vmm.memory import PAGE_SIZE
from instar.vmm.payload import PF_R, PF_W, PF_X

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.kvm.vcpu import Vcpu
    from instar.vmm.memory import GuestMemory
    from instar.vmm.payload import Image, Payload

_PML4, _PDPT, _PD, _PT, _TSS = (INSTAR_RAM_SIZE - 0x10000 + i * PAGE_SIZE for i in range(5))

# Intel SDM vol. 3A, 4.5.4: page table entries. Accessed and dirty are set beforehand, which spares
# the processor, or a software-paged KVM, a write to the tables.
_PRESENT, _WRITE, _USER, _ACCESSED, _DIRTY, _NO_EXECUTE = 1, 2, 4, 0x20, 0x40, 1 << 63
_TABLE = _PRESENT | _WRITE | _USER | _ACCESSED

# Intel SDM vol. 3A, 2.5 and 2.2.1: 64-bit mode with SSE state enabled, write protection, NX.
_CR0 = 0x80050033  # PG AM WP NE ET MP PE
_CR4 = 0x620  # OSXMMEXCPT OSFXSR PAE
_EFER = 0xD00  # NXE LMA LME
_RFLAGS = 0x2  # IOPL 0: ports are open by the TSS's bitmap only

_IO_MAP_BASE = 104  # Intel SDM vol. 3A, 8.7: the bitmap may start right behind the 64-bit TSS
_IO_MAP_BYTES = 0x400 // 8
_OPEN_PORTS = (INSTAR_PORT_EXIT, INSTAR_PORT_NOTIFY, INSTAR_PORT_SERIAL)
_BUSY_TSS = 11


def mappings(payload: Payload) -> list[tuple[int, int, int]]:
    """All pages that the guest can touch: (address, size, PF_R or with PF_W or PF_X)."""
    segments = [s for image in payload.images for s in image.segments]
    return [
        *((s.address, s.size, s.flags) for s in segments),
        (INSTAR_STACK_ADDR, INSTAR_STACK_SIZE, PF_R | PF_W),
        (INSTAR_QUEUE_ADDR, INSTAR_QUEUE_PAGES_SIZE, PF_R | PF_W),
        (OPERATION_CONFIG_ADDR, PAGE_SIZE, PF_R),
        (INSTAR_DMA_ADDR, INSTAR_DMA_SIZE, PF_R | PF_W),
    ]


def system_pages(payload: Payload) -> bytearray:
    """The page tables and the TSS, for the memory from system_address() on."""
    pages = bytearray(5 * PAGE_SIZE)
    for table, target in ((_PML4, _PDPT), (_PDPT, _PD), (_PD, _PT)):
        pack_into("<Q", pages, table - _PML4, target | _TABLE)
    for address, size, flags in mappings(payload):
        bits = _PRESENT | _USER | _ACCESSED
        bits |= _WRITE | _DIRTY if flags & PF_W else 0
        bits |= 0 if flags & PF_X else _NO_EXECUTE
        for page in range(address, address + size, PAGE_SIZE):
            pack_into("<Q", pages, _PT - _PML4 + page // PAGE_SIZE * 8, page | bits)
    tss_entry = _TSS | _PRESENT | _ACCESSED | _NO_EXECUTE
    pack_into("<Q", pages, _PT - _PML4 + _TSS // PAGE_SIZE * 8, tss_entry)
    _put_tss(pages, _TSS - _PML4)
    return pages


def system_address() -> int:
    """Where system_pages() belong."""
    return _PML4


def _put_tss(pages: bytearray, at: int) -> None:
    pack_into("<H", pages, at + 102, _IO_MAP_BASE)
    bitmap = at + _IO_MAP_BASE
    # One more byte of ones ends the bitmap: the processor reads two bytes for every access.
    pages[bitmap : bitmap + _IO_MAP_BYTES + 1] = b"\xff" * (_IO_MAP_BYTES + 1)
    for port in _OPEN_PORTS:
        pages[bitmap + port // 8] &= ~(1 << port % 8)


_latest: list[tuple[Payload, bytes]] = []


def cached_system_pages(payload: Payload) -> bytes:
    """What system_pages() returns; that of the latest payload is kept, for it takes 60 us."""
    for known, pages in _latest:
        if known is payload:
            return pages
    pages = bytes(system_pages(payload))
    _latest[:] = [(payload, pages)]  # in one step, for all threads
    return pages


def load(memory: GuestMemory, payload: Payload, tables: bytes | bytearray) -> None:
    """Put the images and `tables`, which are system_pages(), into fresh memory."""
    for image in payload.images:
        for segment in image.segments:
            memory.write(segment.address, segment.data)
    memory.write(system_address(), tables)


def set_registers(vcpu: Vcpu, core: Image, operation: Image) -> None:
    """Put the vCPU into 64-bit ring 3 at the executor's entry. OSError from KVM."""
    sregs = vcpu.get_sregs()
    sregs.cs = KvmSegment(limit=0xFFFFFFFF, selector=0x33, type=11, present=1, dpl=3, s=1, l=1, g=1)
    data = KvmSegment(limit=0xFFFFFFFF, selector=0x2B, type=3, present=1, dpl=3, db=1, s=1, g=1)
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.tr = KvmSegment(
        base=_TSS, limit=_IO_MAP_BASE + _IO_MAP_BYTES, selector=0x40, type=_BUSY_TSS, present=1
    )
    sregs.ldt = KvmSegment(unusable=1)
    sregs.gdt = sregs.idt = KvmDtable()
    sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, _PML4, _CR4, _EFER
    vcpu.set_sregs(sregs)
    # The stack is as after a call: 8 below a multiple of 16 (System V ABI, 3.2.2).
    stack = INSTAR_STACK_ADDR + INSTAR_STACK_SIZE - 8
    vcpu.set_regs(KvmRegs(rip=core.entry, rdi=operation.entry, rsp=stack, rflags=_RFLAGS))
