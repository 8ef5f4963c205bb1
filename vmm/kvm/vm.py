"""Host side: a virtual machine."""

from __future__ import annotations

import os
from fcntl import ioctl

from . import ioctls
from .structs import KVM_USERSPACE_MEMORY_REGION
from .vcpu import Vcpu

KVM_CAP_SYNC_REGS = 74
"""The capability whose value has all of SYNC_REGS in any KVM since Linux 4.17."""
KVM_CAP_XSAVE2 = 208
"""The capability whose value is the size of a vCPU's XSAVE area in bytes, or 0."""


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

    def create_vcpu(self, vcpu_id: int) -> Vcpu:
        """KVM_CREATE_VCPU, and the mapping of its struct kvm_run."""
        return Vcpu(ioctl(self.fd, ioctls.KVM_CREATE_VCPU, vcpu_id), self._vcpu_mmap_size)
