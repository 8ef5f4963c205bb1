"""Host side: the structs of linux/kvm.h, field for field, x86-64 only.

Not ctypes.Structure, which has Python 3.14 import all of the package ctypes.
"""

from __future__ import annotations

from struct import Struct, calcsize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Layout:
    """A struct of C, with the padding as fields: bytes for the kernel, a dict for us.

    A part, which is a struct itself, has the bytes that its own layout packs.
    """

    def __init__(self, **kinds: str | Layout) -> None:
        """Take the fields in their order: codes of the module struct, or the layouts of parts."""
        self.kinds = {
            name: kind if isinstance(kind, str) else f"{kind.extent}s"
            for name, kind in kinds.items()
        }
        self._struct = Struct("=" + "".join(self.kinds.values()))
        self._blank = {name: b"" if kind[-1] == "s" else 0 for name, kind in self.kinds.items()}
        self.extent: int = self._struct.size
        """In bytes."""
        self.read = self._struct.unpack_from
        """The values at an offset of a buffer, as a tuple."""

    def pack(self, values: Mapping[str, int | bytes]) -> bytes:
        """The struct with these values, and zeros in all other fields."""
        return self._struct.pack(*{**self._blank, **values}.values())

    def unpack(self, buffer: bytes | bytearray) -> dict[str, Any]:
        """The values of a struct by the names of its fields."""
        return dict(zip(self.kinds, self.read(buffer), strict=True))

    def offset(self, name: str) -> int:
        """Where a field is, in bytes."""
        before = [*self.kinds.values()][: [*self.kinds].index(name)]
        return calcsize("=" + "".join(before))


KVM_USERSPACE_MEMORY_REGION = Layout(
    slot="I", flags="I", guest_phys_addr="Q", memory_size="Q", userspace_addr="Q"
)
"""struct kvm_userspace_memory_region, the argument of KVM_SET_USER_MEMORY_REGION."""

KVM_REGS = Layout(
    **dict.fromkeys(
        (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
        ),
        "Q",
    )
)
"""struct kvm_regs: the general-purpose registers."""

KVM_SEGMENT = Layout(
    base="Q",
    limit="I",
    selector="H",
    **dict.fromkeys(
        ("type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding"), "B"
    ),
)
"""struct kvm_segment: a segment register with its hidden part."""

KVM_DTABLE = Layout(base="Q", limit="H", padding="6s")
"""struct kvm_dtable: GDTR or IDTR."""

KVM_SREGS = Layout(
    **dict.fromkeys(("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"), KVM_SEGMENT),
    **dict.fromkeys(("gdt", "idt"), KVM_DTABLE),
    **dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"), "Q"),
    interrupt_bitmap="32s",
)
"""struct kvm_sregs: segment, control and descriptor-table registers."""

KVM_MSR_FILTER_RANGE = Layout(flags="I", nmsrs="I", base="I", hole="4s", bitmap="Q")
"""struct kvm_msr_filter_range: which of some MSRs in a row may be read or written."""

KVM_MSR_FILTER = Layout(flags="I", hole="4s", ranges=f"{16 * KVM_MSR_FILTER_RANGE.extent}s")
"""struct kvm_msr_filter, the argument of KVM_X86_SET_MSR_FILTER."""

KVM_SIGNAL_MASK = Layout(len="I", sigset="Q")
"""struct kvm_signal_mask with the kernel's signal set of 64 signals."""

KVM_RUN_HEAD = Layout(
    request_interrupt_window="B",
    immediate_exit="B",
    padding1="6s",
    exit_reason="I",
    ready_for_interrupt_injection="B",
    if_flag="B",
    flags="H",
    cr8="Q",
    apic_base="Q",
)
"""The head of struct kvm_run, up to its union of exits, which takes 256 bytes."""

KVM_RUN_SYNC = Layout(exits="256s", kvm_valid_regs="Q", kvm_dirty_regs="Q")
"""What follows the head of struct kvm_run, up to its struct kvm_sync_regs."""
SYNC_REGS = 7
"""What that struct has: KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS and KVM_SYNC_X86_EVENTS."""

KVM_RUN_IO = Layout(direction="B", size="B", port="H", count="I", data_offset="Q")
"""struct kvm_run's io: where the exit was KVM_EXIT_IO; lies after KVM_RUN_HEAD."""

KVM_RUN_MMIO = Layout(phys_addr="Q", data="8s", len="I", is_write="B")
"""struct kvm_run's mmio: where the exit was KVM_EXIT_MMIO; lies after KVM_RUN_HEAD."""
