"""The write contract on a cluster that loses one of two users: the other one then says so."""

from __future__ import annotations

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.request import AmendRequest
from tests.support.forge import Data, Image, Reader, Snapshot, ZeroAllocated, faults
from tests.support.planner import ask
from tests.support.planning import Case, case_of
from tests.support.project import load_planner

FLAGS = abi.INSTAR_PHASE_FLAGS


def half_zeroed(count: int) -> Case:
    """Clusters that the active layer and a snapshot share, of which the latter reads as zeros."""
    image = Image(
        cluster_bits=9,
        size=1 << 15,
        clusters={n: Data(b"a") for n in range(count)},
        snapshots=[Snapshot(name=b"s", clusters={n: ZeroAllocated(b"z") for n in range(count)})],
    )
    data, regions = bytearray(image.build()), image.regions()
    block = regions["refcount_block[0]"].start
    for n in range(count):
        active = regions["l2_table[0]"].start + 8 * n
        zero = regions["snapshot[0].l2_table[0]"].start + 8 * n
        shared, alone = (int.from_bytes(data[at + 1 : at + 7], "big") << 8 for at in (active, zero))
        data[active : active + 8] = shared.to_bytes(8, "big")
        data[zero : zero + 8] = (shared | 1).to_bytes(8, "big")
        for offset, refcount in ((shared, 2), (alone, 0)):
            at = block + 2 * (offset >> 9)
            data[at : at + 2] = refcount.to_bytes(2, "big")
    assert faults(Reader(bytes(data))) == []
    request = AmendRequest.of(compat=2, max_growth=1 << 20)
    return case_of(bytes(data), request, ask(load_planner(), bytes(data), request))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_what_is_left_to_the_active_layer_is_said_to_be_its_own(count: int) -> None:
    case = half_zeroed(count)
    case.judge()
    assert faults(Reader(case.amended())) == []


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_guest_that_leaves_the_flag_out_is_at_fault(count: int) -> None:
    case = half_zeroed(count)
    case.phases[FLAGS].clear()
    with pytest.raises(GuestFault, match="of a cluster of its own"):
        case.judge()


def test_each_of_them_gets_it() -> None:
    case = half_zeroed(20)
    (sector,) = case.phases[FLAGS]
    data = bytearray(case.phases[FLAGS][sector])
    data[8 * 7] ^= 0x80
    case.phases[FLAGS][sector] = bytes(data)
    with pytest.raises(GuestFault, match="of a cluster of its own"):
        case.judge()
