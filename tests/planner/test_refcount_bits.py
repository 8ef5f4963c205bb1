"""Test side: refcounts of another width, in the planner, beside a slow reference."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from instar import abi
from instar.vmm.request import AmendRequest
from tests.support.forge import (
    Bitmap,
    Data,
    Image,
    Reader,
    Snapshot,
    parse_header,
    stored_refcounts,
)
from tests.support.forge.refcounts import encode_block
from tests.support.planner import Answer, accepted_by_contract, apply, ask
from tests.support.project import load_planner
from tests.support.recoded import expect_recoded, structure

ORDERS = range(7)
GROWTH = 1 << 40
SECTOR = 512


def request(order: int, **others: Any) -> AmendRequest:
    others = {"max_growth": GROWTH, **others}
    return AmendRequest.of(refcount_bits=1 << order, **others)


def recode(image: bytes, order: int, **others: Any) -> tuple[Answer, bytes]:
    """What the planner answers, and the image after it; the host must accept a plan."""
    asked = request(order, **others)
    answer = ask(load_planner(), image, asked)
    assert not answer.misuse
    if not answer.planned:
        return answer, image
    accepted_by_contract(image, asked, answer)
    assert answer.atomic
    return answer, apply(image, answer.writes)


def most(order: int) -> int:
    return (1 << (1 << order)) - 1


def small(order: int, bits: int = 9, **others: Any) -> Image:
    clusters = {n: Data(b"d") for n in range(20)}
    return Image(
        cluster_bits=bits, size=64 << bits, refcount_order=order, clusters=clusters, **others
    )


def random_counts(order: int, bits: int, largest: int, generator: random.Random) -> bytes:
    """An image whose clusters have refcounts of all kinds; the structures have at least one."""
    image = small(order, bits)
    plain = image.build()
    used = structure(plain) | {0}
    end = len(plain) >> bits
    counts = {n: generator.randint(n in used, largest) for n in range(end) if n % 3}
    return replace(image, refcounts=counts).build()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("old", ORDERS)
def test_random_counts_are_the_same_in_every_pair_of_widths(old: int, order: int) -> None:
    generator = random.Random(old * 7 + order)  # noqa: S311 - the same in every run
    for bits in (9, 10, 12):
        for largest in (1, min(most(old), most(order))):
            image = random_counts(old, bits, largest, generator)
            answer, after = recode(image, order)
            assert answer.planned, answer.refusals
            assert answer.amended == (old != order)
            if answer.amended:
                assert parse_header(after).refcount_order == order
                expect_recoded(image, after)
            assert not recode(after, order)[0].writes, "a second time there is something to do"


@pytest.mark.parametrize("order", [3, 5, 6])
def test_new_blocks_count_themselves_wherever_the_file_ends(order: int) -> None:
    """A block of 512 bytes ends after so many clusters, and so do two or three of them."""
    image = small(4).build()
    first = len(image) >> 9
    per_block = 4096 >> order
    for clusters in range(first, max(first, 2 * per_block) + 140):
        longer = image.ljust(clusters << 9, b"\0")
        answer, after = recode(longer, order)
        assert answer.planned, answer.refusals
        expect_recoded(longer, after)
        assert min(structure(after)) == clusters


def test_the_last_cluster_of_the_file_may_be_short() -> None:
    image = small(4, 12).build()[:-4000]
    _, after = recode(image, 5)
    expect_recoded(image, after)
    assert min(structure(after)) << 12 == -(-len(image) // 4096) * 4096


def test_progress_is_told_up_to_50_times_of_each_of_two_readings() -> None:
    full = range(30, 25_600)  # a part that is read has 256
    image = replace(small(4), holes=full, refcounts=dict.fromkeys(full, 1)).build()
    asked = request(5)
    answer = ask(load_planner(), image, asked, progress=True)
    assert answer.planned
    parts = len(image) // 512 // 256 // 3  # more than a fiftieth
    assert not answer.misuse
    assert 0 <= answer.progress_calls - 2 * parts <= 2
    assert ask(load_planner(), image, asked).progress_calls == 0


def test_no_progress_is_told_of_what_is_refused() -> None:
    """The refcounts are read all the same, to say whether they fit."""
    image = replace(small(4), backing_file=b"b").build()
    asked = request(3, backing_file=b"other")
    answer = ask(load_planner(), image, asked, progress=True)
    assert (answer.refusals, answer.progress_calls) == (("backing_change",), 0)


def test_only_what_is_not_zero_is_staged() -> None:
    image = small(4, 21).build()
    answer, after = recode(image, 6)
    assert sum(len(write.data) for write in answer.writes) <= 4 * SECTOR
    assert len(after) % (2 << 20) == 0, "the file ends within a cluster"
    expect_recoded(image, after)


def put(data: bytearray, at: int, value: int, size: int = 8) -> None:
    data[at : at + size] = value.to_bytes(size, "big")


def far(cluster: int) -> bytes:
    """An image with refcounts of 1 bit, one of them of a cluster far behind the end."""
    image = small(0).build()
    header, counts = parse_header(image), dict(stored_refcounts(Reader(image)))
    start, end = header.refcount_table_offset, len(image)
    table = bytearray(image[start : start + SECTOR].ljust(8 * (cluster // 4096 + 1), b"\0"))
    table += bytes(-len(table) % SECTOR)
    put(table, 8 * (cluster // 4096), end + len(table))
    counts |= dict.fromkeys(range(end >> 9, (end + len(table) >> 9) + 1), 1)
    data = bytearray(
        image + table + encode_block([0] * (cluster % 4096) + [1], 0).ljust(512, b"\0")
    )
    block = int.from_bytes(table[:8], "big")
    data[block : block + SECTOR] = encode_block([counts.get(n, 0) for n in range(4096)], 0)
    put(data, 48, end)
    put(data, 56, len(table) >> 9, 4)
    return bytes(data)


def test_a_table_of_8_mib_is_the_largest() -> None:
    """Clusters of 512 bytes and refcounts of 64 bits: it names blocks for 64 Mi clusters."""
    clusters = 64 << 20
    planned, refused = clusters - (1 << 16), clusters - 1
    while refused - planned > 1:
        middle = (planned + refused) // 2
        answer = ask(load_planner(), far(middle), request(6))
        planned, refused = (middle, refused) if answer.planned else (planned, middle)
    answer = ask(load_planner(), far(planned), request(6))
    accepted_by_contract(far(planned), request(6), answer)
    ends = [write.offset + len(write.data) for write in answer.writes]
    assert max(ends) == clusters << 9, "there is room for more"
    answer = ask(load_planner(), far(refused), request(6))
    assert answer.refusals == ("refcount_table_full",)
    assert answer.details["needed"] > 8 << 20


def test_a_cluster_that_no_table_could_name_is_refused_in_words() -> None:
    image = far((1 << 27) - 1)
    answer, _ = recode(image, 6)
    assert answer.refusals == ("refcount_table_full",)
    table = parse_header(image).refcount_table_offset
    assert answer.details == {"offset": table, "needed": 8 * (1 << 27) // 64}


@pytest.mark.parametrize("order", ORDERS[:-1])
def test_a_count_that_does_not_fit_is_refused_with_its_place(order: int) -> None:
    image = replace(small(6), refcounts={7: most(order), 11: most(order) + 1, 12: 1 << 40}).build()
    answer, _ = recode(image, order)
    assert answer.refusals == ("refcount_overflow",)
    assert answer.details == {
        "offset": 11 << 9,
        "refcount": most(order) + 1,
        "refcount_bits": 1 << order,
    }
    assert recode(replace(small(6), refcounts={7: most(order)}).build(), order)[0].planned


def named(what: str) -> int:
    """The cluster of a structure in small(4)."""
    image = small(4).build()
    header = parse_header(image)
    table = header.refcount_table_offset
    places = {"header": 0, "table": table, "l1": header.l1_table_offset}
    places["block"] = int.from_bytes(image[table : table + 8], "big")
    return int(places[what]) >> 9


@pytest.mark.parametrize("what", ["header", "table", "block"])
def test_a_structure_whose_refcount_is_0_is_refused(what: str) -> None:
    image = replace(small(4), refcounts={named(what): 0}).build()
    answer, _ = recode(image, 5)
    assert answer.refusals == ("refcount",)
    assert answer.details["offset"] == named(what) << 9


@pytest.mark.parametrize("place", [1, 7, 63])
@pytest.mark.parametrize("what", ["block", "table", "l1"])
def test_a_table_that_names_a_structure_twice_is_refused(place: int, what: str) -> None:
    entry = (named(what) << 9).to_bytes(8, "big")
    table = named("table") << 9
    image = replace(small(4), patches=((table + 8 * place, entry),)).build()
    answer, _ = recode(image, 5)
    assert answer.refusals == ("overlap",)
    assert answer.details["offset"] == named(what) << 9


def test_a_structure_that_something_else_has_too_keeps_the_other_user() -> None:
    image = replace(small(4), refcounts={named("block"): 2}).build()
    _, after = recode(image, 5)
    expect_recoded(image, after)
    assert stored_refcounts(Reader(after))[named("block")] == 1


@pytest.mark.parametrize("order", [0, 3, 6])
def test_blocks_that_count_nothing_are_not_made(order: int) -> None:
    image = small(5, 12).build()
    header = parse_header(image)
    block = len(image)
    longer = bytearray(image + bytes(4096))
    put(longer, header.refcount_table_offset + 8 * 40, block)
    first = int.from_bytes(image[header.refcount_table_offset :][:8], "big")
    put(longer, first + 4 * (block >> 12), 1, 4)
    _, after = recode(bytes(longer), order)
    expect_recoded(bytes(longer), after)
    assert len(structure(after)) == 2


def device(holes: list[int], size: int, order: int = 4) -> bytes:
    """An image on a device, with free clusters that held something."""
    image = replace(small(order), holes=holes).build().ljust(size << 9, b"\xaa")
    data = bytearray(image)
    for hole in holes:
        data[hole << 9 : (hole + 1) << 9] = b"\xbb" * SECTOR
    return bytes(data)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("holes", [[], [3], [5, 6, 9, 12], list(range(4, 40, 2))])
def test_a_device_takes_free_clusters_wherever_they_are(holes: list[int], order: int) -> None:
    image = device(holes, 120)
    answer, after = recode(image, order, fixed_size=True, max_growth=0)
    if order == 4:
        return
    assert answer.planned, answer.details
    assert len(after) == len(image)
    expect_recoded(image, after)
    assert structure(after) & set(holes) == set(holes[: len(structure(after))])
    written = {
        write.offset + at for write in answer.writes for at in range(0, len(write.data), 512)
    }
    assert written == {0} | {cluster << 9 for cluster in structure(after)}


def test_on_a_device_only_the_table_is_in_a_row() -> None:
    """Refcounts of 64 bits for many clusters: a table of two clusters."""
    clusters = {n: Data(b"d") for n in range(4200)}
    image = Image(cluster_bits=9, size=4200 << 9, clusters=clusters, holes=range(3, 400, 3)).build()
    image = image.ljust(len(image) + (20 << 9), b"\xaa")
    answer, after = recode(image, 6, fixed_size=True, max_growth=0)
    assert answer.planned, answer.details
    header = parse_header(after)
    assert header.refcount_table_clusters == 2
    assert header.refcount_table_offset >= len(image) - (20 << 9)
    expect_recoded(image, after)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("what", ["l1_table", "snapshot_table", "bitmap_directory"])
def test_on_a_device_no_table_is_taken_that_counts_as_free(what: str, before: int) -> None:
    """The new table would lie on it, or the block after that."""
    bitmaps = [Bitmap(name=b"b", dirty=(0,), granularity_bits=9)]
    image = small(4, bitmaps=bitmaps, snapshots=[Snapshot(name=b"s")])
    place = image.regions()[what].start
    free = [*range(1, 1 + before), place >> 9]
    data = replace(image, refcounts=dict.fromkeys(free, 0)).build()
    answer, _ = recode(data + bytes(SECTOR), 5, fixed_size=True, max_growth=0)
    assert answer.refusals == ("overlap",)
    assert answer.details["offset"] == place


def test_on_a_device_no_part_of_a_new_table_is_taken_that_counts_as_free() -> None:
    """Two clusters in a row: data that count as free, and then the L1 table."""
    clusters = {n: Data(b"d") for n in range(4200)}
    image = Image(cluster_bits=9, size=4200 << 9, clusters=clusters)
    table = image.regions()["l1_table"].start >> 9
    data = replace(image, refcounts={table - 1: 0, table: 0}).build() + bytes(200 << 9)
    answer, _ = recode(data, 6, fixed_size=True, max_growth=0)
    assert answer.refusals == ("overlap",)
    assert answer.details["offset"] == table - 1 << 9
    assert answer.details["other_user"] == abi.AMEND_USE_L1_TABLE


@pytest.mark.parametrize("free", [0, 1])
def test_a_device_without_room_is_refused(free: int) -> None:
    image = device([], (len(small(4).build()) >> 9) + free)
    answer, _ = recode(image, 6, fixed_size=True, max_growth=0)
    assert answer.refusals == ("device_full",)


def test_the_growth_that_is_allowed_is_kept_to() -> None:
    image = small(4, 12).build()
    answer, after = recode(image, 5)
    needed = len(after) - len(image)
    assert recode(image, 5, max_growth=needed)[0].planned
    answer, _ = recode(image, 5, max_growth=needed - 1)
    assert answer.refusals == ("growth",)
    assert answer.details["needed"] == needed


@pytest.mark.parametrize("order", [order for order in ORDERS if order != 4])
def test_version_2_has_refcounts_of_16_bits_alone(order: int) -> None:
    image = Image(version=2).build()
    answer = ask(load_planner(), image, request(order))
    assert answer.refusals == ("refcount_bits_v2",)
    assert answer.details == {"refcount_bits": 1 << order}
    down = AmendRequest.of(compat=2, refcount_bits=1 << order)
    assert "refcount_bits_v2" in ask(load_planner(), Image().build(), down).refusals
    assert not recode(image, 4)[0].amended


@pytest.mark.parametrize("order", [order for order in ORDERS if order != 4])
def test_an_upgrade_and_lazy_refcounts_come_with_the_same_switch(order: int) -> None:
    image = Image(version=2, cluster_bits=12, clusters={1: Data(b"d")}).build()
    asked = AmendRequest.of(
        compat=3, lazy_refcounts=True, refcount_bits=1 << order, max_growth=GROWTH
    )
    answer = ask(load_planner(), image, asked)
    assert answer.planned, answer.refusals
    assert answer.atomic
    accepted_by_contract(image, asked, answer)
    after = apply(image, answer.writes)
    header = parse_header(after)
    assert (header.version, header.refcount_order, header.compatible_features) == (3, order, 1)
    expect_recoded(image, after)
    assert {write.phase for write in answer.writes} == {0, abi.INSTAR_PHASE_SWITCH}


@pytest.mark.parametrize("order", [order for order in ORDERS if order != 4])
def test_on_a_device_each_new_structure_is_one_write(order: int) -> None:
    """A block of a few counts and many zeros too, which come to the counts in a second piece."""
    image = small(4, bits=16).build().ljust(60 << 16, b"\0")
    answer, _ = recode(image, order, fixed_size=True, max_growth=0)
    assert answer.planned, answer.refusals
    prepared = [len(write.data) for write in answer.writes if write.phase == 0]
    assert prepared == [1 << 16, 1 << 16]
