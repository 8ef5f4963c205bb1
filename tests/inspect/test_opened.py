"""A look opens the image and nothing else, read-only, under the locks of qemu-img. Test side.

So it is however one looks: by a command, a batch, the library, its executors and its children. Only
a repair opens the image for writing, and only that.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path

import build_guest
import pytest

from tests.support.forge import Data, Image, Snapshot

pytestmark = pytest.mark.kvm

FOLDERS = (
    *(build_guest.ROOT, sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")),
    *("/usr/lib", "/usr/lib64", "/usr/share", "/lib", "/lib64", "/proc", "/sys", "/dev"),
)
OURS = (*(f"{folder}/" for folder in FOLDERS), "/etc/ld.so.", "/etc/local")
"""Where the program, its libraries and the kernel's files are; no image is there."""

READ, WRITE, RESIZE = 100, 101, 103
NOT_WRITE, NOT_RESIZE = 201, 203
INFO = {NOT_WRITE, NOT_RESIZE}
CHECK = INFO | {READ}
AMEND = CHECK | {WRITE, RESIZE}
"""The bytes that are held in them; tests/locking compares these with qemu-img's own."""

HARMED = Image(
    cluster_bits=9,
    size=64 << 9,
    clusters={0: Data(b"a")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"b")})],
)
HARMED = replace(HARMED, refcounts={HARMED.regions()["data[0]"].start >> 9: 2})


@dataclass(frozen=True)
class Way:
    """How one looks at images, and what is held of each meanwhile; none where qemu-img has none."""

    locks: set[int]
    arguments: tuple[str, ...] = ()
    code: str = ""
    writes: bool = False

    def command(self) -> list[str]:
        """The command that is followed by the names of images."""
        if self.code:
            lines = (
                "import sys, instar",
                "from concurrent.futures import *",
                "from multiprocessing import get_context",
                "paths = sys.argv[1:]",
            )
            return [sys.executable, "-c", "\n".join((*lines, self.code))]
        return [sys.executable, "-m", "instar", *self.arguments, "--require-confinement"]


def many(function: str, keywords: str) -> str:
    return f"for outcome in instar.{function}_many(paths, {keywords}): outcome.unwrap()"


def pool(function: str, executor: str) -> str:
    call = f"instar.{function}_many(paths, executor=pool, chunk_size=1)"
    return f"with {executor} as pool: [one.unwrap() for one in {call}]"


def each(call: str) -> str:
    return f"for path in paths: instar.{call}"


EXECUTORS = {
    "ThreadPoolExecutor": "2",
    "ProcessPoolExecutor": "2, mp_context=get_context('fork')",  # others open files of their own
}
JOBS = ("--jobs", "2")
BOTH = {"info": INFO, "check": CHECK}
REPAIRS = ("leaks", "all")
WAYS = {
    **{name: Way(locks, (name,)) for name, locks in BOTH.items()},
    **{f"{name} -U": Way(set(), (name, "-U")) for name in BOTH},
    **{f"{name} --jobs": Way(locks, (name, *JOBS)) for name, locks in BOTH.items()},
    **{f"{name} -U --jobs": Way(set(), (name, "-U", *JOBS)) for name in BOTH},
    **{f"check -r {it}": Way(AMEND, ("check", "-r", it), writes=True) for it in REPAIRS},
    **{f"-r {it} --jobs": Way(AMEND, ("check", "-r", it, *JOBS), writes=True) for it in REPAIRS},
    **{f"{name}()": Way(locks, code=each(f"{name}(path)")) for name, locks in BOTH.items()},
    **{
        f"{name}(force_share)": Way(set(), code=each(f"{name}(path, force_share=True)"))
        for name in BOTH
    },
    **{
        f"{name}(isolation)": Way(locks, code=each(f"{name}(path, isolation='process')"))
        for name, locks in BOTH.items()
    },
    **{f"{name}_many()": Way(locks, code=many(name, "")) for name, locks in BOTH.items()},
    **{
        f"{name}_many(isolation)": Way(locks, code=many(name, "isolation='process'"))
        for name, locks in BOTH.items()
    },
    **{
        f"{name}_many({executor})": Way(locks, code=pool(name, f"{executor}({arguments})"))
        for name, locks in BOTH.items()
        for executor, arguments in EXECUTORS.items()
    },
    "check(repair)": Way(AMEND, code=each("check(path, repair='all')"), writes=True),
    "check(repair, isolation)": Way(
        AMEND, code=each("check(path, repair='all', isolation='process')"), writes=True
    ),
    "check_many(repair)": Way(AMEND, code=many("check", "repair='leaks'"), writes=True),
}


def trace(command: list[str], images: list[Path], folder: Path) -> list[str]:
    """The lines of strace, of one process after the other."""
    calls = "trace=%file,fcntl,pwrite64,pwritev,pwritev2,write,ftruncate,fallocate,fsync,fdatasync"
    flags = ["-ff", "-y", "-qq", "-e", "signal=none", "-e", calls, "-o", str(folder / "trace")]
    subprocess.run(["strace", *flags, *command, *images], capture_output=True, check=False)
    return [
        line for file in folder.glob("trace.*") for line in file.read_text("latin-1").split("\n")
    ]


@pytest.mark.parametrize("name", WAYS)
def test_nothing_but_the_images_is_opened_and_under_the_locks_of_qemu_img(
    name: str, tmp_path: Path
) -> None:
    way = WAYS[name]
    images, traces = [tmp_path / "a.qcow2", tmp_path / "b.qcow2"], tmp_path / "traces"
    traces.mkdir()
    (tmp_path / "named").write_text("of this nothing may be read")
    for image in images:
        replace(HARMED, backing_file=bytes(tmp_path / "named"), backing_format=b"raw").write(image)
    before = [(image.read_bytes(), image.stat().st_mtime_ns) for image in images]
    lines = trace(way.command(), images, traces)
    after = [(image.read_bytes(), image.stat().st_mtime_ns) for image in images]
    assert all((old != new) is way.writes for old, new in zip(before, after, strict=True))
    assert not any("/named" in line for line in lines)
    opened: dict[str, set[str]] = {}
    for line in lines:
        found = re.match(r"open.*\bO_(RDONLY|WRONLY|RDWR|PATH)\b.* = \d+<([^>]*)>$", line)
        if found:
            opened.setdefault(found[2], set()).add(found[1])
    assert [path for path in opened if path not in map(str, images) and not _is_ours(path)] == []
    for image in images:
        assert opened[str(image)] <= ({"RDONLY", "RDWR"} if way.writes else {"RDONLY"})
        assert ("RDWR" in opened[str(image)]) is way.writes
        of_it = [line for line in lines if f"<{image}>" in line]
        taken = [line for line in of_it if "F_OFD_SETLK" in line and "F_UNLCK" not in line]
        assert {
            int(start) for line in taken for start in re.findall(r"l_start=(\d+)", line)
        } == way.locks
        assert all("F_RDLCK" in line and "l_len=1}" in line for line in taken)
        assert any(re.match("pwrite", line) for line in of_it) is way.writes
        if not way.writes:
            assert not any(re.match("write|ftruncate|fallocate|f.*sync", line) for line in of_it)


def _is_ours(path: str) -> bool:
    """Whether a path is the program's, or is none: a pipe, a directory on the way."""
    return path.startswith(OURS) or any(own.startswith(f"{path.rstrip('/')}/") for own in OURS)
