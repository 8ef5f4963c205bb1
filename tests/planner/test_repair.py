"""Test side: a repair makes refcounts and flags what the tables say, and nothing else.

The planner runs in the test's process, and the host judges each plan; the forge's readers count.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Compressed, Data, Extension, Image, Snapshot, ZeroAllocated
from tests.support.forge.audit import counted_refcounts, faults, stored_refcounts
from tests.support.forge.clusters import Cluster, RawEntry
from tests.support.forge.reader import Reader
from tests.support.planner import accepted_by_contract, apply, ask
from tests.support.project import load_planner

GROWTH = 1 << 30
REPAIR = AmendRequest.of(repair=True, max_growth=GROWTH)
ALL = AmendRequest.of(mends="all", max_growth=GROWTH)
LEAKS = AmendRequest.of(mends="leaks", max_growth=GROWTH)

MANY: dict[int, Cluster] = {n: Data(b"%d" % n) for n in range(0, 90, 2)}
MIXED: dict[int, Cluster] = {
    0: Data(b"a"),
    1: ZeroAllocated(),
    2: Compressed(b"c" * 40),
    3: Compressed(b"d" * 40),
    70: Data(b"e"),
}
SMALL = Image(cluster_bits=9, size=100 << 9, clusters=MANY, dirty=True)
IMAGES = {
    "small": SMALL,
    "64 KiB": Image(clusters=MIXED, dirty=True),
    "mixed": Image(cluster_bits=9, size=100 << 9, clusters=MIXED, dirty=True),
    "snapshots": Image(
        cluster_bits=9,
        size=100 << 9,
        clusters=MANY,
        snapshots=[Snapshot(name=b"s"), Snapshot(name=b"t", clusters=MIXED)],
        dirty=True,
    ),
    "bitmaps": replace(SMALL, bitmaps=[Bitmap(name=b"b", dirty=(0, 3), granularity_bits=9)]),
    "extended L2": Image(
        cluster_bits=14, size=1 << 21, clusters={0: Data(b"a")}, extended_l2=True, dirty=True
    ),
    **{f"{1 << order} bits": replace(SMALL, refcount_order=order) for order in (0, 1, 2, 3, 5, 6)},
}

V2 = [Snapshot(name=b"s", clusters={0: Data(b"other")})]


def repaired(image: bytes, request: AmendRequest) -> bytes:
    """The image after a plan that the host has judged."""
    answer = ask(load_planner(), image, request)
    assert answer.planned, answer.refusals
    assert not answer.misuse
    accepted_by_contract(image, request, answer)
    return apply(image, answer.writes)


def refusals(image: bytes, request: AmendRequest) -> tuple[str, ...]:
    answer = ask(load_planner(), image, request)
    assert not answer.planned
    return answer.refusals


def layers(image: bytes) -> list[list[bytes]]:
    reader = Reader(image)
    clusters = range(-(-reader.header.size // reader.cluster_size))
    return [[reader.read(n, layer) for n in clusters] for layer in reader.layers]


def is_dirty(image: bytes) -> bool:
    return bool(image[79] & 1)


def damaged(image: Image, how: str) -> bytes:
    """The image with other refcounts than it should have."""
    leaks = dict.fromkeys((5, 6, 7), 1)
    image = replace(image, holes=tuple(leaks))
    counted = counted_refcounts(Reader(image.build()))
    most = (1 << (1 << image.refcount_order)) - 1
    counts: Mapping[int, int]
    if how == "all 0":
        counts = dict.fromkeys(counted, 0)
    elif how == "too high":
        counts = leaks | {n: min(count + 1, most) for n, count in counted.items()}
    elif how == "leaked":
        counts = leaks
    else:
        chance = random.Random(how)  # noqa: S311 - the same in every run
        counts = {n: chance.randrange(min(most, 4) + 1) for n in counted}
    data = replace(image, refcounts=counts).build()
    assert faults(Reader(data))
    return data


@pytest.mark.parametrize("how", ["all 0", "too high", "leaked", "one", "two"])
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("request_", [REPAIR, ALL], ids=["amend", "check"])
def test_wrong_refcounts_become_those_of_the_tables(
    name: str, how: str, request_: AmendRequest
) -> None:
    image = damaged(IMAGES[name], how)
    after = repaired(image, request_)
    assert faults(Reader(after)) == []
    assert layers(after) == layers(image)
    assert not is_dirty(after)
    again = ask(load_planner(), after, request_)
    assert (again.planned, again.amended) == (True, False)


@pytest.mark.parametrize("how", ["all 0", "too high", "leaked", "one"])
def test_an_image_of_version_2_is_repaired_too(how: str) -> None:
    image = damaged(replace(IMAGES["snapshots"], version=2, snapshots=V2, dirty=False), how)
    after = repaired(image, ALL)
    assert faults(Reader(after)) == []
    assert layers(after) == layers(image)


@pytest.mark.parametrize("name", IMAGES)
def test_a_dirty_image_without_an_error_just_gets_clean(name: str) -> None:
    image = IMAGES[name].build()
    after = repaired(image, REPAIR)
    assert [n for n in range(len(image)) if image[n] != after[n]] == [79]


@pytest.mark.parametrize("name", IMAGES)
def test_leaks_fall_where_they_are_and_nothing_else_changes(name: str) -> None:
    image = damaged(replace(IMAGES[name], dirty=False), "leaked")
    after = repaired(image, LEAKS)
    assert faults(Reader(after)) == []
    assert len(after) == len(image)
    assert layers(after) == layers(image)


def test_with_errors_beside_them_only_leaks_go_and_the_image_stays_dirty() -> None:
    counted = counted_refcounts(Reader(SMALL.build()))
    low, high = sorted(counted)[-2:]
    image = replace(SMALL, refcounts={low: 0, high: 3}).build()
    after = repaired(image, LEAKS)
    assert is_dirty(after)
    stored = stored_refcounts(Reader(after))
    assert (stored.get(low, 0), stored[high]) == (0, 1)
    assert sum(a != b for a, b in zip(image, after, strict=True)) == 1


def test_a_clean_image_is_amended_as_it_is() -> None:
    image = replace(SMALL, dirty=False, refcounts={9: 7}).build()
    answer = ask(load_planner(), image, REPAIR)
    assert (answer.planned, answer.amended, answer.writes) == (True, False, ())


def test_flags_alone_are_mended_without_new_refcounts() -> None:
    image = bytearray(replace(SMALL, dirty=False).build())
    regions = SMALL.regions()
    for place in (regions["l1_table"].start, regions["l2_table[0]"].start):
        image[place] ^= 0x80
    assert faults(Reader(bytes(image)))
    after = repaired(bytes(image), ALL)
    assert faults(Reader(after)) == []
    assert len(after) == len(image)


@pytest.mark.parametrize("bits", [9, 10, 12, 16])
@pytest.mark.parametrize("apart", [1, 2, 3, 4, 5])
def test_wrong_flags_in_sectors_that_are_near_are_mended_and_nothing_between(
    bits: int, apart: int
) -> None:
    """What lies between two sectors that change is not staged: of a repair nothing is spare."""
    per = 64
    places = [n * apart * per for n in range(3)]
    clusters = {n: Data(b"d") for n in (range(places[-1] + 1) if bits < 16 else places)}
    clean = Image(cluster_bits=bits, size=1024 << bits, clusters=clusters).build()
    image, reader = bytearray(clean), Reader(clean)
    tables = dict(reader.l1_entries())
    for place in places:
        index, at = divmod(place, reader.l2_entries)
        image[tables[index].l2_table_offset + 8 * at] ^= 0x80
    assert repaired(bytes(image), ALL) == clean


def test_a_refcount_table_that_names_anything_is_written_anew() -> None:
    clean = SMALL.build()
    table = Reader(clean).header.refcount_table_offset
    data = SMALL.regions()["data[0]"].start
    for entry in (0, 1 << 9, data, 1 << 40, table, 0x201):
        image = clean[:table] + entry.to_bytes(8, "big") + clean[table + 8 :]
        after = repaired(image, ALL)
        assert faults(Reader(after)) == []
        assert layers(after) == layers(image)
        if entry != 0:
            assert refusals(image, LEAKS) == ("repair_refcounts",)


REFUSED: dict[str, tuple[Image, str]] = {
    "an entry beyond the end": (
        replace(SMALL, clusters={0: RawEntry(1 << 63 | 1 << 40)}),
        "repair_entry",
    ),
    "an entry that is not aligned": (
        replace(SMALL, cluster_bits=12, size=1 << 20, clusters={0: RawEntry(1 << 63 | 0x1200)}),
        "repair_entry",
    ),
    "an entry just beyond the end": (
        replace(SMALL, clusters={0: RawEntry(1 << 63 | len(SMALL.build()))}),
        "repair_entry",
    ),
    "reserved bits": (
        replace(SMALL, clusters={0: Data(b"a"), 1: RawEntry(1 << 63 | 1 << 57)}),
        "repair_entry",
    ),
    "an unknown extension": (
        replace(SMALL, extensions=(Extension(0x11111111, b"?"),)),
        "repair_extension",
    ),
    "a corrupt image": (replace(SMALL, corrupt=True), "corrupt"),
}


@pytest.mark.parametrize("request_", [REPAIR, ALL, LEAKS], ids=["amend", "all", "leaks"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_only_a_guess_could_repair_is_refused_by_name(
    name: str, request_: AmendRequest
) -> None:
    image, reason = REFUSED[name]
    assert refusals(image.build(), request_)[0] == reason


def test_an_entry_that_names_a_table_is_refused_as_an_overlap() -> None:
    clean = SMALL.build()
    places = SMALL.regions()
    for name in ("l1_table", "l2_table[0]"):
        entry = (1 << 63 | places[name].start).to_bytes(8, "big")
        at = places["l2_table[0]"].start
        image = clean[:at] + entry + clean[at + 8 :]
        assert refusals(image, REPAIR) == ("overlap",)


def test_data_in_an_old_refcount_block_stay_what_they_are_and_are_nothing_else() -> None:
    clean = SMALL.build()
    places = SMALL.regions()
    block = next(place for name, place in places.items() if name.startswith("refcount_block"))
    at = places["l2_table[0]"].start
    image = clean[:at] + (1 << 63 | block.start).to_bytes(8, "big") + clean[at + 8 :]
    after = repaired(image, REPAIR)
    assert faults(Reader(after)) == []
    assert layers(after) == layers(image)
    assert refusals(image, LEAKS) == ("repair_refcounts",)


def test_more_users_than_a_refcount_can_count_are_refused() -> None:
    image = Image(
        cluster_bits=9,
        size=100 << 9,
        clusters=MANY,
        snapshots=[Snapshot(name=b"s")],
        refcount_order=0,
        refcounts=dict.fromkeys(range(200), 1),
        dirty=True,
    )
    assert refusals(image.build(), REPAIR) == ("refcount_overflow",)


def test_what_may_not_grow_is_refused_with_what_it_needs() -> None:
    image = damaged(SMALL, "all 0")
    assert refusals(image, AmendRequest.of(repair=True, max_growth=512)) == ("growth",)


DEVICES = ["all 0", "one", "two"]


@pytest.mark.parametrize("how", DEVICES)
def test_on_a_device_new_refcounts_take_what_nothing_refers_to(how: str) -> None:
    request = AmendRequest.of(repair=True, fixed_size=True)
    image = damaged(SMALL, how).ljust(400 << 9, b"\xaa")
    after = repaired(image, request)
    assert len(after) == len(image)
    assert faults(Reader(after)) == []
    assert layers(after) == layers(image)
    full = replace(SMALL, refcounts=dict.fromkeys(range(9), 0)).build()
    assert refusals(full, request) == ("device_full",)


@pytest.mark.parametrize("seed", range(60))
def test_any_refcounts_at_all_can_be_repaired(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same in every run
    image: dict[str, Any] = {
        "cluster_bits": chance.choice((9, 10, 12)),
        "size": 64 << 10,
        "clusters": {n: Data(bytes([n + 1])) for n in range(16) if chance.random() < 0.5},
        "snapshots": [Snapshot(name=b"s")] * chance.randrange(2),
        "refcount_order": chance.choice((1, 2, 3, 4, 5, 6)),
        "dirty": True,
    }
    counted = counted_refcounts(Reader(Image(**image).build()))
    damage = {n: chance.randrange(4) for n in range(max(counted) + 1) if chance.random() < 0.4}
    data = Image(**image, refcounts=damage).build()
    for request in (REPAIR, LEAKS):
        after = repaired(data, request)
        assert layers(after) == layers(data)
        stored, needed = stored_refcounts(Reader(after)), counted_refcounts(Reader(after))
        if request is REPAIR:
            assert faults(Reader(after)) == []
        else:
            assert all(stored[n] <= needed[n] for n in stored)
