"""Test side: the tables of docs/amend.md and docs/abi.md are those that the code has."""

from __future__ import annotations

import re
import subprocess
import sys

import build_guest
import pytest

from instar import abi
from instar.vmm.base.reasons import OF_NONE, REASONS
from instar.vmm.request.key_options import key_options
from instar.vmm.request.options import OPTIONS, PERMISSIONS

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
SCRIPT = ROOT / "scripts" / "generate_tables"


def test_the_tables_are_fresh() -> None:
    command = [sys.executable, str(SCRIPT), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OPTIONS_BY_KEY = sorted(OPTIONS, key=lambda row: row.abi_key)
LAYOUTS = (
    *("InspectConfig", "InfoResult", "InfoFeature", "InfoSnapshot", "InfoBitmap"),
    *("CheckFinding", "CheckResult"),
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_in_the_page_are_those_that_the_host_unpacks(name: str) -> None:
    """The page's are made of the header's text, the host's of what a parser of C makes of it."""
    text = (ROOT / "docs/abi.md").read_text(encoding="utf-8")
    table = text.split(f"<!-- table: {name} -->\n", 1)[1].split("<!-- end -->", 1)[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (?:(\d+) x )?uint(\d+) \|", table, re.MULTILINE)
    codes = {"8": "B", "16": "H", "32": "I", "64": "Q"}
    form = "".join(f"{n}s" if n and bits == "8" else n + codes[bits] for _, _, n, bits in rows)
    assert f"<{form}" == getattr(abi, f"{name}_FORMAT")
    sizes = [int(n or 1) * int(bits) // 8 for _, _, n, bits in rows]
    assert [int(row[0]) for row in rows] == [sum(sizes[:i]) for i in range(len(rows))]
    assert sum(sizes) == getattr(abi, f"{name}_SIZE")


def test_each_struct_and_finding_of_a_look_is_in_the_page() -> None:
    text = (ROOT / "docs/abi.md").read_text(encoding="utf-8")
    structs = {name.removesuffix("_SIZE") for name in vars(abi) if name.endswith("_SIZE")}
    looked = {name for name in structs if re.match("(Info|Inspect|Check)[A-Z]", name)}
    assert looked == set(LAYOUTS)
    findings = text.split("<!-- table: findings -->\n", 1)[1].split("<!-- end -->", 1)[0]
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", findings, re.MULTILINE)]
    assert numbers == list(range(1, abi.CHECK_KIND_MAX + 1))


def test_each_option_and_error_of_the_abi_is_in_the_page() -> None:
    text = (ROOT / "docs/abi.md").read_text(encoding="utf-8")
    kinds = {
        abi.OPTION_KIND_FLAG: "flag",
        abi.OPTION_KIND_NUMBER: "number",
        abi.OPTION_KIND_BYTES: "bytes",
    }
    table = text.partition("| key | option | kind | value |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \|", table, re.MULTILINE)
    assert rows == [(str(row.abi_key), row.key, kinds[row.abi_kind]) for row in OPTIONS_BY_KEY]
    listed = text.partition("\nErrors: ")[2].partition("\n\n")[0]
    numbers = {number for name, number in vars(abi).items() if name.startswith("AMEND_ERROR_")}
    assert {int(number) for number in re.findall(r"(?:^|,\s)(\d+)\s", listed)} == {0, *numbers}


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
        "refusals": len(REASONS) + len(OF_NONE),
    }
    for number in REASONS:
        found = re.search(rf"^\| {number} \| `\w+` \| (\w+) \|", tables["refusals"], re.MULTILINE)
        assert found
        assert hasattr(abi, f"AMEND_ERROR_{found[1]}")


def test_what_is_said_where_there_is_none_is_in_the_table_of_refusals() -> None:
    text = (ROOT / "docs/amend.md").read_text(encoding="utf-8")
    for number, message in OF_NONE.items():
        assert f"| {message} |\n" in text
        assert "count" in REASONS[number][1]
