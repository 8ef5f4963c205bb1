"""Test side: what the guest writes is kept apart, sector by sector and phase by phase."""

from __future__ import annotations

import itertools
import tracemalloc
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.abi import INSTAR_PHASE_COUNT, INSTAR_STAGED_MAX
from instar.vmm.base.errors import GuestFault
from instar.vmm.image import staging as staging_module
from instar.vmm.image.budgets import staging_budget
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites, ZeroedInUse
from tests.support.staged import all_sectors, sectors

pytestmark = pytest.mark.any_python

SIXTEEN = b"".join(bytes([number]) * SECTOR_SIZE for number in range(16))


def sector(byte: int) -> bytes:
    return bytes([byte]) * SECTOR_SIZE


def zeroed(staged: StagedWrites) -> list[tuple[int, int]]:
    return list(zip(*staged.zeroed(), strict=True))


def seen(staged: StagedWrites, phase: int, first: int = 0, count: int = 16) -> bytes:
    """What a reader sees of these sectors, each full of its number, before a phase."""
    data = bytearray(SIXTEEN[first * SECTOR_SIZE : (first + count) * SECTOR_SIZE])
    with memoryview(data) as view:
        staged.overlay(first, view, phase)
    return bytes(data)


def test_nothing_is_staged_at_first() -> None:
    staged = StagedWrites()
    assert staged.is_empty()
    assert (all_sectors(staged), zeroed(staged), staged.end()) == ([{}] * INSTAR_PHASE_COUNT, [], 0)


def test_a_write_is_taken_apart_into_sectors_of_its_phase() -> None:
    staged = StagedWrites()
    staged.write(7, sector(1) + sector(2), 4)
    assert all_sectors(staged) == [{}, {}, {}, {}, {7: sector(1), 8: sector(2)}, {}]
    assert (staged.is_empty(), staged.end()) == (False, 9)


def test_the_last_write_of_a_sector_counts_in_each_phase() -> None:
    staged = StagedWrites()
    for phase, byte in ((3, 31), (0, 32), (3, 33)):
        staged.write(1, sector(byte), phase)
    assert all_sectors(staged)[::3] == [{1: sector(32)}, {1: sector(33)}]


@given(
    st.lists(st.tuples(st.integers(0, 30) | st.sampled_from([2047, 2048, 4095]), st.booleans())),
    st.lists(st.integers(0, 30) | st.integers(2040, 2056) | st.just(1 << 40), min_size=1),
    st.booleans(),
)
def test_scattered_sectors_are_staged_as_if_written_one_by_one(
    before: list[tuple[int, bool]], numbers: list[int], ascending: bool
) -> None:
    numbers = sorted(set(numbers)) if ascending else numbers
    both = StagedWrites(), StagedWrites()
    for staged in both:
        for number, two in before:
            staged.write(number, sector(200) * (1 + two), 2)
    data = [sector(at % 200) for at in range(len(numbers))]
    both[0].scatter(numbers, b"".join(data), 2)
    for number, each in zip(numbers, data, strict=True):
        both[1].write(number, each, 2)
    assert all_sectors(both[0]) == all_sectors(both[1])
    assert both[0].size() == both[1].size()
    assert list(both[0].runs(2)) == list(both[1].runs(2))
    assert list(both[0].pieces(2)) == list(both[1].pieces(2))


def test_sectors_in_any_order_are_put_among_those_of_a_chunk_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged = StagedWrites()
    staged.scatter(range(0, 4096, 2), bytes(2048 * SECTOR_SIZE), 2)
    packed = Mock(wraps=staging_module._pack_places)
    monkeypatch.setattr(staging_module, "_pack_places", packed)
    monkeypatch.setattr(StagedWrites, "_write_among", None)
    staged.scatter(range(4095, 2047, -1), bytes(2048 * SECTOR_SIZE), 2)
    staged.scatter([n % 4096 for n in range(0, 4095 * 2048, 4095)], bytes(2048 * SECTOR_SIZE), 2)
    assert packed.call_count == 1 + 2


