"""Test side: which room may know of which: those of the C sources."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import build_guest
import pytest

from tests.contract.rooms import ROOMS

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT

# What C11, 4 promises to a freestanding program, and the one that the compiler calls unasked.
FREESTANDING = {"stdbool.h", "stddef.h", "stdint.h", "string.h"}

TOPS = ("abi", "shared", "guest")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.[chS]"))


def unit_of(source: Path) -> str:
    """A header and the file that keeps its promises are one unit."""
    return source.relative_to(ROOT).with_suffix("").as_posix()


def room_of(source: Path) -> str:
    """The room of a file, which is its folder."""
    return source.parent.relative_to(ROOT).as_posix()


def includes_of(source: Path) -> set[tuple[str, str]]:
    """What a file includes, each with the sign before its name: < the compiler's, " ours."""
    text = source.read_text(encoding="ascii")
    return set(re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, re.MULTILINE))


def headers_of(source: Path) -> set[Path]:
    """Those of our own headers that a file includes; where each is found is the compiler's rule."""
    folders = (source.parent, ROOT / "abi", ROOT / "shared", ROOT / "guest" / "operation")
    hosted = {"stdlib.h"} if room_of(source) == "shared/host" else set()
    found = set()
    for sign, name in includes_of(source):
        if sign == "<":
            assert name in FREESTANDING | hosted, f"{source.name} includes {name}"
        else:
            found.add(next(path for folder in folders if (path := folder / name).is_file()))
    return found


def test_every_folder_with_c_sources_is_a_room() -> None:
    in_c = {room for room in ROOMS if room.partition("/")[0] in TOPS}
    assert {room_of(source) for source in SOURCES} == in_c


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_c_sources_know_of_what_the_arrows_allow(source: Path) -> None:
    room = room_of(source)
    assert {room_of(header) for header in headers_of(source)} <= {room, *ROOMS[room]}


def test_no_units_of_c_know_of_each_other_in_a_circle() -> None:
    known: dict[str, set[str]] = {unit_of(source): set() for source in SOURCES}
    for source in SOURCES:
        known[unit_of(source)] |= {unit_of(header) for header in headers_of(source)}
    for unit, others in known.items():
        others.discard(unit)
    try:
        tuple(TopologicalSorter(known).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_what_a_unit_gives_to_others_stands_in_a_header_of_its_own() -> None:
    # Else two units can call each other, and no #include tells. Options are rows of one table;
    # what ends as a program, or as a library of the tests, is called by nobody's header.
    ends = {"shared/amend/options", "shared/host", *(room for room in ROOMS if "guest" in room)}
    units = [path for path in SOURCES if path.suffix == ".c" and room_of(path) not in ends]
    assert units
    assert [unit_of(path) for path in units if not path.with_suffix(".h").is_file()] == []


def test_readers_of_the_format_know_nothing_of_an_amend() -> None:
    readers = [source for source in SOURCES if room_of(source) == "shared/qcow2"]
    assert readers
    for source in readers:
        assert not re.search(r"\bAmendConfig\b|\bAMEND_FLAG", source.read_text(encoding="ascii"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_says_what_it_is_and_on_which_side(source: Path) -> None:
    first = source.read_text(encoding="ascii").partition("\n")[0]
    sides = ("Guest, untrusted: ", "Pure, either side: ", "Test side: ", "The contract between ")
    assert first.startswith(tuple(f"/* {side}" for side in sides)), first
