"""Host side: ctypes mirrors of the structs of linux/kvm.h, field for field, x86-64 only."""

from instar.vmm.kvm.c import Structure, c_uint8, c_uint16, c_uint32, c_uint64


class KvmUserspaceMemoryRegion(Structure):
    """struct kvm_userspace_memory_region, the argument of KVM_SET_USER_MEMORY_REGION."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class KvmRegs(Structure):
    """struct kvm_regs: the general-purpose registers."""

    _fields_ = tuple(
        (name, c_uint64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
        )
    )


class KvmSegment(Structure):
    """struct kvm_segment: a segment register with its hidden part."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    )


class KvmDtable(Structure):
    """struct kvm_dtable: GDTR or IDTR."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class KvmSregs(Structure):
    """struct kvm_sregs: segment, control and descriptor-table registers."""

    _fields_ = (
        *((name, KvmSegment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        *((name, KvmDtable) for name in ("gdt", "idt")),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class KvmSignalMask(Structure):
    """struct kvm_signal_mask with the kernel's signal set of 64 signals."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("len", c_uint32), ("sigset", c_uint64))


class KvmRunHead(Structure):
    """The head of struct kvm_run, up to its union of exits."""

    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
    )


class KvmRunIo(Structure):
    """struct kvm_run's io: where the exit was KVM_EXIT_IO; lies behind KvmRunHead."""

    _fields_ = (
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    )


class KvmRunMmio(Structure):
    """struct kvm_run's mmio: where the exit was KVM_EXIT_MMIO; lies behind KvmRunHead."""

    _fields_ = (
        ("phys_addr", c_uint64),
        ("data", c_uint8 * 8),
        ("len", c_uint32),
        ("is_write", c_uint8),
    )
