"""Host side: no allocator or preload of Debian's, nor a setting of glibc or Python, loses anything.

An image is amended by much more than fits what an allocator has in store, alone, by workers and by
a child. What these libraries call is in CLIENT_RULES, each with the one that calls it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm.cli import trials
from instar.vmm.confine.rules import CLIENT_RULES, RULES
from tests.support.forge import Data, Image, Zero, ZeroAllocated, parse_header
from tests.support.luks import make_by_qemu, secret_flag
from tests.support.process import PACKAGE, attempt
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
# Each release of Debian has one version of mimalloc, by another name: version 2 in 12, 3 in 13.
MIMALLOC_SO = next((x.name for x in sorted(LIBRARIES.glob("libmimalloc.so.[0-9]"))), "libmimalloc")
PACKAGES = {
    "libjemalloc.so.2": "libjemalloc2",
    "libtcmalloc_minimal.so.4": "libtcmalloc-minimal4",
    MIMALLOC_SO: "libmimalloc-dev",
    "libeatmydata.so.1": "libeatmydata1",
}
JEMALLOC, TCMALLOC, MIMALLOC, EATMYDATA = ({"LD_PRELOAD": str(LIBRARIES / x)} for x in PACKAGES)
MALLOC = {"PYTHONMALLOC": "malloc"}  # every object of Python's comes from the library
EAGER = "background_thread:true,percpu_arena:percpu,dirty_decay_ms:0,muzzy_decay_ms:0"

CLIENTS: dict[str, dict[str, str]] = {
    "jemalloc": JEMALLOC,
    "jemalloc for all objects": JEMALLOC | MALLOC,
    "jemalloc with a thread": JEMALLOC | {"MALLOC_CONF": EAGER},
    "jemalloc with huge pages": JEMALLOC | {"MALLOC_CONF": "thp:always,retain:false"},
    "tcmalloc": TCMALLOC | MALLOC | {"TCMALLOC_RELEASE_RATE": "10"},
    "mimalloc": MIMALLOC,
    "mimalloc for all objects": MIMALLOC | MALLOC | {"MIMALLOC_RESET_DELAY": "0"},
    "mimalloc that commits late": MIMALLOC | {"MIMALLOC_EAGER_COMMIT": "0"},
    "libeatmydata": EATMYDATA,
    "libeatmydata and jemalloc": {
        "LD_PRELOAD": f"{EATMYDATA['LD_PRELOAD']}:{JEMALLOC['LD_PRELOAD']}"
    },
    "glibc with hugetlb=1": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "glibc with hugetlb=2": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"},
    "glibc that trims": {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "4096"},
    "Python without its own": MALLOC,
    "Python's debug hooks": {"PYTHONMALLOC": "debug", "PYTHONDEVMODE": "1"},
}
if sys.version_info >= (3, 13):
    CLIENTS["Python's mimalloc"] = {"PYTHONMALLOC": "mimalloc"}

CLUSTERS = 12_000
ALONE = "from instar.vmm.cli import main; main()"
PROCESS = "import instar; instar.amend(sys.argv[-1], compat='0.10', isolation='process')"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An image that half its clusters are zeroed or added of in a downgrade."""
    for library, package in PACKAGES.items():
        if not (LIBRARIES / library).exists():
            pytest.fail(f"no {library}: as root, apt-get install {package}", pytrace=False)
    clusters: dict[int, Zero | ZeroAllocated | Data] = {}
    for number in range(0, CLUSTERS, 2):
        zeroes = ZeroAllocated(b"z") if number % 4 else Zero()
        clusters |= {number: zeroes, number + 1: Data(b"d")}
    path = tmp_path_factory.mktemp("large") / "image"
    fields = {"cluster_bits": 9, "size": CLUSTERS << 9, "clusters": clusters}
    Image(backing_file=b"base", **fields).write(path)  # type: ignore[arg-type]
    return path.read_bytes()


