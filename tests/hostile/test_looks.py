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
from tests.support.forge import Data, Image
from tests.support.peak import forget_peak, peak

SECONDS = 1.0
"""Of processor time in this process, in which the guest runs too, where an info takes USUAL."""
USUAL = 0.38e-3
"""Seconds of processor time that an info with a kept machine took where SECONDS were measured."""
NOISE = 1.5
"""How much longer it may take, as tests that run beside this one come and go."""
INFOS = 300
MEMORY = 64 << 20
"""By how much it may grow for one image, guest memory included."""

LOOKS: dict[str, Callable[[Path, Looker], object]] = {"info": inspect_image, "check": check_image}
SLOWEST = ("32 MiB", "65536 snapshots")
"""In the names of what a check has ever taken long over."""
TRIED = {
    "info": CASES,
    "check": (*sample(5), *(case for case in CASES if any(word in case.name for word in SLOWEST))),
}


def slowness(path: Path) -> float:
    """How many times as long as usual a guest and its exits take now; 1 at least."""
    Image(clusters={0: Data(b"\x05")}).write(path)
    with Looker("info") as looker:
        inspect_image(path, looker)
        begin = process_time()
        for _ in range(INFOS):
            inspect_image(path, looker)
        return max((process_time() - begin) / INFOS / USUAL, 1.0)


@pytest.mark.kvm
@pytest.mark.parametrize("operation", LOOKS)
def test_each_look_at_a_hostile_image_stays_within_a_second_and_64_mib(
    operation: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    times: list[tuple[str, float, int]] = []
    rejected = 0
    slow = slowness(path)
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
            times.append((case.name, seconds, grown))
    most = SECONDS * max(slow, slowness(path)) * NOISE
    excesses = [
        f"{name}: {seconds:.2f} s, {grown >> 20} MiB"
        for name, seconds, grown in times
        if seconds >= most or grown >= MEMORY
    ]
    assert not excesses, most
    assert 0 < rejected < len(TRIED[operation])
