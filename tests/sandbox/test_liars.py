"""Test side: the planner itself, but for one thing that it writes: each is a guest fault.

These are compiled payloads, each for a rule of the judge that a size, a width or a name has. What
they stage is right but for the one lie, so that no other rule can catch it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import instar
from tests.sandbox.rogues import FOLDER, LIARS, Rogues, Set
from tests.support.forge import Data, Extension, Image, Snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

BITS = 9
WIDTH = Set(
    Image(cluster_bits=BITS, size=200 << BITS, clusters={n: Data(b"d") for n in range(90)}),
    {"refcount_bits": 64},
)
"""Two new blocks after their table, at the end of the file."""
SHRINK = Set(
    Image(
        cluster_bits=BITS,
        size=200 << BITS,
        clusters={n: Data(b"d") for n in range(200)},
        snapshots=[Snapshot(name=b"s", clusters={n: Data(b"d") for n in range(0, 200, 2)})],
    ),
    {"size": 90 << BITS, "shrink": True},
)
"""A copy of the second L2 table, and the L1 table, at the end of the file."""
GROW = Set(
    Image(
        cluster_bits=12,
        size=1 << 14,
        clusters={1: Data(b"d")},
        patches=[(24, (4096 + 1700).to_bytes(8, "big"))],  # as if an earlier shrink had cut it
    ),
    {"size": 1 << 14},
)
RENAME = Set(
    Image(
        backing_file=b"base",
        backing_format=b"qcow2",
        extensions=(Extension(0x11111111, b"unknown!"),),
    ),
    {"backing_file": "new1", "backing_fmt": "raw", "change_backing": True},
)
FIELD = "the guest changes a header field that it must not change"
APART = "the guest does not put the refcounts in a row"
COUNTS = r"the refcounts from sector \d+ on are not the old ones"
L1_ENTRY = "the guest changes, keeps or adds an entry of the L1 table"

EXPECTED = {
    "another_width": (WIDTH, FIELD),
    "first_refcount_off_by_one": (WIDTH, COUNTS),
    "last_refcount_off_by_one": (WIDTH, COUNTS),
    "old_block_kept": (WIDTH, APART),
    "block_over_the_l1_table": (WIDTH, APART),
    "size_of_another_disk": (SHRINK, FIELD),
    "l1_entry_changed": (SHRINK, L1_ENTRY),
    "l1_entry_too_many": (SHRINK, L1_ENTRY),
    "l1_entries_exchanged": (SHRINK, L1_ENTRY),
    "copied_entry_changed": (SHRINK, "the guest changes an L2 entry before the boundary"),
    "released_for_all": (SHRINK, r"the refcounts in sector \d+ are not what .* add up to"),
    "tail_not_cleared": (GROW, "the guest leaves something past the old end of the disk"),
    "name_byte_changed": (RENAME, "the guest changes the backing file name"),
    "name_with_a_data_file": (RENAME, "the guest changes, adds or drops a header extension"),
}


def test_every_liar_is_expected() -> None:
    assert {path.stem for path in (FOLDER / LIARS).glob("*.c")} == {*EXPECTED, "no_lie"}


@pytest.mark.parametrize("set_", [WIDTH, SHRINK, GROW, RENAME], ids=["width", "-", "+", "name"])
def test_without_the_lie_the_amend_is_carried_out(rogues: Rogues, path: Path, set_: Set) -> None:
    set_.image.write(path)
    result = instar.amend(path, payload=rogues.payload("no_lie"), **set_.request)
    assert result.action == "amended"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_lie_is_a_guest_fault_and_the_image_is_untouched(
    rogues: Rogues, path: Path, name: str
) -> None:
    set_, message = EXPECTED[name]
    error = rogues.run(name, path, set_)
    assert type(error) is instar.GuestFault
    assert re.fullmatch(message, str(error)), error
