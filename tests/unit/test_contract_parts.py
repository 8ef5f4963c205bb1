"""Test side: the small parts that the judge keeps its account with, against slow models of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.growth import judge_growth
from instar.vmm.contract.pending import Pending
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.terms import Original, OutsideError
from instar.vmm.contract.zeroed import NEW, OWN, Zeroed
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites

if TYPE_CHECKING:
    from instar.vmm.contract.books import Books

BITS = 10  # of clusters: two sectors
MANY = 1 << 30


def make_disk(size: int, work: int = MANY, data: bytes = b"", bits: int = BITS) -> Disk:
    return Disk(Original(lambda at, length: data[at : at + length], size, work), bits, 0)


def rows_of(clusters: set[int]) -> list[range]:
    """Clusters in rows that do not touch."""
    found: list[range] = []
    for cluster in sorted(clusters):
        if found and found[-1].stop == cluster:
            found[-1] = range(found[-1].start, cluster + 1)
        else:
            found.append(range(cluster, cluster + 1))
    return found


def make_zeroed(clusters: set[int], clusters_max: int = MANY, size: int = 1 << 20) -> Zeroed:
    rows = rows_of(clusters)
    starts, ends = (memoryview(bytearray(8 * len(rows))).cast("Q") for _ in range(2))
    for at, row in enumerate(rows):
        starts[at], ends[at] = row.start * 2, row.stop * 2
    return Zeroed(make_disk(size), starts, ends, clusters_max)


def numbers(*values: int) -> memoryview[int]:
    view = memoryview(bytearray(8 * len(values))).cast("Q")
    for at, value in enumerate(values):
        view[at] = value
    return view


@given(
    st.sets(st.integers(0, 40)),
    st.lists(
        st.tuples(st.integers(0, 41), st.integers(1, 6), st.sampled_from([NEW, OWN])), max_size=12
    ),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_each_zeroed_cluster_has_one_reason(
    clusters: set[int], given_to: list[tuple[int, int, int]], alone: list[bool]
) -> None:
    zeroed, reasons = make_zeroed(clusters), dict.fromkeys(clusters, 0)
    for (first, count, reason), one in zip(given_to, alone, strict=False):
        row = range(first, first + (1 if one else count))
        if one:
            lawful = reasons.get(first, 3) in (0, reason)
            assert zeroed.give(first, reason) == lawful
        else:
            lawful = all(reasons.get(cluster) == 0 for cluster in row)
            assert zeroed.give_run(first, count, reason) == lawful
        if lawful:
            reasons.update(dict.fromkeys(row, reason))
        for cluster in range(44):
            assert (cluster in zeroed) == (cluster in clusters)
            for known in (NEW, OWN):
                assert zeroed.has_reason(cluster, known) == (reasons.get(cluster) == known)
    assert zeroed.all_have_reasons() == all(reasons.values())
    assert list(zeroed.rows()) == rows_of(clusters)


def test_a_cluster_that_has_a_reason_is_given_none_in_a_row() -> None:
    zeroed = make_zeroed({1, 2, 3})
    assert zeroed.give(2, OWN)
    for reason in (NEW, OWN):
        assert not zeroed.give_run(1, 3, reason)
    assert not any(zeroed.has_reason(cluster, NEW) for cluster in (1, 2, 3))
    assert zeroed.give_run(3, 1, NEW)


def test_a_part_of_a_cluster_is_not_zeroed() -> None:
    for start, end in ((1, 4), (2, 3), (3, 4)):
        with pytest.raises(GuestFault, match=f"part of a cluster, from sector {start} "):
            Zeroed(make_disk(1 << 20), numbers(start), numbers(end), MANY)


@pytest.mark.parametrize("size", [5 * SECTOR_SIZE, 4 * SECTOR_SIZE + 1])
def test_the_last_cluster_counts_as_whole_where_the_file_ends(size: int) -> None:
    zeroed = Zeroed(make_disk(size), numbers(4), numbers(5), MANY)
    assert list(zeroed.rows()) == [range(2, 3)]
    assert zeroed.give(2, OWN)
    assert zeroed.all_have_reasons()
    with pytest.raises(GuestFault):
        Zeroed(make_disk(size + 2 * SECTOR_SIZE), numbers(4), numbers(5), MANY)


def test_a_cluster_that_the_file_ends_in_does_not_come_into_use() -> None:
    size = 5 * SECTOR_SIZE
    assert not Zeroed(make_disk(size), numbers(4), numbers(5), MANY).give(2, NEW)
    zeroed = Zeroed(make_disk(size), numbers(2), numbers(5), MANY)
    assert not zeroed.give_run(1, 2, NEW)
    assert zeroed.give_run(1, 1, NEW)
    assert Zeroed(make_disk(size), numbers(2), numbers(5), MANY).give_run(1, 2, OWN)
    # All of it is there once the file has grown.
    assert Zeroed(make_disk(size), numbers(2), numbers(6), MANY).give_run(1, 2, NEW)


def test_no_more_clusters_are_zeroed_than_entries_change() -> None:
    make_zeroed({1, 2, 7}, 3)
    with pytest.raises(GuestFault, match="more clusters than it changes entries"):
        make_zeroed({1, 2, 7}, 2)


SECTORS = st.dictionaries(st.integers(0, 30), st.integers(1, 255), max_size=20)


FIRST = st.sampled_from([1, 2, 4, 8])
"""The first sector after a header cluster."""


def make_pending(sectors: dict[int, int], first: int = 1) -> Pending:
    staged = StagedWrites()
    for sector, value in sectors.items():
        staged.write(sector, bytes((value,)) * SECTOR_SIZE, 1)
    return Pending(staged, 1, (first * SECTOR_SIZE).bit_length() - 1)


@given(SECTORS, FIRST, st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9))))
def test_what_is_written_for_nothing_is_found(
    sectors: dict[int, int], first: int, asked: list[tuple[int, int]]
) -> None:
    """However it is asked for, once or more: a sector, a row, or whether it is as it should be."""
    for way in ("take", "take_row", "matches"):
        pending, taken = make_pending(sectors, first), set[int]()
        mine = {sector: value for sector, value in sectors.items() if sector >= first}
        assert pending.count == len(mine)
        for start, count in asked:
            row = range(start, start + (1 if way == "take" else count))
            row = row if way != "matches" else range(max(start, first), max(start, first) + count)
            values = [mine.get(sector, 0) for sector in row]
            data = b"".join(bytes((value,)) * SECTOR_SIZE for value in values)
            if way == "take":
                assert pending.take(start) == (data if start in mine else None)
            elif way == "take_row":
                assert pending.take_row(row.start, row.stop) == data
            else:
                whole = all(sector in mine for sector in row)
                assert pending.matches(row.start, data, whole=whole)
            taken.update(row)
        if mine.keys() <= taken:
            pending.finish()
        else:
            with pytest.raises(GuestFault, match=f"sector {min(mine.keys() - taken)} in phase 1"):
                pending.finish()


@given(SECTORS, st.integers(1, 30), st.integers(1, 9), st.booleans(), st.data())
def test_sectors_match_only_if_each_byte_does(
    sectors: dict[int, int], start: int, count: int, whole: bool, data: st.DataObject
) -> None:
    wanted = bytearray()
    for sector in range(start, start + count):
        wanted += bytes((sectors.get(sector, 0),)) * SECTOR_SIZE
    complete = all(sector in sectors for sector in range(start, start + count))
    lawful = complete or not whole
    assert make_pending(sectors).matches(start, bytes(wanted), whole=whole) == lawful
    wanted[data.draw(st.integers(0, len(wanted) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not make_pending(sectors).matches(start, bytes(wanted), whole=whole)


@given(SECTORS, FIRST, st.integers(1, 5))
def test_rows_cross_no_border_and_leave_nothing_out(
    sectors: dict[int, int], first: int, border: int
) -> None:
    mine = {sector: value for sector, value in sectors.items() if sector >= first}
    pending, found = make_pending(sectors, first), dict[int, int]()
    for start, data in pending.rows(border):
        count = len(data) // SECTOR_SIZE
        assert start // border == (start + count - 1) // border
        for at in range(count):
            part = data[at * SECTOR_SIZE : (at + 1) * SECTOR_SIZE]
            assert part == part[:1] * SECTOR_SIZE
            found[start + at] = part[0]
    assert found == mine
    assert list(found) == sorted(found)
    pending.finish()
    one_by_one = make_pending(sectors, first)
    assert {sector: data[0] for sector, data in one_by_one.sectors()} == mine
    one_by_one.finish()
    for size in (1, 2, 8):
        at_once = make_pending(sectors, first)
        assert at_once.take_all(size) == {sector // size for sector in mine}
        at_once.finish()


@given(SECTORS, st.integers(0, 30), st.integers(1, 9))
def test_a_row_ends_at_the_first_sector_that_is_not_staged(
    sectors: dict[int, int], start: int, count: int
) -> None:
    missing = [sector for sector in range(start, start + count) if sector not in sectors]
    found = make_pending(sectors).has_row(start, start + count)
    assert found == (missing[0] if missing else start + count)


class TestReads:
    """What the judge reads of the image."""

    def test_the_last_cluster_is_read_as_whole_and_nothing_after_it(self) -> None:
        disk = make_disk(1025, data=b"x" * 1025)
        assert disk.read(1024, 1024) == b"x" + bytes(1023)
        for offset, size in ((1024, 1025), (2048, 1), (-1, 1)):
            with pytest.raises(OutsideError) as caught:
                disk.read(offset, size)
            assert caught.value.offset == offset

    def test_each_read_is_paid_for(self) -> None:
        disk = make_disk(4096, work=2 * 16384 + 3000, data=bytes(4096))
        disk.read(0, 1000)
        assert disk.work == 16384 + 1000
        assert disk.read(0, 0) == b""
        disk.read(0, 2000)
        assert disk.work == 2 * 16384 + 3000
        with pytest.raises(ImageRejected):
            disk.spend(1)

    def test_memory_is_held_to_64_mib_and_eight_times_what_is_stored_and_staged(self) -> None:
        original = Original(lambda _at, _length: b"", 4096, MANY, 100)
        disk = Disk(original, BITS, 20)
        disk.hold((64 << 20) + 8 * 120)
        with pytest.raises(ImageRejected):
            disk.hold(1)

    @given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 64)), max_size=30))
    def test_small_reads_near_each_other_are_what_they_are_alone(
        self, asked: list[tuple[int, int]]
    ) -> None:
        data = bytes(n * 7 % 251 for n in range(3064))
        disk = make_disk(3064, data=data)
        for offset, size in asked:
            assert disk.near(offset, size) == data[offset : offset + size]

    @given(st.sets(st.integers(0, 200), max_size=60), st.sets(st.integers(0, 200), max_size=5))
    def test_rows_of_clusters_are_worth_one_read_each(
        self, clusters: set[int], alone: set[int]
    ) -> None:
        disk = make_disk((100 << BITS) + 1)
        rows = list(disk.rows(clusters, alone))
        assert [cluster for row in rows for cluster in row] == sorted(clusters)
        for row in rows:
            assert len(row) << BITS <= 1 << 16
            assert len(row) == 1 or alone.isdisjoint(row)
            assert 101 not in row or row.start == 101  # what the file has not comes apart

    def test_numbers_that_repeat_come_once(self) -> None:
        data = b"".join(n.to_bytes(8, "big") for n in (1, 2)) * (1 << 16)
        disk = make_disk(len(data), data=data)
        assert list(disk.distinct_words(0, len(data) // 8)) == [{1, 2}]
        words = [word for some in disk.words(0, len(data) // 8) for word in some]
        assert words == [1, 2] * (1 << 16)


def grow(taken: int, blocks: list[int], entries: int = 0, **more: int) -> int:
    """Judge a growth of an image of 100 clusters, whose refcount table is in cluster 1.

    Returns what that costs.
    """
    clusters = more.get("clusters", 1)
    disk = make_disk(100 << BITS)
    books = SimpleNamespace(
        taken=taken,
        new_blocks=blocks,
        in_block=512,
        table_clusters=range(1, 2),
        longest=more.get("longest", 1),
        count_free=lambda added, row: len(added) - row + 1 - more.get("counted", 0),
    )
    table = {
        "refcount_table_offset": more.get("table", 1) << BITS,
        "refcount_table_clusters": clusters,
    }
    end = more.get("end", 100) << BITS
    judge_growth(disk, cast("Books", books), table, end, entries)
    return disk.work


class TestGrowth:
    """No more is added than what is done needs."""

    @pytest.mark.parametrize(
        ("others", "entries", "blocks"),
        # A block has 512 refcounts, one of which is its own.
        [(1, 0, 2), (511, 0, 2), (512, 0, 3), (1, 1, 4), (1, 511 * 16, 34), (1, 511 * 99, 34)],
    )
    def test_no_more_refcount_blocks_than_are_needed_and_some_to_spare(
        self, others: int, entries: int, blocks: int
    ) -> None:
        grow(others + blocks, list(range(blocks)), entries)
        with pytest.raises(GuestFault, match=f"adds {blocks + 1} refcount blocks"):
            grow(others + blocks + 1, list(range(blocks + 1)), entries)

    def test_a_block_that_nothing_needs_is_not_added(self) -> None:
        with pytest.raises(GuestFault, match="adds 1 refcount blocks, and 0 are needed"):
            grow(1, [1])

    def test_a_refcount_table_with_room_stays_where_it_is(self) -> None:
        grow(2, [127])  # the table's one cluster names 128
        with pytest.raises(GuestFault, match="has room"):
            grow(2, [127], table=90)
        grow(2, [128], table=90, clusters=2)
        with pytest.raises(GuestFault, match="has room"):
            grow(2, [126], 511, table=90)
        grow(2, [127], 1, table=90)

    def test_a_refcount_table_grows_by_what_may_come(self) -> None:
        # 129 entries for what is there, one for the new block, 32 to spare; and one cluster.
        grow(2, [128], table=90, clusters=3)
        with pytest.raises(GuestFault, match="4 clusters, for 3"):
            grow(2, [128], table=90, clusters=4)
        grow(2, [256 - 34], table=90, clusters=3)
        with pytest.raises(GuestFault, match="4 clusters, for 3"):
            grow(2, [256 - 34], table=90, clusters=4)
        grow(2, [256 - 33], table=90, clusters=4)

    def test_the_file_grows_by_what_is_taken(self) -> None:
        grow(3, [], end=100 + 3 + 16)
        with pytest.raises(GuestFault, match="clusters that nothing takes"):
            grow(3, [], end=100 + 3 + 17)

    def test_clusters_after_the_end_that_have_refcounts_are_no_growth(self) -> None:
        grow(3, [], end=100 + 3 + 17, counted=1)
        with pytest.raises(GuestFault, match="clusters that nothing takes"):
            grow(3, [], end=100 + 3 + 18, counted=1)

    def test_free_clusters_that_are_too_few_for_a_new_table_are_no_growth(self) -> None:
        grow(3, [], end=100 + 3 + 18, longest=3)
        with pytest.raises(GuestFault, match="clusters that nothing takes"):
            grow(3, [], end=100 + 3 + 19, longest=3)

    def test_refcounts_are_looked_up_where_the_file_grows_by_more_than_that(self) -> None:
        assert grow(3, [], end=100 + 3 + 16) == 0
        assert grow(3, [], end=100 + 3 + 17, counted=1) == 20 * 64
