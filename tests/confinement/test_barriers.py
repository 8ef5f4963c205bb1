"""Host side: each barrier stops what it is for, together with the others and where it stands alone.

What the filter stops is not carried out, and ends nothing: a commit may be on its way.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from instar.vmm import confine
from instar.vmm.confine.rules import CLIENT_RULES, RULES, VCPU_REQUESTS, WORKER_RULES
from instar.vmm.image.budgets import staging_budget
from instar.vmm.kvm import ioctls
from tests.support.process import ALL, attempt

OPEN = "call(257, -100, b'/etc/passwd', os.O_RDONLY)"
EXECVE = "call(59, b'/bin/true', None, None)"
FORK = "call(57) if os.getpid() != PARENT else None"
KILL = "call(62, PARENT, 0)"

# Numbers are those of asm/unistd_64.h.
FORBIDDEN = {
    "open": OPEN,
    "open by openat2": "call(437, -100, b'/etc/passwd', bytes(24), 24)",
    "open by io_uring": "call(425, 8, bytes(120))",
    "look at a path": "call(262, -100, PATH, bytes(144), 0)",
    "truncate a path": "call(76, PATH, 0)",
    "delete a path": "call(87, PATH)",
    "read another descriptor": "call(0, OTHER, bytes(1), 1)",
    "read the image otherwise": "call(0, IMAGE, bytes(1), 1)",
    "read another descriptor at an offset": "attempt(lambda: os.pread(OTHER, 1, 0))",
    "read another descriptor into memory": ("attempt(lambda: os.preadv(OTHER, [bytearray(1)], 0))"),
    "write to another descriptor": "call(1, OTHER, b'x', 1)",
    "write to the image without an offset": "call(1, IMAGE, b'x', 1)",
    "write to another descriptor at an offset": "attempt(lambda: os.pwrite(OTHER, b'x', 0))",
    "flush another descriptor": "call(75, OTHER)",
    "truncate another descriptor": "call(77, OTHER, 0)",
    "seek in another descriptor": "call(8, OTHER, 0, 3)",
    "seek in the image otherwise": "call(8, IMAGE, 0, 0)",
    "give the image room": "call(285, IMAGE, 0, 0, 4096)",
    "zero a range of the image": "call(285, IMAGE, 0x10, 0, 4096)",
    "punch a hole into another file": "call(285, OTHER, 3, 0, 4096)",
    "duplicate a descriptor": "call(33, IMAGE, 1)",
    "pass a descriptor": "call(46, OTHER, bytes(56), 0)",
    "take a file lock": "call(72, IMAGE, 38, bytes(32))",
    "socket": "call(41, socket.AF_INET, socket.SOCK_STREAM, 0)",
    "execve": EXECVE,
    "execveat": "call(322, -100, b'/bin/true', None, None, 0)",
    "fork": FORK,
    "vfork": "call(58)",
    "clone": "call(56, 0x11, None, None, None, None)",
    "clone3": "call(435, bytes(88), 88)",
    "kill": KILL,
    "tgkill": "call(234, PARENT, PARENT, 0)",
    "ptrace": "call(101, 16, PARENT, None, None)",
    "be traced": "call(101, 0, 0, None, None)",
    "read another process": "call(310, PARENT, None, 0, None, 0, 0)",
    "memory that can be executed": "call(9, 0, 4096, 7, 0x22, -1, 0)",
    "make memory executable": "call(10, 0, 4096, 5)",
    "make memory executable with a key": "call(329, 0, 4096, 5, -1)",
    "map the image": "attempt(lambda: mmap.mmap(IMAGE, 4096))",
    "map the image for itself": "call(9, 0, 4096, 1, 2, IMAGE, 0)",
    "map the image at a fixed address": "call(9, 1 << 40, 4096, 3, 0x12, IMAGE, 0)",
    "map memory that grows down": "call(9, 0, 4096, 3, 0x122, -1, 0)",
    "free a part of a file": "call(28, 0, 4096, 9)",
    "poison memory": "call(28, 0, 4096, 100)",
    "change a descriptor": "call(72, IMAGE, 4, os.O_APPEND)",
    "report to another descriptor": "call(20, OTHER, bytes(16), 1)",
    "share memory": "call(9, 0, 4096, 3, 0x21, -1, 0)",
    "change a limit": "call(302, 0, 7, struct.pack('=2Q', 0, 0), None)",
    "become dumpable": "call(157, 4, 1, 0, 0, 0)",
    "capset": "call(126, struct.pack('=Ii', 0x20080522, 0), bytes(24))",
    "setuid": "call(105, 0)",
    "mount": "call(165, b'none', b'/', b'tmpfs', 0, None)",
    "unshare": "call(272, 0x10000000)",
    "bpf": "call(321, 0, bytes(8), 8)",
    "a vCPU ioctl that is not listed": "call(16, VCPU, 0x4090AE82, bytes(144))",
    "KVM_CREATE_VM": "call(16, OTHER, 0xAE01, 0)",
    "KVM_RUN on another descriptor": "call(16, OTHER, 0xAE80, 0)",
    "KVM_GET_REGS on another descriptor": "call(16, OTHER, 0x8090AE81, bytes(144))",
    "an ioctl of the terminal": "call(16, 1, 0x5412, b'x')",
    "a call of the x32 ABI": "call(0x400000E7, 0)",
    "an allowed call of the x32 ABI": "call(0x40000003, OTHER)",
    "a call that does not exist": "call(100000)",
}


LISTED = {number for _, number, *_ in RULES + CLIENT_RULES}


@pytest.mark.parametrize("barriers", [ALL, ("privileges", "seccomp")], ids=["all", "alone"])
@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN)
def test_seccomp_forbids(tmp_path: Path, code: str, barriers: tuple[str, ...]) -> None:
    number = re.match(r"call\((\w+)", code)
    error = "EPERM" if number is None or int(number[1], 0) in LISTED else "ENOSYS"
    assert attempt(code, tmp_path / "image", barriers=barriers) == (0, error)


@pytest.mark.parametrize("number", [3, 20], ids=["a number that is allowed", "getpid"])
def test_seccomp_forbids_calls_of_32_bit_code(tmp_path: Path, number: int) -> None:
    before = f"""
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53b8{number:02x}000000cd805bc3"))  # push rbx; mov eax; int 0x80; pop; ret
enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
"""
    answer = attempt("say(enter())", tmp_path / "image", before=before)
    assert answer == (0, str(-errno.ENOSYS))


# uretprobe and uprobe, the kernel's own, pass every filter, and do nothing but where the kernel
# itself has put them (linux, kernel/seccomp.c, seccomp_uprobe_exception).
UNFILTERED = {335, 336}


def test_seccomp_lacks_whatever_is_not_listed(tmp_path: Path) -> None:
    code = f"""
