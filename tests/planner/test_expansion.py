"""The planner on zero clusters, snapshots and bitmaps: what it stages is sound. Test side.

After each phase the image is read by the forge, layer by layer, and its refcounts are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.abi import INSTAR_PHASE_COUNT, INSTAR_PHASE_MAPPING, INSTAR_PHASE_RELEASE
from instar.vmm.request import AmendRequest
from tests.support.forge import (
    Bitmap,
    Cluster,
    Compressed,
    Data,
    Image,
    Snapshot,
    Unallocated,
    Zero,
    ZeroAllocated,
)
from tests.support.forge.audit import counted_refcounts, faults, stored_refcounts
from tests.support.forge.reader import Reader
from tests.support.planner import Answer, accepted_by_contract, apply, ask

GUEST_CLUSTERS = 24
BACKING = bytes(range(1, 251)) * 60
GROWTH = 1 << 26
# None; many; single ones; and tables behind the 64 refcount blocks that one cluster can name.
HOLES = ((), range(1, 200), range(3, 90, 2), range(1, 16 << 10))

kinds: st.SearchStrategy[Cluster] = st.sampled_from(
    [Data(b"d"), Data(b"e"), Unallocated(), Compressed(b"c"), Zero(), ZeroAllocated(b"z")]
)
layers: st.SearchStrategy[dict[int, Cluster]] = st.dictionaries(
    st.integers(0, GUEST_CLUSTERS - 1), kinds, max_size=GUEST_CLUSTERS
)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """A sound image of version 3, small in all respects."""
    bits = draw(st.sampled_from([9, 9, 10, 12]))
    snapshots = [
        Snapshot(name=b"s%d" % n, clusters=draw(st.none() | layers))
        for n in range(draw(st.integers(0, 3)))
    ]
    return Image(
        cluster_bits=bits,
        size=GUEST_CLUSTERS << bits,
        backing_file=draw(st.sampled_from([None, b"base"])),
        clusters=draw(layers),
        snapshots=snapshots,
        bitmaps=[Bitmap(name=b"b%d" % n, dirty=(0,)) for n in range(draw(st.integers(0, 2)))],
        holes=draw(st.sampled_from(HOLES)),
    )


@st.composite
def old_images(draw: st.DrawFn) -> Image:
    """A sound image of version 2 whose snapshots have any extra data."""
    sizes = st.sampled_from([0, 7, 8, 15, 16, 23, 24, 25, 40, 1024])
    snapshots = [
        Snapshot(name=b"n" * draw(st.integers(0, 300)), extra_data_size=draw(sizes))
        for _ in range(draw(st.integers(1, 12)))
    ]
    bits = draw(st.sampled_from([9, 10, 12]))
    clusters: dict[int, Cluster] = {0: Data(b"d")}
    size = (1 << 14) - draw(st.sampled_from([0, 0, 1, 100, 511]))
    return Image(version=2, cluster_bits=bits, size=size, clusters=clusters, snapshots=snapshots)


def thorough(examples: int) -> settings:
    """Settings for a property: no deadline, and the same examples in every run."""
    unconcerned = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=unconcerned
    )


def visible(data: bytes) -> list[list[bytes]]:
    """What the guest reads, cluster by cluster, of the active layer and of each snapshot."""
    reader = Reader(data, backing=BACKING if data[8:16] != bytes(8) else b"")
    clusters = range(-(-reader.header.size // reader.cluster_size))
    return [[reader.read(n, layer) for n in clusters] for layer in reader.layers]


def stages(data: bytes, answer: Answer) -> Iterator[tuple[int, bytes]]:
    """The image behind each phase that writes anything, with the phase."""
    for phase in range(INSTAR_PHASE_COUNT):
        if any(write.phase == phase for write in answer.writes):
            data = apply(data, [write for write in answer.writes if write.phase == phase])
            yield phase, data


def assert_sound(data: bytes, request: AmendRequest, answer: Answer) -> bytes:
    """Every phase leaves what reads as before; returns the last one's image, which is faultless."""
    contents = visible(data)
    accepted_by_contract(data, request, answer)
    amended = data
    for phase, amended in stages(data, answer):
        assert visible(amended) == contents
        reader = Reader(amended)
        stored, counted = stored_refcounts(reader), counted_refcounts(reader)
        assert not [n for n, count in counted.items() if stored.get(n, 0) < count]
        if phase < INSTAR_PHASE_RELEASE:
            assert not [fault for fault in faults(reader) if "COPIED" in fault]
    assert faults(Reader(amended)) == []
    return amended


@thorough(250)
@given(image=images())
def test_an_expansion_reads_as_before_after_every_phase(planner: Any, image: Image) -> None:
    data = image.build()
    assert faults(Reader(data)) == []
    request = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=GROWTH)
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    assert not answer.misuse
    amended = assert_sound(data, request, answer)
    assert not any(
        entry.descriptor.cluster.reads_as_zeros
        for layer in Reader(amended).layers
        for index, l1_entry in Reader(amended).l1_entries(layer)
        for _, entry in Reader(amended).l2_entries_in(index, l1_entry)
        if not entry.descriptor.compressed
    )
    back = AmendRequest.of(compat=3, max_growth=GROWTH)
    again = ask(planner, amended, back)
    assert again.planned
    assert visible(assert_sound(amended, back, again)) == visible(data)


