"""Test side: which room may know of which: the host's, the tests' and the scripts'."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import build_guest
import hatch_build
import pytest

from tests.contract.rooms import ROOMS

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT

# Room of the host, or a file that differs from its room: what it may import of the standard
# library. What judges bytes can reach nothing else.
HARMLESS = {"__future__", "_collections_abc", "collections"}
ANYTHING = sys.stdlib_module_names
REACH: dict[str, Set[str]] = {
    "vmm/__main__.py": {"sys"},
    "vmm/public.py": {"sys"},
    "vmm/cli": ANYTHING | {"tqdm"},  # for a progress bar, where it is installed
    "vmm/api.py": {"sys"},
    "vmm/looks.py": {"concurrent", "functools", "sys"},
    "vmm/repair.py": {"os"},
    "vmm/fleet": ANYTHING,
    "vmm/amend": {"_collections_abc", "_thread", "logging", "os", "struct", "sys", "time"},
    "vmm/amend/chain.py": {"time"},
    "vmm/amend/messages.py": {"struct"},
    "vmm/inspect": {"collections", "concurrent", "itertools", "os", "struct", "sys"},
    "vmm/inspect/frames.py": {"struct"},
    "vmm/inspect/references.py": set(),
    "vmm/luks": {"time"},
    "vmm/luks/header.py": set(),
    "vmm/luks/region.py": {"hmac"},
    "vmm/luks/crypto.py": {"contextlib", "cryptography", "hashlib", "os", "time"},
    "vmm/luks/plan.py": {"os"},
    "vmm/luks/judge.py": {"itertools"},
    "vmm/contract/judge.py": set(),
    "vmm/contract/repair": {"itertools"},
    "vmm/contract": {"bisect", "itertools", "operator", "struct"},
    "vmm/contract/reader": {"struct"},
    "vmm/contract/reader/widths.py": {"sys"},
    "vmm/contract/terms.py": set(),
    "vmm/machine": {"_signal", "_thread", "errno", "os", "signal", "struct", "sys", "time"},
    "vmm/machine/payload.py": {"_sha2", "_sha256", "hashlib", "os", "struct"},
    "vmm/devices": {"struct", "zlib"},
    "vmm/devices/memory.py": {"mmap"},
    "vmm/confine": {"os", "stat", "struct"},
    "vmm/image": {"errno", "fcntl", "os", "stat", "struct"},
    "vmm/image/staging.py": {"bisect", "struct"},
    "vmm/image/view.py": {"bisect"},
    "vmm/qcow2": {"struct"},
    "vmm/request": set(),
    "vmm/request/keywords.py": {"os", "sys"},
    "vmm/kvm": {"fcntl", "mmap", "os", "struct"},
    "vmm/base": {"dataclasses", "inspect"},
    "vmm/base/lean_json.py": {"_json"},
    "vmm/base/arrays.py": {"array", "sys"},
    "vmm/base/luks_layout.py": {"struct"},
    "vmm/base/nearest.py": {"difflib"},
    "vmm/base/streams.py": {"fcntl", "os"},
    "vmm/base/supported.py": {"os", "platform", "sys"},
    "vmm/base/c.py": {"_ctypes", "ctypes", "os"},
    "vmm/__init__.py": {"_frozen_importlib_external", "_struct", "marshal", "os", "sys"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(top: str) -> Iterator[Path]:
    """The modules and the programs below a folder."""
    for path in sorted((ROOT / top).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            program = not path.suffix and path.read_bytes().startswith(b"#!/usr/bin/env python3")
            if path.suffix == ".py" or program:
                yield path


def dotted(path: Path) -> str:
    """The name by which a file is imported."""
    top, *parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    tops = {"vmm": ["instar", "vmm"], "tests": ["tests"], "scripts": []}
    return ".".join([*tops[top], *parts])


HOST = list(python_files("vmm"))
FILES = [*HOST, *python_files("tests"), *python_files("scripts")]
MODULES = {
    **{dotted(path): path for path in FILES if path.suffix},
    "instar.abi": ROOT / "abi" / "instar_abi.h",
}


def room_of(path: Path) -> str:
    """The room of a file: a folder of vmm/ or tests/, a kind of script, or the file itself.

    A folder within a room is a part of it, and so is a file, where no row of the table sets it
    apart.
    """
    whole = name_of(path)
    top, *folders, name = path.relative_to(ROOT).parts
    if folders:
        above = ("/".join((top, *folders[:depth])) for depth in range(len(folders), 1, -1))
        return next((room for room in (whole, *above) if room in ROOMS), f"{top}/{folders[0]}")
    if top == "scripts":
        return f"scripts/{name.partition('_')[0]}_*.py" if path.suffix else top
    return top if top == "abi" else f"{top}/{name}"


@cache
def imports_of(path: Path, *, at_run_time: bool = False) -> tuple[tuple[str, int], ...]:
    """All that a file imports, at its top or anywhere: absolute names, each with its level."""
    module = dotted(path).split(".")
    package = module if path.name == "__init__.py" else module[:-1]
    found = []
    nodes: list[ast.AST] = [ast.parse(path.read_bytes())]
    while nodes:
        node = nodes.pop()
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            wholes = [f"{source}.{alias.name}" for alias in node.names]
            found += [(whole if whole in MODULES else source, node.level) for whole in wholes]
    return tuple(found)


def targets_of(path: Path) -> set[Path]:
    """The files of this project that a file imports."""
    names = {name for name, _ in imports_of(path) if name != "instar"}
    ours = {name for name in names if name in MODULES or name.startswith(("instar.", "tests."))}
    return {MODULES[name] for name in ours} - {path}


each_file = pytest.mark.parametrize("path", FILES, ids=name_of)
each_of_the_host = pytest.mark.parametrize("path", HOST, ids=name_of)


def test_every_file_lies_in_a_room_and_every_room_has_files() -> None:
    in_c = {room for room in ROOMS if room.partition("/")[0] in ("abi", "guest", "shared")}
    assert {room_of(path) for path in FILES} == ROOMS.keys() - in_c


def test_no_arrow_of_the_table_leads_back_up() -> None:
    order = list(ROOMS)
    for number, room in enumerate(order):
        assert {*ROOMS[room]} <= {*order[number + 1 :]}, room


@each_file
def test_a_file_knows_of_what_the_arrows_allow(path: Path) -> None:
    room = room_of(path)
    rooms = {room_of(target) for target in targets_of(path)}
    if path not in HOST:  # tests and scripts may look into every room of the host
        rooms = {other for other in rooms if not other.startswith(("vmm/", "abi"))}
    assert rooms <= {room, *ROOMS[room]}


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = {path: targets_of(path) for path in FILES}
    while leaves := {path for path, targets in arrows.items() if not targets & arrows.keys()}:
        for path in leaves:
            del arrows[path]
    assert sorted(map(name_of, arrows)) == []


@each_file
def test_imports_are_relative_in_the_package_and_nowhere_else(path: Path) -> None:
    """So that any tool sees the arrows between the files of vmm/, without building the package.

    Some files of vmm/ lie above it in the package, and so have nothing there to be relative to.
    """
    relative = path in HOST and name_of(path) not in hatch_build.TOP_MODULES.values()
    for name, level in imports_of(path):
        if relative:
            assert level or name.partition(".vmm")[0] != "instar" or name == "instar", name
        else:
            assert not level, name


@each_of_the_host
def test_a_file_of_the_host_reaches_no_further_than_it_may(path: Path) -> None:
    name = name_of(path)
    allowed = REACH[name if name in REACH else room_of(path)]
    for imported, level in imports_of(path, at_run_time=True):
        ours = level or imported.partition(".")[0] in ("instar", *HARMLESS)
        assert ours or imported in allowed or imported.partition(".")[0] in allowed, imported


def test_every_room_of_the_host_has_a_reach() -> None:
    assert {room for room in ROOMS if room.startswith("vmm/")} <= REACH.keys()
    assert {name for name in REACH if not name.endswith(".py")} <= ROOMS.keys()


READER_LINES = 1000


def test_the_judges_reader_of_tables_is_small_enough_to_be_read() -> None:
    """What follows a hostile image's pointers on the host is what most needs eyes.

    docs/threat-model.md and README name the number.
    """
    lines = [path.read_text("utf-8").count("\n") for path in python_files("vmm/contract/reader")]
    assert READER_LINES // 2 < sum(lines) <= READER_LINES
    for page in ("README.md", "docs/threat-model.md", "docs/architecture.md"):
        assert f"{READER_LINES:,} lines" in (ROOT / page).read_text("utf-8"), page


@each_of_the_host
def test_a_file_of_the_host_says_what_it_is_and_on_which_side(path: Path) -> None:
    # Of a room, that is what the room is for: it stands in its __init__.py, which each must have.
    assert (path.parent / "__init__.py").is_file()
    assert path.read_text(encoding="utf-8").startswith('"""Host side: ')