for number in sorted(set(range(512)) - {UNFILTERED | LISTED}):
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    if (result, ctypes.get_errno()) != (-1, errno.ENOSYS):
        say(number, "")
"""
    for barriers in (ALL, ("privileges", "seccomp")):
        assert attempt(code, tmp_path / "image", barriers=barriers) == (0, "")


def test_a_thread_that_a_library_has_is_filtered_too(tmp_path: Path) -> None:
    before = """
import threading
go, done = threading.Event(), threading.Event()
def work():
    go.wait()
    call(41, socket.AF_INET, socket.SOCK_STREAM, 0)
    done.set()
threading.Thread(target=work, daemon=True).start()
"""
    assert attempt("go.set(); done.wait()", tmp_path / "image", before=before) == (0, "ENOSYS")


# What stops it where seccomp is off, barrier by barrier.
WITHOUT_SECCOMP = {
    "landlock: open": (OPEN, ("landlock",), "EACCES"),
    "landlock: truncate a path": ("call(76, PATH, 0)", ("landlock",), "EACCES"),
    "landlock: delete a path": ("call(87, PATH)", ("landlock",), "EACCES"),
    "landlock: execve": (EXECVE, ("landlock",), "EACCES"),
    "landlock: kill": (KILL, ("landlock",), "EPERM"),
    "landlock: connect": ("call(42, SOCKET, ADDRESS, 16)", ("landlock",), "EACCES"),
    "landlock: an abstract socket": (
        "call(42, LOCAL, struct.pack('=H', 1) + NAME, 2 + len(NAME))",
        ("landlock",),
        "EPERM",
    ),
    "descriptors: open": (OPEN, ("descriptors",), "EMFILE"),
    "descriptors: socket": ("call(41, 2, 1, 0)", ("descriptors",), "EMFILE"),
    "descriptors: duplicate a descriptor": ("call(32, 1)", ("descriptors",), "EMFILE"),
    "limits: fork": (FORK, ("limits",), "EAGAIN"),
    "limits: a larger file": ("call(18, IMAGE, b'xx', 2, 4096)", ("limits",), "EFBIG"),
    "limits: a file that is made larger": ("call(77, IMAGE, 4097)", ("limits",), "EFBIG"),
    "limits: more memory": ("call(9, 0, 1 << 30, 3, 0x22, -1, 0)", ("limits",), "ENOMEM"),
    "limits: a higher limit": (
        "call(302, 0, 7, struct.pack('=2Q', 9, 9), None)",
        ("limits", "descriptors"),
        "EPERM",
    ),
    "privileges: mount": ("call(165, b'none', b'/', b'tmpfs', 0, None)", (), "EPERM"),
    "privileges: chroot": ("call(161, b'/')", (), "EPERM"),
}

# Sockets that were there before, and nobody: limits on processes do not hold for root.
PREPARED = """
SOCKET = socket.socket(socket.AF_INET).detach()
ADDRESS = struct.pack("=H", socket.AF_INET) + b"\\0\\1\\x7f\\0\\0\\1" + bytes(8)
NAME = b"\\0instar-%d" % os.getpid()
LISTENING = socket.socket(socket.AF_UNIX)
LISTENING.bind(NAME)
LISTENING.listen()
LOCAL = socket.socket(socket.AF_UNIX).detach()
if {nobody} and os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
"""


@pytest.mark.parametrize(
    ("code", "barriers", "error"), WITHOUT_SECCOMP.values(), ids=WITHOUT_SECCOMP
)
def test_each_barrier_holds_without_seccomp(
    tmp_path: Path, code: str, barriers: tuple[str, ...], error: str
) -> None:
    before = PREPARED.format(nobody="limits" in barriers)
    barriers = ("privileges", *barriers)
    assert attempt(code, tmp_path / "image", before=before, barriers=barriers) == (0, error)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("call(77, IMAGE, 4097)", "EFBIG"),
        ("call(77, IMAGE, 4096)", "done"),
        ("call(8, IMAGE, 0, 3)", "done"),
        ("call(8, IMAGE, 0, 4)", "done"),
        ("call(18, IMAGE, b'xx', 2, 4096)", "EFBIG"),
        ("call(18, IMAGE, b'xx', 2, 1 << 40)", "EFBIG"),
        ("call(9, 0, 1 << 30, 3, 0x22, -1, 0)", "ENOMEM"),
    ],
)
def test_limits_hold_for_what_seccomp_allows(tmp_path: Path, code: str, error: str) -> None:
    assert attempt(code, tmp_path / "image") == (0, error)


# One argument of a call with each of some values: which of them the filter lets through.
VALUES: dict[str, tuple[str, range, tuple[int, ...]]] = {
    "bits of how memory is mapped": (  # but for those of a private map without a file
        "(9, 1 << 40, 4096, 3, 0x22 ^ 1 << value, -1, 0)",
        range(32),
        (4, 14, 15, 17, 18, 20, *range(26, 32)),
    ),
    "what is mapped for": ("(9, 0, 4096, value, 0x22, -1, 0)", range(8), (0, 1, 2, 3)),
    "what memory is made to be for": ("(10, 0, 4096, value)", range(8), (0, 1, 2, 3)),
    "advice": ("(28, 0, 0, value)", range(128), (0, 3, 4, 8, 14, 15, 16, 17, 25)),
    "where to seek": ("(8, IMAGE, 0, value)", range(8), (2, 3, 4)),
    "room for a file": ("(285, IMAGE, value, 0, 4096)", range(128), (3,)),
    "a descriptor's state": ("(72, IMAGE, value, 0)", range(64), (1,)),
    "a descriptor to write to": ("(1, value, 0, 0)", range(8), (1, 2)),
    "a descriptor to report to": ("(20, value, 0, 0)", range(8), (2,)),
}
LET_THROUGH = """
for value in {values!r}:
    ctypes.set_errno(0)
    libc.syscall(*map(ctypes.c_long, {call}))
    if ctypes.get_errno() != errno.EPERM:
        say(value, "")
