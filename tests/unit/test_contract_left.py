"""The write contract on a cluster that loses one of two users: the other one then says so."""

from __future__ import annotations

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.request import AmendRequest
from tests.support.disks import half_zeroed
from tests.support.forge import Image, Reader, Zero, faults
from tests.support.planner import ask
from tests.support.planning import Case, case_of
from tests.support.project import load_planner

FLAGS, MAPPING = abi.INSTAR_PHASE_FLAGS, abi.INSTAR_PHASE_MAPPING


def downgrade(count: int) -> Case:
    """What an honest guest stages for an image with so many shared clusters."""
    data = half_zeroed(count).build()
    assert faults(Reader(data)) == []
    request = AmendRequest.of(compat=2, max_growth=1 << 20)
    return case_of(data, request, ask(load_planner(), data, request))


@pytest.mark.parametrize("count", [1, 2, 20])
def test_what_is_left_to_the_active_layer_is_said_to_be_its_own(count: int) -> None:
    case = downgrade(count)
    case.judge()
    assert faults(Reader(case.amended())) == []


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_guest_that_leaves_the_flag_out_is_at_fault(count: int) -> None:
    case = downgrade(count)
    case.phases[FLAGS].clear()
    with pytest.raises(GuestFault, match="of a cluster of its own"):
        case.judge()


def test_each_of_them_gets_it() -> None:
    case = downgrade(20)
    (sector,) = case.phases[FLAGS]
    data = bytearray(case.phases[FLAGS][sector])
    data[8 * 7] ^= 0x80
    case.phases[FLAGS][sector] = bytes(data)
    with pytest.raises(GuestFault, match="of a cluster of its own"):
        case.judge()


def test_an_entry_that_begins_within_such_a_cluster_names_none() -> None:
    image = half_zeroed(1, 10)
    data, table = bytearray(image.build()), image.regions()["l2_table[0]"].start
    entry = int.from_bytes(data[table : table + 8], "big") | 1 << 9
    data[table + 80 : table + 88] = entry.to_bytes(8, "big")
    request = AmendRequest.of(compat=2, max_growth=1 << 20)
    case = case_of(bytes(data), request, ask(load_planner(), bytes(data), request))
    case.judge()


def test_a_table_that_only_flags_are_staged_for_keeps_no_zero_clusters() -> None:
    """Nothing of it changes, so it is judged as one that nobody writes."""
    data = Image(cluster_bits=9, size=1 << 15, clusters={5: Zero(), 200: Zero()}).build()
    request = AmendRequest.of(compat=2, max_growth=1 << 20)
    honest = case_of(data, request, ask(load_planner(), data, request))
    honest.judge()
    changed = honest.phases[MAPPING]
    assert changed
    for sector in list(changed):
        del changed[sector]
        honest.phases[FLAGS][sector] = data[512 * sector : 512 * sector + 512]
    with pytest.raises(GuestFault, match="leaves zero clusters in the L2 table"):
        honest.judge()
