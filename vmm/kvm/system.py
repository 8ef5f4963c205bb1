"""Host side: /dev/kvm itself."""

from __future__ import annotations

import os
from fcntl import ioctl

from . import ioctls
from .vm import Vm


class Kvm:
    """An open /dev/kvm. See the documentation for each ioctl in the kernel's kvm/api.rst."""

    def __init__(self, fd: int) -> None:
        """Own an open descriptor of /dev/kvm."""
        self.fd = fd

    @classmethod
    def open(cls, path: str = "/dev/kvm") -> Kvm:
        """Open the device. Raises OSError."""
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        """Close the descriptor; VMs made from it live on."""
        os.close(self.fd)

    def __enter__(self) -> Kvm:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def api_version(self) -> int:
        """KVM_GET_API_VERSION; 12 on all kernels that can be used."""
        return ioctl(self.fd, ioctls.KVM_GET_API_VERSION, 0)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: 0 if `capability` (KVM_CAP_*) is missing."""
        return ioctl(self.fd, ioctls.KVM_CHECK_EXTENSION, capability)

    def create_vm(self) -> Vm:
        """KVM_CREATE_VM. KVM_GET_VCPU_MMAP_SIZE goes along, since every vCPU needs it."""
        mmap_size = ioctl(self.fd, ioctls.KVM_GET_VCPU_MMAP_SIZE, 0)
        return Vm(ioctl(self.fd, ioctls.KVM_CREATE_VM, 0), mmap_size)