"""


@pytest.mark.parametrize(("call", "values", "allowed"), VALUES.values(), ids=VALUES)
def test_seccomp_lets_each_value_through_that_is_listed(
    tmp_path: Path, call: str, values: range, allowed: tuple[int, ...]
) -> None:
    code = LET_THROUGH.format(call=call, values=values)
    said = "".join(f"{value} " for value in allowed)
    assert attempt(code, tmp_path / "image", barriers=("privileges", "seccomp")) == (0, said)


def test_a_worker_may_lock_an_image_and_ask_whether_it_is_open(tmp_path: Path) -> None:
    before = "Descriptors = lambda *words, real=Descriptors: real(*words, channel=1)"
    code = LET_THROUGH.format(call="(72, IMAGE, value, 0)", values=range(64))
    barriers = ("privileges", "seccomp")
    answer = attempt(code, tmp_path / "image", before=before, barriers=barriers)
    assert answer == (0, "1 36 37 ")


STATUS = """
text = open("/proc/self/status").read()
fields = dict(line.split(":\\t", 1) for line in text.splitlines() if ":\\t" in line)
"""


def test_no_privilege_is_left(tmp_path: Path) -> None:
    code = STATUS + "say(*(fields[x] for x in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')))"
    none = " ".join(["0" * 16] * 4)
    image = tmp_path / "image"
    assert attempt(code, image, barriers=("privileges",)) == (0, none)
    code = STATUS + "say(fields['NoNewPrivs'], libc.prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    assert attempt(code, image, barriers=("privileges",)) == (0, "1 0")


@pytest.mark.parametrize(("name", "low"), [("AS", 512 << 20), ("FSIZE", 100)])
@pytest.mark.parametrize("which", ["soft", "hard"])
def test_a_limit_that_is_lower_already_stays(
    tmp_path: Path, name: str, low: int, which: str
) -> None:
    before = f"""
