"""Test side: each promise of docs/threat-model.md names tests that hold it, and they are there."""

from __future__ import annotations

import re

import build_guest
import pytest

from instar import abi
from instar.vmm import confine, request
from instar.vmm.confine.rules import CLIENT_RULES, RULES
from instar.vmm.contract.reader import disk, structures
from instar.vmm.devices.serial import FRAME_BUDGET, TEXT_BUDGET
from instar.vmm.image.budgets import WORK_FACTOR, WORK_MIN
from instar.vmm.machine import EXIT_BUDGET, WORK_OF_EXITS
from instar.vmm.request.options import PERMISSIONS

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


(GROWTH,) = (row.default for row in PERMISSIONS if row.key == "max_growth")
WORK = f"{WORK_MIN >> 20} MiB, plus {WORK_FACTOR} times what the file stores"

# What a row begins with, and a part of its second column.
NUMBERS = {
    "wall-clock time": f"{request.TIMEOUT:g} s, ",
    "exits": f"{EXIT_BUDGET:,}, and as many again for each {WORK_OF_EXITS // WORK_FACTOR >> 20} ",
    "bytes read": WORK,
    "bytes staged": f" {abi.INSTAR_STAGED_MAX >> 20} MiB at most",
    "ranges zeroed": f"{abi.INSTAR_SEGMENTS_MAX:,}; ",
    "growth of the file": f"{GROWTH >> 30} GiB, ",
    "bytes of text": f"{TEXT_BUDGET}",
    "bytes of messages": f"{FRAME_BUDGET >> 20} MiB",
    "work of the judge": (
        f"{WORK}; each read counts {disk._READ_WORK >> 10} KiB, "
        f"each cluster given up {structures._CLUSTER_WORK} bytes"
    ),
    "memory of the judge": f"{disk.MEMORY_MIN >> 20} MiB, plus {disk.MEMORY_FACTOR} times ",
    "memory": f"{abi.INSTAR_RAM_SIZE >> 20} MiB of guest RAM; "
    f"up to {abi.INSTAR_RAM_MAX >> 20} MiB ",
    "limits": f"{confine.MEMORY >> 20} MiB more memory than at the start",
    "seccomp": f"{len(RULES)} system calls that a run needs, and {len(CLIENT_RULES)} that ",
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_the_page_is_that_of_the_code(name: str) -> None:
    rows = [row.strip("| ").split(" | ") for row in promises(PAGE.read_text("utf-8"))]
    (limit,) = (cells[1] for cells in rows if cells[0] == name)
    assert NUMBERS[name] in limit


def test_every_budget_of_the_page_is_compared_with_the_code() -> None:
    budgets = PAGE.read_text("utf-8").partition("\n## Budgets\n")[2].partition("\n## ")[0]
    assert {row.strip("| ").split(" | ")[0] for row in promises(budgets)} <= NUMBERS.keys()
