"""Test side: the contract fuzzer for a while; it notices when a rule of the judge is missing."""

from __future__ import annotations

import pytest

from instar.vmm.contract import header
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


def test_the_fuzzer_finds_a_header_that_changes_before_the_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(header.HeaderStates, "judge_prefixes", _any_early_header)
    toggle = lazy_refcounts.TOGGLE | {(REFCOUNT_TABLE, TABLE_PLACE)}
    monkeypatch.setattr(lazy_refcounts, "TOGGLE", toggle)
    assert run(seed=5, runs=2_000, seconds=60).findings
