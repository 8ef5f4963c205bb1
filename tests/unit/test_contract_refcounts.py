"""Test side: what a guest that is taken over may try on refcounts, and cannot commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.reference import Model, downgrade
from tests.support.tables import (
    BACKED,
    BLOCKS,
    LARGE,
    NOTHING,
    PLAIN,
    PREPARE,
    RELEASE,
    SUMS,
    SWITCH,
    TABLE,
    assert_fault,
)


class TestRefcounts:
    @pytest.mark.parametrize("phase", [PREPARE, RELEASE])
    def test_the_refcounts_are_forgotten(self, phase: int) -> None:
        model = downgrade(BACKED)
        model.case.phases[phase].clear()
        assert_fault(model, SUMS)

    @pytest.mark.parametrize("value", [0, 2, 0xFFFF])
    @pytest.mark.parametrize("phase", [PREPARE, RELEASE])
    @pytest.mark.parametrize("region", ["data[0]", "l1_table", "data[3]", "header_cluster"])
    def test_a_cluster_gets_another_refcount(self, phase: int, region: str, value: int) -> None:
        model = downgrade(BACKED)
        regions = BACKED.regions()
        at = regions["refcount_block[0]"].start + 2 * (regions[region].start // 512)
        if int.from_bytes(model.read(at, 2, phase), "big") == value:
            value = 3
        model.put(phase, at, value.to_bytes(2, "big"))
        assert_fault(model, SUMS)

    def test_refcounts_fall_before_the_switch(self) -> None:
        model = downgrade(PLAIN)
        model.case.phases[PREPARE].update(model.case.phases[RELEASE])
        model.case.phases[RELEASE].clear()
        assert_fault(model, f"{SUMS}|{NOTHING}")

    def test_a_cluster_is_released_that_its_owner_keeps(self) -> None:
        model = downgrade(PLAIN)
        model.release(PLAIN.regions()["data[0]"].start, 512)
        model.account()
        assert_fault(model, SUMS)

    def test_a_refcount_of_a_cluster_that_nobody_takes(self) -> None:
        model = downgrade(BACKED)
        model.allocate(1)
        model.account()
        assert_fault(model, SUMS)

    def test_a_new_refcount_block_has_a_wrong_count(self) -> None:
        model = downgrade(BLOCKS)
        (block,) = self.new_blocks(model)
        model.put(PREPARE, block + 510, b"\0\1")
        assert_fault(model, SUMS)

    def test_a_new_refcount_block_is_not_written(self) -> None:
        model = downgrade(BLOCKS)
        (block,) = self.new_blocks(model)
        del model.case.phases[PREPARE][block // 512]
        assert_fault(model, SUMS)

    def test_a_new_refcount_block_is_in_use(self) -> None:
        model = downgrade(BLOCKS)
        table = BLOCKS.regions()["refcount_table"].start
        model.word(TABLE, table + 8, BLOCKS.regions()["l1_table"].start)
        assert_fault(model, "which is in use$")

    def test_an_old_refcount_block_is_replaced(self) -> None:
        model = downgrade(BLOCKS)
        (block,) = self.new_blocks(model)
        model.word(TABLE, BLOCKS.regions()["refcount_table"].start, block)
        assert_fault(model, "^the guest changes the refcount table's entry")

    def new_blocks(self, model: Model) -> list[int]:
        table = BLOCKS.regions()["refcount_table"]
        data = model.read(table.start, len(table), TABLE)
        words = [int.from_bytes(data[n : n + 8], "big") for n in range(8, len(data), 8)]
        return [word for word in words if word]


class TestRefcountTable:
    @pytest.fixture(scope="class")
    @staticmethod
    def moved() -> Model:
        return downgrade(LARGE)

    def broken(self, moved: Model, change: Callable[[Model], object]) -> Model:
        """A copy of the case, changed."""
        model = Model(moved.data, moved.case.request)
        model.places = moved.places
        model.case.phases = [dict(phase) for phase in moved.case.phases]
        model.case.zeroes = list(moved.case.zeroes)
        change(model)
        return model

    def test_it_may_move(self, moved: Model) -> None:
        moved.case.judge()

    def test_an_old_block_is_lost(self, moved: Model) -> None:
        table = moved.places["refcount_table_offset"]
        model = self.broken(moved, lambda model: model.word(PREPARE, table + 8, 0))
        assert_fault(model, "^the guest changes the refcount table's entry")

    def test_a_part_of_it_is_not_written(self, moved: Model) -> None:
        sector = moved.places["refcount_table_offset"] // 512
        model = self.broken(moved, lambda model: model.case.phases[PREPARE].pop(sector))
        assert_fault(model, "of a new table unwritten$")

    def test_the_header_does_not_keep_it(self, moved: Model) -> None:
        model = self.broken(moved, lambda model: model.put(SWITCH, 48, model.data[48:60]))
        assert_fault(model, "^the guest changes a header field that it must not change$")

    def test_it_moves_in_the_switch_alone(self, moved: Model) -> None:
        model = self.broken(moved, lambda model: model.case.phases[TABLE].clear())
        assert_fault(model, "^the guest changes a header field that it must not change$")

    def test_more_of_the_old_header_changes_with_it(self, moved: Model) -> None:
        model = self.broken(moved, lambda model: model.put(TABLE, 40, bytes(8)))
        assert_fault(model, "^the guest changes the old header before the switch$")

    def test_it_becomes_smaller(self, moved: Model) -> None:
        def shrink(model: Model) -> None:
            for phase in (TABLE, SWITCH):
                model.put(phase, 56, (1).to_bytes(4, "big"))

        assert_fault(self.broken(moved, shrink), "smaller$|that no refcount block holds$")

    def test_the_old_one_is_not_released(self, moved: Model) -> None:
        model = self.broken(moved, lambda model: model.case.phases[RELEASE].clear())
        assert_fault(model, SUMS)
