"""Host side: an endless guest is ended on every Python: by the library, alone, in a batch."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.confinement.scenes import HANG, LAZY
from tests.confinement.test_calls import PYTHONS
from tests.confinement.test_worker import write_some
from tests.support.process import command

pytestmark = pytest.mark.kvm

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
