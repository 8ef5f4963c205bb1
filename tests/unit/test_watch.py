"""Test side: the search for clusters in whole tables finds what a look at each entry finds."""

from __future__ import annotations

import struct
import time
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.vmm.contract import watch as watch_module
from instar.vmm.contract.watch import Watch

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
MASK = 0x00FFFFFFFFFFFE00


def pack(words: list[int]) -> bytes:
    return struct.pack(f">{len(words)}Q", *words)


def clusters_of(word: int, bits: int) -> range:
    """By the specification, entry by entry."""
    if not word & COMPRESSED:
        first = (word & MASK) >> bits
        return range(first, first + 1) if first else range(0)
    x = 62 - (bits - 8)
    start = word % (1 << x)
    sectors = (word % (1 << 62)) >> x
    last = (start // 512 + sectors) * 512 + 511
    return range(start >> bits, (last >> bits) + 1)


BITS = st.sampled_from([9, 10, 12, 15, 16, 17, 21])
FLAGS = st.sampled_from([0, COPIED, ZERO, COPIED | ZERO])
NEAR = st.sampled_from([0, 1, 255, 256, 1 << 16, (1 << 24) - 1, 1 << 32, 1 << 34]).flatmap(
    lambda base: st.integers(0, 600).map(lambda n: base + n)
)
ODD = st.sampled_from([1 << 61, 1 << 56, 1 << 8, 1 << 9, 2, COMPRESSED])


@settings(max_examples=400, deadline=None)
@given(
    BITS,
    st.lists(st.tuples(NEAR, st.integers(1, 40)), max_size=6),
    st.lists(st.tuples(NEAR, FLAGS, st.just(0) | ODD), min_size=1, max_size=80),
)
def test_a_search_finds_what_a_look_at_each_entry_finds(
    bits: int, watched: list[tuple[int, int]], entries: list[tuple[int, int, int]]
) -> None:
    watch, expected = Watch(bits), set()
    for first, count in watched:
        watch.add(range(first, first + count))
        expected |= set(range(first, first + count))
    words = [(cluster << bits & MASK) | flags | odd for cluster, flags, odd in entries]
    met = {n for word in words for n in clusters_of(word, bits)} & expected
    found = watch.search(pack(words))
    assert (found is None) == (not met)
    assert found is None or found in met


@settings(max_examples=400, deadline=None)
@given(
    BITS,
    st.lists(st.tuples(NEAR, st.integers(1, 4)), min_size=1, max_size=20),
    st.lists(st.tuples(NEAR, FLAGS), max_size=4),
    st.lists(st.just((0, 0)) | st.just((0, ZERO)) | st.tuples(NEAR, FLAGS), max_size=4),
    st.integers(33, 400),
    st.randoms(use_true_random=False),
)
def test_a_search_of_many_entries_that_are_alike_finds_the_same(
    bits: int,
    watched: list[tuple[int, int]],
    rare: list[tuple[int, int]],
    common: list[tuple[int, int]],
    count: int,
    random: Random,
) -> None:
    watch, expected = Watch(bits), set()
    for first, length in watched:
        watch.add(range(first, first + length))
        expected |= set(range(first, first + length))
    entries = [random.choice(common or [(0, 0)]) for _ in range(count)]
    entries[: len(rare)] = rare
    random.shuffle(entries)
    words = [(cluster << bits & MASK) | flags for cluster, flags in entries]
    met = {n for word in words for n in clusters_of(word, bits)} & expected
    found = watch.search(pack(words))
    assert (found is None) == (not met)
    assert found is None or found in met


@given(st.lists(st.tuples(NEAR, st.integers(1, 600)), max_size=8), NEAR, st.integers(0, 700))
def test_it_holds_what_was_added_and_finds_it_in_a_row(
    rows: list[tuple[int, int]], first: int, count: int
) -> None:
    watch = Watch(16)
    for start, length in rows:
        watch.add(range(start, start + length))
    held = {n for start, length in rows for n in range(start, start + length)}
    assert bool(watch) == bool(held)
    row = range(first, first + count)
    assert list(watch.within(row)) == [n for n in row if n in held]
    assert all((n in watch) == (n in held) for n in row)


@pytest.mark.parametrize("bits", [9, 16, 21])
def test_a_row_of_any_length_takes_no_memory(bits: int) -> None:
    """One that a header names, such as that of a LUKS header, may have 2**55 clusters."""
    watch = Watch(bits)
    watch.add(range(700, 702))
    watch.add(range(1 << 40, (1 << 40) + 1))
    assert list(watch.within(range(701, 1 << 55))) == [701, 1 << 40]


@pytest.mark.parametrize("flags", [0, COPIED, ZERO, COPIED | ZERO])
@pytest.mark.parametrize("place", [0, 1, 4095, 8191])
def test_one_entry_of_many_is_found_wherever_it_is(place: int, flags: int) -> None:
    watch = Watch(16)
    watch.add(range(700_000, 700_003))
    words = [(1_000_000 + n) << 16 | COPIED for n in range(8192)]
    assert watch.search(pack(words)) is None
    words[place] = 700_002 << 16 | flags
    assert watch.search(pack(words)) == 700_002


@pytest.mark.parametrize("empty", [0, 31, 32, 33, 100, 4000, 8191])
@pytest.mark.parametrize("kind", [0, ZERO])
def test_however_many_entries_name_nothing_the_others_are_found(empty: int, kind: int) -> None:
    words = [(1_000_000 + n) << 16 | COPIED for n in range(8192)]
    for at in Random(empty).sample(range(8192), empty):  # noqa: S311 - the same in every run
        words[at] = kind
    watch = Watch(16)
    watch.add(range(1_000_000 - 1, 1_000_000))
    assert watch.search(pack(words)) is None
    named = max(words) - COPIED >> 16
    watch.add(range(named, named + 1))
    assert watch.search(pack(words)) == named


def test_an_entry_that_names_nothing_is_none_of_the_header_cluster() -> None:
    watch = Watch(16)
    for page in range(256):  # no byte is left for what names nothing
        watch.add(range(page << 8, (page << 8) + 2))
    for words in ([0] * 200, [0] * 20, [0] * 200 + [5 << 16] * 4):
        assert watch.search(pack(words)) is None


def test_bytes_that_match_between_two_entries_are_no_entry() -> None:
    watch = Watch(16)
    watch.add(range(0x8000, 0x8001))  # the offset 0x80000000: bytes 00 00 00 80 00 00
    words = [0x80 << 24 | n << 16 for n in range(1, 256)] + [0x0000800000000000] * 200
    assert watch.search(pack(words)) is None
    assert watch.search(pack([*words, 0x8000 << 16])) == 0x8000


def test_a_dense_table_is_searched_many_times_faster_than_entry_by_entry() -> None:
    watch = Watch(16)
    for n in range(512):  # an L2 table after each of the runs that it maps
        watch.add(range(8193 * n, 8193 * n + 1))
    table = pack([(8193 * 7 + 1 + n) << 16 | COPIED for n in range(8192)])
    start = time.process_time()
    for _ in range(20):
        assert watch.search(table) is None
    bulk = time.process_time() - start
    start = time.process_time()
    for word in struct.unpack(">8192Q", table):
        assert (word & MASK) >> 16 not in watch
    assert bulk / 20 < (time.process_time() - start) / 4


@given(st.lists(st.sampled_from([0, 1, 1 << 32, 1 << 24, 1 << 63 | 3 << 24]), max_size=40))
def test_few_entries_of_another_page_are_looked_at_like_many(words: list[int]) -> None:
    many = [5 << 32 | at << 16 for at in range(200)]
    watch = Watch(16)
    watch.add(range(3 << 8, (3 << 8) + 1))
    watch.add(range(1 << 16, (1 << 16) + 1))
    named = {1 << 32, 1 << 63 | 3 << 24} & set(words)
    found = watch.search(struct.pack(f">{200 + len(words)}Q", *many, *words))
    assert (found is not None) == bool(named)


@pytest.mark.parametrize("empty", [[0], [0, 1, 2], [5], [255, 256], [511], list(range(0, 512, 50))])
@pytest.mark.parametrize("first", [0x100, 0x10000 - 256, 0x200000])
def test_entries_that_name_nothing_hide_none_of_the_others(empty: list[int], first: int) -> None:
    words = [(first + n) << 16 | COPIED for n in range(512)]
    for at in empty:
        words[at] = ZERO
    table = pack(words)
    for n in (0, 1, 4, 5, 6, 254, 255, 256, 510, 511):
        watch = Watch(16)
        watch.add(range(first + n, first + n + 1))
        assert watch.search(table) == (None if n in empty else first + n)


@pytest.mark.parametrize(("byte", "bits"), [*((byte, 9) for byte in range(1, 7)), (2, 21), (1, 16)])
def test_offsets_that_differ_from_zero_in_one_byte_are_found(byte: int, bits: int) -> None:
    offset = 0x80 << 8 * (7 - byte)
    watch = Watch(bits)
    watch.add(range(offset >> bits, (offset >> bits) + 1))
    for place in (0, 1, 511):
        words = [0] * 512
        words[place] = offset | COPIED
        assert watch.search(pack(words)) == offset >> bits
    assert watch.search(pack([offset] * 512)) == offset >> bits
    assert watch.search(pack([ZERO] * 512)) is None


def test_a_table_is_taken_apart_few_times_however_many_crowded_pages_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, calls = Watch(16), list[str]()
    pages = range(300, 400)
    for page in pages:
        watch.add(range(page << 8, (page << 8) + 13))
    words = [(300 + n % 100 << 8 | 100 + n // 100 % 100) << 16 | COPIED for n in range(8192)]

    def count(form: str, table: bytes) -> tuple[int, ...]:
        calls.append(form)
        return struct.unpack(form, table)

    monkeypatch.setattr(watch_module, "unpack", count)
    assert watch.search(pack(words)) is None
    assert 1 <= len(calls) <= 5
    words[4000] = 355 << 24 | 5 << 16
    assert watch.search(pack(words)) == 355 << 8 | 5


@pytest.mark.parametrize("number", [0, 3, 0x703])
@pytest.mark.parametrize("common", [0, 0x500, 0x702, 0x703, 0x805])
@pytest.mark.parametrize("bits", [9, 12, 16, 17, 21])
def test_compressed_data_are_found_where_they_begin_in_the_page_before(
    number: int, common: int, bits: int
) -> None:
    # Pages are 2 to the power of so many clusters. All other entries of the table name one page.
    page_bits = (24 if bits <= 16 else 32) - bits
    for after, before, inside in product(range(3), range(4), (0, (1 << bits) - 1)):
        watch, watched = Watch(bits), (number << page_bits) + after
        start = (watched - before << bits) + inside
        if start < 0:
            continue
        watch.add(range(watched, watched + 1))
        longest = COMPRESSED | ((1 << bits - 8) - 1) << 70 - bits | start
        first = (common << page_bits) + 100
        words = [(first + n % 100) << bits | COPIED for n in range((1 << min(bits, 12)) // 8)]
        assert watch.search(pack(words)) is None
        words[len(words) // 2] = longest
        expected = watched if watched in clusters_of(longest, bits) else None
        assert watch.search(pack(words)) == expected, (after, before, inside)


@pytest.mark.parametrize("nothing", [1, 40, 400])
@pytest.mark.parametrize("bits", [9, 12, 16, 17, 21])
def test_compressed_data_in_the_header_cluster_are_found_among_entries_of_nothing(
    bits: int, nothing: int
) -> None:
    watch = Watch(bits)
    watch.add(range(1))
    words = [0] * nothing + [COMPRESSED | 100] + [0x703 << 32 | COPIED] * 8
    assert watch.search(pack(words)) == 0
