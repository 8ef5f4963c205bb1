"""Test side: the contract fuzzer for a while; it notices when a rule of the judge is missing."""

from __future__ import annotations

import random
import time

import pytest

from instar.vmm.contract import books, growth, header, limits, tables, version_2
from instar.vmm.contract.differences import REFCOUNT_TABLE, TABLE_PLACE
from instar.vmm.contract.rules import lazy_refcounts
from tests.fuzz.contract import Tally, _run_image, run


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


def test_the_fuzzer_finds_a_file_that_grows_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "judge_growth", lambda *_: None)
    (finding,) = run(seed=5, runs=2_000, seconds=60).findings
    assert "the file grows from" in finding


def _found_in(image: str) -> list[str]:
    """What is found in the mutants of one image, by its name in a run."""
    tally = Tally()
    rng = random.Random(image)  # noqa: S311 - reproducible, not secret
    _run_image(rng, image, tally, (2_000, time.monotonic() + 60), None)
    return tally.findings


def test_the_fuzzer_finds_a_refcount_table_that_is_larger_than_qemu_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _found_in("6/14") == []
    monkeypatch.setattr(limits, "REFCOUNT_TABLE_MAX", 1 << 40)
    monkeypatch.setattr(books, "REFCOUNT_TABLE_MAX", 1 << 40)
    monkeypatch.setattr(growth, "_judge_table", lambda *_: None)
    (finding,) = _found_in("6/14")
    assert "table_moves" in finding


def test_the_fuzzer_finds_zero_clusters_that_a_downgrade_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _found_in("3/53") == []
    monkeypatch.setattr(version_2.Version2, "judge_table", lambda *_, **__: None)
    (finding,) = _found_in("3/53")
    assert "version 2, and" in finding
