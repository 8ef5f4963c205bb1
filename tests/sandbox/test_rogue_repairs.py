"""Test side: a guest that lies in a repair, one payload for each rule that the judge has of it.

What can be told from the tables is computed by the host: to clear the dirty bit of an image that
is not sound, or to write anything else than what makes it so, is a guest fault.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import instar
from tests.sandbox.rogues import FOLDER, Rogues, Set
from tests.support.forge import Bitmap, Data, Extension, Image, Snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

REPAIR = {"repair": True}
DIRTY = Image(
    cluster_bits=9,
    size=64 << 9,
    clusters={0: Data(b"a"), 3: Data(b"b")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
    bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)],
    dirty=True,
)
PLACES = {name: place.start for name, place in DIRTY.regions().items()}
SOUND = Set(DIRTY, REPAIR)
BOOKS = r"sector \d+ does not become what the references make of it"
HEADER = "the guest changes more of the header than a repair does, or nothing"
NOTHING = r"the guest writes sector \d+ in phase {} for nothing"


def counted(place: str, refcount: int) -> Image:
    """The image with another refcount for one of its clusters."""
    return replace(DIRTY, refcounts={PLACES[place] >> 9: refcount})


def shared(structure: str) -> Image:
    """The image with a structure that is guest data too, as its refcount says."""
    entry = PLACES[structure].to_bytes(8, "big")
    patches = [(PLACES["l2_table[0]"] + 8 * 9, entry)]
    if structure == "l2_table[0]":
        patches.append((PLACES["l1_table"], PLACES[structure].to_bytes(8, "big")))
    return replace(counted(structure, 2), patches=patches)


# Image: what the dirty bit alone does not repair, and what the judge says.
ALONE = {
    "a refcount too low": (counted("data[3]", 0), "the guest leaves a refcount that is too low"),
    "a leak": (counted("data[3]", 2), BOOKS),
    "a wrong flag": (
        replace(DIRTY, patches=[(PLACES["l2_table[0]"], PLACES["data[0]"].to_bytes(8, "big"))]),
        BOOKS,
    ),
    "the corrupt bit": (
        replace(DIRTY, corrupt=True),
        "the guest repairs an image whose features forbid it",
    ),
    "an unknown feature": (
        replace(DIRTY, incompatible_features=1 << 40),
        "the guest repairs an image whose features forbid it",
    ),
    "an unknown extension": (
        replace(DIRTY, extensions=[Extension(0x11111111, b"?")]),
        "the guest repairs an image with an unknown header extension",
    ),
    "an unknown autoclear bit": (replace(DIRTY, autoclear_features=0x10), HEADER),
    **{
        f"{name} that is data too": (
            shared(name),
            rf"the guest accepted a structure in cluster {PLACES[name] >> 9}, .* another use",
        )
        for name in (
            *("l1_table", "l2_table[0]", "snapshot_table", "snapshot[0].l1_table"),
            *(
                "snapshot[0].l2_table[0]",
                "bitmap_directory",
                "bitmap[0].table",
                "bitmap[0].data[0]",
            ),
        )
    },
    "a refcount block that is data too": (
        shared("refcount_block[0]"),
        "the guest leaves a refcount structure that is something else too",
    ),
}

# Payload: its image, and what the judge says.
EXPECTED = {
    "repair_clears_the_corrupt_bit": ALONE["the corrupt bit"],
    "repair_drops_the_snapshots": (DIRTY, HEADER),
    "repair_writes_data": (DIRTY, NOTHING.format(0)),
    "repair_changes_an_entry": (DIRTY, NOTHING.format(2)),
    "repair_raises_a_refcount": (DIRTY, NOTHING.format(0)),
    "repair_moves_the_refcounts": (DIRTY, "the guest makes a refcount table of .*, .* too large"),
    "repair_in_the_release_phase": (DIRTY, "the guest repairs in a phase that no repair has"),
    "repair_is_none": (DIRTY, "the guest reports a no-op, yet wrote, or the image is dirty"),
    "repair_without_writes": (DIRTY, "the guest reports a repair, yet there was none to be made"),
    "repair_stays_dirty": (
        replace(DIRTY, autoclear_features=0x11),
        "the guest leaves the image dirty, or clean, without a reason",
    ),
    "repair_sets_an_autoclear_bit": (DIRTY, HEADER),
    "repair_frees_a_used_cluster": (DIRTY, NOTHING.format(0)),
    "repair_writes_after_the_end": (DIRTY, NOTHING.format(0)),
    "repair_writes_the_header_early": (
        DIRTY,
        "the guest writes more of the header than its first sector",
    ),
    "repair_zeroes": (DIRTY, "the guest repairs in a phase that no repair has"),
    "repair_without_end": (DIRTY, "more sectors written than any amend of this image needs"),
    "repair_not_atomic": (DIRTY, "the guest's switch is not the one it reports"),
}


def test_every_rogue_repair_is_expected() -> None:
    rogues = {path.stem for path in (FOLDER / "repair").glob("*.c")}
    assert rogues == {*EXPECTED, "repair_by_the_dirty_bit_alone"}


def test_the_dirty_bit_alone_repairs_what_is_sound(rogues: Rogues, path: Path) -> None:
    DIRTY.write(path)
    payload = rogues.payload("repair_by_the_dirty_bit_alone")
    assert instar.amend(path, payload=payload, repair=True).action == "amended"


@pytest.mark.parametrize("name", ALONE)
def test_an_image_that_is_not_sound_does_not_become_clean(
    rogues: Rogues, path: Path, name: str
) -> None:
    image, message = ALONE[name]
    error = rogues.run("repair_by_the_dirty_bit_alone", path, Set(image, REPAIR))
    assert type(error) is instar.GuestFault
    assert re.fullmatch(message, str(error)), error


@pytest.mark.parametrize("name", EXPECTED)
def test_a_repair_that_does_anything_else_is_a_guest_fault(
    rogues: Rogues, path: Path, name: str
) -> None:
    image, message = EXPECTED[name]
    error = rogues.run(name, path, Set(image, REPAIR))
    assert type(error) is instar.GuestFault
    assert re.fullmatch(message, str(error)), error


REBUILT = Set(
    Image(
        cluster_bits=9,
        size=400 << 9,
        clusters={n: Data(b"d") for n in range(260)},
        dirty=True,
        refcounts=dict.fromkeys(range(400), 0),
    ),
    REPAIR,
)
"""Two new blocks after their table, at the end of the file."""


def test_without_a_lie_all_refcounts_are_written_anew(rogues: Rogues, path: Path) -> None:
    REBUILT.image.write(path)
    payload = rogues.payload("no_lie")
    assert instar.amend(path, payload=payload, repair=True).action == "amended"
    assert instar.check(path).exit_status == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("first_refcount_off_by_one", r"the refcounts from sector \d+ on are not the old ones"),
        ("last_refcount_off_by_one", r"the refcounts from sector \d+ on are not the old ones"),
        ("old_block_kept", "the guest does not put the refcounts in a row"),
    ],
)
def test_a_lie_among_new_refcounts_is_a_guest_fault(
    rogues: Rogues, path: Path, name: str, message: str
) -> None:
    error = rogues.run(name, path, REBUILT)
    assert type(error) is instar.GuestFault
    assert re.fullmatch(message, str(error)), error