@thorough(100)
@given(image=old_images())
def test_a_snapshot_table_is_completed_and_says_the_same(planner: Any, image: Image) -> None:
    data = image.build()
    request = AmendRequest.of(compat=3, max_growth=GROWTH)
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    before, after = Reader(data), Reader(assert_sound(data, request, answer))
    short = any(snapshot.extra_data_size < 16 for snapshot in before.snapshots)
    moved = before.header.snapshots_offset != after.header.snapshots_offset
    assert moved == short
    for old, new in zip(before.snapshots, after.snapshots, strict=True):
        names = ("id", "name", "l1_table_offset", "l1_size", "date_sec", "vm_clock_nsec")
        assert [old[name] for name in names] == [new[name] for name in names]
        assert new.extra_data_size == (
            max(24, old.extra_data_size) if moved else old.extra_data_size
        )
        # One that is new is of whole sectors: qemu could not apply the snapshot otherwise.
        assert new.extra_data.disk_size in {image.size & -512, old.extra_data.disk_size}


@pytest.mark.parametrize("extra", [0, 8, 16, 24])
@pytest.mark.parametrize(
    "options",
    [
        {"lazy_refcounts": True},
        {"compat": 3, "lazy_refcounts": True},
        {"refcount_bits": 32},
        {"backing_file": b"x", "backing_fmt": b"raw", "change_backing": True},
    ],
)
def test_what_a_version_3_image_has_of_snapshots_no_other_option_completes(
    planner: Any, options: dict[str, Any], extra: int
) -> None:
    image = Image(cluster_bits=12, snapshots=[Snapshot(name=b"s", extra_data_size=extra)])
    data, request = image.build(), AmendRequest.of(max_growth=GROWTH, **options)
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    accepted_by_contract(data, request, answer)
    before, after = Reader(data), Reader(apply(data, answer.writes))
    assert before.header.snapshots_offset == after.header.snapshots_offset
    assert before.snapshots == after.snapshots


@pytest.mark.parametrize("count", [1, 10, 18, 34])
def test_a_snapshot_table_is_filled_up_with_zeros_to_the_end_of_its_cluster(
    planner: Any, count: int
) -> None:
    """A piece of 1 MiB at a time, in a cluster of 2 MiB."""
    snapshots = [
        Snapshot(name=b"%d" % n * 30_000, extra_data_size=0) for n in range(10, 10 + count)
    ]
    data = Image(version=2, cluster_bits=21, size=1 << 21, snapshots=snapshots).build()
    request = AmendRequest.of(compat=3, max_growth=GROWTH)
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    after = apply(data, answer.writes)
    names = [snapshot.name for snapshot in snapshots]
    assert [snapshot.name for snapshot in Reader(after).snapshots] == names
    start = Reader(after).header.snapshots_offset
    table = after[start : start + (1 << 21)]
    assert len(table) == 1 << 21
    assert not any(table[count * (60_000 + 72) :])


def test_where_nothing_is_given_up_no_refcount_is_written_twice(planner: Any) -> None:
    clusters: dict[int, Cluster] = {0: Zero(), 1: Zero()}
    image = Image(cluster_bits=12, size=1 << 16, backing_file=b"base", clusters=clusters)
    answer = ask(planner, image.build(), AmendRequest.of(compat=2, max_growth=GROWTH))
    assert answer.planned, answer.refusals
    assert INSTAR_PHASE_RELEASE not in {write.phase for write in answer.writes}


def test_new_refcount_blocks_are_written_in_more_than_one_piece(planner: Any) -> None:
    """A piece has 64 KiB, or 128 blocks: the new table is of more clusters than they count."""
    snapshots = [Snapshot(name=b"n" * 65_000, extra_data_size=0) for _ in range(270)]
    data = Image(version=2, cluster_bits=9, size=1 << 14, snapshots=snapshots).build()
    request = AmendRequest.of(compat=3, max_growth=GROWTH)
    answer = ask(planner, data, request, work_max=1 << 40)
    assert answer.planned, answer.refusals
    after = apply(data, answer.writes)
    assert len(after) - len(data) > 128 * 256 * 512
    assert faults(Reader(after)) == []


@pytest.mark.parametrize("apart", [320, 400, 1400, 8192])
def test_sectors_of_many_tables_are_staged_before_others_take_their_memory(
    planner: Any, apart: int
) -> None:
    """18 tables, of which 16 are read at once: they change more or fewer than wait together."""
    zeros: dict[int, Cluster] = {n: Zero() for n in range(7, 18 * 8192, apart)}
    data = Image(cluster_bits=16, size=18 << 29, clusters=zeros).build()
    request = AmendRequest.of(compat=2)
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    assert not answer.misuse
    accepted_by_contract(data, request, answer)
    staged = {write.offset for write in answer.writes if write.phase == INSTAR_PHASE_MAPPING}
    assert len(staged) == len(zeros)
    after = apply(data, answer.writes)
    reader = Reader(after)
    assert faults(reader) == []
    assert not [n for at, table in reader.l1_entries() for n in reader.l2_entries_in(at, table)]


def test_a_refusal_to_grow_names_all_that_is_needed(planner: Any) -> None:
    zeros: dict[int, Cluster] = dict.fromkeys(range(GUEST_CLUSTERS), Zero())
    image = Image(cluster_bits=12, size=GUEST_CLUSTERS << 12, backing_file=b"b", clusters=zeros)
    answer = ask(planner, image.build(), AmendRequest.of(compat=2, max_growth=5 << 12))
    assert answer.refusals == ("growth",)
    assert answer.details == {"needed": (GUEST_CLUSTERS + 1) << 12, "allowed": 5 << 12}


def test_an_empty_backing_file_name_is_none(planner: Any) -> None:
    image = Image(cluster_bits=12, size=1 << 14, backing_file=b"", clusters={0: Zero()})
    data = image.build()
    answer = ask(planner, data, AmendRequest.of(compat=2, max_growth=GROWTH))
    assert answer.planned
    assert not any(write.zeroes for write in answer.writes)
    accepted_by_contract(data, AmendRequest.of(compat=2, max_growth=GROWTH), answer)
