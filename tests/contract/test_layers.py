"""Test side: who may know of whom in C, and which modules of the host may touch what.

The Python side of the same rules is in test_packaging.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import build_guest
import pytest

ROOT = build_guest.ROOT

# What C11, 4 promises to a freestanding program, and the one that the compiler calls unasked.
FREESTANDING = {"stdbool.h", "stddef.h", "stdint.h", "string.h"}

# Folder: the folders whose headers its files may include, besides its own.
ARROWS = {
    "abi": (),
    "shared": ("abi",),
    "shared/host": ("abi", "shared"),
    "guest/common": ("abi",),
    "guest/core": ("abi",),
    "guest/amend": ("abi", "shared"),
}

# Module of the host: the only modules of the standard library by which it could reach the outside.
OUTSIDE = {"os", "mmap", "fcntl", "socket", "subprocess", "ctypes", "signal", "threading"}
PURE = (
    *("arguments", "contract", "contract_disk", "contract_mapping", "contract_refcounts"),
    *("contract_structures", "contract_tables", "errors", "header_view", "probe", "record"),
    *("request", "result", "serial", "staging", "verdict", "virtqueue"),
)


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).glob("*.[chS]"))


def includes_of(source: Path) -> set[str]:
    text = source.read_text(encoding="ascii")
    return set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE))


def test_every_folder_with_c_sources_has_its_arrows() -> None:
    found = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("abi", "shared", "guest")
        for path in (ROOT / top).rglob("*.[chS]")
    }
    assert found == set(ARROWS)


@pytest.mark.parametrize("folder", ARROWS)
def test_c_sources_know_of_what_the_arrows_allow(folder: str) -> None:
    allowed = {
        header.name
        for name in (folder, *ARROWS[folder])
        for header in sources(name)
        if header.suffix == ".h"
    }
    assert sources(folder)
    for source in sources(folder):
        hosted = {"stdlib.h"} if folder == "shared/host" else set()
        assert includes_of(source) <= allowed | FREESTANDING | hosted, source.name


def test_no_two_headers_have_one_name() -> None:
    names = [path.name for folder in ARROWS for path in sources(folder) if path.suffix == ".h"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("source", [p for f in ARROWS for p in sources(f)], ids=lambda p: p.name)
def test_each_file_says_what_it_is_and_on_which_side(source: Path) -> None:
    first = source.read_text(encoding="ascii").partition("\n")[0]
    sides = ("Guest, untrusted: ", "Pure, either side: ", "Test side: ", "The contract between ")
    assert first.startswith(tuple(f"/* {side}" for side in sides)), first


@pytest.mark.parametrize("name", PURE)
def test_what_judges_bytes_cannot_reach_the_outside(name: str) -> None:
    tree = ast.parse((ROOT / "vmm" / f"{name}.py").read_bytes())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & OUTSIDE
