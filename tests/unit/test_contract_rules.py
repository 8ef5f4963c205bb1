"""Test side: the write contract's rules on where and when an amend writes, each of them broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from instar.vmm.amend.result import SWITCH
from tests.support.forge import Image
from tests.support.planning import (
    ALL,
    MANY,
    Case,
    downgrade,
    fault_of,
    noop,
    plan,
    toggle,
    upgrade,
    upgrade_in_two_phases,
)

OUTSIDE = "the guest reports success, yet wrote nothing or outside the header"
ORDER = "the guest's phases are not slack, then the switch"
MISREPORTED = "the guest's switch is not the one it reports"
TOO_EARLY = "the guest changes the old header before the switch"


@pytest.mark.parametrize("make", [*ALL.values(), upgrade_in_two_phases, noop])
def test_the_honest_cases_of_these_tests_are_good(make: Callable[[], Case]) -> None:
    make().judge()


class TestPlaces:
    @pytest.mark.parametrize("make", ALL.values(), ids=ALL)
    def test_success_without_writes(self, make: Callable[[], Case]) -> None:
        case = make()
        case.stage()
        assert fault_of(case) == OUTSIDE

    @pytest.mark.parametrize("offset", [1 << 16, (1 << 16) + 512, 2 << 16])
    def test_a_write_outside_the_header_cluster(self, offset: int) -> None:
        case = toggle()
        case.put(offset, b"\0")
        case.claims(atomic=False)
        assert fault_of(case) == OUTSIDE

    def test_a_write_outside_a_small_header_cluster(self) -> None:
        case = plan(Image(cluster_bits=9, size=1 << 20).build(), None, True)
        case.put(512, b"\0")
        case.claims(atomic=False)
        assert fault_of(case) == OUTSIDE

    def test_a_write_behind_the_part_of_a_large_cluster_that_headers_use(self) -> None:
        case = plan(Image(cluster_bits=21).build(), None, True)
        case.put(1 << 16, b"\0")
        case.claims(atomic=False)
        assert fault_of(case) == OUTSIDE

    def test_a_write_outside_in_the_slack_phase(self) -> None:
        case = upgrade_in_two_phases()
        case.put(1 << 16, b"\0", phase=0)
        assert fault_of(case) == "the guest writes sector 128 in phase 0 for nothing"

    @pytest.mark.parametrize("phase", [1, 2, 4, 5])
    def test_slack_in_another_phase(self, phase: int) -> None:
        case = upgrade_in_two_phases()
        case.phases[phase] = dict(case.phases[0])
        assert fault_of(case) == ORDER

    def test_the_first_sector_in_the_slack_phase(self) -> None:
        case = toggle()
        case.phases[0] = dict(case.phases[SWITCH])
        assert fault_of(case) == ORDER

    def test_a_switch_without_the_first_sector(self) -> None:
        case = toggle()
        case.stage({9: bytes(512)})
        assert fault_of(case) == ORDER

    def test_slack_behind_the_switch(self) -> None:
        case = upgrade_in_two_phases()
        case.phases[4], case.phases[0] = case.phases[0], {}
        assert fault_of(case) == ORDER

    def test_a_switch_of_two_sectors_that_is_called_atomic(self) -> None:
        case = toggle()
        case.put(512, case.data[512:513])
        assert fault_of(case) == MISREPORTED

    def test_a_switch_of_one_sector_that_is_not_called_atomic(self) -> None:
        case = toggle()
        case.claims(atomic=False)
        assert fault_of(case) == MISREPORTED

    @pytest.mark.parametrize("place", [400, 511])
    def test_a_toggle_changes_a_byte_that_nobody_names(self, place: int) -> None:
        case = toggle()
        case.put(place, b"x")
        assert fault_of(case) == "the guest fills sector 0 with what nobody names"

    def test_a_toggle_clears_one(self) -> None:
        image = bytearray(Image(size=1 << 20).build())
        image[500] = 0x55
        case = plan(bytes(image), None, True)
        case.judge()
        case.put(500, b"\0")
        assert fault_of(case) == OUTSIDE

    def test_another_layout_may_clear_what_nobody_names_and_not_fill_it(self) -> None:
        image = bytearray(Image(version=2, size=1 << 20).build())
        image[500] = 0x55
        case = plan(bytes(image), 3)
        for byte in (b"\0", b"\x55"):
            case.put(500, byte)
            case.judge()
        case.put(500, b"\x54")
        assert fault_of(case) == "the guest fills sector 0 with what nobody names"

    @pytest.mark.parametrize("make", [upgrade, downgrade])
    def test_a_switch_of_two_sectors_where_one_would_do(self, make: Callable[[], Case]) -> None:
        case = make()
        sector = case.phases[SWITCH][0]
        place, size = (int.from_bytes(sector[at:end], "big") for at, end in ((8, 16), (16, 20)))
        name = sector[place : place + size]
        case.put(place, bytes(size))
        case.put(600, name)
        case.number(8, 600)
        case.claims(atomic=False)
        assert fault_of(case) == "the guest switches by several sectors, where one would do"

    def test_slack_before_a_switch_of_two_sectors(self) -> None:
        case = upgrade_in_two_phases()
        case.put(512, case.data[512:513])
        case.claims(atomic=False)
        assert fault_of(case) == MISREPORTED


class TestSlack:
    def old_end(self) -> int:
        return Image(**MANY).regions()["extensions"].stop

    @pytest.mark.parametrize("back", [1, 4, 8, 12, 16, 40])
    def test_it_leaves_the_old_extensions_alone(self, back: int) -> None:
        case = upgrade_in_two_phases()
        offset = self.old_end() - back
        case.put(offset, bytes([case.data[offset] ^ 1]), phase=0)
        assert fault_of(case) == TOO_EARLY

    @pytest.mark.parametrize("byte", range(4))
    def test_it_leaves_the_old_name_alone(self, byte: int) -> None:
        case = upgrade_in_two_phases()
        case.put(self.old_end() + byte, b"X", phase=0)
        assert fault_of(case) == TOO_EARLY

    def test_it_may_write_right_behind_them(self) -> None:
        case = upgrade_in_two_phases()
        offset = self.old_end() + len(b"base")
        case.put(offset, b"X", phase=0)
        case.judge()
