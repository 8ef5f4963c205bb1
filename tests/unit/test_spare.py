"""Test side: what a change of the size gives back is what it has set free, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from instar.vmm.contract import spare as spare_module
from instar.vmm.contract.books import FREED, LESSENED, TAKEN
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.spare import spare_of
from instar.vmm.contract.terms import Original, Spare
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites

if TYPE_CHECKING:
    from instar.vmm.contract import spare as spare_module
from instar.vmm.contract.books import Books

BITS = 10  # of clusters: two sectors
CLUSTERS = 100


def spare(*rows: tuple[int, int, int], size: int = CLUSTERS << BITS, end: int = 1) -> Spare:
    """What comes of rows of clusters, where the last sector that is staged is before `end`."""
    disk = Disk(Original(lambda _at, _size: b"", size, 0), BITS, 0)
    moved = [(range(first, stop), becomes) for first, stop, becomes in rows]
    books = SimpleNamespace(moved=lambda: iter(moved))
    staged = StagedWrites()
    staged.write(end - 1, bytes(SECTOR_SIZE), 0)
    return spare_of(disk, cast("Books", books), staged)


def holes(*rows: tuple[int, int]) -> tuple[range, ...]:
    return tuple(range(first << BITS, stop << BITS) for first, stop in rows)


def test_clusters_that_are_set_free_become_holes_in_order_and_joined() -> None:
    rows = [(50, 51, FREED), (7, 9, FREED), (9, 12, FREED), (13, 14, FREED), (51, 60, FREED)]
    assert spare(*rows) == Spare(holes((7, 12), (13, 14), (50, 60)), None)


def test_what_has_users_is_kept() -> None:
    rows = [(7, 9, TAKEN), (9, 12, LESSENED), (13, 14, FREED), (98, 100, LESSENED)]
    assert spare(*rows) == Spare(holes((13, 14)), None)
    assert spare(*rows[:2]) == spare() == Spare((), None)


def test_there_are_no_more_holes_than_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_module, "SPARE_MAX", 4)
    rows = [(2 * n, 2 * n + 1, FREED) for n in range(1, 6)]
    for size, end in ((11 << BITS, 10 << BITS), (12 << BITS, None)):
        assert spare(*rows, size=size) == Spare(holes((2, 3), (4, 5), (6, 7), (8, 9)), end)


@pytest.mark.parametrize("short", [0, 1, SECTOR_SIZE, (1 << BITS) - 1])
def test_the_file_ends_where_its_last_clusters_are_set_free(short: int) -> None:
    rows = [(7, 9, FREED), (98, 100, FREED)]
    size = (CLUSTERS << BITS) - short
    assert spare(*rows, size=size) == Spare(holes((7, 9)), 98 << BITS)
    assert spare(*rows, size=size + short + 1) == Spare(holes((7, 9), (98, 100)), None)


def test_the_file_ends_behind_all_that_is_written() -> None:
    rows = [(7, 9, FREED), (98, 100, FREED)]
    assert spare(*rows, end=2 * CLUSTERS).end == 98 << BITS
    assert spare(*rows, end=2 * CLUSTERS + 1) == Spare(holes((7, 9), (98, 100)), None)


def test_a_file_does_not_end_where_it_has_never_been() -> None:
    assert spare((CLUSTERS, CLUSTERS + 9, FREED)) == Spare((), None)
    assert spare((CLUSTERS - 1, CLUSTERS + 9, FREED)) == Spare((), (CLUSTERS - 1) << BITS)
    assert spare((CLUSTERS - 1, CLUSTERS + 9, FREED), size=(CLUSTERS - 1 << BITS) + 1).end
