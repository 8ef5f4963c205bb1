"""Host side: what a container denies or lacks is named, with what helps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import instar
from tests.confinement.scenes import LAZY
from tests.support.forge import Data, Image
from tests.support.process import command, run
from tests.support.verdicts import fingerprint

pytestmark = pytest.mark.kvm

HELPS = "a seccomp profile, as containers have one, forbids {}: allow it"
FORKS, PRLIMIT64, MEMFD_CREATE = (56, 57, 58, 435), (302,), (319,)
NEVER, SETS = -1, 2
"""Which argument of a call must be other than 0 for the denial: none, or the new limits."""

# Runs a program without some system calls: sys.argv has their numbers, an argument and an errno.
_DENY = """
import ctypes, os, struct, sys
numbers, argument, error = map(eval, sys.argv[1:4])
def step(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)
steps = [step(0x20, 0, 0, 0)]
steps += [step(0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
steps += [step(6, 0, 0, 0x7fff0000)]
if argument >= 0:
    for half in (0, 4):
        steps += [step(0x20, 0, 0, 16 + 8 * argument + half), step(0x15, 0, 3 - half // 2, 0)]
    steps += [step(6, 0, 0, 0x7fff0000)]
steps += [step(6, 0, 0, 0x50000 | error)]
program = ctypes.create_string_buffer(b"".join(steps))
header = struct.pack("H6xQ", len(steps), ctypes.addressof(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, header, 0, 0) == 0
os.execv(sys.argv[4], sys.argv[4:])
"""


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / name) for name in ("a.qcow2", "b.qcow2")]
    for name in names:
        Image(size=1 << 20, clusters={0: Data(b"a")}).write(Path(name))
    return names


def denied(
    numbers: tuple[int, ...], line: list[str | bytes], *, argument: int = NEVER, error: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a program to which these system calls are denied."""
    deny = [sys.executable, "-c", _DENY, str(numbers), str(argument), str(error)]
    return subprocess.run([*deny, *line], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("error", [1, 38])
def test_an_amend_that_may_not_ask_for_limits_says_what_is_to_be_allowed(
    images: list[str], error: int
) -> None:
    before = fingerprint(Path(images[0]))
    done = denied(PRLIMIT64, command("amend", *LAZY, images[0]), error=error)
    assert done.returncode == 1
    assert done.stderr == (
        f"instar: could not ask for the limit of file sizes: {os.strerror(error)}; "
        f"{HELPS.format('prlimit64')}\n"
    )
    assert fingerprint(Path(images[0])) == before


@pytest.mark.parametrize("error", [1, 38])
@pytest.mark.parametrize("words", [("amend", *LAZY, "-j2"), ("info", "-j2"), ("check", "-rall")])
def test_a_command_that_may_not_fork_says_what_is_to_be_allowed(
    images: list[str], words: tuple[str, ...], error: int
) -> None:
    before = [fingerprint(Path(name)) for name in images]
    done = denied(FORKS, command(*words, *images), error=error)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "cannot start a" in line]
    assert len(told) == 2
    assert all(line.endswith(f": {os.strerror(error)}; {HELPS.format('clone')}") for line in told)
    assert [fingerprint(Path(name)) for name in images] == before


def test_a_single_amend_needs_no_fork(images: list[str]) -> None:
    assert denied(FORKS, command("amend", *LAZY, images[0])).returncode == 0


def test_a_batch_that_may_not_set_limits_of_workers_writes_nothing_and_says_so(
    images: list[str],
) -> None:
    before = [fingerprint(Path(name)) for name in images]
    done = denied(PRLIMIT64, command("amend", *LAZY, "-j2", *images), argument=SETS)
    told = f"cannot limit what a worker writes: {os.strerror(1)}; {HELPS.format('prlimit64')}"
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [f"instar: '{name}': {told}" for name in images]
    assert [fingerprint(Path(name)) for name in images] == before


@pytest.mark.parametrize(("numbers", "name"), [(FORKS, "clone"), (MEMFD_CREATE, "memfd_create")])
def test_a_program_hears_which_call_of_a_child_is_denied(
    images: list[str], numbers: tuple[int, ...], name: str
) -> None:
    code = "import instar, sys; instar.amend(sys.argv[1], compat='1.1', isolation='process')"
    done = denied(numbers, [sys.executable, "-c", code, images[0]])
    last = done.stderr.splitlines()[-1]
    assert last.startswith("instar.vmm.base.errors.HostError: cannot start a child: ")
    assert last.endswith(HELPS.format(name))


NO_NULL = "import os; os.devnull = '/nowhere/null'"
LACKS_NULL = (
    "cannot open /nowhere/null: No such file or directory; make it, as root: "
    "mknod -m 666 /dev/null c 1 3"
)


@pytest.mark.parametrize(
    ("words", "lines"),
    [(("amend", *LAZY, "-j2"), 1), (("info", "-j2"), 2), (("check", "-rall"), 2)],
)
def test_a_batch_that_finds_no_dev_null_says_so_in_a_line_and_writes_nothing(
    images: list[str], words: tuple[str, ...], lines: int
) -> None:
    before = [fingerprint(Path(name)) for name in images]
    done = run(*words, *images, patch=NO_NULL)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.endswith(f": {LACKS_NULL}")]
    assert len(told) == lines
    assert "internal error" not in done.stderr
    assert [fingerprint(Path(name)) for name in images] == before


def test_a_single_amend_needs_no_dev_null(images: list[str]) -> None:
    assert run("amend", *LAZY, images[0], patch=NO_NULL).returncode == 0


def test_a_program_hears_that_a_child_finds_no_dev_null(
    images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "devnull", "/nowhere/null")
    for call in (instar.info, instar.check):
        with pytest.raises(instar.HostError, match=f"^{LACKS_NULL}$"):
            call(images[0], isolation="process")
    with pytest.raises(instar.HostError, match=f"^{LACKS_NULL}$"):
        instar.amend(images[0], compat="1.1", isolation="process")
