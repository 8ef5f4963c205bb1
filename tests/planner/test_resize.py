"""The planner on another size of the disk: it is the old one, cut or extended by zeros. Test side.

After each phase the image is read by the forge, layer by layer, and its refcounts are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.abi import INSTAR_PHASE_SWITCH
from instar.vmm.request import AmendRequest
from tests.planner.test_expansion import stages, thorough
from tests.support.disks import BACKING, disk, snapshots, with_size
from tests.support.forge import (
    Cluster,
    Compressed,
    Data,
    Image,
    Snapshot,
    Subclusters,
    Unallocated,
    Zero,
    ZeroAllocated,
)
from tests.support.forge.audit import counted_refcounts, faults, stored_refcounts
from tests.support.forge.reader import Reader
from tests.support.planner import SECTOR, Answer, accepted_by_contract, ask

GROWTH = 1 << 30

KINDS: list[Cluster] = [
    *(Data(b"d"), Data(b"data"), Unallocated(), Compressed(b"c"), Zero(), ZeroAllocated(b"z")),
]
PARTS: list[Cluster] = [
    *KINDS,
    Subclusters({0: Data(b"p"), 3: Zero(), 9: Data(b"q"), 30: Data(b"r"), 31: Zero()}),
    Subclusters({n: Data(b"s") for n in range(20)}),
]


@dataclass(frozen=True)
class Resize:
    """An image that may have more than its disk shows, and what is asked of it."""

    data: bytes
    size: int
    backing_size: int | None = None
    device: bool = False

    @property
    def request(self) -> AmendRequest:
        """What is asked for."""
        growth = 0 if self.device else GROWTH
        options: dict[str, Any] = {"max_growth": growth, "fixed_size": self.device}
        options |= {"shrink": True, "backing_size": self.backing_size}
        return AmendRequest.of(size=self.size, **options)


def compressed_tail(data: bytes, end: int) -> bytes:
    """What a compressed cluster has past the end of the disk, which a larger one shows."""
    reader = Reader(data, backing=BACKING)
    index, start = divmod(end, reader.cluster_size)
    if not start or not reader.entry(index).descriptor.compressed:
        return b""
    return reader.read_whole(index)[start:]


def assert_resized(planner: Any, case: Resize, answer: Answer) -> bytes:
    """Each phase leaves the old disk or the new one, and the last one an image without a fault."""
    data, request = case.data, case.request
    assert not answer.misuse
    accepted_by_contract(data, request, answer)
    old, others = disk(data), snapshots(data)
    new = (old + compressed_tail(data, len(old)))[: case.size].ljust(case.size, b"\0")
    after = data
    for phase, after in stages(data, answer):
        assert disk(after) == (new if phase >= INSTAR_PHASE_SWITCH else old), phase
        assert snapshots(after) == others, phase
        reader = Reader(after)
        stored, counted = stored_refcounts(reader), counted_refcounts(reader)
        assert not [n for n, count in counted.items() if stored.get(n, 0) < count], phase
    assert faults(Reader(after)) == []
    again = ask(planner, after, request)
    assert (again.planned, again.amended, again.refusals) == (True, False, ())
    return after


@st.composite
def layers(draw: st.DrawFn, kinds: list[Cluster], count: int) -> dict[int, Cluster]:
    """Clusters of one layer: some runs, and single ones."""
    found: dict[int, Cluster] = {}
    for _ in range(draw(st.integers(0, 4))):
        first, kind = draw(st.integers(0, count - 1)), draw(st.sampled_from(kinds))
        for n in range(first, min(first + draw(st.sampled_from([1, 1, 2, 9, 70])), count)):
            found[n] = kind
    return found


@st.composite
def resizes(draw: st.DrawFn) -> Resize:
    """A sound image, small in all respects, and a new size near some boundary."""
    extended = draw(st.sampled_from([False, False, True]))
    bits = 14 if extended else draw(st.sampled_from([9, 9, 10]))
    count = 40 if extended else 200
    version = 3 if extended else draw(st.sampled_from([3, 3, 2]))
    kinds = PARTS if extended else [k for k in KINDS if version == 3 or "Zero" not in repr(k)]
    backed = draw(st.sampled_from([None, None, b"base"]))
    taken = draw(st.integers(0, 2)) if version == 3 else 0
    image = Image(
        version=version,
        cluster_bits=bits,
        extended_l2=extended,
        size=count << bits,
        clusters=draw(layers(kinds, count)),
        backing_file=backed,
        snapshots=[
            Snapshot(name=b"s%d" % n, clusters=draw(st.none() | layers(kinds, count)))
            for n in range(taken)
        ],
    )
    span = (1 << 2 * bits) // (16 if extended else 8)
    sizes = st.one_of(
        st.integers(1, (count << bits) // SECTOR).map(lambda n: n * SECTOR),
        st.tuples(st.integers(1, 4), st.sampled_from([-512, 0, 512])).map(
            lambda pair: max(pair[0] * span + pair[1], 512)
        ),
    )
    more = draw(st.sampled_from([0, 0, 0, 1, 300, 511]))
    shown = min(draw(sizes) + more, count << bits)
    backing_size = draw(st.sampled_from([None, len(BACKING), 1 << 20]))
    device = draw(st.sampled_from([False, False, True]))
    data = with_size(image.build(), shown)
    if device:
        data += bytes(draw(st.sampled_from([0, 1 << bits, 64 << bits])))
    return Resize(data, draw(sizes), backing_size, device)


ALLOWED = {
    "device_full",
    "grow_head_over_backing",
    "grow_over_backing_v2",
    "overlap",
}


@thorough(150)
@given(case=resizes())
def test_every_phase_shows_the_old_disk_or_the_new_one(planner: Any, case: Resize) -> None:
    assert faults(Reader(case.data)) == []
    answer = ask(planner, case.data, case.request)
    assert not answer.misuse
    if not answer.planned:
        assert set(answer.refusals) <= ALLOWED
        assert "overlap" not in answer.refusals
        return
    assert_resized(planner, case, answer)


INCOMPLETE = Image(
    size=8 << 16, snapshots=[Snapshot(name=b"s", extra_data_size=size) for size in (0, 8, 16)]
)


@pytest.mark.parametrize("size", [4 << 16, 16 << 16, 1 << 40])
def test_a_snapshot_without_a_size_of_its_own_is_not_resized_with_the_disk(
    planner: Any, size: int
) -> None:
    case = Resize(INCOMPLETE.build(), size)
    answer = ask(planner, case.data, case.request)
    assert answer.refusals == ("resize_snapshot_size", "resize_snapshot_size")


@pytest.mark.parametrize("extended", [False, True], ids=["standard", "extended"])
@pytest.mark.parametrize("taken", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["one table", "own tables"])
def test_a_last_cluster_that_snapshots_share_gives_way_to_a_copy(
    planner: Any, extended: bool, taken: int, own: bool
) -> None:
    """Of its old users one may be left, which is no entry of the active layer."""
    bits = 14 if extended else 10
    clusters = {n: Data(b"%d" % n) for n in range(4)}
    others = {**clusters, 0: Data(b"other")} if own else None
    image = Image(
        cluster_bits=bits,
        extended_l2=extended,
        size=4 << bits,
        clusters=clusters,
        snapshots=[Snapshot(name=b"%d" % n, clusters=others) for n in range(taken)],
    )
    data = with_size(image.build(), (3 << bits) + (1 << bits) // 2 + 10)
    case = Resize(data, 9 << bits)
    answer = ask(planner, case.data, case.request)
    assert answer.planned, answer.refusals
    assert_resized(planner, case, answer)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("size", "backed", "backing_size", "over_backing"),
    [
        (9 << 9, True, None, True),
        (9 << 9, True, (4 << 9) + 1, True),
        (9 << 9, True, 4 << 9, False),
        (9 << 9, False, 1 << 20, False),
        (3 << 9, True, 1 << 20, False),
    ],
)
def test_a_disk_of_version_2_does_not_grow_over_a_longer_backing_file(
    planner: Any,
    version: int,
    size: int,
    backed: bool,
    backing_size: int | None,
    over_backing: bool,
) -> None:
    """It has no zero clusters that would hide what that has there."""
    backing_file = b"base" if backed else None
    data = Image(version=version, cluster_bits=9, size=4 << 9, backing_file=backing_file).build()
    case = Resize(data, size, backing_size)
    answer = ask(planner, data, case.request)
    if over_backing and version == 2:
        assert answer.refusals == ("grow_over_backing_v2",)
    else:
        assert answer.planned, answer.refusals
        hides = over_backing and version == 3
        assert any(write.offset > SECTOR for write in answer.writes) == hides


SUBCLUSTER = 1024
STATES: dict[str, Data | Zero | None] = {"data": Data(b"p"), "zeros": Zero(), "nothing": None}


@pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
@pytest.mark.parametrize("last", STATES)
@pytest.mark.parametrize("behind", STATES)
@pytest.mark.parametrize("apart", [0, 1, 511, 512, 513, 1023])
def test_what_is_behind_the_end_within_a_subcluster_must_be_its_own(
    planner: Any, backed: bool, last: str, behind: str, apart: int
) -> None:
    """Where the head of a subcluster is the backing file's, its rest cannot become zeros."""
    own = {0: Data(b"d"), 4: STATES[last], 5: STATES[behind], 31: STATES[behind]}
    parts = {number: state for number, state in own.items() if state is not None}
    image = Image(
        cluster_bits=15,
        extended_l2=True,
        size=1 << 15,
        backing_file=b"base" if backed else None,
        clusters={0: Subclusters(parts)},
    )
    size = 5 * SUBCLUSTER - apart
    data = with_size(image.build(), size)
    case = Resize(data, 3 << 15)
    answer = ask(planner, data, case.request)
    if backed and last == "nothing" and size // 512 % 2:
        assert answer.refusals == ("grow_head_over_backing",)
        assert answer.details["virtual_size"] == size & -512
    else:
        assert_resized(planner, case, answer)