class TestBudget:
    def test_scattered_sectors_take_of_it_as_others_do(self) -> None:
        staged = StagedWrites(4 * SECTOR_SIZE)
        staged.scatter((1, 9, 5000), bytes(3 * SECTOR_SIZE), 2)
        staged.scatter((9, 1), bytes(2 * SECTOR_SIZE), 2)
        staged.scatter((6000,), bytes(SECTOR_SIZE), 2)
        with pytest.raises(GuestFault, match="more sectors written"):
            staged.scatter((7000,), bytes(SECTOR_SIZE), 2)

    def test_it_can_be_used_up_over_all_phases(self) -> None:
        staged = StagedWrites(4 * SECTOR_SIZE)
        staged.write(0, bytes(3 * SECTOR_SIZE), 0)
        staged.write(0, bytes(SECTOR_SIZE), 1)
        with pytest.raises(GuestFault, match=r"^more sectors written than any amend"):
            staged.write(9, bytes(SECTOR_SIZE), 5)

    def test_what_is_written_again_takes_nothing(self) -> None:
        staged = StagedWrites(SECTOR_SIZE)
        for byte in range(5):
            staged.write(3, sector(byte), 2)
        assert sectors(staged, 2) == {3: sector(4)}
        assert (staged.count(2), staged.size()) == (1, SECTOR_SIZE)

    def test_it_grows_with_the_image_up_to_a_limit(self) -> None:
        small, large = staging_budget(1 << 20, 0), staging_budget(1 << 24, 0)
        assert 2 << 20 <= small < large < 1 << 26
        assert small < staging_budget(1 << 20, 1 << 30) < 16 << 20
        assert staging_budget(1 << 62, 1 << 62) == INSTAR_STAGED_MAX


class TestZeroes:
    def test_ranges_are_joined_where_they_meet(self) -> None:
        staged = StagedWrites()
        for start, count in ((8, 2), (10, 3), (0, 1), (7, 1), (1, 1), (20, 5)):
            staged.zero(start, count)
        assert zeroed(staged) == [(0, 2), (7, 13), (20, 25)]
        assert (staged.is_empty(), staged.end()) == (False, 25)

    @pytest.mark.parametrize(("start", "count"), [(3, 4), (5, 1), (9, 2), (2, 20)])
    def test_a_range_that_overlaps_another_is_a_fault(self, start: int, count: int) -> None:
        staged = StagedWrites()
        staged.zero(5, 5)
        staged.zero(start, count)
        with pytest.raises(ZeroedInUse, match=r"^sector \d+ is to be zeroed twice$"):
            staged.zeroed()

    @pytest.mark.parametrize("phase", range(INSTAR_PHASE_COUNT))
    @pytest.mark.parametrize("number", [5, 7, 9])
    def test_a_range_that_is_written_too_is_a_fault(self, number: int, phase: int) -> None:
        staged = StagedWrites()
        staged.zero(5, 5)
        staged.write(4, sector(1), phase)
        staged.write(10, sector(1), phase)
        assert zeroed(staged) == [(5, 10)]
        staged.write(number, sector(1), phase)
        with pytest.raises(ZeroedInUse, match=rf"^sector {number} is to be zeroed and written$"):
            staged.zeroed()

    def test_there_is_a_limit(self) -> None:
        staged = StagedWrites(ranges_max=2)
        for start in (0, 1, 5, 6):
            staged.zero(start, 1)
        with pytest.raises(GuestFault, match=r"^more than 2 ranges to be zeroed$"):
            staged.zero(9, 1)


def stage(phase: dict[int, bytes], number: int = 2) -> StagedWrites:
    staged = StagedWrites()
    for place, data in phase.items():
        staged.write(place, data, number)
    return staged


class TestRuns:
    def test_neighbours_are_joined(self) -> None:
        staged = stage({9: sector(9), 2: sector(2), 1: sector(1), 4: sector(4)})
        assert list(staged.runs(2)) == [(1, 3), (4, 5), (9, 10)]
        assert list(staged.pieces(2, 1, 4)) == [(1, sector(1) + sector(2))]

    def test_a_long_run_is_written_in_pieces(self) -> None:
        staged = stage({1: sector(1) * 5001})
        found = list(staged.pieces(2))
        assert len(found) == 3
        assert all(len(data) <= (1 << 20) + (1 << 16) for _, data in found)
        assert b"".join(data for _, data in found) == sector(1) * 5001
        assert [number for number, _ in found] == [1, 2049, 4097]

    def test_no_sectors_are_no_runs(self) -> None:
        assert list(StagedWrites().runs(2)) == []

    @given(st.dictionaries(st.integers(0, 40), st.integers(0, 255).map(sector), max_size=20))
    def test_they_are_the_sectors_ascending_and_never_adjacent(
        self, phase: dict[int, bytes]
    ) -> None:
        joined = list(stage(phase).runs(2))
        assert [number for run in joined for number in range(*run)] == sorted(phase)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(joined))


