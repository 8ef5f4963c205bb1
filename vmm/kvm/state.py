"""Host side: a vCPU's registers as plain bytes, for KVM to hand out and take back.

Each kind is one pair of ioctls (Linux, Documentation/virt/kvm/api.rst) whose structures are not
looked into here: what KVM_GET_* gave is what KVM_SET_* gets.
"""

from __future__ import annotations

from fcntl import ioctl
from struct import Struct

from .ioctls import ior, iow, iowr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .vcpu import Vcpu

_XSAVE_SIZE = 4096
KVM_GET_XSAVE2 = ior(0xCF, _XSAVE_SIZE)


def _pair(size: int, get: int, set_: int) -> tuple[int, int, int]:
    return size, ior(get, size), iow(set_, size)


# Name: bytes of the structure, KVM_GET_*, KVM_SET_*; in the order in which they are set. Left out
# is what has but one value: KVM's mp_state without an interrupt controller in the kernel, and XCR0
# of a vCPU that was never told of XSAVE (KVM_SET_CPUID2).
KINDS: dict[str, tuple[int, int, int]] = {
    "sregs": _pair(312, 0x83, 0x84),
    "xsave": _pair(_XSAVE_SIZE, 0xA4, 0xA5),
    "debugregs": _pair(128, 0xA1, 0xA2),
    "regs": _pair(144, 0x81, 0x82),
    "vcpu_events": _pair(64, 0x9F, 0xA0),  # last: the others may clear a pending exception
}

AT_ENTRY = ("regs", "sregs", "vcpu_events")
"""What struct kvm_sync_regs has, in its order: KVM takes these from struct kvm_run."""
_BY_IOCTL = [(name, set_) for name, (_, _, set_) in KINDS.items() if name not in AT_ENTRY]

KVM_GET_MSRS = iowr(0x88, 8)
KVM_SET_MSRS = iow(0x89, 8)
_MSRS_HEAD = Struct("<II")  # struct kvm_msrs, the number of entries
_MSR = Struct("<IIQ")  # struct kvm_msr_entry: index, reserved, value

KERNEL_GS_BASE = 0xC0000102
"""The one that an instruction of ring 0 writes which is no WRMSR: SWAPGS."""

# Intel SDM vol. 4: what a system call, a swap of GS or a memory type would be taken from. A guest
# in ring 3 can write none of them.
MSRS = (
    0x174,  # IA32_SYSENTER_CS
    0x175,  # IA32_SYSENTER_ESP
    0x176,  # IA32_SYSENTER_EIP
    0x277,  # IA32_PAT
    0xC0000081,  # IA32_STAR
    0xC0000082,  # IA32_LSTAR
    0xC0000083,  # IA32_CSTAR
    0xC0000084,  # IA32_FMASK
    KERNEL_GS_BASE,
)


def read_state(fd: int, xsave_size: int) -> dict[str, bytearray]:
    """Ask KVM for all KINDS of a vCPU. OSError from KVM.

    `xsave_size` is what KVM_CHECK_EXTENSION says of KVM_CAP_XSAVE2: where XSAVE's area outgrew the
    4096 bytes of its first ioctl, in bytes, or 0.
    """
    state = {}
    for name, (size, get, _) in KINDS.items():
        state[name] = bytearray(size)
        ioctl(fd, get, state[name])
    if xsave_size > _XSAVE_SIZE:
        state["xsave"] = bytearray(xsave_size)
        ioctl(fd, KVM_GET_XSAVE2, state["xsave"])
    return state


def read_msrs(fd: int, indices: tuple[int, ...]) -> bytearray:
    """KVM_GET_MSRS: a struct kvm_msrs, which ends before the first MSR that KVM does not know."""
    entries = b"".join(_MSR.pack(index, 0, 0) for index in indices)
    buffer = bytearray(_MSRS_HEAD.pack(len(indices), 0) + entries)
    known = ioctl(fd, KVM_GET_MSRS, buffer)
    _MSRS_HEAD.pack_into(buffer, 0, known, 0)
    return buffer[: _MSRS_HEAD.size + known * _MSR.size]


def write_state(vcpu: Vcpu, state: dict[str, bytearray]) -> None:
    """Give a vCPU what read_state() returned, and "msrs" as read_msrs() did. OSError from KVM.

    AT_ENTRY it gets at the next KVM_RUN, which spares an ioctl for each: where KVM itself runs in a
    virtual machine, one takes 10 to 15 µs. A pending exit must have been completed.
    """
    for name, set_ in _BY_IOCTL:
        ioctl(vcpu.fd, set_, state[name])
    ioctl(vcpu.fd, KVM_SET_MSRS, state["msrs"])
    vcpu.set_at_entry(b"".join([state[name] for name in AT_ENTRY]))
