"""Host side: the system calls that a confined amend may make, and their filter program.

Everything that is not in a table is not carried out: a call that is not listed at all fails as on a
kernel that lacks it (ENOSYS), one with other arguments is forbidden (EPERM). None ends the process,
which may be in the middle of a commit (docs/decisions/0013-the-filter-refuses-and-kills-nobody.md).
Each rule says what the run needs the call for; tests/confinement compares the tables with the calls
of real runs.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    # An argument, by position, "is" one of the numbers or the named descriptor, "lacks" bits, or is
    # the second number "but for" bits of the first one.
    Condition: TypeAlias = tuple[int, str, "tuple[int, ...] | str"]
    Rule: TypeAlias = tuple[str, int, tuple[Condition, ...], str]

# KVM_RUN, KVM_GET_REGS, KVM_GET_SREGS, KVM_SET_SIGNAL_MASK: numbers, so that nothing is computed
# here; a test compares them with vmm/kvm/ioctls.py.
VCPU_REQUESTS = (0xAE80, 0x8090AE81, 0x8138AE83, 0x4004AE8B)

_PROT_EXEC = 4
_MAP_PRIVATE_ANONYMOUS = 0x22
# MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MAP_STACK, MAP_HUGETLB with its size, and
# MAP_FIXED_NOREPLACE: where memory lies and how it is backed, but not what it is.
_MAP_HOW = 0x10 | 0x4000 | 0x8000 | 0x20000 | 0x40000 | 0x3F << 26 | 0x100000
_PUNCH_HOLE_KEEP_SIZE = 3  # linux/falloc.h
_F_GETFD = 1
# MADV_NORMAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
# MADV_DONTDUMP, MADV_DODUMP, MADV_COLLAPSE: all are about this process's own memory.
_ADVICE = (0, 3, 4, 8, 14, 15, 16, 17, 25)

# Numbers from asm/unistd_64.h. Conditions see the low half of an argument, which is all that the
# kernel looks at in a descriptor, an ioctl request, mmap's protection and its flags.
RULES: tuple[Rule, ...] = (
    (
        *("ioctl", 16, ((0, "is", "vcpu"), (1, "is", VCPU_REQUESTS))),
        "runs the guest, under a signal mask; says where it stopped if it broke a rule",
    ),
    ("pread64", 17, ((0, "is", "image"),), "reads the image for the host"),
    ("preadv2", 327, ((0, "is", "image"),), "reads the image into the guest's memory"),
    ("preadv", 295, ((0, "is", "image"),), "does the same for a Python that knows no preadv2"),
    ("pwrite64", 18, ((0, "is", "image"),), "commits to the image"),
    ("ftruncate", 77, ((0, "is", "image"),), "lets the image grow for a commit, or cuts it back"),
    (
        *("fallocate", 285, ((0, "is", "image"), (1, "is", (_PUNCH_HOLE_KEEP_SIZE,)))),
        "gives back what a change of the size sets free",
    ),
    (
        *("lseek", 8, ((0, "is", "image"), (2, "is", (2, 3, 4)))),  # SEEK_END, SEEK_DATA, SEEK_HOLE
        "finds the holes of what a commit makes zeros, and where the file ends before it grows",
    ),
    ("fdatasync", 75, ((0, "is", "image"),), "puts a barrier between the phases of a commit"),
    ("write", 1, ((0, "is", (1, 2)),), "tells the outcome, on stdout and stderr"),
    ("gettid", 186, (), "names the thread that the deadline's signal is for"),
    ("timer_create", 222, (), "makes the deadline's timer"),
    ("timer_settime", 223, (), "starts the deadline"),
    ("timer_delete", 226, (), "ends the deadline"),
    ("rt_sigprocmask", 14, (), "blocks the deadline's signal outside of KVM_RUN"),
    ("rt_sigtimedwait", 128, (), "takes the deadline's signal off the queue"),
    ("clock_gettime", 228, (), "tells the time where the machine's clock needs the kernel for it"),
    ("rt_sigaction", 13, (), "gives SIGINT and SIGTERM back, and ignores the second one"),
    ("rt_sigreturn", 15, (), "ends the handler of SIGINT and SIGTERM"),
    ("close", 3, (), "closes the image, which ends its locks, and the virtual machine"),
    ("munmap", 11, (), "unmaps the guest's memory; frees memory"),
    (
        "mmap",
        9,
        ((2, "lacks", (_PROT_EXEC,)), (3, "but for", (_MAP_HOW, _MAP_PRIVATE_ANONYMOUS))),
        "allocates memory; jemalloc and mimalloc with MAP_NORESERVE, glibc with MAP_HUGETLB where "
        "its tunables say so, jemalloc with MAP_FIXED where memory is not overcommitted",
    ),
    ("brk", 12, (), "allocates and frees memory"),
    ("mremap", 25, (), "lets a large allocation grow"),
    ("exit_group", 231, (), "ends the process"),
)

CLIENT_RULES: tuple[Rule, ...] = (
    (
        *("madvise", 28, ((2, "is", _ADVICE),)),
        "gives memory back: jemalloc, mimalloc (PYTHONMALLOC=mimalloc), tcmalloc; asks for huge "
        "pages: glibc with hugetlb=1; a worker gives back what a scan of the guest used, zeroed",
    ),
    (
        *("mprotect", 10, ((2, "lacks", (_PROT_EXEC,)),)),
        "takes reserved memory into use: glibc's arenas, jemalloc and mimalloc",
    ),
    (
        *("fcntl", 72, ((0, "is", "image"), (1, "is", (_F_GETFD,)))),
        "asks whether a descriptor is open: libeatmydata before each flush",
    ),
    (
        *("futex", 202, ()),
        "waits for a lock, or wakes who waits for it: allocators with a thread of their own, such "
        "as jemalloc's background_thread; glibc aborts where it fails",
    ),
    ("sched_yield", 24, (), "waits for a lock: jemalloc and tcmalloc, which spin"),
    ("getcpu", 309, (), "chooses an arena: jemalloc's percpu_arena, which trusts the answer"),
    (
        "getpid",
        39,
        (),
        "tells whether a process was forked: a worker, and libraries that cannot fail",
    ),
    (
        *("writev", 20, ((0, "is", (2,)),)),
        "says why it aborts: glibc, where it finds its heap damaged",
    ),
    ("exit", 60, (), "ends a thread of an allocator's; glibc tries for ever where it fails"),
)
"""What libraries in the process may call at any time: allocators, and what LD_PRELOAD brings."""

KEY_RULES: tuple[Rule, ...] = (("getrandom", 318, (), "makes salts and new key material"),)
"""What it takes besides to change keyslots."""

_WRITES = ("pwrite64", "ftruncate", "fallocate", "fdatasync")

READER_RULES: tuple[Rule, ...] = tuple(rule for rule in RULES if rule[0] not in _WRITES)
"""The rules of a process that only looks at an image."""

# What gives a kept machine its first state back, besides KVM_RUN: KVM_SET_XSAVE,
# KVM_SET_DEBUGREGS, KVM_SET_MSRS.
RESET_REQUESTS = (0x5000AEA5, 0x4080AEA2, 0x4008AE89)

CHAIN_RULES: tuple[Rule, ...] = (
    (
        *("ioctl", 16, ((0, "is", "vcpu"), (1, "is", VCPU_REQUESTS + RESET_REQUESTS))),
        "runs the guest, and gives the machine its first state back for the next step",
    ),
    *(rule for rule in RULES if rule[0] != "ioctl"),
)
"""In place of RULES, where an amend has more than one step."""

_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
_NOT_A_WORKERS = ("ioctl", "write", "writev", "lseek", "fcntl", "rt_sigaction", "rt_sigreturn")

# The rules of a worker, which amends image after image as its parent sends them. Each of them is
# the one descriptor that it may get, and so has the same number.
WORKER_RULES: tuple[Rule, ...] = (
    (
        *("ioctl", 16, ((0, "is", "vcpu"), (1, "is", VCPU_REQUESTS + RESET_REQUESTS))),
        "runs the guest, and gives the machine its first state back for the next image",
    ),
    ("recvmsg", 47, ((0, "is", "channel"),), "takes the next image from the parent"),
    ("poll", 7, ((1, "is", (1,)),), "sees whether the parent wants no other image begun"),
    ("write", 1, ((0, "is", "channel"),), "tells the parent the outcome"),
    ("lseek", 8, ((0, "is", "image"),), "tells the image's size; finds its holes"),
    (
        *("fcntl", 72, ((0, "is", "image"), (1, "is", (_F_GETFD, _F_OFD_GETLK, _F_OFD_SETLK)))),
        "takes qemu's locks of the image; asks whether it is open, as in CLIENT_RULES",
    ),
    *(rule for rule in (*RULES, *CLIENT_RULES) if rule[0] not in _NOT_A_WORKERS),
)

# linux/bpf_common.h, linux/filter.h: struct sock_filter and the operations in use.
_INSTRUCTION = Struct("<HBBI")
_LOAD, _AND, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
# linux/seccomp.h: what a filter returns, and where struct seccomp_data has its fields.
_ERRNO, _ALLOW = 0x50000, 0x7FFF0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_AUDIT_ARCH_X86_64 = 0xC000003E  # linux/audit.h
_EPERM, _ENOSYS = 1, 38  # asm-generic/errno-base.h, asm-generic/errno.h


def assemble(rules: tuple[Rule, ...], descriptors: Mapping[str, int]) -> bytes:
    """Return rules as a classic BPF program, with the numbers of the descriptors they name.

    Source: Linux, Documentation/userspace-api/seccomp_filter.rst. The calls of the x32 ABI have
    numbers of their own (bit 30 is set), which no rule names.
    """
    pack = _INSTRUCTION.pack
    lacking = pack(_RETURN, 0, 0, _ERRNO | _ENOSYS)
    allow = pack(_RETURN, 0, 0, _ALLOW)
    program = [
        pack(_LOAD, 0, 0, _ARCH),
        pack(_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        lacking,
        pack(_LOAD, 0, 0, _NUMBER),
    ]
    for _, number, conditions, _ in rules:
        body = [step for each in conditions for step in _check(each, descriptors)]
        program += [pack(_JUMP_EQUAL, 0, len(body) + 1, number), *body, allow]
    program.append(lacking)
    return b"".join(program)


def _check(condition: Condition, descriptors: Mapping[str, int]) -> list[bytes]:
    """The instructions that go on if an argument is as it should be, and else forbid the call."""
    pack = _INSTRUCTION.pack
    argument, comparison, wanted = condition
    values = (descriptors[wanted],) if isinstance(wanted, str) else wanted
    steps = [pack(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
    if comparison == "lacks":
        steps.append(pack(_JUMP_SET, 0, 1, values[0]))
    else:
        if comparison == "but for":
            steps.append(pack(_AND, 0, 0, ~values[0] & 0xFFFFFFFF))
            values = values[1:]
        count = len(values)
        steps += [pack(_JUMP_EQUAL, count - i, 0, value) for i, value in enumerate(values)]
    return [*steps, pack(_RETURN, 0, 0, _ERRNO | _EPERM)]
