"""Test side: new refcount structures that no block counts, in an image of whole windows."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from instar import abi
from instar.vmm.amend.result import SWITCH
from instar.vmm.contract.reader.widths import Width
from instar.vmm.contract.terms import Claim
from instar.vmm.request import AmendRequest
from tests.support.forge import Data, Image
from tests.support.forge.model import Model
from tests.support.planning import Case, Phases, fault_of, plan_request

CLUSTER = 512
WINDOW = 1 << 16
"""Clusters whose refcounts the host judges at once."""
EMPTY = "makes empty ones"
"""What is said of blocks that count no structure, and nothing that was counted before."""
IMAGE = Image(cluster_bits=9, size=1 << 20, clusters={0: Data(b"a")})


def whole(image: Image) -> bytes:
    """The image with zeros up to the end of a window."""
    return image.build().ljust(WINDOW * CLUSTER, b"\0")


def wanted(counts: dict[int, int], model: Model) -> dict[int, int]:
    """Refcounts without those of the old refcount structures."""
    table = model.refcount_table_offset // CLUSTER
    gone = [*range(table, table + model.refcount_table_clusters)]
    gone += [offset // CLUSTER for _, offset in model.blocks]
    left = {n: count - gone.count(n) for n, count in counts.items()}
    return {n: count for n, count in left.items() if count}


def stage_beside(counts: dict[int, int], bits: int, at: int) -> tuple[int, Phases]:
    """Stage these refcounts, and new structures right after the file, which nothing counts.

    As many clusters from `at` on are counted in their stead. Returns the table's clusters too.
    """
    per = CLUSTER * 8 // bits
    indexes = sorted({n // per for n in counts})
    table = more = 1
    while True:
        count = table + len(indexes) + more
        need = -(-count // per), -(-8 * (at // per + more) // CLUSTER)
        if need == (more, table):
            break
        more, table = need
    new = counts | dict.fromkeys(range(at, at + count), 1)
    entries = bytearray(table * CLUSTER)
    phases: Phases = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
    indexes += range(at // per, at // per + more)
    for place, index in enumerate(indexes, WINDOW + table):
        struct.pack_into(">Q", entries, 8 * index, place * CLUSTER)
        words = [new.get(index * per + n, 0) for n in range(per)]
        phases[abi.INSTAR_PHASE_PREPARE][place] = Width(bits.bit_length() - 1).pack(words)
    for n in range(table):
        sector = bytes(entries[n * CLUSTER :][:CLUSTER])
        phases[abi.INSTAR_PHASE_PREPARE][WINDOW + n] = sector
    return table, phases


@pytest.mark.parametrize("at", [WINDOW * 2, WINDOW * 3])
def test_of_another_width_they_are_refused(at: int) -> None:
    data = whole(IMAGE)
    request = AmendRequest.of(refcount_bits=32, max_growth=1 << 30)
    honest, model = plan_request(data, request), Model(data)
    honest.judge()
    table, phases = stage_beside(wanted(model.stored, model), 32, at)
    header = bytearray(data[:CLUSTER])
    struct.pack_into(">QI", header, 48, WINDOW * CLUSTER, table)
    struct.pack_into(">I", header, 96, 5)
    phases[SWITCH][0] = bytes(header)
    assert EMPTY in fault_of(Case(data, request, phases, honest.claim))


@pytest.mark.parametrize("at", [WINDOW * 2, WINDOW * 3])
def test_of_a_repair_they_are_refused(at: int) -> None:
    data = whole(replace(IMAGE, dirty=True, lazy_refcounts=True))
    model = Model(data)
    table, phases = stage_beside(wanted(model.counted, model), 16, at)
    header = bytearray(data[:CLUSTER])
    struct.pack_into(">QI", header, 48, WINDOW * CLUSTER, table)
    struct.pack_into(">Q", header, 72, 0)
    phases[SWITCH][0] = bytes(header)
    fields = {"incompatible_features": 0, "compatible_features": 1, "autoclear_features": 0}
    request = AmendRequest.of(repair=True, max_growth=1 << 30)
    case = Case(data, request, phases, Claim(True, True, {"version": 3, **fields}))
    assert EMPTY in fault_of(case)


def test_there_is_no_refcount_before_the_first_or_after_the_last_one() -> None:
    for order in range(7):
        width = Width(order)
        data = bytearray(512)
        for index in (-1, -width.in_sector, width.in_sector, 1 << 20):
            with pytest.raises(IndexError):
                width.add(data, index, 1)
        assert data == bytes(512)
        assert width.add(data, width.in_sector - 1, 1)