# Around a border of what the store and the index are divided into, and somewhere far off.
PLACES = st.sampled_from([0, 2040, (1 << 40) + 2040])
WRITES = st.lists(st.tuples(PLACES, st.integers(0, 20), st.integers(1, 30)), max_size=12)


@given(WRITES)
def test_extents_are_what_was_written_last_however_it_overlaps(
    writes: list[tuple[int, int, int]],
) -> None:
    staged = StagedWrites()
    expected: dict[int, bytes] = {}
    for number, (base, start, count) in enumerate(writes):
        data = b"".join(bytes([number, n]) * 256 for n in range(count))
        staged.write(base + start, data, 1)
        expected |= {base + start + n: bytes([number, n]) * 256 for n in range(count)}
    assert sectors(staged, 1) == expected
    assert (staged.count(1), staged.count(0)) == (len(expected), 0)
    assert staged.end() == max(expected, default=-1) + 1
    firsts = [first for first, _ in staged.extents(1)]
    assert firsts == sorted(firsts)
    for start, end in ((3, 2045), (2041, 2060), (0, 1 << 50)):
        within = {n: d for n, d in expected.items() if start <= n < end}
        found = {n: staged.sector(1, n) for n in expected if start <= n < end}
        assert found == within
        got = b"".join(bytes(data) for _, data in staged.extents(1, start, end))
        assert got == b"".join(within[n] for n in sorted(within))


@pytest.mark.parametrize("count", [1, 126, 127, 128, 255, 256])
def test_what_follows_an_extent_goes_behind_all_that_is_stored(count: int) -> None:
    # Where the extent ends, the last block of the store may end as well.
    staged = StagedWrites()
    staged.write(300, sector(1), 0)
    staged.write(0, sector(2) * count, 0)
    staged.write(count, sector(3), 0)
    numbers = {**dict.fromkeys(range(count), 2), count: 3, 300: 1}
    assert all_sectors(staged)[0] == {n: sector(byte) for n, byte in numbers.items()}


class TestMemory:
    """No more than 1.3 times what is staged, however it comes."""

    SIZE = 32 << 20

    @pytest.mark.parametrize(
        ("count", "distance"),
        [(2048, 2048), (2048, 4096), (128, 128), (1, 1), (1, 2), (1, 128), (1, 1 << 14)],
    )
    def test_what_is_staged_takes_little_more_than_its_size(
        self, count: int, distance: int
    ) -> None:
        data = bytes(range(256)) * 2 * count
        tracemalloc.start()
        try:
            staged = StagedWrites()
            for number in range(self.SIZE // len(data)):
                staged.write(number * distance, bytes(data), number % 6)
            taken, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert staged.size() == self.SIZE
        assert taken <= peak <= 1.3 * self.SIZE


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 15), st.integers(100, 255)), max_size=40),
    st.integers(0, INSTAR_PHASE_COUNT),
    st.integers(0, 15),
)
def test_a_reader_sees_the_phases_below_one_after_the_other(
    writes: list[tuple[int, int, int]], phase: int, first: int
) -> None:
    staged = StagedWrites()
    for number, place, byte in writes:
        staged.write(place, sector(byte), number)
    disk = {number: sector(number) for number in range(16)}
    for below in range(phase):
        disk.update(sectors(staged, below))
    expected = b"".join(disk[number] for number in range(first, 16))
    assert seen(staged, phase, first, 16 - first) == expected


@pytest.mark.parametrize("place", [0, 2046, 2047, 2048, 4096, 1 << 40])
def test_a_sector_is_seen_wherever_it_is(place: int) -> None:
    staged = StagedWrites()
    staged.write(place, sector(1) + sector(2) + sector(3), 0)
    for first in range(max(place - 1, 0), place + 3):
        data = bytearray(SECTOR_SIZE)
        with memoryview(data) as view:
            staged.overlay(first, view, 1)
        assert bytes(data) == sector(first - place + 1 if first >= place else 0)
