"""Host side: a virtual machine."""

from __future__ import annotations

import os
from fcntl import ioctl

from ..base.c import addressof, c_uint64
from . import ioctls
from .structs import KVM_MSR_FILTER, KVM_MSR_FILTER_RANGE, KVM_USERSPACE_MEMORY_REGION
from .vcpu import Vcpu

KVM_CAP_SYNC_REGS = 74
"""The capability whose value has all of SYNC_REGS in any KVM since Linux 4.17."""
KVM_CAP_X86_MSR_FILTER = 189
"""The capability to deny_msrs(), which Linux has since 5.10."""
KVM_CAP_XSAVE2 = 208
"""The capability whose value is the size of a vCPU's XSAVE area in bytes, or 0."""

DEFAULT_DENY = 1
"""KVM_MSR_FILTER_DEFAULT_DENY."""
READ_OR_WRITE = 3
"""KVM_MSR_FILTER_READ and KVM_MSR_FILTER_WRITE."""


class Vm:
    """The descriptor that KVM_CREATE_VM returned."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        """Own a VM's descriptor; `vcpu_mmap_size` in bytes as KVM_GET_VCPU_MMAP_SIZE gives it."""
        self.fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size

    def close(self) -> None:
        """Close the descriptor; the VM ends with its last descriptor."""
        os.close(self.fd)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION for this VM: 0 if `capability` (KVM_CAP_*) is missing."""
        return ioctl(self.fd, ioctls.KVM_CHECK_EXTENSION, capability)

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, userspace_addr: int, memory_size: int
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION.

        SAFETY: the guest can write [userspace_addr, userspace_addr + memory_size) of this process.
        The caller guarantees that it is one mapping of its own which outlives the VM.
        """
        region = KVM_USERSPACE_MEMORY_REGION.pack(
            {
                "slot": slot,
                "guest_phys_addr": guest_phys_addr,
                "memory_size": memory_size,
                "userspace_addr": userspace_addr,
            }
        )
        ioctl(self.fd, ioctls.KVM_SET_USER_MEMORY_REGION, region)

    def deny_msrs(self) -> None:
        """KVM_X86_SET_MSR_FILTER: RDMSR and WRMSR are a fault in the guest, in any ring."""
        # A filter must have a range: of one MSR, which is not allowed either.
        allowed = c_uint64(0)
        of_one = {"flags": READ_OR_WRITE, "nmsrs": 1, "bitmap": addressof(allowed)}
        ranges = KVM_MSR_FILTER_RANGE.pack(of_one)
        # SAFETY: the kernel copies the bitmap before it returns.
        ioctl(
            self.fd,
            ioctls.KVM_X86_SET_MSR_FILTER,
            KVM_MSR_FILTER.pack({"flags": DEFAULT_DENY, "ranges": ranges}),
        )

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU, and the mapping of its struct kvm_run."""
        return Vcpu(ioctl(self.fd, ioctls.KVM_CREATE_VCPU, vcpu_id), self._vcpu_mmap_size)
