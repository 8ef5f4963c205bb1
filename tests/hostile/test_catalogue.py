"""Hostile images end in a verdict, at once, and in the one that qemu-img comes to. Test side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar.abi import AMEND_DOORBELL_WORK
from instar.vmm.image.image_file import ImageFile
from tests.hostile import judge, record
from tests.hostile.case import Case
from tests.hostile.catalogue import CASES
from tests.hostile.judge import Outcome
from tests.hostile.meaning import LARGEST, Meaning
from tests.support import qemu as oracle
from tests.support import sparse
from tests.support.divergences import diverges
from tests.support.qemu import Qemu
from tests.support.speed import takes_longer
from tests.support.verdicts import Request

MEMORY = 16 << 20
"""By how much the process may grow: guest memory, buffers, and what Python wants."""
SECONDS = 1.0
"""Of processor time, on the machine of speed.py."""
LIGHT = [
    case
    for case in CASES
    if case.length is None and case.patches is None and "65536 snapshots" not in case.name
]
"""What qemu-img does not take long over."""
SAMPLE = LIGHT[:: len(LIGHT) // 30]

RECORD: dict[str, Any] = json.loads(record.FILE.read_text())
VERDICTS: record.Verdicts = RECORD["verdicts"]


def recorded(case: Case, options: str) -> list[str]:
    """The verdicts of all versions of qemu-img, oldest first."""
    found = VERDICTS[case.name][options]
    return [found] * len(RECORD["versions"]) if isinstance(found, str) else found


def kind(verdict: str) -> str:
    """ "accepted", "refused" or "no end"."""
    return verdict.partition(":")[0]


@pytest.mark.kvm
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_image_ends_in_a_verdict(case: Case, tmp_path: Path) -> None:
    original = tmp_path / "case.qcow2"
    case.write(original)
    meaning, differences = Meaning(original), set()
    for options, request in record.REQUESTS.items():
        image = sparse.copy(original, tmp_path / "t.qcow2")
        before = sparse.fingerprint(image)
        outcome = judge.amend(image, case, request)
        print(options, outcome)
        assert_verdict(case, outcome)
        assert_bounded(case, outcome, image)
        if outcome.action == "amended":
            assert case.rewrites or not outcome.rewrites
            assert_amended(case, meaning, Meaning(image), request, outcome)
            if outcome.rewrites:
                assert_no_worse(original, image, leaks=case.leaks)
        else:
            assert sparse.fingerprint(image) == before
        differences |= {kind(theirs) for theirs in recorded(case, options)} - {outcome.kind}
    differences -= {record.NO_END}
    for name in case.differs.split():
        diverges(name)
    assert bool(differences) == bool(case.differs), f"where qemu-img differs: {differences}"


def assert_verdict(case: Case, outcome: Outcome) -> None:
    """A refusal is for the reason that the case has."""
    own = [reason for reason in outcome.reasons if reason != "lazy_needs_v3"]
    if own:
        assert case.reason in own


def assert_bounded(case: Case, outcome: Outcome, image: Path) -> None:
    """The work was in proportion to what is in the file."""
    assert outcome.memory < MEMORY
    assert not takes_longer(outcome.seconds, SECONDS), outcome.seconds
    if "work_limit" in outcome.reasons:
        with ImageFile.open(str(image), writable=False) as file:
            work = file.work_max
        assert outcome.bytes_read + outcome.exits * AMEND_DOORBELL_WORK < 1.1 * work
    else:
        assert outcome.exits <= case.exits
        assert outcome.bytes_read <= case.bytes_read


def assert_amended(
    case: Case, before: Meaning, after: Meaning, request: Request, outcome: Outcome
) -> None:
    """The image is what was asked for, and otherwise what it was."""
    version, incompatible, lazy = before.features
    wanted = {"0.10": 2, "1.1": 3, None: version}[request.compat]
    lazy = wanted == 3 and (lazy if request.lazy_refcounts is None else request.lazy_refcounts)
    kept = incompatible if wanted == 3 else 0
    assert after.features == (wanted, kept, lazy)
    dropped = case.drop_bitmaps and wanted < version
    says = {"rewritten": outcome.rewrites, "without_bitmaps": dropped}
    assert after.settled(**says) == before.settled(**says)
    assert after.read(before.readable) == before.readable


def assert_no_worse(before: Path, after: Path, *, leaks: bool) -> None:
    """What qemu-img check finds wrong was wrong before."""
    if before.stat().st_size > LARGEST:
        return
    try:
        found, known = oracle.newest().check(after), oracle.newest().check(before)
    except oracle.QemuError:  # for want of a secret, or because of what is damaged in both
        return
    assert found.corruptions <= known.corruptions, found.text
    # What counts as used behind the end of the file is only seen once the file has grown.
    grown = after.stat().st_size > before.stat().st_size
    assert grown or leaks or found.leaks <= known.leaks, found.text
    assert found.errors <= known.errors, found.text


def test_names_are_unique_and_recorded() -> None:
    assert list(VERDICTS) == list(dict.fromkeys(case.name for case in CASES))
    assert len(VERDICTS) == len(CASES)


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_recorded_verdicts_are_those_of_the_newest_qemu(
    case: Case, tmp_path: Path, qemu: Qemu
) -> None:
    column = 0 if qemu.number < (6,) else -1
    for options, found in record.ask(case, [qemu], tmp_path).items():
        assert kind(str(found)) == kind(recorded(case, options)[column]), (options, found)
