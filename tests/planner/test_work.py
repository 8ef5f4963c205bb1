"""The planner's budget of work: it refuses rather than exceed it, and else it makes no difference.

Test side.
"""

from __future__ import annotations

from typing import Any

import pytest

from instar import abi
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.planner import Answer, ask

GROWTH = 1 << 20
DOWN = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=GROWTH)
UP = AmendRequest.of(compat=3, max_growth=GROWTH)
SMALL: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 20}
ZEROES: dict[int, Any] = {0: Data(b"a"), 1: Zero(), 70: ZeroAllocated(b"x"), 300: Zero()}
OWN = Snapshot(name=b"own", clusters={0: Data(b"b"), 1: Zero(), 200: ZeroAllocated(b"y")})

IMAGES = {
    "a toggle": (Image(), AmendRequest.of(lazy_refcounts=True)),
    "a header": (Image(version=2), UP),
    "zero clusters": (Image(**SMALL, clusters=ZEROES, snapshots=[OWN]), DOWN),
    "zero clusters, backing file": (
        Image(**SMALL, clusters=ZEROES, snapshots=[OWN], backing_file=b"b"),
        DOWN,
    ),
    "bitmaps": (Image(**SMALL, bitmaps=[Bitmap(name=b"b", dirty=(0, 1))]), DOWN),
    "snapshots without extra data": (
        Image(version=2, snapshots=[Snapshot(name=b"s", extra_data_size=0)] * 3),
        UP,
    ),
}


def said(answer: Answer) -> tuple[object, ...]:
    """What an answer says, without what it took."""
    return answer.planned, answer.writes, answer.refusals, answer.claim


@pytest.mark.parametrize("name", IMAGES)
def test_a_budget_changes_nothing_or_is_the_reason(planner: Any, name: str) -> None:
    image, request = IMAGES[name]
    data = image.build()
    whole = ask(planner, data, request)
    assert whole.planned
    low, high = 0, WORK_MIN
    while high - low > 1:
        budget = (low + high) // 2
        answer = ask(planner, data, request, work_max=budget)
        if answer.planned:
            assert said(answer) == said(whole)
            high = budget
        else:
            assert answer.refusals == ("work_limit",)
            assert answer.details == {"limit": budget}
            low = budget
    # All that was done was counted.
    sectors = sum(len(write.data) for write in whole.writes if not write.zeroes) // 512
    assert high >= whole.read_calls * abi.AMEND_DOORBELL_WORK + sectors * abi.AMEND_SECTOR_WORK
    assert high < 64 << 20


def test_more_budgets_end_alike(planner: Any) -> None:
    image, request = IMAGES["zero clusters, backing file"]
    data = image.build()
    whole = ask(planner, data, request)
    verdicts = [
        ask(planner, data, request, work_max=budget) for budget in range(0, 24 << 20, 100_003)
    ]
    planned = [verdict.planned for verdict in verdicts]
    assert planned == sorted(planned)
    assert {True, False} == set(planned)
    for verdict in verdicts:
        assert said(verdict) == said(whole) if verdict.planned else verdict.refusals


def test_an_l1_table_that_names_the_same_tables_in_turn_is_followed_once(planner: Any) -> None:
    tables, turns = 3000, 10  # more than are read at a time
    image = Image(
        cluster_bits=9,
        size=tables * turns * 64 << 9,
        clusters={n * 64: Data(b"d") for n in range(tables)},
    )
    place = image.regions()["l1_table"].start
    data = bytearray(image.build())
    entries = data[place : place + 8 * tables]
    assert not data[place + 8 * tables : place + 16 * tables].strip(b"\0")
    once = ask(planner, bytes(data), DOWN)
    # A flag, or reserved bits, make no other table of one.
    plain = b"".join(
        bytes((entries[n] & 0x7F, *entries[n + 1 : n + 8])) for n in range(0, 8 * tables, 8)
    )
    data[place : place + 8 * tables * turns] = entries + plain * (turns - 1)
    again = ask(planner, bytes(data), DOWN)
    assert said(again) == said(once)
    assert again.planned
    assert again.read_calls == once.read_calls


def test_what_is_kept_of_other_tables_does_not_hide_a_zero_cluster(planner: Any) -> None:
    """So many tables that one takes another's place among those that are remembered."""
    tables = 9000
    clusters: dict[int, Any] = {n * 64: Data(b"d") for n in range(tables)}
    clusters[(tables - 1) * 64 + 1] = Zero()
    image = Image(cluster_bits=9, size=tables * 64 << 9, clusters=clusters)
    own = {n * 64: Data(b"e") for n in range(0, tables, 7)} | {64 * 8999 + 3: Zero()}
    snapshots = [Snapshot(name=b"a", clusters=own), Snapshot(name=b"b")]
    for layers in ([], snapshots):
        data = Image(**{**vars(image), "snapshots": layers}).build()
        answer = ask(planner, data, DOWN)
        assert answer.planned
        changed = {write.offset for write in answer.writes if write.phase == 2}
        assert len(changed) == 1 + bool(layers)


def test_progress_is_not_told_for_each_of_many_tables(planner: Any) -> None:
    own = {0: Data(b"e")}
    snapshots = [Snapshot(name=b"%d" % n, clusters=own) for n in range(1500)]
    image = Image(cluster_bits=9, size=1 << 14, snapshots=snapshots)
    answer = ask(planner, image.build(), DOWN, progress=True)
    assert answer.planned
    assert 100 <= answer.progress_calls <= 258
