"""A command that only tells, and whose words are lost, fails in one line. Test side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forge import Data, Image

pytestmark = pytest.mark.kvm

IMAGE = Image(clusters={0: Data(b"\x05")})
LOST = "instar: the result was not written: stdout is closed, full or no longer read\n"
WARNING = LOST.replace("instar: ", "instar: warning: ")
TELLING = (
    "info IMAGE",
    "info --output=json IMAGE",
    "info --jobs=2 IMAGE IMAGE",
    "check IMAGE",
    "check -q --output=json IMAGE",
    "check -p IMAGE",
    "check --jobs=2 IMAGE IMAGE",
    "check -r leaks IMAGE",
    "amend -o compat=0.10 --dry-run IMAGE",
    "amend -q -o compat=0.10 --dry-run --output=json IMAGE",
    "resize --dry-run IMAGE +1M",
    "doctor",
    "help",
    "--version",
    "resize --help",
    "amend -o help IMAGE",
    "info --help",
    "doctor --help",
)


def run(arguments: str, redirect: str, image: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with its stdout elsewhere; IMAGE stands for the image."""
    words = [str(image) if word == "IMAGE" else word for word in arguments.split()]
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirect}', sys.executable, "-m", "instar", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sound image."""
    path = tmp_path / "t.qcow2"
    IMAGE.write(path)
    return path


@pytest.mark.parametrize("arguments", TELLING)
@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_a_result_that_is_lost_is_one_line_and_status_1(
    arguments: str, redirect: str, image: Path
) -> None:
    done = run(arguments, redirect, image)
    assert (done.returncode, done.stderr) == (1, LOST)


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_a_dry_run_of_many_whose_results_are_lost_fails(redirect: str, image: Path) -> None:
    done = run("amend -o compat=0.10 --dry-run --jobs=2 IMAGE IMAGE", redirect, image)
    assert (done.returncode, done.stderr.splitlines()[-1] + "\n") == (1, LOST)


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
@pytest.mark.parametrize("jobs", ["", "--jobs=2 IMAGE "])
def test_an_amend_whose_result_is_lost_is_done_and_says_so(
    redirect: str, jobs: str, image: Path
) -> None:
    done = run(f"amend -o compat=0.10 --output=json {jobs}IMAGE", redirect, image)
    assert (done.returncode, done.stderr.splitlines()[-1] + "\n") == (0, WARNING)
    assert image.read_bytes()[7] == 2


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
@pytest.mark.parametrize("flags", ["", "-q ", "-q --dry-run ", "-q --output=json "])
def test_an_amend_with_nothing_to_tell_needs_no_stdout(
    redirect: str, flags: str, image: Path
) -> None:
    done = run(f"amend -o compat=0.10 {flags}IMAGE", redirect, image)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
def test_a_check_that_is_quiet_needs_no_stdout(redirect: str, image: Path) -> None:
    done = run("check -q IMAGE", redirect, image)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("operation", ["info", "check"])
def test_an_image_that_is_rejected_is_still_one_line(operation: str, tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    path.write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(600))
    done = run(f"{operation} IMAGE", ">&-", path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert LOST not in done.stderr
