"""Test side: the registry of differences from qemu-img and its documentation say the same."""

from __future__ import annotations

import build_guest

from tests.support.looks.divergences import CHECK, REPAIR, explain, table


def test_the_pages_have_the_tables_of_the_registry() -> None:
    docs = build_guest.ROOT / "docs"
    assert table() in (docs / "info.md").read_text("utf-8")
    for registry in (CHECK, REPAIR):
        assert table(registry) in (docs / "check.md").read_text("utf-8")


def test_what_is_not_listed_is_a_defect() -> None:
    assert explain("/virtual-size: 1, not 2", ()) is None
    assert explain("/snapshots: [], not [1]", ()) is None
    assert explain("/snapshots: [], not [1]", ("snapshot_table",)) == "tables_outside_the_file"
