"""The write contract on a change of the size: what an honest guest stages, and lies about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.terms import Claim
from instar.vmm.request import AmendRequest
from tests.support.disks import with_size
from tests.support.forge import Bitmap, Data, Extension, Image, RawEntry, Reader, Snapshot, Zero
from tests.support.forge.bitmaps import IN_USE
from tests.support.forge.model import Model
from tests.support.planner import ask
from tests.support.planning import SECTOR, Case, Phases
from tests.support.project import load_planner

PREPARE, SWITCH, RELEASE = (
    abi.INSTAR_PHASE_PREPARE,
    abi.INSTAR_PHASE_SWITCH,
    abi.INSTAR_PHASE_RELEASE,
)
BITS = 9
COUNT = 200
CLUSTERS = {n: Data(b"d") for n in range(0, COUNT, 2)}
LAYERS = Image(
    cluster_bits=BITS,
    size=COUNT << BITS,
    clusters=CLUSTERS,
    snapshots=[Snapshot(name=b"s", clusters={n: Data(b"d") for n in range(0, COUNT, 4)})],
)
SHRUNK = 70 << BITS
"""Within the second L2 table, which has entries behind it."""
SIZE, L1_SIZE, L1_OFFSET = 24, 36, 40  # in the header


def resized(data: bytes, size: int, **permissions: Any) -> Case:
    """What the planner makes of an image that it must not refuse."""
    allowed = {"shrink": True, "max_growth": 1 << 30, **permissions}
    request = AmendRequest.of(size=size, **allowed)
    answer = ask(load_planner(), data, request)
    assert answer.planned, answer.refusals
    phases: Phases = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
    for write in answer.writes:
        for at in range(0, len(write.data), SECTOR):
            part = write.data[at : at + SECTOR]
            phases[write.phase][(write.offset + at) // SECTOR] = part
    return Case(data, request, phases, answer.claim)


def shrink() -> Case:
    return resized(LAYERS.build(), SHRUNK)


def grow() -> Case:
    """What hides behind the end goes: two L2 tables, and a part of one."""
    return resized(with_size(LAYERS.build(), SHRUNK), COUNT << BITS)


def grow_over_backing() -> Case:
    image = Image(cluster_bits=BITS, size=70 << BITS, backing_file=b"b", clusters={1: Data(b"d")})
    return resized(image.build(), 300 << BITS)


def grow_within_a_cluster() -> Case:
    image = Image(cluster_bits=12, size=1 << 14, clusters={1: Data(b"d")})
    return resized(with_size(image.build(), 4096 + 700), 1 << 14)


def l1_of(case: Case) -> int:
    """Where the new L1 table is."""
    return int.from_bytes(case.phases[SWITCH][0][L1_OFFSET : L1_OFFSET + 8], "big")


def word(case: Case, offset: int) -> int:
    data = case.amended()[offset : offset + 8]
    return int.from_bytes(data, "big")


def put(case: Case, offset: int, value: int, phase: int = PREPARE) -> None:
    case.put(offset, value.to_bytes(8, "big"), phase)


def table_of(case: Case, index: int) -> int:
    """Where the L2 table is that an entry of the new L1 table names."""
    return word(case, l1_of(case) + 8 * index) & 0x00FFFFFFFFFFFE00


def exchange_l1_entries(case: Case) -> None:
    first, second = (word(case, l1_of(case) + at) for at in (0, 8))
    put(case, l1_of(case), second)
    put(case, l1_of(case) + 8, first)


def change_l1_entry(case: Case) -> None:
    put(case, l1_of(case), word(case, l1_of(case)) + (1 << BITS))


def keep_l1_entry(case: Case) -> None:
    header = Reader(case.data).header
    old = int.from_bytes(case.data[header.l1_table_offset + 16 :][:8], "big")
    put(case, l1_of(case) + 16, old)


def drop_l1_entry(case: Case) -> None:
    put(case, l1_of(case), 0)


def change_copied_entry(case: Case) -> None:
    put(case, table_of(case, 1), word(case, table_of(case, 1)) ^ 1 << BITS)


def keep_entry(case: Case) -> None:
    header = Reader(case.data).header
    old_l1 = header.l1_table_offset + 8
    old = int.from_bytes(case.data[old_l1 : old_l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    entry = int.from_bytes(case.data[old + 8 * 10 :][:8], "big")
    put(case, table_of(case, 1) + 8 * 10, entry)


def release_twice(case: Case) -> None:
    """One reference too many of the first refcount that falls."""
    sector, data = next(iter(case.phases[RELEASE].items()))
    before = case.phases[PREPARE].get(sector, case.data[sector * SECTOR :][:SECTOR])
    at = next(n for n in range(0, SECTOR, 2) if data[n : n + 2] != before[n : n + 2])
    changed = bytearray(data)
    count = int.from_bytes(changed[at : at + 2], "big")
    changed[at : at + 2] = (count + 1).to_bytes(2, "big")
    case.phases[RELEASE][sector] = bytes(changed)


def release_nothing(case: Case) -> None:
    case.phases[RELEASE].clear()


def header_alone(case: Case) -> None:
    """The size alone: what hides is left where it is."""
    old = case.data[:SECTOR]
    size = case.phases[SWITCH][0][SIZE : SIZE + 8]
    case.stage({0: old[:SIZE] + size + old[SIZE + 8 :]})


def another_size(case: Case) -> None:
    case.number(SIZE, SHRUNK + 512)


def longer_l1(case: Case) -> None:
    case.number(L1_SIZE, 3, 4)


def l1_in_use(case: Case) -> None:
    case.number(L1_OFFSET, Reader(case.data).header.l1_table_offset + (1 << BITS))


def l1_in_the_header(case: Case) -> None:
    case.number(L1_OFFSET, 0)


def write_elsewhere(case: Case) -> None:
    case.put(LAYERS.regions()["data[0]"].start, b"x", PREPARE)


SHRINKS: dict[Callable[[Case], None], str] = {
    exchange_l1_entries: "an entry of the L1 table",
    change_l1_entry: "an entry of the L1 table",
    keep_l1_entry: "an entry of the L1 table|L1 table of",
    drop_l1_entry: "an entry of the L1 table",
    change_copied_entry: "an L2 entry before the boundary",
    keep_entry: "an L2 entry behind the boundary",
    release_twice: "add up to",
    release_nothing: "add up to|fewer refcounts",
    another_size: "header field",
    longer_l1: "an L1 table of 3 entries",
    l1_in_use: "which is in use",
    l1_in_the_header: "header",
    write_elsewhere: "for nothing",
}


@pytest.mark.parametrize("make", [shrink, grow, grow_over_backing, grow_within_a_cluster])
def test_what_an_honest_guest_stages_is_committed(make: Callable[[], Case]) -> None:
    case = make()
    assert {change.field for change in case.judge()} >= {"size"}


@pytest.mark.parametrize("lie", SHRINKS, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("make", [shrink, grow])
def test_a_table_that_is_not_as_it_must_be_is_a_fault(
    make: Callable[[], Case], lie: Callable[[Case], None]
) -> None:
    case = make()
    lie(case)
    with pytest.raises(GuestFault) as caught:
        case.judge()
    assert re.search(SHRINKS[lie], str(caught.value)), caught.value


@pytest.mark.parametrize("make", [shrink, grow])
def test_what_is_behind_the_boundary_cannot_stay(make: Callable[[], Case]) -> None:
    case = make()
    header_alone(case)
    with pytest.raises(GuestFault, match=r"boundary|L1 table"):
        case.judge()


def test_a_table_of_zeros_lacks_none() -> None:
    case = grow_over_backing()
    put(case, table_of(case, 2) + 8 * 5, 0)
    with pytest.raises(GuestFault, match="other entries than zeros"):
        case.judge()


def test_what_a_backing_file_has_cannot_show() -> None:
    case = grow_over_backing()
    header_alone(case)
    with pytest.raises(GuestFault, match=r"boundary|L1 table"):
        case.judge()


def test_the_last_cluster_is_cleared_from_the_end_on_and_no_earlier() -> None:
    case = grow_within_a_cluster()
    start = min(n for n in case.phases[PREPARE] if n)
    sector = bytearray(case.phases[PREPARE][start])
    sector[0] ^= 1
    case.phases[PREPARE][start] = bytes(sector)
    with pytest.raises(GuestFault, match="past the old end"):
        case.judge()


def test_the_last_cluster_is_cleared_to_its_end() -> None:
    case = grow_within_a_cluster()
    del case.phases[PREPARE][max(case.phases[PREPARE])]
    with pytest.raises(GuestFault, match="past the old end"):
        case.judge()


def test_the_file_reaches_to_the_end_of_a_new_table() -> None:
    image = Image(size=1 << 30, clusters={0: Data(b"d")})
    case = resized(image.build(), 1 << 46)
    del case.phases[PREPARE][max(case.phases[PREPARE])]
    with pytest.raises(GuestFault, match="of a new table unwritten"):
        case.judge()


def test_a_disk_shrinks_only_where_it_may() -> None:
    case = shrink()
    case.request = AmendRequest.of(size=SHRUNK, max_growth=1 << 30)
    with pytest.raises(GuestFault, match="smaller"):
        case.judge()


def test_a_cluster_that_a_kept_entry_names_is_not_given_up() -> None:
    """By its refcount it has one user, and it has two: the guest could not know."""
    image = Image(cluster_bits=BITS, size=COUNT << BITS, clusters={**CLUSTERS, 3: Zero()})
    data = bytearray(image.build())
    shared = image.regions()["data[100]"].start
    place = image.regions()["l2_table[0]"].start + 8
    data[place : place + 8] = (shared | 1 << 63).to_bytes(8, "big")
    case = resized(bytes(data), SHRUNK)
    with pytest.raises(ImageRejected, match="is used twice"):
        case.judge()


def test_a_snapshot_without_a_size_of_its_own_is_not_resized_with_the_disk() -> None:
    case = grow()
    case.judge()
    at = int.from_bytes(case.data[64:72], "big") + 36  # extra_data_size of the first snapshot
    case.data = case.data[:at] + bytes(4) + case.data[at + 4 :]
    with pytest.raises(GuestFault, match="resizes a snapshot"):
        case.judge()


def drop_bitmaps(flags: int) -> tuple[Case, int]:
    """A disk that grows as far as the same bitmap tables do; and where flags are."""
    bitmaps = [Bitmap(name=b"b", dirty=[1], flags=flags)]
    image = Image(cluster_bits=16, size=1 << 24, clusters={0: Data(b"d")}, bitmaps=bitmaps)
    case = resized(image.build(), 1 << 25, drop_bitmaps=True)
    return case, image.regions()["bitmap_directory"].start + 12


def test_bitmaps_that_do_not_fit_are_dropped_where_that_is_allowed() -> None:
    case, _ = drop_bitmaps(IN_USE)
    assert {change.field for change in case.judge()} >= {"size", "autoclear_features"}
    case.request = AmendRequest.of(size=1 << 25, max_growth=1 << 30)
    with pytest.raises(GuestFault, match=r"header field|phases|extension"):
        case.judge()


def test_bitmaps_that_fit_are_not_dropped() -> None:
    case, flags = drop_bitmaps(IN_USE)
    case.data = case.data[:flags] + bytes(4) + case.data[flags + 4 :]
    with pytest.raises(GuestFault, match="drops bitmaps that fit"):
        case.judge()


def test_bitmaps_that_do_not_fit_cannot_stay() -> None:
    case, flags = drop_bitmaps(0)
    case.judge()
    case.data = case.data[:flags] + IN_USE.to_bytes(4, "big") + case.data[flags + 4 :]
    with pytest.raises(GuestFault, match="an inconsistent bitmap"):
        case.judge()


@pytest.mark.parametrize("new", [512, 5120])
@pytest.mark.parametrize("old", [-512, -1, 0, 1, 100, 511])
def test_a_bitmap_is_of_whole_sectors_before_and_after(old: int, new: int) -> None:
    """A cluster of it is for 4 MiB, which the disk exceeds by so many bytes, or falls short of."""
    most, bits = 1 << 22, 10
    bitmap = Bitmap(name=b"b", granularity_bits=9, dirty=(0,))
    image = Image(cluster_bits=bits, size=most + (old & -SECTOR), bitmaps=[bitmap])
    data = bytearray(with_size(image.build(), most + old))
    data[L1_SIZE : L1_SIZE + 4] = (33).to_bytes(4, "big")  # enough for both
    dropped = resized(bytes(data), most + new, drop_bitmaps=True)
    assert {change.field for change in dropped.judge()} >= {"size", "autoclear_features"}
    fields = {**dropped.claim.fields, "autoclear_features": 1}
    data[SIZE : SIZE + 8] = (most + new).to_bytes(8, "big")
    kept = Case(dropped.data, dropped.request, [], Claim(True, True, fields))
    kept.stage({0: bytes(data[:SECTOR])})
    with pytest.raises(GuestFault, match="bitmaps that do not fit"):
        kept.judge()


@pytest.mark.parametrize(("old", "new"), [(512, 1024), (513, 1024), (1023, 5120), (-513, 0)])
def test_a_bitmap_stays_if_the_whole_sectors_need_no_other_table(old: int, new: int) -> None:
    most = 1 << 22
    bitmap = Bitmap(name=b"b", granularity_bits=9, dirty=(0,))
    image = Image(cluster_bits=10, size=most + (old & -SECTOR), bitmaps=[bitmap])
    case = resized(with_size(image.build(), most + old), most + new, drop_bitmaps=True)
    assert {change.field for change in case.judge()} == {"size"}


def test_what_dropped_bitmaps_take_is_given_up() -> None:
    case, _ = drop_bitmaps(IN_USE)
    release_nothing(case)
    with pytest.raises(GuestFault, match=r"fewer refcounts|add up to"):
        case.judge()


def test_version_2_gets_no_zero_clusters_over_a_backing_file() -> None:
    """In version 3 it is lawful, and the two images differ in nothing but the header."""
    old, new = (
        Image(version=n, size=1 << 20, backing_file=b"b", clusters={0: Data(b"d")}).build()
        for n in (2, 3)
    )
    case = resized(new, 2 << 20)
    case.judge()
    assert old[SECTOR:] == new[SECTOR:]
    header = bytearray(old[:SECTOR])
    header[SIZE : L1_OFFSET + 8] = case.phases[SWITCH][0][SIZE : L1_OFFSET + 8]
    case.data, case.phases[SWITCH][0] = old, bytes(header)
    case.claim = Claim(True, True, {**dict.fromkeys(case.claim.fields, 0), "version": 2})
    with pytest.raises(GuestFault, match="shows in version 2 what the backing file has"):
        case.judge()


def doubled(*, hides: bool) -> tuple[Case, int, int]:
    """A disk ends in a cluster that is also the refcount block of an L1 table that moves.

    Returns where the block is, and the L2 table of a snapshot. `hides` says whether the block has
    anything past the disk's end.
    """
    bits, count = 10, 600
    clusters = {n: Data(bytes([n % 250 + 1])) for n in range(count)}
    image = Image(
        cluster_bits=bits,
        size=(count << bits) + 1000,
        clusters={**clusters, count: RawEntry(1 << 63 | 1 << bits)},
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"S")})],
    )
    data, regions = bytearray(image.build()), image.regions()
    places = {n: regions[f"l2_table[{n // 128}]"].start + 8 * (n % 128) for n in range(count + 1)}
    old_l1, block = regions["l1_table"].start, regions["refcount_block[0]"].start
    # The L1 table goes to a cluster of data that this block counts.
    new_l1 = 100 << bits
    entry = (new_l1 | 1 << 63).to_bytes(8, "big")
    place = next(at for at in places.values() if data[at : at + 8] == entry)
    data[place : place + 8] = bytes(8)
    data[new_l1 : new_l1 + SECTOR] = data[old_l1 : old_l1 + SECTOR]
    data[L1_OFFSET : L1_OFFSET + 8] = new_l1.to_bytes(8, "big")
    at = regions["refcount_block[1]"].start + 2 * ((old_l1 >> bits) - 512)
    data[at : at + 2] = bytes(2)
    data[places[count] : places[count] + 8] = (block | 1 << 63).to_bytes(8, "big")
    for cluster in range(256, 0 if hides else 512):
        entry = (cluster << bits | 1 << 63).to_bytes(8, "big")
        place = next(at for at in places.values() if data[at : at + 8] == entry)
        data[place : place + 8] = bytes(8)
        data[block + 2 * cluster : block + 2 * cluster + 2] = bytes(2)
    case = resized(bytes(data), 200 * 128 << bits)
    return case, block, regions["snapshot[0].l2_table[0]"].start


@pytest.mark.parametrize("hides", [False, True])
def test_a_refcount_block_that_is_the_disks_last_cluster_too_is_not_written(*, hides: bool) -> None:
    """Whichever of its two uses it is written for."""
    case, block, _ = doubled(hides=hides)
    uses = ["data", "a refcount block"]
    first, second = uses if hides else reversed(uses)
    with pytest.raises(ImageRejected, match=f"used twice, as {first} and as {second}"):
        case.judge()
    case.put(block, case.data[block : block + SECTOR], PREPARE)
    with pytest.raises((GuestFault, ImageRejected)):
        case.judge()


@pytest.mark.parametrize("more", [1, 300, 511])
def test_what_a_last_part_of_a_sector_maps_is_behind_the_boundary(more: int) -> None:
    """Readers round the disk's size down: what grows would show it."""
    end = 16 << 9
    image = Image(cluster_bits=9, size=end + 512, clusters={16: Data(b"stale")})
    case = resized(with_size(image.build(), end + more), 2 * end)
    case.judge()
    size = (2 * end).to_bytes(8, "big")
    case.stage({0: case.data[:SIZE] + size + case.data[SIZE + 8 : SECTOR]})
    with pytest.raises(GuestFault, match="behind the boundary"):
        case.judge()


