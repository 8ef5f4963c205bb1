"""Host side: the KVM ioctl request numbers in use, computed as linux/ioctl.h does."""

from .structs import (
    KVM_MSR_FILTER,
    KVM_REGS,
    KVM_SIGNAL_MASK,
    KVM_SREGS,
    KVM_USERSPACE_MEMORY_REGION,
)

_KVMIO = 0xAE
_IOC_WRITE, _IOC_READ = 1 << 30, 2 << 30


def io(number: int) -> int:
    """A request without a structure."""
    return _KVMIO << 8 | number


def iow(number: int, size: int) -> int:
    """A request with a structure of so many bytes that the kernel takes."""
    return _IOC_WRITE | size << 16 | io(number)


def ior(number: int, size: int) -> int:
    """A request with a structure that the kernel fills."""
    return _IOC_READ | size << 16 | io(number)


def iowr(number: int, size: int) -> int:
    """A request with a structure that the kernel takes and fills."""
    return ior(number, size) | iow(number, size)


# On /dev/kvm
KVM_GET_API_VERSION = io(0x00)
KVM_CREATE_VM = io(0x01)
KVM_CHECK_EXTENSION = io(0x03)
KVM_GET_VCPU_MMAP_SIZE = io(0x04)
# On a VM
KVM_CREATE_VCPU = io(0x41)
KVM_SET_USER_MEMORY_REGION = iow(0x46, KVM_USERSPACE_MEMORY_REGION.extent)
KVM_X86_SET_MSR_FILTER = iow(0xC6, KVM_MSR_FILTER.extent)
# On a vCPU
KVM_RUN = io(0x80)
KVM_GET_REGS = ior(0x81, KVM_REGS.extent)
KVM_SET_REGS = iow(0x82, KVM_REGS.extent)
KVM_GET_SREGS = ior(0x83, KVM_SREGS.extent)
KVM_SET_SREGS = iow(0x84, KVM_SREGS.extent)
# The size of the head of struct kvm_signal_mask, without the signal set after it.
KVM_SET_SIGNAL_MASK = iow(0x8B, KVM_SIGNAL_MASK.offset("sigset"))
