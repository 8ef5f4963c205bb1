"""A hostile image that is to be repaired ends in a verdict, and never in a fault. Test side."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest

import instar
from instar.vmm.repair import make_repair
from tests.hostile.case import Case
from tests.hostile.catalogue import CASES
from tests.support import sparse

SECONDS = 2.0
"""Of processor time in this process, in which the host judges."""
NAMED = ("names itself", "a snapshot's L1 table at 0x")
CHOSEN = [
    case
    for number, case in enumerate(CASES)
    if number % 12 == 0 or any(name in case.name for name in NAMED)
]


@pytest.mark.kvm
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_a_hostile_image_is_repaired_or_refused_and_never_a_fault(
    case: Case, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    before = sparse.fingerprint(image)
    with instar.Sandbox() as sandbox:
        begin = process_time()
        try:
            amended = sandbox.carry_out(image, make_repair("all")).action == "amended"
        except instar.ImageRejected:
            amended = False
        assert process_time() - begin < SECONDS
    if not amended:
        assert sparse.fingerprint(image) == before
        return
    found = instar.check(image).findings
    assert {one.name for one in found} <= {"snapshot_incomplete", "overlap"}
