"""Host side: an endless guest is ended on every Python: by the library, alone, in a batch."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.confinement.scenes import HANG, LAZY
from tests.confinement.test_calls import PYTHONS
from tests.confinement.test_worker import write_some
from tests.support.process import command

pytestmark = pytest.mark.kvm

SOFT, BOTH = "--cpu=1:", "--cpu=1"

LIBRARY = (
    HANG
    + """
import instar
try:
    instar.amend(sys.argv[-1], lazy_refcounts=True, timeout=0.2)
except instar.GuestFault as fault:
    sys.exit(f"instar: {fault}")
"""
)
HOW = {
    "the library": ((), 1, LIBRARY),
    "the command": ((), 1, HANG),
    "a batch": (("-j2",), 3, HANG),
}


@pytest.mark.parametrize(("flags", "count", "patch"), HOW.values(), ids=HOW)
@pytest.mark.any_python  # whichever runs it tries the oldest and the newest
@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_an_endless_guest_is_ended(
    tmp_path: Path, python: str, flags: tuple[str, ...], count: int, patch: str
) -> None:
    images = write_some(tmp_path, count)
    before = [(image.read_bytes(), image.stat().st_mtime_ns) for image in images]
    line = command("amend", "--timeout=0.2", *flags, *LAZY, *images, patch=patch, python=python)
    started = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=50)
    assert time.monotonic() - started < 40
    assert done.returncode == 1
    assert done.stderr.count("the sandbox did not finish within 0.2 s") == count
    assert [(image.read_bytes(), image.stat().st_mtime_ns) for image in images] == before


@pytest.mark.parametrize(
    ("limit", "number"), [(SOFT, signal.SIGXCPU), (BOTH, signal.SIGKILL)], ids=["soft", "both"]
)
def test_a_limit_on_processor_time_ends_the_command_and_leaves_the_image(
    tmp_path: Path, limit: str, number: signal.Signals
) -> None:
    (image,) = write_some(tmp_path, 1)
    before = image.read_bytes(), image.stat().st_mtime_ns
    line = ["prlimit", limit, "--", *command("amend", *LAZY, image, patch=HANG)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before


def test_a_limit_on_processor_time_ends_workers_and_not_the_batch(tmp_path: Path) -> None:
    images = write_some(tmp_path, 3)
    before = [(image.read_bytes(), image.stat().st_mtime_ns) for image in images]
    line = ["prlimit", SOFT, "--", *command("amend", "-j2", *LAZY, *images, patch=HANG)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    assert done.stderr.count(f" was killed ({signal.strsignal(signal.SIGXCPU)}); ") == 3
    assert done.stderr.splitlines()[-1] == "instar: 3 images: 0 amended, 0 as asked, 3 failed"
    assert [(image.read_bytes(), image.stat().st_mtime_ns) for image in images] == before
