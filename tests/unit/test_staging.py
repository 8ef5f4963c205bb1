"""Test side: what the guest writes is kept apart, sector by sector and phase by phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.errors import GuestFault
from instar.vmm.staging import SECTOR_SIZE, STAGED_SECTORS_MAX, StagedWrites, runs


def sector(byte: int) -> bytes:
    return bytes([byte]) * SECTOR_SIZE


def test_nothing_is_staged_at_first() -> None:
    staged = StagedWrites()
    assert (staged.sectors(), staged.written_phases()) == ({}, [])


def test_a_write_is_taken_apart_into_sectors() -> None:
    staged = StagedWrites()
    staged.write(7, sector(1) + sector(2))
    assert staged.sectors() == {7: sector(1), 8: sector(2)}


def test_a_flush_begins_a_phase() -> None:
    staged = StagedWrites()
    staged.write(1, sector(1))
    staged.write(2, sector(2))
    staged.flush()
    staged.write(0, sector(3))
    assert staged.written_phases() == [{1: sector(1), 2: sector(2)}, {0: sector(3)}]


def test_a_flush_of_nothing_begins_none() -> None:
    staged = StagedWrites()
    staged.flush()
    staged.flush()
    staged.write(1, sector(1))
    staged.flush()
    staged.flush()
    assert staged.written_phases() == [{1: sector(1)}]


def test_flushes_of_nothing_do_not_pile_up() -> None:
    staged = StagedWrites()
    for _ in range(100):
        staged.flush()
    assert len(staged.phases) == 1


def test_a_reader_sees_the_last_write_of_a_sector() -> None:
    staged = StagedWrites()
    staged.write(1, sector(1))
    staged.write(1, sector(2))
    assert staged.sectors() == {1: sector(2)}
    staged.flush()
    staged.write(1, sector(3))
    assert staged.sectors() == {1: sector(3)}
    assert staged.written_phases() == [{1: sector(2)}, {1: sector(3)}]


def test_the_budget_can_be_used_up() -> None:
    staged = StagedWrites()
    staged.write(0, bytes(SECTOR_SIZE * STAGED_SECTORS_MAX))
    assert len(staged.sectors()) == STAGED_SECTORS_MAX


def test_one_sector_beyond_the_budget_is_a_fault() -> None:
    staged = StagedWrites()
    with pytest.raises(GuestFault, match=r"^more than 256 sectors written$"):
        staged.write(0, bytes(SECTOR_SIZE * (STAGED_SECTORS_MAX + 1)))
    assert staged.sectors() == {}


def test_sectors_that_are_written_again_count_again() -> None:
    staged = StagedWrites()
    for _ in range(STAGED_SECTORS_MAX):
        staged.write(5, sector(1))
        staged.flush()
    with pytest.raises(GuestFault, match="more than 256 sectors"):
        staged.write(5, sector(1))


def test_neighbours_are_joined_into_one_run() -> None:
    phase = {9: sector(9), 2: sector(2), 1: sector(1), 4: sector(4)}
    assert runs(phase) == [
        (1 * SECTOR_SIZE, sector(1) + sector(2)),
        (4 * SECTOR_SIZE, sector(4)),
        (9 * SECTOR_SIZE, sector(9)),
    ]


def test_no_sectors_are_no_runs() -> None:
    assert runs({}) == []


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 255).map(sector), max_size=20))
def test_runs_are_the_sectors_ascending_and_never_adjacent(phase: dict[int, bytes]) -> None:
    joined = runs(phase)
    taken_apart = {
        (offset + at) // SECTOR_SIZE: data[at : at + SECTOR_SIZE]
        for offset, data in joined
        for at in range(0, len(data), SECTOR_SIZE)
    }
    assert taken_apart == phase
    ends = [offset + len(data) for offset, data in joined]
    assert all(end < after for end, (after, _) in zip(ends, joined[1:], strict=False))


@given(st.lists(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 255)), max_size=40))
def test_the_phases_one_after_the_other_give_what_a_reader_sees(
    steps: list[tuple[int, int] | None],
) -> None:
    staged = StagedWrites()
    disk: dict[int, bytes] = {}
    for step in steps:
        if step is None:
            staged.flush()
        else:
            staged.write(step[0], sector(step[1]))
            disk[step[0]] = sector(step[1])
    replayed: dict[int, bytes] = {}
    for phase in staged.written_phases():
        assert phase
        replayed.update(phase)
    assert replayed == staged.sectors() == disk
