"""Test side: refcounts of 1 to 64 bits in the planner's books, beside a slow reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import abi
from tests.support.forge import Data, Image, Reader, parse_header, stored_refcounts
from tests.support.planner import Write, apply
from tests.support.project import load_planner
from tests.support.recoded import structure

ORDERS = range(7)
GROWTH = 1 << 26


def largest(order: int) -> int:
    return (1 << (1 << order)) - 1


def encode(counts: list[int], order: int) -> bytes:
    """A block of these refcounts, by the specification's words ("Refcount block")."""
    bits = 1 << order
    if bits >= 8:
        return b"".join(count.to_bytes(bits // 8, "big") for count in counts)
    block = bytearray(-(-len(counts) * bits // 8))
    for index, count in enumerate(counts):
        for bit in range(bits):
            block[(index * bits + bit) // 8] |= (count >> bit & 1) << (index * bits + bit) % 8
    return bytes(block)


@settings(deadline=None)
@given(st.data(), st.sampled_from(ORDERS))
def test_a_block_reads_and_changes_as_the_specification_says(
    data: st.DataObject, order: int
) -> None:
    lib = load_planner().lib
    assert lib.largest_refcount(order) == largest(order)
    counts = data.draw(st.lists(st.integers(0, largest(order)), min_size=8, max_size=40))
    block = bytearray(encode(counts, order))
    raw = load_planner().ffi.from_buffer(block)
    assert [lib.load_refcount(raw, n, order) for n in range(len(counts))] == counts
    for _ in range(4):
        index = data.draw(st.integers(0, len(counts) - 1))
        counts[index] = data.draw(st.integers(0, largest(order)))
        lib.store_refcount(raw, index, order, counts[index])
        assert bytes(block) == encode(counts, order)


@dataclass(frozen=True)
class Take:
    """Clusters in a row that are taken."""

    count: int = 1
    references: int = 1


@dataclass(frozen=True)
class Release:
    """A cluster that loses references."""

    cluster: int
    references: int = 1


Change = Take | Release


@dataclass
class Books:
    """What the library made of an image's refcounts."""

    planned: bool
    refusals: list[tuple[int, ...]]
    before: bytes
    writes: list[Write]
    taken: list[list[int]]
    """The clusters that each Take got."""

    @property
    def after(self) -> bytes:
        """The image with all that was staged."""
        return apply(self.before, self.writes)


def change_books(image: bytes, changes: list[Change], max_growth: int = GROWTH) -> Books:
    planner = load_planner()
    bits = parse_header(image).cluster_bits
    array = planner.ffi.new("struct host_change[]", len(changes))
    for place, change in zip(array, changes, strict=True):
        place.take, place.references = isinstance(change, Take), change.references
        place.count = change.count if isinstance(change, Take) else 1
        place.offset = 0 if isinstance(change, Take) else change.cluster << bits
    outcome = planner.ffi.new("struct host_outcome *")
    planner.lib.host_change_books(image, len(image), max_growth, array, len(changes), outcome)
    assert not outcome.misuse
    writes = [_write(planner.ffi, write) for write in outcome.writes[0 : outcome.write_count]]
    return Books(
        outcome.planned,
        [(r.reason, *r.detail) for r in outcome.refusals[0 : outcome.refusal_count]],
        image,
        writes,
        [
            list(range(place.offset >> bits, (place.offset >> bits) + change.count))
            for place, change in zip(array, changes, strict=True)
            if isinstance(change, Take)
        ],
    )


def _write(ffi: Any, write: Any) -> Write:
    return Write(write.phase, write.offset, bytes(ffi.buffer(write.data, write.length)))


def check(image: bytes, changes: list[Change], books: Books) -> None:
    """The refcounts after the changes, counted one by one, are those in the image."""
    expected = dict(stored_refcounts(Reader(image)))
    before, after = structure(image), structure(books.after)
    for cluster in after - before:
        assert expected.get(cluster, 0) == 0, "a structure in a cluster that is used"
        expected[cluster] = 1
    for cluster in before - after:
        expected[cluster] -= 1
    taken = iter(books.taken)
    for change in changes:
        if isinstance(change, Release):
            expected[change.cluster] -= change.references
        else:
            for cluster in next(taken):
                assert expected.get(cluster, 0) == 0, "a cluster is taken that is used"
                expected[cluster] = change.references
    found = stored_refcounts(Reader(books.after))
    assert found == {cluster: count for cluster, count in expected.items() if count}


def small(order: int, bits: int = 9) -> Image:
    """Some data clusters, each with one reference; its few refcount blocks are nearly full."""
    size = 64 << bits
    return Image(
        cluster_bits=bits,
        size=size,
        refcount_order=order,
        clusters={n: Data(b"d") for n in range(20)},
    )


def data_clusters(image: bytes) -> list[int]:
    """Where the data of small() lie, which nothing but an L2 entry refers to."""
    return sorted(
        cluster
        for cluster in stored_refcounts(Reader(image))
        if image[cluster << parse_header(image).cluster_bits :][:1] == b"d"
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_clusters_are_taken_and_given_up_at_every_width(order: int, bits: int) -> None:
    image = small(order, bits).build()
    released = data_clusters(image)[3:9]
    most = min(largest(order), 1 << 40)
    changes: list[Change] = [Take(), Take(references=most), Take(5)]
    changes += [Release(cluster) for cluster in released]
    changes += [Take(references=most), Take(3)]
    books = change_books(image, changes)
    assert books.planned, books.refusals
    check(image, changes, books)


@pytest.mark.parametrize("order", ORDERS)
def test_new_blocks_count_themselves_at_every_width(order: int) -> None:
    image = small(order).build()
    changes: list[Change] = [Take() for _ in range(512 * 8 >> order)]
    changes += [Take(700), Take()]
    books = change_books(image, changes)
    assert books.planned, books.refusals
    assert structure(books.after) > structure(image)
    check(image, changes, books)


def blocks_of(image: bytes) -> int:
    """How many refcount blocks there are: the other structures are the table's clusters."""
    return len(structure(image)) - int(parse_header(image).refcount_table_clusters)


@pytest.mark.parametrize(
    ("more", "blocks"),
    [(0, 0), (1, 1), (255, 1), (256, 2), (510, 2), (511, 3), (16 * 255, 16), (17 * 255, 17)],
)
def test_there_are_as_many_new_blocks_as_count_themselves_and_what_is_taken(
    more: int, blocks: int
) -> None:
    image = small(4).build()
    free = 256 - sum(cluster < 256 for cluster in stored_refcounts(Reader(image)))
    changes: list[Change] = [Take() for _ in range(free + more)]
    books = change_books(image, changes)
    assert books.planned, books.refusals
    assert blocks_of(books.after) == blocks_of(image) + blocks
    check(image, changes, books)


@pytest.mark.parametrize(("run", "blocks"), [(254, 1), (255, 2), (509, 2), (510, 3)])
def test_new_blocks_for_a_run_leave_a_cluster_over(run: int, blocks: int) -> None:
    image = small(4).build()
    books = change_books(image, [Take(run)])
    assert books.planned, books.refusals
    assert blocks_of(books.after) == blocks_of(image) + blocks
    check(image, [Take(run)], books)


@pytest.mark.parametrize(("bits", "run", "blocks"), [(17, 16_370, 1), (21, 1 << 20, 5)])
def test_new_blocks_are_whole_where_they_are_larger_than_what_is_written_at_once(
    bits: int, run: int, blocks: int
) -> None:
    image = small(6, bits).build()
    books = change_books(image, [Take(run)], max_growth=1 << 50)
    assert books.planned, books.refusals
    start = (books.taken[0][0] - blocks) << bits
    counts = encode([1] * (run + blocks), 6).ljust(blocks << bits, b"\0")
    written = {write.offset: write.data for write in books.writes if write.offset >= start}
    assert b"".join(data for _, data in sorted(written.items())) == counts


def with_long_table(clusters: int) -> bytes:
    """An image with such a refcount table, most of it zeros, right behind which is something."""
    first, end = 8, 8 + clusters
    counts = dict.fromkeys(range(first, end), 1)
    image = replace(small(6), holes=range(first, end), refcounts=counts)
    data, table = bytearray(image.build()), image.regions()["refcount_table"]
    assert any(data[end << 9 : end + 1 << 9])
    words = data[table.start : table.stop]
    data[first << 9 : (first << 9) + len(words)] = words
    data[48:60] = (first << 9).to_bytes(8, "big") + clusters.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("image", [small(6).build(), with_long_table(130)], ids=["short", "long"])
def test_new_blocks_and_a_new_table_are_written_in_pieces_that_end_with_them(image: bytes) -> None:
    """A piece has 64 KiB at most, and each of the last ones is shorter."""
    run = 530_000
    books = change_books(image, [Take(run)], max_growth=1 << 40)
    assert books.planned, books.refusals
    header = parse_header(books.after)
    table, size = header.refcount_table_offset, header.refcount_table_clusters << 9
    old, new = blocks_of(image), blocks_of(books.after) - blocks_of(image)
    start = old * 64 << 9  # where the clusters end that the old blocks count
    assert table == start + (new << 9)
    assert table + size == books.taken[0][0] << 9
    for begin, end in ((start, table), (table, table + size)):
        assert end - begin > 0x10000
        assert (end - begin) % 0x10000
        pieces = [write for write in books.writes if begin <= write.offset < end]
        assert max(len(write.data) for write in pieces) == 0x10000
        assert max(write.offset + len(write.data) for write in pieces) == end
    counts = encode([1] * (new + header.refcount_table_clusters + run), 6)
    assert books.after[start:table] == counts.ljust(new << 9, b"\0")
    before = parse_header(image).refcount_table_offset
    names = b"".join((start + (n << 9)).to_bytes(8, "big") for n in range(new))
    names = image[before : before + 8 * old] + names
    assert books.after[table : table + size] == names.ljust(size, b"\0")


@pytest.mark.parametrize("order", [4, 5, 6])
def test_the_refcount_table_moves_at_every_width_that_fills_it(order: int) -> None:
    image = small(order).build()
    header = parse_header(image)
    per_block = (1 << header.cluster_bits) * 8 >> order
    entries = (header.refcount_table_clusters << header.cluster_bits) // 8
    changes: list[Change] = [Take() for _ in range(per_block * entries)]
    books = change_books(image, changes)
    assert books.planned, books.refusals
    assert parse_header(books.after).refcount_table_offset != header.refcount_table_offset
    check(image, changes, books)


@pytest.mark.parametrize("order", ORDERS[:-1])
def test_a_count_that_does_not_fit_the_width_is_refused(order: int) -> None:
    image = small(order).build()
    books = change_books(image, [Take(references=largest(order) + 1)])
    assert not books.planned
    assert books.refusals[0][0] == abi.REFUSAL_REFCOUNT
    assert books.refusals[0][2:] == (largest(order), largest(order) + 1)


@pytest.mark.parametrize("order", ORDERS)
def test_more_references_than_there_are_cannot_be_given_up(order: int) -> None:
    image = small(order).build()
    books = change_books(image, [Release(data_clusters(image)[0], 2)])
    assert not books.planned
    assert books.refusals[0][0] == abi.REFUSAL_REFCOUNT
    assert books.refusals[0][2:] == (1, 2)


@settings(deadline=None)
@given(st.data(), st.sampled_from(ORDERS), st.sampled_from([9, 10, 13]))
def test_any_changes_leave_what_the_slow_reference_counts(
    data: st.DataObject, order: int, bits: int
) -> None:
    image = small(order, bits).build()
    releases = data.draw(st.lists(st.sampled_from(data_clusters(image)), unique=True, max_size=8))
    takes = st.builds(Take, st.just(1), st.integers(1, largest(order))) | st.builds(
        Take, st.integers(2, 80)
    )
    changes: list[Change] = [*data.draw(st.lists(takes, max_size=30)), *map(Release, releases)]
    changes = data.draw(st.permutations(changes))
    books = change_books(image, changes)
    assert books.planned, books.refusals
    check(image, changes, books)
