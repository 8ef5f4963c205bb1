"""Host side: the KVM ioctl request numbers in use, computed as linux/ioctl.h does."""

from .structs import KVM_REGS, KVM_SIGNAL_MASK, KVM_SREGS, KVM_USERSPACE_MEMORY_REGION

_KVMIO = 0xAE
_IOC_WRITE = 1 << 30
_IOC_READ = 2 << 30
_SIZE_SHIFT = 16

# On /dev/kvm
KVM_GET_API_VERSION = _KVMIO << 8 | 0x00
KVM_CREATE_VM = _KVMIO << 8 | 0x01
KVM_CHECK_EXTENSION = _KVMIO << 8 | 0x03
KVM_GET_VCPU_MMAP_SIZE = _KVMIO << 8 | 0x04
# On a VM
KVM_CREATE_VCPU = _KVMIO << 8 | 0x41
KVM_SET_USER_MEMORY_REGION = (
    _IOC_WRITE | KVM_USERSPACE_MEMORY_REGION.extent << _SIZE_SHIFT | _KVMIO << 8 | 0x46
)
# On a vCPU
KVM_RUN = _KVMIO << 8 | 0x80
KVM_GET_REGS = _IOC_READ | KVM_REGS.extent << _SIZE_SHIFT | _KVMIO << 8 | 0x81
KVM_SET_REGS = _IOC_WRITE | KVM_REGS.extent << _SIZE_SHIFT | _KVMIO << 8 | 0x82
KVM_GET_SREGS = _IOC_READ | KVM_SREGS.extent << _SIZE_SHIFT | _KVMIO << 8 | 0x83
KVM_SET_SREGS = _IOC_WRITE | KVM_SREGS.extent << _SIZE_SHIFT | _KVMIO << 8 | 0x84
# The size of the head of struct kvm_signal_mask, without the signal set after it.
KVM_SET_SIGNAL_MASK = (
    _IOC_WRITE | KVM_SIGNAL_MASK.offset("sigset") << _SIZE_SHIFT | _KVMIO << 8 | 0x8B
)
