"""Test side: the contract fuzzer for a while; it notices when a rule of the judge is missing."""

from __future__ import annotations

from typing import Any

import pytest

from instar.vmm.contract import books, growth, header, limits, rules, structures, tables
from instar.vmm.contract.differences import REFCOUNT_TABLE, TABLE_PLACE
from instar.vmm.contract.rules import lazy_refcounts
from tests.fuzz.contract import run


def test_what_the_judge_accepts_of_a_mutated_plan_damages_nothing() -> None:
    tally = run(seed=1, runs=1500, seconds=120)
    assert not tally.findings
    assert tally.endings["accepted"] > 50
    assert tally.endings["a fault"] > 500


def _any_early_header(self: header.HeaderStates) -> None:
    fields = self.before.fields
    names = ("refcount_table_offset", "refcount_table_clusters")
    self.places = {name: fields[name] for name in names}


def _nothing(*_: Any, **__: Any) -> None:
    """Judge nothing."""


_HUGE = 1 << 40
MENDS: dict[str, list[tuple[Any, str, Any]]] = {
    "states before the switch": [
        (header.HeaderStates, "judge_prefixes", _any_early_header),
        (rules, "TOGGLE", lazy_refcounts.TOGGLE | {(REFCOUNT_TABLE, TABLE_PLACE)}),
    ],
    "the refcount table's size": [
        *((module, "REFCOUNT_TABLE_MAX", _HUGE) for module in (limits, books)),
        (growth, "_judge_table", _nothing),
    ],
    "growth": [(tables, "judge_growth", _nothing)],
    "extra data of snapshots": [
        *((structures, f"SNAPSHOT_{name}_MAX", _HUGE) for name in ("EXTRA", "TABLE")),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("mends", MENDS.values(), ids=MENDS)
def test_the_fuzzer_finds_what_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, mends: list[tuple[Any, str, Any]]
) -> None:
    for module, name, without in mends:
        monkeypatch.setattr(module, name, without)
    assert run(seed=5, runs=60_000, seconds=300).findings
