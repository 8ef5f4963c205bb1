"""Test side: the tables of docs/amend.md are those that the code has."""

from __future__ import annotations

import re
import subprocess
import sys

import build_guest
import pytest

from instar import abi
from instar.vmm.base.reasons import REASONS
from instar.vmm.request.key_options import key_options
from instar.vmm.request.options import OPTIONS, PERMISSIONS

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
SCRIPT = ROOT / "scripts" / "generate_tables"


def test_the_tables_are_fresh() -> None:
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_row_of_the_code_is_a_row_of_a_table() -> None:
    text = (ROOT / "docs/amend.md").read_text(encoding="utf-8")
    parts = re.split(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    tables = dict(zip(parts[1::3], parts[2::3], strict=True))
    counts = {name: table.count("\n") - 2 for name, table in tables.items()}
    assert counts.pop("faults") == 2
    assert counts == {
        "options": len(OPTIONS),
        "keys": len(key_options("qcow2")),
        "permissions": len(PERMISSIONS),
        "refusals": len(REASONS),
    }
    for number in REASONS:
        found = re.search(rf"^\| {number} \| `\w+` \| (\w+) \|", tables["refusals"], re.MULTILINE)
        assert found
        assert hasattr(abi, f"AMEND_ERROR_{found[1]}")
