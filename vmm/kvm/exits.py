"""Host side: why KVM_RUN returned, as a closed set of types."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    VcpuExit: TypeAlias = "IoOut | IoIn | Mmio | Shutdown | Interrupted | Other"

# linux/kvm.h
KVM_EXIT_IO = 2
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_IO_OUT = 1

_NAMES = {
    0: "KVM_EXIT_UNKNOWN",
    1: "KVM_EXIT_EXCEPTION",
    4: "KVM_EXIT_DEBUG",
    5: "KVM_EXIT_HLT",
    9: "KVM_EXIT_FAIL_ENTRY",
    17: "KVM_EXIT_INTERNAL_ERROR",
    24: "KVM_EXIT_SYSTEM_EVENT",
}


class IoOut:
    """KVM_EXIT_IO, the guest wrote to a port; `data` holds all accesses of `size` bytes each."""

    __slots__ = ("data", "port", "size")

    def __init__(self, port: int, size: int, data: bytes) -> None:
        """Take the port, the bytes of one access (1, 2 or 4) and what was written."""
        self.port = port
        self.size = size
        self.data = data


class IoIn:
    """KVM_EXIT_IO, the guest reads from a port."""

    __slots__ = ("port",)

    def __init__(self, port: int) -> None:
        """Take the port."""
        self.port = port


class Mmio:
    """KVM_EXIT_MMIO, the guest touched an address without memory behind it."""

    __slots__ = ("address", "is_write")

    def __init__(self, address: int, is_write: bool) -> None:
        """Take the guest-physical address and the direction."""
        self.address = address
        self.is_write = is_write


class Shutdown:
    """KVM_EXIT_SHUTDOWN: a fault that the guest could not handle (a triple fault)."""

    __slots__ = ()


class Interrupted:
    """KVM_RUN was interrupted by a signal before or while the guest ran."""

    __slots__ = ()


class Other:
    """Any other exit reason, by number."""

    __slots__ = ("reason",)

    def __init__(self, reason: int) -> None:
        """Take exit_reason."""
        self.reason = reason

    @property
    def name(self) -> str:
        """The kernel's name of the reason, or its number."""
        return _NAMES.get(self.reason, f"exit reason {self.reason}")
