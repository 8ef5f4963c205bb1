"""Test side: what a check's guest says of an image is held to be in order, and consistent."""

from __future__ import annotations

from struct import Struct

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.inspect.check import CheckFrames

FINDING, RESULT = Struct(abi.CheckFinding_FORMAT), Struct(abi.CheckResult_FORMAT)
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
    assert first.message == "cluster 7 is leaked: it has 0 users and refcount 1"


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
