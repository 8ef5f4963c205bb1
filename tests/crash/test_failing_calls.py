"""When a system call on the image fails, the command says so and the image stays whole. Test side.

The command is the real one; strace makes its calls fail, one in each run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.crash.bench import Bench
from tests.crash.cases import DOWNGRADE, LAZY_ON, REBASE, UPGRADE, Case
from tests.crash.injection import fail
from tests.crash.recorder import Run, environment
from tests.crash.verdict import Verdict

CASES = (
    Case(UPGRADE, "extensions and long name", 16),
    Case(DOWNGRADE, "as qemu makes it", 16),
    Case(LAZY_ON, "overlay", 9),
    Case(REBASE, "overlay", 16),
)
ERRORS = {
    "openat": ("EIO", "EACCES"),
    "fcntl": ("EIO",),
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "fdatasync": ("EIO", "ENOSPC", "EINTR"),
}
OTHER_ERRORS = ("EIO", "EINTR")

pytestmark = pytest.mark.kvm
with_cases = pytest.mark.parametrize("bench", CASES, ids=str, indirect=True)


def failures(bench: Bench, *names: str) -> Iterator[Run]:
    """Let each call of these names fail, with each error."""
    for call in bench.calls:
        if call.name in names:
            for error in ERRORS.get(call.name, OTHER_ERRORS):
                ended = fail(bench, call, error)
                if error == "EINTR":  # is no failure, but for a call that never repeats
                    assert ended.status == 0, (call, ended)
                yield ended


@with_cases
def test_the_calls_are_those_of_an_amend(bench: Bench) -> None:
    names = [call.name for call in bench.calls]
    assert (names[0], names[-1]) == ("openat", "close")
    needed = {"pread64", "preadv2", "pwrite64", "fdatasync"}
    tested = {"openat", "newfstatat", "fstat", "lseek", "fcntl", *needed}
    assert needed <= set(names) <= {*tested, "close"}
    assert bench.before != bench.after


@with_cases
def test_an_image_that_cannot_be_opened_or_locked_is_one_line(bench: Bench) -> None:
    for ended in failures(bench, "openat", "newfstatat", "fstat", "lseek", "fcntl"):
        bench.assert_promise_is_kept(ended)
        assert (bench.identify() is Verdict.OLD) == (ended.status == 1)


@with_cases
def test_a_failing_read_is_one_line_and_changes_nothing(bench: Bench) -> None:
    for ended in failures(bench, "pread64", "preadv2"):
        bench.assert_promise_is_kept(ended)
        assert (bench.identify() is Verdict.OLD) == (ended.status == 1)


@with_cases
def test_a_failing_write_or_barrier_is_one_line_that_says_what_the_image_is(bench: Bench) -> None:
    for ended in failures(bench, "pwrite64", "fdatasync"):
        bench.assert_promise_is_kept(ended)
        if ended.status == 1:
            unsure = "the image may be amended" in ended.stderr
            assert unsure or "the image reads as before" in ended.stderr
            assert unsure or bench.identify() is Verdict.OLD


@with_cases
def test_a_failing_close_is_no_internal_error(bench: Bench) -> None:
    for ended in failures(bench, "close"):
        bench.assert_promise_is_kept(ended)


@with_cases
@pytest.mark.parametrize("limit", [0, 512, 1024, 2148, 3072, 1 << 30])
def test_a_limit_on_the_size_of_files_leaves_a_whole_image(bench: Bench, limit: int) -> None:
    ended = run_with_limit(bench, limit)
    bench.assert_promise_is_kept(ended)
    if limit >= len(bench.before):
        assert ended.status == 0


@pytest.mark.parametrize("bench", [Case(UPGRADE, "overlay", 16), CASES[1]], ids=str, indirect=True)
def test_a_limit_within_the_first_sector_leaves_a_whole_image(bench: Bench) -> None:
    # Between bytes in which the old and the new header differ.
    differing = [n for n in range(512) if bench.before[n] != bench.after[n]]
    for limit in (differing[1], differing[len(differing) // 2], differing[-1]):
        bench.assert_promise_is_kept(run_with_limit(bench, limit))


def run_with_limit(bench: Bench, limit: int) -> Run:
    """Run the command with a limit on the offset up to which it may write to files."""
    bench.restore()
    command = ["prlimit", f"--fsize={limit}", *bench.command]
    done = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", env=environment()
    )
    return Run(done.returncode, done.stdout, done.stderr)
