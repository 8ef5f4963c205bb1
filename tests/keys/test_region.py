"""What else uses the region of a LUKS header is found, before a keyslot is written. Test side.

The region is one that a slot opens. Its areas of slots not in use are zeros, which every table can
be, so that nothing but who names them is wrong with these images.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import instar
from instar import abi
from tests.keys.files import FIRST
from tests.support.forge import Bitmap, Compressed, Data, Extension, Image, Snapshot

pytestmark = pytest.mark.kvm

BITS = 16
SIZE = 1 << BITS
COPIED, COMPRESSED = 1 << 63, 1 << 62
KEYS: dict[str, instar.AddKey | instar.EraseKey] = {
    "add": instar.AddKey(FIRST, b"new", iter_time=0),
    "erase": instar.EraseKey(0, force=True),
}


@pytest.fixture(scope="session")
def image(luks: bytes) -> Image:
    """One with all that an image can hold, and a place in it for a header that FIRST opens."""
    areas = int.from_bytes(luks[104:108], "big") * 512
    return Image(
        cluster_bits=BITS,
        size=64 * SIZE,
        crypt_method=2,
        crypto_header=luks[:areas],
        clusters={0: Data(b"d"), 1: Data(b"d"), 2: Compressed(b"c")},
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"e")})],
        bitmaps=[Bitmap(name=b"b", dirty={0})],
    )


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def flagged(image: Image, host: int) -> bytes:
    return word(host | COPIED)


# What names a cluster of the region: a region of the file, a place in it, and what is to be there.
Pointer = tuple[str, int, Callable[[Image, int], bytes]]
USES: dict[str, tuple[int, Pointer]] = {
    "an L2 table": (abi.AMEND_USE_L2_TABLE, ("l1_table", 0, flagged)),
    "data": (abi.AMEND_USE_DATA, ("l2_table[0]", 0, flagged)),
    "data without its flag": (
        abi.AMEND_USE_DATA,
        ("l2_table[0]", 24, lambda _, host: word(host)),
    ),
    "compressed data": (
        abi.AMEND_USE_DATA,
        ("l2_table[0]", 16, lambda _, host: word(COMPRESSED | host + 512)),
    ),
    "a snapshot's L2 table": (
        abi.AMEND_USE_L2_TABLE,
        ("snapshot[0].l1_table", 0, lambda _, host: word(host)),
    ),
    "a snapshot's data": (abi.AMEND_USE_DATA, ("snapshot[0].l2_table[0]", 0, flagged)),
    "a snapshot's L1 table": (
        abi.AMEND_USE_SNAPSHOT_L1_TABLE,
        ("snapshot_table", 0, lambda _, host: word(host)),
    ),
    "an L1 table": (
        abi.AMEND_USE_L1_TABLE,
        ("header_cluster", 40, lambda _, host: word(host)),
    ),
    "a second refcount block": (
        abi.AMEND_USE_REFCOUNT_BLOCK,
        ("refcount_table", 8, lambda _, host: word(host)),
    ),
    "a bitmap table": (abi.AMEND_USE_BITMAP, ("bitmap_directory", 0, lambda _, host: word(host))),
    "a bitmap": (abi.AMEND_USE_BITMAP, ("bitmap[0].table", 0, lambda _, host: word(host))),
}


def patched(image: Image, pointer: Pointer, host: int) -> Image:
    region, at, value = pointer
    return replace(image, patches=[(region, at, value(image, host))])


def refusal(path: Path, keys: instar.AddKey | instar.EraseKey) -> instar.Refusal:
    """Why the keys of the image at `path` cannot be changed; it stays as it is."""
    before = path.read_bytes()
    os.utime(path, ns=(1, 1))
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(path, keys=keys)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == 1
    (found,) = caught.value.refusals
    return found


@pytest.mark.parametrize("name", KEYS)
def test_where_nothing_else_uses_it_keys_change(disk: Path, image: Image, name: str) -> None:
    image.write(disk)
    before, region = image.build(), image.regions()["crypto_header"]
    instar.amend(disk, keys=KEYS[name])
    after = disk.read_bytes()
    assert after != before
    assert after[: region.start] == before[: region.start]
    assert after[region.stop :] == before[region.stop :]


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("use", USES)
def test_what_else_uses_it_is_named(disk: Path, image: Image, use: str, name: str) -> None:
    number, pointer = USES[use]
    region = image.regions()["crypto_header"]
    host = region.start + 8 * SIZE  # of an area that is not in use
    patched(image, pointer, host).write(disk)
    found = refusal(disk, KEYS[name])
    assert found.name == "overlap"
    assert found.detail["offset"] == host
    users = {found.detail["user"], found.detail["other_user"]}
    assert users == {abi.AMEND_USE_CRYPTO_HEADER, number}


def test_a_second_luks_header_is_apart(disk: Path, image: Image) -> None:
    region = image.regions()["crypto_header"]
    pointer = Extension(0x0537BE77, word(region.start) + word(SIZE))
    replace(image, first_extensions=(pointer,)).write(disk)
    assert refusal(disk, KEYS["add"]).name == "overlap"
    pointer = Extension(0x0537BE77, word(image.regions()["l1_table"].start) + word(SIZE))
    replace(image, first_extensions=(pointer,)).write(disk)
    instar.amend(disk, keys=KEYS["add"])


def test_a_snapshots_table_outside_the_image_is_named(disk: Path, image: Image) -> None:
    replace(image, patches=[("snapshot[0].l1_table", 0, word(1 << 40))]).write(disk)
    assert refusal(disk, KEYS["add"]).name == "l2_table"


def test_what_an_external_data_file_has_is_not_in_it(disk: Path, image: Image) -> None:
    host = image.regions()["crypto_header"].start
    clusters = {0: Data(b"d"), 1: Data(b"d")}
    outside = replace(image, data_file=b"data", clusters=clusters, snapshots=(), bitmaps=())
    replace(outside, patches=[("l2_table[0]", 0, word(host | COPIED))]).write(disk)
    assert instar.amend(disk, keys=KEYS["add"]).action == "amended"
