"""Test side: the lines of README and the other pages are short enough to read."""

from __future__ import annotations

from pathlib import Path

import build_guest
import pytest

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
LIMIT = 160  # characters; prose is wrapped at 100, and what cannot be broken may be longer


def long_lines(text: str) -> list[int]:
    """The numbers of lines of prose over the limit: tables and code are as wide as they need."""
    found, fenced, indented, blank = [], False, False, True
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        # Code by its indentation begins after a blank line; elsewhere it is an item's text.
        indented = line.startswith("    ") and (indented or blank)
        blank = not line.strip()
        if not (fenced or indented or line.startswith("|")) and len(line) > LIMIT:
            found.append(number)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_too_long(page: Path) -> None:
    assert long_lines(page.read_text("utf-8")) == []


def test_all_pages_are_found() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "amend.md"} <= names
    assert len(names) > 50


def test_tables_and_code_may_be_wider() -> None:
    wide = "x" * (LIMIT + 1)
    text = f"| {wide} |\n\n```\n{wide}\n```\n\n    {wide}\n    {wide}\n"
    assert long_lines(text) == []
    assert long_lines(f"{text}{wide}\n* {wide}\n    {wide}\n") == [9, 10, 11]
