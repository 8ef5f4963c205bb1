"""Host side: takes from the command's process all that it does not need to amend one open image.

It cannot be undone, so only the command's own process does it (docs/threat-model.md): when all is
open that the run needs, and before the first byte of the image is read. A barrier that this kernel
does not have leaves the others standing.
"""

from __future__ import annotations

from os import O_CLOEXEC, O_RDONLY, close, fstat, read, sysconf
from os import open as open_file
from stat import S_ISREG
from struct import pack

from instar.abi import INSTAR_STAGED_MAX

from ..base.c import SYS_PRLIMIT64, addressof, c_char, get_limits, syscall
from ..base.errors import HostError
from ..base.record import record
from ..image.budgets import staging_budget
from .rules import CHAIN_RULES, CLIENT_RULES, KEY_RULES, READER_RULES, RULES, WORKER_RULES, assemble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..image.image_file import ImageFile

# asm/unistd_64.h
_SYS_CAPSET, _SYS_PRCTL, _SYS_SECCOMP = 126, 157, 317
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_RESTRICT_SELF = 444, 446
# linux/prctl.h, linux/capability.h, linux/seccomp.h
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
# asm-generic/resource.h
_RLIMIT_FSIZE, _RLIMIT_CORE, _RLIMIT_NPROC, _RLIMIT_NOFILE, _RLIMIT_AS = 1, 4, 6, 7, 9
# linux/landlock.h
_LANDLOCK_CREATE_RULESET_VERSION = 1

MEMORY = 64 << 20
"""Bytes of address space that a run may take on top of what the process has by then, and on top of
what the guest's writes take."""
STAGING_FACTOR = 4
"""Bytes of address space for each byte that the guest may stage: to hold, judge and report it."""
OUTPUT = 1 << 20
"""Bytes that stdout and stderr may grow by where they are files."""
OUTPUT_OF_READER = 16 << 20
"""The same of a process that says what is in an image, which can be a long list."""

# From which version of Landlock on which rights can be taken away: of files (13 kinds of access,
# then REFER, TRUNCATE and IOCTL_DEV), of the network (BIND_TCP, CONNECT_TCP), and what is reached
# beyond the process (abstract sockets, signals).
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NETWORK_RIGHTS = ((4, 3),)
_SCOPES = ((6, 3),)


@record
class Descriptors:
    """What a run uses of the process, once it was prepared."""

    image: int
    """The image's descriptor."""
    image_size: int | None
    """In bytes; None for a worker, whose parent limits what it may write."""
    vcpu: int
    """The vCPU's descriptor."""
    max_growth: int = 0
    """By how many bytes an image may grow."""
    tables: int = 0
    """How many bytes of new tables the request itself may explain."""
    channel: int | None = None
    """A worker's socket, by which the images come."""
    runs: int = 1
    """How often the guest runs for an image, or 0 where it takes no part; what each run stages is
    kept to the end."""
    read_only: bool = False
    """Whether the image is only read."""
    keys: bool = False
    """Whether keyslots change, for which random numbers are needed."""


def confine(descriptors: Descriptors, *, required: bool = False) -> None:
    """Raise all barriers of BARRIERS; there is no way back.

    Args:
        descriptors: what the process still uses.
        required: whether a barrier that this kernel lacks is an error.

    Raises:
        HostError: with `required`, if one is missing (this machine's fault).
    """
    missing = []
    for name, raise_barrier in BARRIERS:
        try:
            raise_barrier(descriptors)
        except OSError as error:
            missing.append(f"{name} ({error.strerror})")
    if required and missing:
        raise HostError(
            f"this process cannot be confined as required, for want of {', '.join(missing)}; "
            "see instar doctor"
        )


def confine_to(
    image: ImageFile, vcpu: int, runs: int, *, keys: bool = False, required: bool = False
) -> None:
    """Confine this process to an amend of this image, as `before_read` of amend_image() is called.

    Where `keys` change, random numbers are left to it; `required` is that of confine().
    """
    used = Descriptors(
        *(image.fd, image.size, vcpu, image.max_growth, image.tables), runs=runs, keys=keys
    )
    confine(used, required=required)


def keep_from_cores() -> None:
    """Have no core file of this process, nor a debugger in it, from here on: it holds secrets.

    HostError if the kernel refuses that.
    """
    try:
        syscall(_SYS_PRCTL, _PR_SET_DUMPABLE, 0, 0, 0, 0)
        _lower(_RLIMIT_CORE, 0)
    except OSError as error:
        raise HostError(f"cannot keep secrets out of core files: {error.strerror}") from error


def attempt(name: str, descriptors: Descriptors) -> str | None:
    """Raise the barriers up to the one of this name, and say what was wrong with that one."""
    for other, raise_barrier in BARRIERS:
        fault = None
        try:
            raise_barrier(descriptors)
        except OSError as error:
            fault = error.strerror
        if other == name:
            return fault
    raise KeyError(name)


