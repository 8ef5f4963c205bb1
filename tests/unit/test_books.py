"""Test side: refcounts of every width, against a slow reading of the specification."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.books import FREED, LEFT_TO_ONE, LESSENED, TAKEN, Books
from instar.vmm.contract.pending import Pending
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.reader.refcounts import Refcounts
from instar.vmm.contract.reader.widths import Width
from instar.vmm.contract.terms import Original
from instar.vmm.image.staging import StagedWrites

ORDERS = range(7)
BITS = 9  # of clusters
TABLE, BLOCK = 512, 1024


def slow_read(data: bytes, order: int, index: int) -> int:
    """ "Host cluster management": a refcount, bit by bit where it is smaller than a byte."""
    bits = 1 << order
    if bits < 8:
        return data[index * bits // 8] >> index * bits % 8 & (1 << bits) - 1
    return int.from_bytes(data[index * bits // 8 :][: bits // 8], "big")


def slow_write(data: bytearray, order: int, index: int, value: int) -> None:
    bits = 1 << order
    if bits < 8:
        at, shift = index * bits // 8, index * bits % 8
        data[at] = data[at] & ~(((1 << bits) - 1) << shift) | value << shift
    else:
        data[index * bits // 8 :][: bits // 8] = b""
        data[index * bits // 8 : (index + 1) * bits // 8] = value.to_bytes(bits // 8, "big")


@given(st.binary(min_size=512, max_size=512), st.sampled_from(ORDERS))
def test_a_sector_is_unpacked_and_packed(data: bytes, order: int) -> None:
    width = Width(order)
    counts = width.unpack(data)
    assert len(counts) == width.in_sector == 4096 >> order
    assert list(counts) == [slow_read(data, order, n) for n in range(len(counts))]
    assert width.pack(counts) == data


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wrong", ["more", "less"])
def test_what_is_out_of_range_is_not_packed(order: int, wrong: str) -> None:
    width = Width(order)
    counts = [0] * width.in_sector
    counts[-1] = width.most
    assert slow_read(width.pack(counts), order, len(counts) - 1) == width.most
    counts[7] = width.most + 1 if wrong == "more" else -1
    with pytest.raises(OverflowError):
        width.pack(counts)


COUNTS = st.lists(st.integers(0, 300), min_size=64, max_size=64)


@given(COUNTS, st.sampled_from(ORDERS), st.sampled_from(ORDERS))
def test_refcounts_get_another_width_if_they_fit(counts: list[int], old: int, new: int) -> None:
    width, to = Width(old), Width(new)
    counts = [min(count, width.most) for count in counts]
    data = width.pack(counts)
    assert width.last(data) == max((n for n, count in enumerate(counts) if count), default=-1)
    if max(counts) <= to.most:
        assert width.recode(data, to) == to.pack(counts)
    else:
        with pytest.raises(OverflowError):
            width.recode(data, to)


@given(COUNTS, st.sampled_from(ORDERS), st.integers(0, 63))
def test_a_refcount_rises_from_0_and_falls_from_more(
    counts: list[int], order: int, index: int
) -> None:
    width = Width(order)
    counts = [min(count, width.most) for count in counts]
    data, by = bytearray(width.pack(counts)), -1 if counts[index] else 1
    assert not width.add(data, index, -by)
    assert data == width.pack(counts)
    assert width.add(data, index, by)
    counts[index] += by
    assert data == width.pack(counts)


def image(order: int, counts: dict[int, int]) -> bytes:
    """A refcount table and one block, of a file that ends after them."""
    block = bytearray(512)
    for cluster, count in counts.items():
        slow_write(block, order, cluster, count)
    return bytes(TABLE) + BLOCK.to_bytes(8, "big") + bytes(504) + bytes(block)


def books_of(data: bytes, order: int) -> Books:
    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return Books(Disk(Original(read, len(data), 1 << 30), BITS, 0), TABLE, 1, order, 8)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ORDERS),
    st.dictionaries(st.integers(0, 63), st.tuples(st.integers(0, 300), st.integers(-3, 3))),
)
def test_the_books_compare_with_a_slow_reference(
    order: int, clusters: dict[int, tuple[int, int]]
) -> None:
    most = (1 << (1 << order)) - 1
    old = {n: min(count, most) for n, (count, _) in clusters.items()}
    change = {}
    for n, (_, by) in clusters.items():
        rises = by > 0 and old[n] == 0 and by <= most
        falls = by < 0 and old[n] + by >= 0
        change[n] = by if rises or falls else 0
    data = image(order, old)
    books = books_of(data, order)
    raised, final = bytearray(data[BLOCK:]), bytearray(data[BLOCK:])
    for n, by in change.items():
        assert books.old(n) == old[n]
        if by > 0:
            books.take(n, by)
            slow_write(raised, order, n, by)
        elif by < 0:
            books.release([n], -by)
        slow_write(final, order, n, old[n] + by)
    assert books.taken == sum(by > 0 for by in change.values())
    rows = {n: becomes for row, becomes in books.moved() for n in row}
    left = {0: FREED, 1: LEFT_TO_ONE}
    assert rows == {
        n: TAKEN if by > 0 else left.get(old[n] + by, LESSENED) for n, by in change.items() if by
    }
    staged = StagedWrites()
    if raised != data[BLOCK:]:
        staged.write(BLOCK // 512, bytes(raised), 0)
    if any(by < 0 for by in change.values()):
        staged.write(BLOCK // 512, bytes(final), 4)
    pending = [Pending(staged, phase, 9) for phase in (0, 4)]
    books.judge(*pending)
    for phase in pending:
        phase.finish()
    if staged.count(4):
        wrong = StagedWrites()
        wrong.write(BLOCK // 512, bytes(final[:-1]) + bytes([final[-1] ^ 0x80]), 4)
        with pytest.raises(GuestFault, match="are not what the changes add up to"):
            books.judge(pending[0], Pending(wrong, 4, 9))


@pytest.mark.parametrize("order", ORDERS)
def test_no_refcount_leaves_its_range(order: int) -> None:
    most = (1 << (1 << order)) - 1
    books = books_of(image(order, {1: 1}), order)
    with pytest.raises(GuestFault, match=f"less than 0, or more than {most}$"):
        books.take(2, most + 1)

    def release_twice() -> None:
        books.release([1])
        books.release([1])
        books.judge(Pending(StagedWrites(), 0, 9), Pending(StagedWrites(), 4, 9))

    with pytest.raises(GuestFault, match=f"less than 0, or more than {most}$"):
        release_twice()


@pytest.mark.parametrize("distance", [1, 8, 256, 511])
def test_a_new_block_begins_a_cluster(distance: int) -> None:
    books = books_of(image(4, {}), 4)
    with pytest.raises(GuestFault, match="puts a refcount block at"):
        books.add_block(1, 4096 + distance)


@pytest.mark.parametrize("references", [1, 2])
def test_what_comes_into_use_is_not_given_up_too(references: int) -> None:
    books = books_of(image(4, {}), 4)
    books.take(5, references)
    with pytest.raises(ImageRejected, match="0x"):
        books.release([5])
    with pytest.raises(ImageRejected, match="0x"):
        books.release([4, 5])
    assert not books.release_run(4, 3, 1)
    assert books.old(5) == 0


def test_refcounts_are_kept_but_no_more_than_two_million() -> None:
    """All entries of the table name one block, with 4096 refcounts of a bit each."""
    places: list[int] = []

    def read(offset: int, size: int) -> bytes:
        places.append(offset)
        return (BLOCK << 8).to_bytes(8, "big") * (size // 8) if offset == TABLE else bytes(size)

    refcounts = Refcounts(Disk(Original(read, 1 << 30, 1 << 30), BITS, 0), TABLE, 9, 0)
    step, most = 4096, 1 << 21
    for cluster in (*range(0, most, step), 0):
        assert refcounts.old(cluster) == 0
    assert len(places) == 1 + most // step
    for cluster in (most, 0):
        assert refcounts.old(cluster) == 0
    assert len(places) == 3 + most // step


@pytest.mark.parametrize("order", ORDERS)
def test_free_is_what_a_block_counts_so_and_nothing_takes(order: int) -> None:
    books = books_of(image(order, {0: 1, 3: 1, 5: 1}), order)
    end = books.in_block
    assert books.count_free(range(0), 1) == 0
    assert books.count_free(range(8), 1) == 5
    assert books.count_free(range(4, 6), 1) == 1
    assert books.count_free(range(end - 1, end + 3), 1) == 1  # no block has the others
    books.take(6)
    books.release([5])  # which is not free before the switch
    assert books.count_free(range(8), 1) == 4
    books.add_block(1, 7 << BITS)
    assert books.count_free(range(8), 1) == 3
    assert books.count_free(range(end - 1, end + 3), 1) == 4
    books.take(end + 1)
    assert books.count_free(range(end - 1, end + 3), 1) == 3
    assert books.count_free(range(end + 1, end + 2), 1) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_free_clusters_in_shorter_rows_are_not_counted(order: int) -> None:
    books = books_of(image(order, {0: 1, 3: 1, 8: 1}), order)
    rows = {1: 2 + 4 + 6, 2: 2 + 4 + 6, 3: 4 + 6, 4: 4 + 6, 5: 6, 6: 6, 7: 0}
    assert {row: books.count_free(range(15), row) for row in rows} == rows
    end, in_window = books.in_block, 512 * 8 >> order
    books.add_block(1, 9 << BITS)
    # A row goes on from block to block.
    clusters, row = range(end + in_window), end - 10 + in_window
    assert books.count_free(clusters, row) == row
    assert books.count_free(clusters, row + 1) == 0
    books.take(end + 20)
    assert books.count_free(clusters, in_window - 21) == row - 1
    assert books.count_free(clusters, in_window - 20) == end + 10


def test_the_longest_new_structure_is_known() -> None:
    books = books_of(image(4, {}), 4)
    assert books.longest == 1
    books.take_structure(range(20, 23))
    books.take_structure(range(30, 31))
    assert books.longest == 3


@pytest.mark.parametrize("order", [5, 6])
@pytest.mark.parametrize("from_end", [-9, -1, 0, 1])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 300])
def test_a_row_of_clusters_is_taken_and_released_like_one_by_one(
    order: int, from_end: int, count: int
) -> None:
    data = image(order, {})
    rows, alone = books_of(data, order), books_of(data, order)
    first = rows.in_block + from_end
    row = range(first, first + count)
    rows.take_run(first, count, 2)
    for cluster in row:
        alone.take(cluster, 2)
    assert rows.taken == alone.taken == count
    assert [*rows.moved()] == [*alone.moved()]
    assert [rows.change(n) for n in (first - 1, *row, row.stop)] == [0, *[2] * count, 0]
    assert not rows.release_run(row.stop - 1, 2 + rows.in_block, 1)
    assert [*rows.moved()] == [*alone.moved()]
    for near in (first - 1, first, row.stop - 1):
        with pytest.raises(GuestFault, match=f"from {hex(near << BITS)}, in use$"):
            rows.take_run(near, 2, 1)
    assert rows.release_run(row.stop, 2, 3)
    assert [rows.change(row.stop + n) for n in range(-1, 3)] == [2, -3, -3, 0]


@pytest.mark.parametrize("order", range(1, 7))
def test_all_of_a_row_have_so_many_references(order: int) -> None:
    books = books_of(image(order, dict.fromkeys(range(4, 9), 2) | {9: 1}), order)
    end = books.in_block
    assert books.all_have(4, 5, 2)
    assert books.all_have(8, 1, 2)
    assert not books.all_have(3, 2, 2)
    assert not books.all_have(8, 2, 2)
    assert not books.all_have(4, 5, 1)
    assert books.all_have(end - 1, 1, 0)
    assert not books.all_have(end - 1, 2, 0)  # of the last one nothing is known


def test_a_new_table_lies_neither_over_the_header_nor_over_refcounts() -> None:
    books = books_of(image(4, {0: 1}), 4)
    with pytest.raises(GuestFault, match="into the header cluster"):
        books.take_structure(range(2))
    with pytest.raises(ImageRejected, match=hex(BLOCK)):
        books.take_structure(range(1, 3))  # whatever its own refcount says
    books.take_structure(range(3, 5))
    assert [*books.moved()] == [(range(3, 5), TAKEN)]


def test_no_change_of_a_refcount_is_wider_than_a_signed_number() -> None:
    most = 1 << 63
    books = books_of(image(6, {1: most}), 6)
    books.take(2, most - 1)
    for references in (most, most + 1, 2 * most - 1):
        with pytest.raises(GuestFault, match="less than 0, or more than"):
            books.take(3, references)
    books.release([1], most + 1)
    assert [books.change(n) for n in range(4)] == [0, -most, most - 1, 0]


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_window_takes_of_memory_is_counted_once(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, held = books_of(image(order, {}), order), list[int]()
    monkeypatch.setattr(books._disk, "hold", held.append)
    a_window = 512 + (4096 >> order) * {4: 4, 5: 8, 6: 8}.get(order, 2)
    books.take(1)
    books.take(2)
    assert held == [a_window]
    for number in range(1, 8):
        books.release([books.in_block * number])
        assert held == [a_window] * (number + 1)
    with pytest.raises(GuestFault, match=r"^the guest stages fewer refcounts than it changes$"):
        books.take(books.in_block * 8)


def test_however_many_tables_come_the_old_blocks_are_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books, walk = books_of(image(4, {}), 4), Books.blocks
    walks: list[Books] = []

    def count(self: Books) -> Iterator[tuple[int, int]]:
        walks.append(self)
        return walk(self)

    monkeypatch.setattr(Books, "blocks", count)
    for cluster in (20, 21, 22):
        books.take_structure(range(cluster, cluster + 1))
    assert len(walks) == 1
    with pytest.raises(ImageRejected):
        books.take_structure(range(BLOCK >> BITS, (BLOCK >> BITS) + 1))
    with pytest.raises(ImageRejected):
        books.take_structure(range(1, 63))
