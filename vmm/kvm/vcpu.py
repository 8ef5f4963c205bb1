"""Host side: a virtual CPU."""

from __future__ import annotations

import mmap
import os
from fcntl import ioctl

from ..base.c import prepare_syscall
from . import ioctls
from .exits import (
    KVM_EXIT_IO,
    KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN,
    Interrupted,
    IoIn,
    IoOut,
    Mmio,
    Other,
    Shutdown,
)
from .structs import (
    KVM_REGS,
    KVM_RUN_HEAD,
    KVM_RUN_IO,
    KVM_RUN_MMIO,
    KVM_RUN_SYNC,
    KVM_SIGNAL_MASK,
    KVM_SREGS,
    SYNC_REGS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .exits import VcpuExit

_SYS_IOCTL = 16  # asm/unistd_64.h
_IMMEDIATE_EXIT = KVM_RUN_HEAD.offset("immediate_exit")
_UNION = KVM_RUN_HEAD.extent
_DIRTY_REGS = _UNION + KVM_RUN_SYNC.offset("kvm_dirty_regs")
_SYNC_REGS = _UNION + KVM_RUN_SYNC.extent
_CR8 = KVM_RUN_HEAD.offset("cr8")
_CR8_OF_SREGS = KVM_REGS.extent + KVM_SREGS.offset("cr8")
_ALL_DIRTY = SYNC_REGS.to_bytes(8, "little")
# Every exit looks at these: by the names of fields it would take as long as an ioctl.
_read_head, _read_io = KVM_RUN_HEAD.read, KVM_RUN_IO.read


class Vcpu:
    """The descriptor that KVM_CREATE_VCPU returned, and its struct kvm_run."""

    def __init__(self, fd: int, mmap_size: int) -> None:
        """Own a vCPU's descriptor and map `mmap_size` bytes of it."""
        self.fd = fd
        self._blocked = -1
        self._enter_guest = prepare_syscall(_SYS_IOCTL, fd, ioctls.KVM_RUN, 0)
        try:
            self._run = mmap.mmap(fd, mmap_size)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Unmap and close."""
        self._run.close()
        os.close(self.fd)

    def get_regs(self) -> dict[str, Any]:
        """KVM_GET_REGS: what KVM_REGS has."""
        buffer = bytearray(KVM_REGS.extent)
        ioctl(self.fd, ioctls.KVM_GET_REGS, buffer)
        return KVM_REGS.unpack(buffer)

    def set_regs(self, regs: Mapping[str, int]) -> None:
        """KVM_SET_REGS: what KVM_REGS has; those that are not named become 0."""
        ioctl(self.fd, ioctls.KVM_SET_REGS, KVM_REGS.pack(regs))

    def get_sregs(self) -> dict[str, Any]:
        """KVM_GET_SREGS: what KVM_SREGS has."""
        buffer = bytearray(KVM_SREGS.extent)
        ioctl(self.fd, ioctls.KVM_GET_SREGS, buffer)
        return KVM_SREGS.unpack(buffer)

    def set_sregs(self, sregs: Mapping[str, int | bytes]) -> None:
        """KVM_SET_SREGS: what KVM_SREGS has; those that are not named become 0."""
        ioctl(self.fd, ioctls.KVM_SET_SREGS, KVM_SREGS.pack(sregs))

    def set_at_entry(self, registers: bytes) -> None:
        """Have the next KVM_RUN begin with a whole struct kvm_sync_regs (KVM_CAP_SYNC_REGS)."""
        self._run[_SYNC_REGS : _SYNC_REGS + len(registers)] = registers
        self._run[_DIRTY_REGS : _DIRTY_REGS + len(_ALL_DIRTY)] = _ALL_DIRTY
        # Without an interrupt controller in the kernel, KVM_RUN takes CR8 from here, after those.
        self._run[_CR8 : _CR8 + 8] = registers[_CR8_OF_SREGS : _CR8_OF_SREGS + 8]

    def set_signal_mask(self, blocked: int) -> None:
        """KVM_SET_SIGNAL_MASK: what is blocked while in KVM_RUN, bit n - 1 for signal n."""
        if blocked == self._blocked:
            return
        mask = KVM_SIGNAL_MASK.pack({"len": 8, "sigset": blocked})
        ioctl(self.fd, ioctls.KVM_SET_SIGNAL_MASK, mask)
        self._blocked = blocked

    def run_immediate_exit(self) -> None:
        """KVM_RUN with kvm_run.immediate_exit set: all of it but the guest (kvm/api.rst, 5).

        The first KVM_RUN of a virtual machine starts a kernel thread (kvm-nx-lpage-recovery) in the
        name of the process, which may not be allowed to later.
        """
        self._run[_IMMEDIATE_EXIT] = 1
        try:
            self._enter()
        finally:
            self._run[_IMMEDIATE_EXIT] = 0

    def _enter(self) -> bool:
        """KVM_RUN; whether it came to an exit, and was not interrupted by a signal.

        By number: since Python 3.14 fcntl.ioctl() repeats a call that a signal ended (PEP 475), and
        ending KVM_RUN is what the signal is for.
        """
        try:
            self._enter_guest()
        except InterruptedError:
            return False
        return True

    def run(self) -> VcpuExit:
        """KVM_RUN until the next exit. Data of a pending IN are left as they are."""
        if not self._enter():
            return Interrupted()
        # The kernel wrote all that is read here, and the guest has no access to it.
        _, _, _, reason, *_ = _read_head(self._run)
        if reason == KVM_EXIT_IO:
            direction, size, port, count, offset = _read_io(self._run, _UNION)
            if direction != KVM_EXIT_IO_OUT:
                return IoIn(port)
            return IoOut(port, size, self._run[offset : offset + size * count])
        if reason == KVM_EXIT_MMIO:
            address, _, _, is_write = KVM_RUN_MMIO.read(self._run, _UNION)
            return Mmio(address, bool(is_write))
        if reason == KVM_EXIT_SHUTDOWN:
            return Shutdown()
        return Other(reason)
