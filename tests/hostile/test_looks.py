"""A look at a hostile image is bounded in time and in memory, whatever comes of it. Test side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest

import instar
from instar.vmm.inspect import check_image, inspect_image
from instar.vmm.inspect.looker import Looker
from tests.hostile.catalogue import CASES, sample
from tests.support.peak import forget_peak, peak
from tests.support.speed import takes_longer

SECONDS = 1.0
"""Of processor time in this process, in which the guest runs too, on the machine of speed.py."""
MEMORY = 64 << 20
"""By how much it may grow for one image, guest memory included."""

LOOKS: dict[str, Callable[[Path, Looker], object]] = {"info": inspect_image, "check": check_image}
SLOWEST = ("32 MiB", "65536 snapshots")
"""In the names of what a check has ever taken long over."""
TRIED = {
    "info": CASES,
    "check": (*sample(10), *(case for case in CASES if any(word in case.name for word in SLOWEST))),
}


@pytest.mark.kvm
@pytest.mark.parametrize("operation", LOOKS)
def test_each_look_at_a_hostile_image_stays_within_a_second_and_64_mib(
    operation: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    excesses: list[str] = []
    rejected = 0
    with Looker(operation) as looker:
        for case in TRIED[operation]:
            path.unlink(missing_ok=True)
            case.write(path)
            size, begin = forget_peak(), process_time()
            try:
                LOOKS[operation](path, looker)
            except instar.ImageRejected:
                rejected += 1
            seconds, grown = process_time() - begin, peak() - size
            if takes_longer(seconds, SECONDS) or grown >= MEMORY:
                excesses.append(f"{case.name}: {seconds:.2f} s, {grown >> 20} MiB")
    assert not excesses
    assert 0 < rejected < len(TRIED[operation])