def _give_up_privileges(_descriptors: Descriptors) -> None:
    """No program with more privileges, no capabilities, no debugger, no core file (prctl(2))."""
    syscall(_SYS_PRCTL, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Two sets of (effective, permitted, inheritable); the ambient set follows (capabilities(7)).
    syscall(_SYS_CAPSET, pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))
    syscall(_SYS_PRCTL, _PR_SET_DUMPABLE, 0, 0, 0, 0)


def _limit_resources(descriptors: Descriptors) -> None:
    """Lower the limits (getrlimit(2)); one that is lower already stays."""
    growth = descriptors.max_growth
    if descriptors.read_only:
        staged = 0
        _lower(_RLIMIT_FSIZE, _file_size(0, 0, OUTPUT_OF_READER))
    elif descriptors.image_size is not None:
        staged = staging_budget(descriptors.image_size, growth, descriptors.tables)
        staged = min(staged * max(descriptors.runs, 1), INSTAR_STAGED_MAX)
        _lower(_RLIMIT_FSIZE, _file_size(descriptors.image_size, growth))
    else:  # of any size
        staged = INSTAR_STAGED_MAX
    for resource in (_RLIMIT_CORE, _RLIMIT_NPROC):
        _lower(resource, 0)
    _lower(_RLIMIT_AS, _address_space() + MEMORY + STAGING_FACTOR * staged)


def _lower(resource: int, limit: int) -> None:
    """Set both limits of a resource, unless they are lower already."""
    new = pack("=2Q", *(min(limit, value) for value in get_limits(resource)))
    syscall(SYS_PRLIMIT64, 0, resource, new, None)


def _address_space() -> int:
    """The bytes that are in use (proc_pid_statm(5))."""
    file = open_file("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    try:
        return int(read(file, 64).split()[0]) * sysconf("SC_PAGE_SIZE")
    finally:
        close(file)


def _file_size(image_size: int, growth: int, output: int = OUTPUT) -> int:
    """The size up to which a file may be written: sectors of the image, or a log of the output."""
    # The limit is a signed number to some (getrlimit(2)); no file reaches 2^62 bytes.
    sizes = [min((image_size + 511 & ~511) + growth, 1 << 62)]
    for descriptor in (1, 2):
        status = fstat(descriptor)
        if S_ISREG(status.st_mode):
            sizes.append(status.st_size + output)
    return max(sizes)


def _close_files(_descriptors: Descriptors) -> None:
    """Open no path and no TCP port any more, and reach no other process (landlock(7))."""
    version = syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    rights = (
        sum(bits for since, bits in kind if since <= version)
        for kind in (_FILE_RIGHTS, _NETWORK_RIGHTS, _SCOPES)
    )
    # A kernel that knows a shorter struct takes a longer one if the rest is zero.
    ruleset = syscall(_SYS_LANDLOCK_CREATE_RULESET, pack("=3Q", *rights), 24, 0)
    try:
        syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        close(ruleset)


def _close_descriptors(descriptors: Descriptors) -> None:
    """Get no descriptor any more; the steps before need some (RLIMIT_NOFILE, getrlimit(2)).

    A worker gets one, that of the image which it was sent.
    """
    _lower(_RLIMIT_NOFILE, 0 if descriptors.channel is None else descriptors.image + 1)


def _filter_calls(descriptors: Descriptors) -> None:
    """Allow the system calls of rules.py, also to a thread that a library has (seccomp(2)).

    SAFETY: the kernel copies the program that `header` points to during the call, and `buffer`
    lives until after it.
    """
    numbers = {"image": descriptors.image, "vcpu": descriptors.vcpu}
    more = KEY_RULES if descriptors.keys else ()
    if descriptors.read_only:
        program = assemble(READER_RULES + CLIENT_RULES, numbers)
    elif descriptors.channel is None:
        first = RULES if descriptors.runs <= 1 else CHAIN_RULES
        program = assemble(first + CLIENT_RULES + more, numbers)
    else:
        program = assemble(WORKER_RULES + more, {**numbers, "channel": descriptors.channel})
    buffer = bytearray(program)
    address = addressof(c_char.from_buffer(buffer))
    header = pack("=H6xQ", len(buffer) // 8, address)  # struct sock_fprog
    unlike = syscall(_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, header)
    if unlike:
        raise OSError(0, f"thread {unlike} has a filter of its own")


BARRIERS: tuple[tuple[str, Callable[[Descriptors], None]], ...] = (
    ("privileges", _give_up_privileges),
    ("limits", _limit_resources),
    ("landlock", _close_files),
    ("descriptors", _close_descriptors),
    ("seccomp", _filter_calls),
)
"""In the order in which they are raised: each forbids what it takes to raise those before it."""