def test_a_bit_of_bitmaps_that_there_are_none_of_stays() -> None:
    image = Image(size=1 << 20, clusters={0: Data(b"d")}, autoclear_features=1)
    case = resized(image.build(), 1 << 21, drop_bitmaps=True)
    assert {change.field for change in case.judge()} == {"size"}


@pytest.mark.parametrize("version", [2, 3])
def test_a_bitmaps_extension_of_no_bytes_is_one_that_is_dropped(version: int) -> None:
    extension = Extension(0x23852875, b"")
    image = Image(size=1 << 20, autoclear_features=1, extensions=(extension,))
    data = image.build()
    header = bytearray(data[:SECTOR])
    if version == 3:
        asked: dict[str, Any] = {"size": 2 << 20}
        header[SIZE : SIZE + 8] = (2 << 20).to_bytes(8, "big")
        header[88:96] = bytes(8)
        header[112:128] = bytes(16)
    else:
        asked = {"compat": 2}
        header[4:8] = (2).to_bytes(4, "big")
        header[72:128] = bytes(56)
    fields = ("incompatible_features", "compatible_features", "autoclear_features")
    claim = Claim(True, True, {**dict.fromkeys(fields, 0), "version": version})
    case = Case(data, AmendRequest.of(drop_bitmaps=True, **asked), [], claim)
    case.stage({0: bytes(header)})
    with pytest.raises(GuestFault, match="malformed bitmaps extension"):
        case.judge()


