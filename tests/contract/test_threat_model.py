"""Test side: each promise of docs/threat-model.md names tests that hold it, and they are there."""

from __future__ import annotations

import re

import build_guest
import pytest

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
PAGE = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"`(tests/[\w/]+/test_\w+\.py)(?:::(test_\w+))?`")


def promises(text: str) -> list[str]:
    """The rows of all tables that say what holds their promises."""
    found, inside = [], False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.rstrip("| ").endswith("held by"):
            inside = True
        elif inside and not line.startswith("|---"):
            found.append(line)
    return found


def gone(text: str) -> list[str]:
    """The tests that a text names and that are not there."""
    missing = []
    for path, name in NAMED.findall(text):
        file = ROOT / path
        source = file.read_text("utf-8") if file.is_file() else ""
        if not re.search(rf"^\s*def {name}\(" if name else r"^\s*def ", source, re.MULTILINE):
            missing.append(f"{path}::{name}")
    return missing


@pytest.mark.parametrize("row", promises(PAGE.read_text("utf-8")))
def test_a_promise_names_tests_that_are_there(row: str) -> None:
    held_by = row.strip("| ").rpartition(" | ")[2]
    assert NAMED.search(held_by), "nothing holds it"
    assert gone(held_by) == []


def test_all_tables_of_promises_are_found() -> None:
    assert len(promises(PAGE.read_text("utf-8"))) >= 30


def test_every_test_that_the_page_names_is_there() -> None:
    assert gone(PAGE.read_text("utf-8")) == []


def test_a_test_that_has_gone_is_noticed() -> None:
    here = "tests/contract/test_threat_model.py"
    lost, moved = f"{here}::test_that_is_not_there", here.replace("threat", "thread")
    assert gone(f"`{here}`, `{lost}`, `{moved}`") == [lost, f"{moved}::"]