def downgrade(code: str, arguments: list[str], env: dict[str, str], *images: Path) -> None:
    start = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {code}"
    line = [sys.executable, "-c", start, "amend", "-o", "compat=0.10", *arguments]
    done = subprocess.run(
        [*line, *map(str, images)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    for image in images:
        assert parse_header(image.read_bytes()).version == 2


HOW = {
    "alone": (ALONE, [], 1),
    "in a batch": (ALONE, ["--jobs", "2"], 2),
    "child": (PROCESS, [], 1),
}


@pytest.mark.parametrize(("code", "arguments", "count"), HOW.values(), ids=HOW)
@pytest.mark.parametrize("env", CLIENTS.values(), ids=CLIENTS)
def test_a_large_downgrade_comes_to_its_end(
    tmp_path: Path, large: bytes, env: dict[str, str], code: str, arguments: list[str], count: int
) -> None:
    images = [tmp_path / str(number) for number in range(count)]
    for image in images:
        image.write_bytes(large)
    downgrade(code, arguments, env, *images)
    assert len({image.read_bytes() for image in images}) == 1


# Each on the image that those before it leave.
OTHER_COMMANDS = {
    "grow": ["resize", "--backing-size", str(CLUSTERS << 9), "IMAGE", "1G"],
    "shrink": ["resize", "--shrink", "IMAGE", "3M"],
    "widen": ["amend", "-o", "refcount_bits=64", "IMAGE"],
    "rebase": ["rebase", "-u", "-b", "base", "-F", "raw", "IMAGE"],
    "amend with repair": ["amend", "--repair", "IMAGE"],
    "check": ["check", "IMAGE"],
    "repair": ["check", "-r", "all", "IMAGE"],
    "info": ["info", "--safe", "IMAGE"],
}


@pytest.mark.any_python  # what fits no store of an allocator is tried above
@pytest.mark.parametrize("env", CLIENTS.values(), ids=CLIENTS)
def test_other_commands_end_as_they_should_whatever_the_allocator(
    tmp_path: Path, large: bytes, env: dict[str, str]
) -> None:
    image, start = tmp_path / "image", f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {ALONE}"
    image.write_bytes(large)
    ended = {}
    for name, arguments in OTHER_COMMANDS.items():
        words = [str(image) if word == "IMAGE" else word for word in arguments]
        line = [sys.executable, "-c", start, *words]
        done = subprocess.run(
            line, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        ended[name] = done.returncode, done.stderr
    assert ended.pop("info")[0] == 1  # it names a backing file by now
    assert set(ended.values()) == {(0, "")}


KEYS = {
    "add": ("active", "new-secret=two", "iter-time=0"),
    "replace": ("active", "new-secret=three", "keyslot=1", "iter-time=0"),
    "erase": ("inactive", "old-secret=one"),
}


@pytest.mark.any_python  # what fits no store of an allocator is tried above
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("form", ["qcow2", "luks"])
@pytest.mark.parametrize("env", CLIENTS.values(), ids=CLIENTS)
def test_keys_change_confined_whatever_the_allocator(
    tmp_path: Path, qemu: Qemu, env: dict[str, str], form: str
) -> None:
    volumes = [make_by_qemu(tmp_path / f"{number}", form) for number in range(3)]
    prefix, words = ("encrypt." if form == "qcow2" else ""), ("one", "two", "three")
    secrets = [part for word in words for part in secret_flag(word)]
    start = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {ALONE}"
    line = [sys.executable, "-c", start, "amend", "-f", form, "--require-confinement", *secrets]
    for images in (volumes[:1], volumes[1:]):  # alone, and by workers
        for (state, *others), unlock in zip(KEYS.values(), ("one", "one", "three"), strict=True):
            asked = ",".join(f"{prefix}{pair}" for pair in (f"state={state}", *others))
            flags = ["--force", "--key-secret", unlock, "-o", asked]
            paths = [str(volume.path) for volume in images]
            done = subprocess.run(
                [*line, *flags, *paths], env={**os.environ, **env}, capture_output=True, check=False
            )
            assert (done.returncode, done.stdout) == (0, b""), done.stderr
    for volume in (volumes[0], volumes[-1]):
        assert volume.opened(qemu, words) == {"three"}


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("env", CLIENTS.values(), ids=CLIENTS)
def test_the_doctor_finds_nothing_wrong_where_an_amend_works(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    trials.use_memory()


# What the runs above need only by chance, or where they go wrong.
NEEDED_BY_CHANCE = {
    "mprotect": "say('done' if not libc.mprotect(libc.valloc(4096), 4096, 3) else '')",
    "futex": "call(202, struct.pack('=I', 0), 1, 1, None, None, 0)",
    "sched_yield": "call(24)",
    "getcpu": "call(309, None, None, None)",
    "getpid": "call(39)",
    "writev": "say('done' if libc.syscall(20, 2, None, 0) == 0 else '')",
    "fcntl": "call(72, IMAGE, 1, 0)",
    "madvise": "call(28, 0, 0, 14)",
    "exit": "os.write(1, b'done'); libc.syscall(60, 0)",
}


@pytest.mark.parametrize("name", [name for name, *_ in CLIENT_RULES])
def test_what_a_client_may_need_is_allowed(tmp_path: Path, name: str) -> None:
    before = (
        "libc.valloc.restype = ctypes.c_void_p; libc.mprotect.argtypes = (ctypes.c_void_p,) * 3"
    )
    assert attempt(NEEDED_BY_CHANCE[name], tmp_path / "image", before=before) == (0, "done")


def test_every_client_rule_names_its_client() -> None:
    clients = ("jemalloc", "mimalloc", "tcmalloc", "glibc", "libeatmydata", "worker")
    for _, _, _, reason in CLIENT_RULES:
        assert any(client in reason for client in clients)
    assert {name for name, *_ in CLIENT_RULES}.isdisjoint(name for name, *_ in RULES)


LARGE_CALLS = {
    "fcntl": EATMYDATA,
    "madvise": JEMALLOC | MALLOC | {"MALLOC_CONF": EAGER},
    "futex": JEMALLOC | MALLOC | {"MALLOC_CONF": EAGER},
}
if MIMALLOC_SO.endswith(".2"):  # version 3 needs it no more
    LARGE_CALLS["mprotect"] = MIMALLOC | MALLOC | {"MIMALLOC_EAGER_COMMIT": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "env"), LARGE_CALLS.items(), ids=LARGE_CALLS)
def test_clients_make_the_calls_that_they_are_listed_for(
    tmp_path: Path, large: bytes, call: str, env: dict[str, str]
) -> None:
    image, log = tmp_path / "image", tmp_path / "trace"
    image.write_bytes(large)
    start = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {ALONE}"
    preload = [f"-E{name}={value}" for name, value in env.items()]
    line = [sys.executable, "-c", start, "amend", "-o", "compat=0.10", str(image)]
    subprocess.run(["strace", "-f", "-o", log, *preload, *line], check=True, timeout=120)
    calls = log.read_text(errors="replace").partition(" seccomp(")[2]
    assert f" {call}(" in calls