def test_data_that_are_a_refcount_block_too_are_not_written_whatever_else_changes() -> None:
    """A change of the header's own cluster besides is no reason to look at less."""
    count, bits = 300, 10
    clusters: dict[int, Any] = {n: Data(b"d") for n in range(count)}

    def build(entry: int) -> bytes:
        image = Image(
            cluster_bits=bits,
            size=(count << bits) + SECTOR,
            clusters={**clusters, count: RawEntry(entry)},
            bitmaps=[Bitmap(name=b"b")],
            patches=[(300, b"G" * 60)],
        )
        return image.build()

    block = Model(build(1)).blocks[0][1]
    data, size = build(block | 1 << 63), (count + 1) << bits
    header = bytearray(data[:SECTOR])
    header[SIZE : SIZE + 8] = size.to_bytes(8, "big")
    _, place, last = Model(data).extensions[-1]
    end = place + len(last) + -len(last) % 8
    names = b"".join(bytes([0, n]) + b"name".ljust(46, b"\0") for n in range(5))
    table = (0x6803F857).to_bytes(4, "big") + len(names).to_bytes(4, "big") + names + bytes(8)
    header[end : end + len(table)] = table
    fields = dict.fromkeys(("incompatible_features", "compatible_features"), 0)
    claim = Claim(True, True, {**fields, "version": 3, "autoclear_features": 1})
    case = Case(data, AmendRequest.of(size=size, drop_bitmaps=True), [], claim)
    case.stage({0: bytes(header)})
    case.phases[PREPARE][(block + SECTOR) // SECTOR] = bytes(SECTOR)
    with pytest.raises(ImageRejected, match="used twice, as data and as a refcount block"):
        case.judge()


def test_a_sector_with_two_reasons_hides_none_that_has_no_reason() -> None:
    case, block, table = doubled(hides=False)
    case.put(block, case.data[block : block + SECTOR], PREPARE)
    case.put(table, b"\xff" * SECTOR, PREPARE)
    with pytest.raises((GuestFault, ImageRejected)):
        case.judge()
