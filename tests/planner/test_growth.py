"""Test side: what the planner appends ahead of need is within what the judge takes for needed."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from instar.vmm.request import AmendRequest
from tests.support.forge import Image, Zero, ZeroAllocated
from tests.support.forge.clusters import Cluster
from tests.support.planner import accepted_by_contract, ask

IN_PLACE = 6000
"""Zero clusters that are filled where they are; the planner reckons with a new one for each."""


def full(holes: int) -> bytes:
    """An image without a free cluster, one of whose zero clusters needs one."""
    clusters: dict[int, Cluster] = {n: ZeroAllocated(b"z") for n in range(IN_PLACE)}
    clusters[IN_PLACE] = Zero()
    size = (IN_PLACE + 64) << 9
    image = Image(
        cluster_bits=9, size=size, backing_file=b"b", clusters=clusters, holes=range(4, holes << 8)
    )
    data = bytearray(image.build())
    table = image.regions()["refcount_table"]
    blocks = [
        block for (block,) in struct.iter_unpack(">Q", data[table.start : table.stop]) if block
    ]
    for block in blocks:
        for at in range(block, block + 512, 2):
            if data[at : at + 2] == b"\0\0":
                data[at + 1] = 1
    return bytes(data).ljust(len(blocks) << 17, b"\0")


@pytest.mark.parametrize(("holes", "moves"), [(10, False), (18, True), (22, True), (25, True)])
def test_a_refcount_table_that_moves_for_more_than_it_comes_to_is_accepted(
    planner: Any, holes: int, moves: bool
) -> None:
    data = full(holes)
    request = AmendRequest.of(compat=2, max_growth=1 << 30)
    answer = ask(planner, data, request)
    assert answer.planned
    assert moves == any((write.phase, write.offset) == (1, 0) for write in answer.writes)
    accepted_by_contract(data, request, answer)


@pytest.mark.parametrize(
    ("cluster_bits", "grown"), [(9, 27), (9, 30), (10, 34), (11, 37), (12, 42), (16, 50)]
)
def test_what_a_refusal_says_is_needed_suffices(
    planner: Any, cluster_bits: int, grown: int
) -> None:
    data = Image(cluster_bits=cluster_bits, size=1 << 20).build()
    answer = ask(planner, data, AmendRequest.of(size=1 << grown, max_growth=0))
    assert answer.refusals == ("growth",)
    needed = answer.details["needed"]
    request = AmendRequest.of(size=1 << grown, max_growth=needed)
    answer = ask(planner, data, request)
    assert answer.planned
    end = max(write.offset + len(write.data) for write in answer.writes)
    assert end - len(data) <= needed <= 2 * (end - len(data)) + (17 << cluster_bits)


@pytest.mark.parametrize(("cluster_bits", "grown"), [(12, 43), (16, 51)])
def test_an_l1_table_of_zeros_is_no_work_to_shrink(
    planner: Any, cluster_bits: int, grown: int
) -> None:
    data = bytearray(Image(cluster_bits=cluster_bits, size=1 << 20).build())
    entries = 1 << (grown - 2 * cluster_bits + 3)
    data += bytes(-len(data) % (1 << cluster_bits))
    data[24:32] = (1 << grown).to_bytes(8, "big")
    data[36:40] = entries.to_bytes(4, "big")
    data[40:48] = len(data).to_bytes(8, "big")
    answer = ask(
        planner, bytes(data) + bytes(8 * entries), AmendRequest.of(size=1 << 20, shrink=True)
    )
    assert "work_limit" not in answer.refusals
