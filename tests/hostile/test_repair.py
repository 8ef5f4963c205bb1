"""A hostile image that is to be repaired ends in a verdict, and never in a fault. Test side."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest

import instar
from instar.vmm.repair import make_repair
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request
from tests.hostile.case import Case
from tests.hostile.catalogue import WHOLE, sample
from tests.support import sparse
from tests.support.peak import forget_peak, peak
from tests.support.speed import takes_longer

SECONDS = 1.0
"""Of processor time in this process, in which the host judges."""
MEMORY = 64 << 20
"""By how much it may grow, guest memory included."""
EXTENTS = ("leaks", "all")
BY_TURNS = [
    (case, extent)
    for number, case in enumerate(sample(5))
    for extent in (EXTENTS if WHOLE else EXTENTS[number % 2 :][:1])
]
"""Repairs of a sample of the catalogue, the two extents by turns; of all of it, both."""
LEFT = {"snapshot_incomplete", "overlap"}
"""What a repair leaves: the extra data of snapshots, and guest data that share a cluster."""


def _mark_dirty(image: Path) -> bool:
    """Set the dirty bit, with whatever the image has besides; False if it is none of version 3."""
    with image.open("r+b") as file:
        if (head := file.read(80))[:8] != b"QFI\xfb\0\0\0\3" or len(head) < 80:
            return False
        file.seek(79)
        file.write(bytes([head[79] | 1]))
    return True


def _repair(image: Path, request: AmendRequest) -> bool:
    """Repair an image, within bounds; whether it was."""
    before = sparse.fingerprint(image)
    with instar.Sandbox() as sandbox:
        sandbox.prepare(request)
        size, begin = forget_peak(), process_time()
        try:
            amended = sandbox.carry_out(image, request).action == "amended"
        except instar.ImageRejected:
            amended = False
        assert not takes_longer(process_time() - begin, SECONDS)
        assert peak() - size < MEMORY
    assert amended or sparse.fingerprint(image) == before
    return amended


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("case", "extent"), [pytest.param(*both, id=f"{both[0].name}-{both[1]}") for both in BY_TURNS]
)
def test_a_hostile_image_is_repaired_or_refused_and_never_a_fault(
    case: Case, extent: str, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    if _repair(image, make_repair(extent)) and extent == "all":
        assert {one.name for one in instar.check(image).findings} <= LEFT


@pytest.mark.kvm
@pytest.mark.parametrize("case", sample(18), ids=lambda case: case.name)
def test_a_hostile_image_that_is_dirty_is_repaired_on_the_way_or_refused(
    case: Case, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    if _mark_dirty(image) and _repair(image, make_request({"repair": True})):
        assert {one.name for one in instar.check(image).findings} <= LEFT
