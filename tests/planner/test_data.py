"""What holds data is never filled with zeros, whatever its refcount says. Test side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from instar.vmm.base.errors import ImageRejected
from instar.vmm.request import AmendRequest
from tests.support.forge import Compressed, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.planner import Answer, accepted_by_contract, ask

BITS = 12
COPIED, ZERO = 1 << 63, 1
IMAGE = Image(
    cluster_bits=BITS,
    size=16 << BITS,
    clusters={0: Data(b"a"), 1: ZeroAllocated(b"z"), 2: Compressed(b"c"), 3: Compressed(b"d")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"b")})],
)


def aimed_at(target: str, image: Image = IMAGE) -> Image:
    """The zero cluster's own host cluster is that of something else, which has refcount 1."""
    host = image.regions()[target].start >> BITS << BITS
    entry = (COPIED | host | ZERO).to_bytes(8, "big")
    counts = {host >> BITS: 1}
    return replace(image, patches=[("l2_table[0]", 8, entry)], refcounts=counts)


REQUEST = AmendRequest.of(compat=2, max_growth=1 << 20)


def planned(planner: Any, image: Image) -> tuple[bytes, Answer]:
    """What the planner makes of it: it looks at refcounts, not at all the other entries."""
    data = image.build()
    answer = ask(planner, data, REQUEST)
    assert answer.planned
    return data, answer


@pytest.mark.parametrize("target", ["data[0]", "snapshot[0].data[0]", "data[2]"])
def test_a_cluster_that_another_entry_names_is_not_zeroed(planner: Any, target: str) -> None:
    data, answer = planned(planner, aimed_at(target))
    assert any(write.zeroes for write in answer.writes)
    with pytest.raises(ImageRejected, match="is used twice"):
        accepted_by_contract(data, REQUEST, answer)


def test_a_cluster_that_counts_as_free_is_not_taken_if_an_entry_names_it(planner: Any) -> None:
    backed = replace(IMAGE, backing_file=b"base", clusters={**IMAGE.clusters, 5: Zero()})
    used = backed.regions()["data[0]"].start
    data, answer = planned(planner, replace(backed, refcounts={used >> BITS: 0}))
    assert any(write.zeroes and write.offset == used for write in answer.writes)
    with pytest.raises(ImageRejected, match="is used twice"):
        accepted_by_contract(data, REQUEST, answer)


@pytest.mark.parametrize("counted", [1, 2])
def test_an_l2_table_that_is_data_too_is_not_written(planner: Any, counted: int) -> None:
    image = replace(IMAGE, clusters={0: Data(b"a"), 5: Zero()})
    table = image.regions()["snapshot[0].l2_table[0]"].start
    image = replace(
        image,
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"b"), 1: Zero()})],
        patches=[("l2_table[0]", 0, table.to_bytes(8, "big"))],
        refcounts={table >> BITS: counted},
    )
    data, answer = planned(planner, image)
    assert any(write.offset == table for write in answer.writes)
    with pytest.raises(ImageRejected, match="as data"):
        accepted_by_contract(data, REQUEST, answer)


def test_the_honest_image_of_these_tests_is_amended(planner: Any) -> None:
    data, answer = planned(planner, IMAGE)
    own = IMAGE.regions()["data[1]"]
    zeroed = [(write.offset, len(write.data)) for write in answer.writes if write.zeroes]
    assert zeroed == [(own.start, len(own))]
    accepted_by_contract(data, REQUEST, answer)
