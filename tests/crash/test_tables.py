"""What scripts/crash_survey says of sizes, widths and names holds for some of each. Test side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.tables import TableCase, interrupt_tables, may_leak, table_cases
from tests.crash.verdict import Verdict
from tests.support import qemu as oracle

pytestmark = pytest.mark.kvm

CASES = list(table_cases())
CHOSEN = [case for case in CASES if "clusters of 1024" in case.name or ", 4096" in case.name][::3]


def test_there_are_sizes_widths_and_names() -> None:
    assert {case.kind for case in CHOSEN} == {case.kind for case in CASES}


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_a_crash_leaves_the_old_image_or_the_new_one(case: TableCase, tmp_path: Path) -> None:
    outcome = interrupt_tables(case, tmp_path, [oracle.newest()])
    assert outcome.refusal is None
    allowed = {Verdict.OLD, Verdict.NEW} | ({Verdict.LEAK} if may_leak(case) else set())
    assert {Verdict.NEW} <= outcome.tally.states.keys() <= allowed


def test_a_broken_state_is_seen(tmp_path: Path) -> None:
    """qemu-img gives the data up before the size says so."""
    case = next(case for case in CASES if case.name == "shrinks, clusters of 1024")
    outcome = interrupt_tables(case, tmp_path, [], oracle.oldest())
    assert outcome.tally.broken
