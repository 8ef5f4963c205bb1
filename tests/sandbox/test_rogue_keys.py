"""Test side: where keyslots change, no guest gets a byte written, whatever it stages or says.

It is asked one thing, whether the image is sound; these payloads lie about it. Then the host alone
sees to it that nothing but the region of the LUKS header is written.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.sandbox.rogues import FOLDER, Rogues, Set
from tests.support.forge import Bitmap, Data, Extension, Image, Snapshot
from tests.support.luks_headers import make_header

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

KEYS = "keys"
"""The folder of these payloads."""
SIZE = 1 << 16
PLACE = SIZE
"""Where the forge puts the region."""
POINTER = 0x0537BE77


def region() -> bytes:
    """A LUKS header with slot 0 in use, and areas without anything."""
    return make_header("xts-plain64", 64, "sha256").ljust(4040 * 512, b"\0")


IMAGE = Image(
    size=64 * SIZE,
    crypt_method=2,
    crypto_header=region(),
    clusters={0: Data(b"d"), 1: Data(b"d")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"e")})],
    bitmaps=[Bitmap(name=b"b", dirty={0})],
)
ERASE: dict[str, Any] = {"keys": instar.EraseKey(0, force=True)}
WRITTEN = "the guest reports a no-op, yet wrote"

EXPECTED = {
    "writes_keys": WRITTEN,
    "zeroes_keys": WRITTEN,
    "writes_keys_and_says_so": "the guest reports success, yet wrote nothing or outside the header",
    "moves_keys": "the guest changes more of the header than the feature words",
}


def pointing(region: str, at: int, word: int) -> Image:
    """The image with another word in a place."""
    return replace(IMAGE, patches=[(region, at, word.to_bytes(8, "big"))])


def placed(offset: int, length: int) -> Image:
    """The image with another region of keys, of which the last counts."""
    data = offset.to_bytes(8, "big") + length.to_bytes(8, "big")
    return replace(IMAGE, extensions=(Extension(POINTER, data),))


OUTSIDE = "the guest accepted a LUKS header outside the image"
L1_TABLE = IMAGE.regions()["l1_table"].start
# What names a part of the region besides.
BAD = {
    "an L2 table": pointing("l1_table", 0, PLACE),
    "data": pointing("l2_table[0]", 0, PLACE),
    "the L1 table": pointing("header_cluster", 40, PLACE + 4 * SIZE),
    "the snapshot table": pointing("header_cluster", 64, PLACE + 4 * SIZE),
    "a snapshot's L1 table": pointing("snapshot_table", 0, PLACE + 4 * SIZE),
    "the refcount table": pointing("header_cluster", 48, PLACE + 4 * SIZE),
    "a refcount block": pointing("refcount_table", 8, PLACE + 4 * SIZE),
    "a bitmap": pointing("bitmap[0].table", 0, PLACE),
    "a bitmap,": pointing("bitmap_directory", 0, PLACE),
}
PLACES = {
    "the header": (0, SIZE, OUTSIDE),
    "the L1 table": (L1_TABLE, SIZE, "is used twice, as the LUKS header and as the L1 table"),
    "the other region": (PLACE + SIZE, SIZE, "is used twice, as the LUKS header"),
    "a place within a cluster": (PLACE + 512, SIZE, "within a cluster"),
    "no byte": (PLACE, 0, OUTSIDE),
    "more than there can be": (PLACE, (1 << 64) - 1, OUTSIDE),
    "more than the file has": (PLACE, 60 << 20, OUTSIDE),
    "a place after the file's end": (1 << 40, SIZE, OUTSIDE),
    "the end of all files": ((1 << 64) - SIZE, 1 << 21, OUTSIDE),
}


def test_every_payload_is_expected() -> None:
    found = {path.stem for path in (FOLDER / KEYS).glob("*.c")}
    assert found == {*EXPECTED, "accepts_anything"}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_guest_stages_is_its_fault(rogues: Rogues, path: Path, name: str) -> None:
    error = rogues.run(name, path, Set(IMAGE, ERASE))
    assert type(error) is instar.GuestFault
    assert str(error).startswith(EXPECTED[name])


@pytest.mark.parametrize("use", BAD)
def test_what_it_does_not_see_the_host_does(rogues: Rogues, path: Path, use: str) -> None:
    error = rogues.run("accepts_anything", path, Set(BAD[use], ERASE))
    assert type(error) is instar.ImageRejected
    assert re.search(f"is used twice, as the LUKS header and as {use}", str(error))


@pytest.mark.parametrize("place", PLACES)
def test_no_other_place_is_taken_for_the_region(rogues: Rogues, path: Path, place: str) -> None:
    offset, length, said = PLACES[place]
    error = rogues.run("accepts_anything", path, Set(placed(offset, length), ERASE))
    assert type(error) in (instar.GuestFault, instar.ImageRejected)
    assert said in str(error)


@pytest.mark.parametrize("count", [0, 2])
def test_a_count_that_is_not_one_is_the_guests_fault(
    rogues: Rogues, path: Path, count: int
) -> None:
    image = replace(IMAGE, refcounts={5: count})
    error = rogues.run("accepts_anything", path, Set(image, ERASE))
    assert type(error) is instar.GuestFault
    assert "have not one user each" in str(error)


@pytest.mark.parametrize("method", [0, 1])
def test_no_other_encryption_is_taken_for_luks(rogues: Rogues, path: Path, method: int) -> None:
    image = replace(IMAGE, crypt_method=method)
    error = rogues.run("accepts_anything", path, Set(image, ERASE))
    assert type(error) is instar.GuestFault
    assert "without a LUKS header" in str(error)


def test_a_guest_that_says_nothing_false_may(rogues: Rogues, path: Path) -> None:
    IMAGE.write(path)
    before = path.read_bytes()
    instar.amend(path, payload=rogues.payload("accepts_anything"), **ERASE)
    after = path.read_bytes()
    end = PLACE + len(region())
    assert (after[:PLACE], after[end:]) == (before[:PLACE], before[end:])
    assert after[PLACE:end] != before[PLACE:end]