import resource
LIMIT = resource.RLIMIT_{name}
resource.setrlimit(LIMIT, ({low}, {low} if {which == "hard"} else resource.RLIM_INFINITY))
confine.MEMORY = 1 << 40
"""
    code = "say(resource.getrlimit(LIMIT)[0])"
    answer = attempt(code, tmp_path / "image", before=before, barriers=("limits",))
    assert answer == (0, str(low))


EXPECTED_LIMITS = {"FSIZE": 4096, "CORE": 0, "NPROC": 0, "NOFILE": 0}


def test_limits_are_what_they_should_be(tmp_path: Path) -> None:
    before = f"""
import resource
NUMBERS = [getattr(resource, "RLIMIT_" + name) for name in {(*EXPECTED_LIMITS, "AS")}]
"""
    code = "say(*(limit for number in NUMBERS for limit in resource.getrlimit(number)))"
    status, said = attempt(
        code, tmp_path / "image", before=before, barriers=("limits", "descriptors")
    )
    numbers = [int(word) for word in said.split()]
    assert (status, numbers[:8]) == (
        0,
        [x for limit in EXPECTED_LIMITS.values() for x in (limit, limit)],
    )
    staged = confine.STAGING_FACTOR * staging_budget(4096, 0)
    assert numbers[8] == numbers[9] <= confine.MEMORY + staged + (256 << 20)


def test_limits_leave_room_for_growth(tmp_path: Path) -> None:
    before = """
import resource
Descriptors = lambda *words, real=Descriptors: real(*words, GROWTH)
GROWTH = 0
if os.fork() == 0:
    limit = dict(confine.BARRIERS)["limits"]
    limit(Descriptors(IMAGE, 4096, VCPU))
    os._exit(resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096)
SMALL = os.waitstatus_to_exitcode(os.wait()[1])
GROWTH = 1 << 30
"""
    code = "say(SMALL, resource.getrlimit(resource.RLIMIT_FSIZE)[0])"
    answer = attempt(code, tmp_path / "image", before=before, barriers=("limits",))
    assert answer == (0, f"0 {4096 + (1 << 30)}")


def test_descriptor_numbers_are_those_of_the_kvm_binding() -> None:
    expected = (
        *(ioctls.KVM_RUN, ioctls.KVM_GET_REGS, ioctls.KVM_GET_SREGS),
        ioctls.KVM_SET_SIGNAL_MASK,
    )
    assert expected == VCPU_REQUESTS


def test_every_rule_has_its_number_and_its_reason() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text(encoding="ascii")
    for rules in (RULES + CLIENT_RULES, WORKER_RULES):
        for name, number, _, reason in rules:
            assert f"#define __NR_{name} {number}\n" in header
            assert reason
        assert len({number for _, number, _, _ in rules}) == len(rules)
