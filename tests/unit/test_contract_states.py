"""Test side: each state that a commit passes through is judged, and so is what it leaves."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from instar.vmm.base.errors import NO_MEMORY, GuestFault, HostError, ImageRejected
from instar.vmm.contract.judge import judge
from instar.vmm.contract.luks_region import judge_luks_region
from instar.vmm.contract.terms import Claim, Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.request import AmendRequest
from tests.support import planning
from tests.support.forge import Image, Snapshot, Zero
from tests.support.planning import Case, fault_of
from tests.support.reference import Model, downgrade, upgrade
from tests.support.tables import (
    BACKED,
    BLOCKS,
    FLAGS,
    MAPPING,
    OLD,
    PREPARE,
    RELEASE,
    SMALL,
    SWITCH,
    TABLE,
    assert_fault,
)

EARLY = "^the guest changes the old header before the switch$"
ORDER = "the guest's phases are not slack, then the switch"


def filling() -> Case:
    return downgrade(BACKED).case


class TestBeforeTheSwitch:
    """Whatever is written before it, the header says what it said."""

    @pytest.mark.parametrize("at", [0, 8, 16, 24, 40, 48, 60, 72, 80, 100, 112, 300, 511])
    @pytest.mark.parametrize("make", [planning.toggle, planning.upgrade, planning.downgrade])
    def test_the_first_sector_is_not_another_one_in_the_table_phase(
        self, make: Callable[[], Case], at: int
    ) -> None:
        case = make()
        sector = bytearray(case.data[:512])
        sector[at] ^= 0x10
        case.phases[TABLE] = {0: bytes(sector)}
        # The refcount table's place may change there in a change of version, if it is a new one.
        place = r"|in phase 1 for nothing|refcount table|a header field that it must not change"
        with pytest.raises((GuestFault, ImageRejected), match=EARLY + place):
            case.judge()

    def test_the_first_sector_is_not_written_for_nothing(self) -> None:
        case = planning.upgrade()
        case.phases[TABLE] = {0: case.data[:512]}
        assert fault_of(case) == "the guest writes sector 0 in phase 1 for nothing"

    @pytest.mark.parametrize("phase", [TABLE, MAPPING, RELEASE, FLAGS])
    @pytest.mark.parametrize("sector", [0, 1, 127])
    def test_the_header_cluster_is_left_alone_in_other_phases(
        self, phase: int, sector: int
    ) -> None:
        case = planning.toggle()
        case.phases[phase] = {sector: case.data[512 * sector :][:512]}
        with pytest.raises(GuestFault, match=f"{ORDER}|{EARLY}"):
            case.judge()

    def test_l2_entries_and_refcounts_do_not_change_in_a_toggle(self) -> None:
        for phase in (PREPARE, TABLE, MAPPING, RELEASE, FLAGS):
            case = planning.toggle()
            case.phases[phase] = {1024: bytes(512)}
            assert "outside the header" in fault_of(case)


class TestNothingIsWrittenForNothing:
    def test_a_toggle_leaves_slack_alone(self) -> None:
        case = planning.toggle()
        case.phases[PREPARE] = {2: b"\xcc" * 512}
        assert fault_of(case) == ORDER

    def test_a_switch_has_no_sector_that_the_new_header_has_no_use_for(self) -> None:
        case = planning.toggle()
        case.put(512, case.data[512:513])
        case.claims(atomic=False)
        assert fault_of(case) == "the guest writes sector 1 in phase 3 for nothing"

    def test_slack_holds_what_the_new_header_refers_to(self) -> None:
        case = planning.upgrade_in_two_phases()
        case.phases[PREPARE][100] = bytes(512)
        assert fault_of(case) == "the guest writes sector 100 in phase 0 for nothing"


class TestWhatTheHostKnowsItself:
    @pytest.mark.parametrize(
        "image", [Image(dirty=True), Image(corrupt=True), Image(incompatible_features=1 << 40)]
    )
    def test_a_noop_is_not_believed_of_an_image_that_must_be_refused(self, image: Image) -> None:
        case = planning.noop()
        case.data = image.build()
        case.says("incompatible_features", int.from_bytes(case.data[72:80], "big"))
        assert fault_of(case) == "the guest amends an image whose features forbid it"

    def test_a_noop_is_atomic(self) -> None:
        case = planning.noop()
        case.claims(atomic=False)
        assert fault_of(case) == "the guest's switch is not the one it reports"

    def test_action_and_atomic_are_what_is_staged(self) -> None:
        for case in (planning.noop(), planning.toggle(), downgrade(BACKED).case):
            data = case.data

            def read(offset: int, size: int, data: bytes = data) -> bytes:
                return data[offset : offset + size]

            original = Original(read, len(data), WORK_MIN)
            found = judge(original, case.request, case.staged(), case.claim)
            assert (found.amended, found.atomic) == (case.claim.amended, True)

    @pytest.mark.parametrize("make", [planning.toggle, planning.downgrade, filling])
    def test_whatever_is_zeroed_twice_is_the_guests_fault_and_of_no_other_kind(
        self, make: Callable[[], Case]
    ) -> None:
        case = make()
        case.zeroes += [(1 << 20, 128), (1 << 20, 128)]
        with pytest.raises(GuestFault) as caught:
            case.judge()
        assert type(caught.value) is GuestFault

    def test_a_table_outside_the_image_is_the_guests_fault_and_of_no_other_kind(self) -> None:
        case = downgrade(BACKED).case
        l1_table = BACKED.regions()["l1_table"].start
        case.data = case.data[:l1_table] + (1 << 40).to_bytes(8, "big") + case.data[l1_table + 8 :]
        with pytest.raises((GuestFault, ImageRejected)) as caught:
            case.judge()
        assert type(caught.value) in (GuestFault, ImageRejected)

    @pytest.mark.parametrize(
        ("error", "fault", "message"),
        [
            (MemoryError, HostError, NO_MEMORY),
            (OverflowError, GuestFault, "the guest stages what cannot be judged: too much"),
            (RecursionError, GuestFault, "the guest stages what cannot be judged: too much"),
        ],
    )
    def test_no_error_of_python_leaves_the_judge(
        self, error: type[Exception], fault: type[Exception], message: str
    ) -> None:
        case = planning.toggle()

        def fail(_offset: int, _size: int) -> bytes:
            raise error("too much")

        original = Original(fail, len(case.data), WORK_MIN)
        with pytest.raises(fault) as caught:
            judge(original, case.request, case.staged(), case.claim)
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("error", "fault", "message"),
        [
            (MemoryError, HostError, NO_MEMORY),
            (OverflowError, GuestFault, "the guest accepted what cannot be judged: too much"),
            (RecursionError, GuestFault, "the guest accepted what cannot be judged: too much"),
        ],
    )
    def test_none_leaves_the_judge_of_a_luks_header(
        self, error: type[Exception], fault: type[Exception], message: str
    ) -> None:
        data = Image(size=1 << 20, crypt_method=2, crypto_header=b"L" * 5000).build()

        def read_header(offset: int, size: int) -> bytes:
            if offset:
                raise error("too much")
            return data[:size]

        with pytest.raises(fault) as caught:
            judge_luks_region(Original(read_header, len(data), WORK_MIN))
        assert str(caught.value) == message


class TestTheResultIsAcceptedAsAnInputWouldBe:
    """No table is left that a version of qemu does not take, and nothing that nothing needs."""

    def moved(self, clusters: int) -> Model:
        """An upgrade that moves the refcount table, to this many clusters of 64 KiB."""
        image = Image(version=2, size=64 << 20)
        model = Model(image.build(), AmendRequest.of(compat=3, max_growth=1 << 30))
        table = model.header.refcount_table_offset
        place = model.allocate(clusters)
        moved = model.read(table, 65536)
        sectors = model.case.phases[PREPARE]
        sectors |= {
            (place >> 9) + n: moved[512 * n :][:512] or bytes(512) for n in range(clusters << 7)
        }
        model.put(TABLE, 48, struct.pack(">QI", place, clusters))
        model.release(table, 65536)
        model.account()
        model.switch(3)
        return model

    @pytest.mark.parametrize("clusters", [129, 300])
    def test_no_refcount_table_is_larger_than_qemu_takes(self, clusters: int) -> None:
        size = clusters << 16
        words = f"^the guest leaves a refcount table of {size} bytes, which is too large$"
        assert_fault(self.moved(clusters), words)

    @pytest.mark.parametrize("clusters", [1, 2, 40])
    def test_a_refcount_table_with_room_stays_where_it_is(self, clusters: int) -> None:
        words = "^the guest moves a refcount table that has room for what is added$"
        assert_fault(self.moved(clusters), words)

    @pytest.mark.parametrize("clusters", [2, 60])
    @pytest.mark.parametrize("make", [planning.downgrade, planning.upgrade])
    def test_no_refcount_block_is_added_that_nothing_needs(
        self, make: Callable[[], Case], clusters: int
    ) -> None:
        honest = make()
        model = Model(
            honest.data, AmendRequest.of(compat=honest.request.compat, max_growth=1 << 30)
        )
        table = model.header.refcount_table_offset
        for n in range(clusters):
            block = model.allocate(1)
            model.put(PREPARE, block, bytes(65536))
            model.word(TABLE, table + 8 * (n + 1), block)
        model.account()
        model.case.phases[SWITCH] = honest.phases[SWITCH]
        model.case.claim = honest.claim
        assert_fault(model, f"^the guest adds {clusters} refcount blocks, and 0 are needed$")

    @pytest.mark.parametrize("far", [40, 200])
    def test_the_file_does_not_grow_by_clusters_that_nothing_takes(self, far: int) -> None:
        image = Image(**SMALL, clusters={n: Zero() for n in range(3)}, backing_file=b"base")
        model = downgrade(image)
        model.case.judge()
        model = Model(model.data, AmendRequest.of(compat=2, max_growth=1 << 30))
        used = len(model.data) // 512
        assert used + far < 256  # the one block counts them
        for n in range(3):
            cluster = used + far + n
            model.changes[cluster] = 1
            model.zero(cluster * 512)
            place = image.regions()["l2_table[0]"].start + 8 * n
            model.word(MAPPING, place, cluster * 512 | 1 << 63)
        model.account()
        model.switch(2)
        assert_fault(model, "^the guest lets the file grow by clusters that nothing takes$")

    @pytest.mark.parametrize("index", [2, 40])
    def test_a_new_refcount_block_comes_next_to_the_last_one(self, index: int) -> None:
        """What lies between would be counted by none, and so not as free."""
        model = downgrade(BLOCKS)
        model.case.judge()
        entries = model.header.refcount_table_offset
        staged = model.case.phases[TABLE][entries // 512]
        model.word(TABLE, entries + 8 * index, int.from_bytes(staged[8:16], "big"))
        model.word(TABLE, entries + 8, 0)
        assert_fault(model, f"^the guest adds refcount block {index}, not 1$")

    def test_new_blocks_may_be_as_many_as_the_clusters_need(self) -> None:
        downgrade(BLOCKS).case.judge()

    def test_snapshots_get_the_extra_data_that_the_version_requires(self) -> None:
        case = planning.plan(Image(version=2).build(), 3)
        image = Image(version=2, snapshots=[Snapshot(name=b"a", extra_data_size=0)])
        honest = upgrade(image)
        honest.case.judge()
        case.data = honest.data
        sector = bytearray(honest.case.phases[SWITCH][0])
        sector[64:72] = honest.data[64:72]
        case.stage({0: bytes(sector)})
        words = "the guest leaves snapshots without the extra data of version 3"
        assert fault_of(case) == words

    @pytest.mark.parametrize("size", [1025, 1 << 29, (1 << 32) - 1])
    def test_a_snapshot_has_no_more_extra_data_than_qemu_takes(self, size: int) -> None:
        model = upgrade(OLD)
        model.case.judge()
        at = OLD.regions()["snapshot_table"].start + 36
        model.case.data = model.data[:at] + size.to_bytes(4, "big") + model.data[at + 4 :]
        assert_fault(model, f"^the guest accepted a snapshot with {size} bytes of extra data$")


def test_a_claim_is_held_against_what_is_staged() -> None:
    case = planning.toggle()
    case.claim = Claim(True, True, {**case.claim.fields, "compatible_features": 0})
    assert fault_of(case) == "the guest reports another version or feature word than it wrote"
