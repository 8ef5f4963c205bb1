"""Host side: mirrors of the structs of linux/kvm.h, field for field, x86-64 only.

Not ctypes.Structure, which has Python 3.14 import all of the package ctypes.
"""

from __future__ import annotations

from struct import Struct, calcsize, pack_into, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Field:
    """Where a field is in its struct, and what it is: an integer, bytes or another mirror."""

    __slots__ = ("_code", "_part", "offset", "size")

    def __init__(self, offset: int, kind: str | type[Mirror]) -> None:
        """Take the offset in bytes; `kind` is a code of the module struct, or a mirror."""
        self.offset = offset
        self._part = None if isinstance(kind, str) else kind
        self._code = "=" + kind if isinstance(kind, str) else f"={kind.extent}s"
        self.size = calcsize(self._code)

    def __get__(self, mirror: Mirror | None, _owner: type[Mirror]) -> Any:
        """The value; of a part, a copy."""
        if mirror is None:
            return self
        (value,) = unpack_from(self._code, mirror.buffer, self.offset)
        return value if self._part is None else self._part.copied_from(value)

    def __set__(self, mirror: Mirror, value: Any) -> None:
        """Put a value, or a copy of a part, in its place."""
        raw = value if self._part is None else bytes(value)
        pack_into(self._code, mirror.buffer, self.offset, raw)


class Mirror:
    """The base of all mirrors: `buffer` holds the struct, as the kernel reads and writes it."""

    __slots__ = ("buffer",)

    _fields_: tuple[tuple[str, str | type[Mirror]], ...] = ()
    """Names and kinds in their order, with the padding as a field."""
    extent = 0
    """In bytes."""

    def __init_subclass__(cls) -> None:
        """Place the fields, one after the other."""
        for name, kind in cls._fields_:
            field = Field(cls.extent, kind)
            setattr(cls, name, field)
            cls.extent += field.size

    def __init__(self, **values: Any) -> None:
        """Fill the struct with zeros but for these fields."""
        self.buffer = bytearray(self.extent)
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def copied_from(cls, buffer: Any, offset: int = 0) -> Any:
        """A mirror of what is at `offset` of something like bytes."""
        mirror = cls()
        mirror.buffer[:] = buffer[offset : offset + cls.extent]
        return mirror

    @classmethod
    def field(cls, name: str) -> Field:
        """Where a field is."""
        field: Field = vars(cls)[name]
        return field

    @classmethod
    def layout(cls) -> Struct:
        """All fields at once, of a mirror without parts."""
        return Struct("=" + "".join(str(kind) for _, kind in cls._fields_))

    def __bytes__(self) -> bytes:
        """The struct."""
        return bytes(self.buffer)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class KvmUserspaceMemoryRegion(Mirror):
    """struct kvm_userspace_memory_region, the argument of KVM_SET_USER_MEMORY_REGION."""

    _fields_ = (
        ("slot", "I"),
        ("flags", "I"),
        ("guest_phys_addr", "Q"),
        ("memory_size", "Q"),
        ("userspace_addr", "Q"),
    )


class KvmRegs(Mirror):
    """struct kvm_regs: the general-purpose registers."""

    _fields_ = tuple(
        (name, "Q")
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
        )
    )


class KvmSegment(Mirror):
    """struct kvm_segment: a segment register with its hidden part."""

    _fields_ = (
        ("base", "Q"),
        ("limit", "I"),
        ("selector", "H"),
        ("type", "B"),
        ("present", "B"),
        ("dpl", "B"),
        ("db", "B"),
        ("s", "B"),
        ("l", "B"),
        ("g", "B"),
        ("avl", "B"),
        ("unusable", "B"),
        ("padding", "B"),
    )


class KvmDtable(Mirror):
    """struct kvm_dtable: GDTR or IDTR."""

    _fields_ = (("base", "Q"), ("limit", "H"), ("padding", "6s"))


class KvmSregs(Mirror):
    """struct kvm_sregs: segment, control and descriptor-table registers."""

    _fields_ = (
        *((name, KvmSegment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        *((name, KvmDtable) for name in ("gdt", "idt")),
        *((name, "Q") for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", "32s"),
    )


class KvmSignalMask(Mirror):
    """struct kvm_signal_mask with the kernel's signal set of 64 signals."""

    _fields_ = (("len", "I"), ("sigset", "Q"))


class KvmRunHead(Mirror):
    """The head of struct kvm_run, up to its union of exits."""

    _fields_ = (
        ("request_interrupt_window", "B"),
        ("immediate_exit", "B"),
        ("padding1", "6s"),
        ("exit_reason", "I"),
        ("ready_for_interrupt_injection", "B"),
        ("if_flag", "B"),
        ("flags", "H"),
        ("cr8", "Q"),
        ("apic_base", "Q"),
    )


class KvmRunIo(Mirror):
    """struct kvm_run's io: where the exit was KVM_EXIT_IO; lies behind KvmRunHead."""

    _fields_ = (
        ("direction", "B"),
        ("size", "B"),
        ("port", "H"),
        ("count", "I"),
        ("data_offset", "Q"),
    )


class KvmRunMmio(Mirror):
    """struct kvm_run's mmio: where the exit was KVM_EXIT_MMIO; lies behind KvmRunHead."""

    _fields_ = (("phys_addr", "Q"), ("data", "8s"), ("len", "I"), ("is_write", "B"))
