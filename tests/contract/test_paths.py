"""Test side: every path that a page, a comment or a message names is there."""

from __future__ import annotations

import re
from pathlib import Path

import build_guest
import pytest

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
FOLDERS = ("abi", "bin", "docs", "guest", "scripts", "shared", "tests", "vmm")
SUFFIXES = ("", ".S", ".c", ".h", ".ld", ".md", ".py", ".toml", ".txt", ".yml")
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*]")
# What only looks like one of this project's: names of qemu's, of a case, of a place to fill in.
OTHERS = re.compile(
    r"docs/(?:interop|system)/.*|shared/zero-on-snapshot-cluster|scripts/instar"
    r"|.*/(?:CASE|IMAGE|NAME)(?:/.*)?"
)


def texts() -> list[Path]:
    """The files of the project that are read by people."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.name != ".git"]
    skipped = {"__pycache__", "corpus", "records"}
    return sorted(
        path
        for path in files
        if path.is_file() and path.suffix in SUFFIXES and not skipped & {*path.parts}
    )


def missing(text: str) -> set[str]:
    """The paths in a text that lead nowhere; one with a star leads to all that it matches."""
    named = {name for name in NAMED.findall(text) if not OTHERS.fullmatch(name)}
    return {name for name in named if not any(ROOT.glob(name))}


def test_each_path_that_is_named_is_there() -> None:
    found = {path: missing(path.read_text("utf-8")) for path in texts()}
    assert {path.relative_to(ROOT).as_posix(): gone for path, gone in found.items() if gone} == {}


def test_a_file_that_has_moved_is_noticed() -> None:
    gone = "vmm/" + "seccomp.py"
    assert missing(f"see {gone}, vmm/confine/rules.py and tests/support/forge.") == {gone}
