"""Test side: what a check's guest says of an image is held to be in order, and consistent."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from types import SimpleNamespace
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.image.budgets import count_budget
from instar.vmm.inspect.check import CheckFrames, CheckResult, check_open
from tests.support.forge import Image

FINDING, RESULT = Struct(abi.CheckFinding_FORMAT), Struct(abi.CheckResult_FORMAT)
ERRORS = [value for name, value in vars(abi).items() if name.startswith("AMEND_ERROR_")]
LEAKED = FINDING.pack(abi.CHECK_CLUSTER_LEAKED, 0, 7, 1, 0)  # cluster, refcount, users


def result(*, leaks: int, told: int, refusals: int = 0) -> bytes:
    return RESULT.pack(abi.CHECK_RESULT_MAGIC, refusals, 0, 0, leaks, *[0] * 6, told)


def test_a_finding_is_put_into_words() -> None:
    frames = CheckFrames()
    frames.receive(abi.FRAME_CHECK_FINDINGS, LEAKED * 2)
    frames.receive(abi.FRAME_CHECK, result(leaks=2, told=2))
    first, second = frames.findings()
    assert first == second
    assert (first.name, first.counts_as) == ("cluster_leaked", "leaks")
    assert first.message == "cluster 7 has 0 users and refcount 1"


@pytest.mark.parametrize("kind", [0, 999, (1 << 32) - 1])
def test_a_finding_of_no_kind_is_a_fault(kind: int) -> None:
    with pytest.raises(GuestFault, match=f"a finding of kind {kind}$"):
        CheckFrames().receive(abi.FRAME_CHECK_FINDINGS, LEAKED + FINDING.pack(kind, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("leaks", "told", "refusals", "fault"),
    [
        (0, 1, 0, "fewer leaks than were told"),
        (1, 0, 0, "a result with 0 findings, of 1"),
        (2, 2, 0, "a result with 2 findings, of 1"),
        (1, 1, 1, "a result with 1 refusals"),
    ],
)
def test_numbers_that_contradict_what_was_told_are_a_fault(
    leaks: int, told: int, refusals: int, fault: str
) -> None:
    frames = CheckFrames()
    frames.receive(abi.FRAME_CHECK_FINDINGS, LEAKED)
    with pytest.raises(GuestFault, match=f"{fault}$"):
        frames.receive(abi.FRAME_CHECK, result(leaks=leaks, told=told, refusals=refusals))


class FakeLooker:
    """A guest that gives one refusal, and finds nothing."""

    payload_sha256, vm_exits = "", 1

    def __init__(self, reason: int, error: int) -> None:
        self._refusal = Struct(abi.AmendRefusal_FORMAT).pack(reason, error, 0, 0, 0)

    def look(
        self, _image: object, receive: Callable[[int, bytes], None], *_: Any, **how: Any
    ) -> None:
        receive(abi.FRAME_REFUSALS, self._refusal)
        receive(abi.FRAME_CHECK, result(leaks=0, told=0, refusals=1))
        self.how = how


def check(reason: int, error: int, **header: Any) -> CheckResult:
    data = Image(**header).build()
    image: Any = SimpleNamespace(
        read=lambda at, n: data[at : at + n], name="i", size=len(data), work_max=1 << 40, stored=7
    )
    looker: Any = FakeLooker(reason, error)
    found = check_open(looker, image, timeout=1.0)
    assert looker.how == {"progress": False, "debug": None, "work_max": count_budget(7)}
    return found


@pytest.mark.parametrize("error", ERRORS)
def test_an_image_is_checked_though_it_is_marked(error: int) -> None:
    for reason in (abi.REFUSAL_DIRTY, abi.REFUSAL_CORRUPT):
        for dirty, corrupt in ((True, False), (False, True)):
            found = check(reason, error, dirty=dirty, corrupt=corrupt)
            assert (found.is_dirty, found.is_corrupt) == (dirty, corrupt)
    with pytest.raises(ImageRejected) as caught:
        check(abi.REFUSAL_L1_TABLE, error)
    assert [refusal.name for refusal in caught.value.refusals] == ["l1_table"]
