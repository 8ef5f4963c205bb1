"""The registry of divergences, its tests and its documentation say the same. Test side."""

from __future__ import annotations

import re

import pytest

from tests.support.divergences import DIVERGENCES, Divergence, diverges, table
from tests.support.project import ROOT
from tests.support.rows import RECORDED, REFUSALS

DOCUMENT = ROOT / "docs" / "amend.md"
HEADING = "## Deliberate divergences from qemu-img\n"
IN_ROWS = {name for row in (*RECORDED, *REFUSALS) for name in row.divergence if name}
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "tests").rglob("*.py")
    if path.name not in ("divergences.py", "test_divergences.py")
}


def test_every_name_that_a_test_looks_up_is_registered() -> None:
    looked_up = {
        name for text in SOURCES.values() for name in re.findall(r'diverges\("(\w+)"\)', text)
    }
    for name in IN_ROWS | looked_up:
        assert diverges(name).name == name


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: divergence.name)
def test_every_divergence_is_tested(divergence: Divergence) -> None:
    named = any(f'"{divergence.name}"' in text for text in SOURCES.values())
    assert named or divergence.name in IN_ROWS


def test_every_divergence_is_documented_and_no_other() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines == table(), "python -m tests.support.divergences prints the table"


def test_names_of_divergences_are_unique() -> None:
    names = [divergence.name for divergence in DIVERGENCES]
    assert sorted(set(names)) == sorted(names)
