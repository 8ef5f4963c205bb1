"""Test side: an image that qemu-img refuses to open is none that `instar check` calls sound.

Each image differs from a sound one in one thing that qemu looks at before it opens an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import instar
from tests.support.forge import Bitmap, Data, Extension, Image
from tests.support.forge.description import Patch
from tests.support.looks import information
from tests.support.looks.checking import ask_qemu, differences
from tests.support.looks.divergences import CHECK, explain
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

V3 = Image(size=1 << 20, clusters={0: Data(b"\x05")})
LARGE = replace(V3, cluster_bits=9, size=64 << 20)


def bitmaps(*some: Bitmap, base: Image = V3, patches: list[Patch] | None = None) -> Image:
    """An image with these bitmaps."""
    return replace(base, bitmaps=some, patches=patches or [])


def bitmap(base: Image = V3, patches: list[Patch] | None = None, **fields: object) -> Image:
    """An image with one bitmap, whose first bit is set."""
    one = Bitmap(**{"name": b"one", "dirty": [0], **fields})  # type: ignore[arg-type]
    return bitmaps(one, base=base, patches=patches)


def entries(count: int) -> list[Patch]:
    """Have the first bitmap say that its table has so many entries."""
    return [("bitmap_directory", 8, count.to_bytes(4, "big"))]


def entry(word: int) -> list[Patch]:
    """Have the first bitmap's table name this."""
    return [("bitmap[0].table", 0, word.to_bytes(8, "big"))]


# What is wrong: the image, and what a check finds.
UNSOUND: Mapping[str, tuple[Image, str]] = {
    "a bitmap of type 0": (bitmap(type=0), "bitmap"),
    "a bitmap of type 2": (bitmap(type=2), "bitmap"),
    "a bitmap with an unknown flag": (bitmap(flags=8), "bitmap"),
    "a bitmap with bits for 256 bytes": (bitmap(granularity_bits=8), "bitmap"),
    "a bitmap with bits for 4 GiB": (bitmap(granularity_bits=32), "bitmap"),
    "a bitmap with bits for 2^255 bytes": (
        bitmap(patches=[("bitmap_directory", 17, b"\xff")]),
        "bitmap",
    ),
    "a table that is too long": (bitmap(patches=entries(2)), "bitmap_table"),
    "a table that is far too long": (bitmap(patches=entries(8192)), "bitmap_table"),
    "a table that is too short": (
        bitmap(LARGE, granularity_bits=9, patches=entries(31)),
        "bitmap_table",
    ),
    "a table of one entry too many": (
        bitmap(LARGE, granularity_bits=9, patches=entries(33)),
        "bitmap_table",
    ),
    "a bitmap of an empty disk": (
        bitmap(replace(V3, size=0, clusters={}), dirty=[], patches=entries(1)),
        "bitmap_table",
    ),
    "a bitmap of a disk shorter than a sector": (
        bitmap(replace(V3, size=511, clusters={}), dirty=[]),
        "bitmap_table",
    ),
    "a table for what follows the last sector": (
        bitmap(replace(LARGE, size=(512 * 8 * 512) + 511), granularity_bits=9),
        "bitmap_table",
    ),
    "two bitmaps of one name": (
        bitmaps(Bitmap(name=b"one"), Bitmap(name=b"two"), Bitmap(name=b"one")),
        "bitmap_name",
    ),
    "two bitmaps of one name, one of which is in use": (
        bitmaps(Bitmap(name=b"one", flags=1), Bitmap(name=b"one")),
        "bitmap_name",
    ),
    "two names that a NUL byte cuts": (
        bitmaps(Bitmap(name=b"one\0a"), Bitmap(name=b"one\0b")),
        "bitmap_name",
    ),
    "a bitmap's entry with reserved bits": (bitmap(patches=entry(2)), "bitmap_entry"),
    "the same of a bitmap in use": (bitmap(flags=1, patches=entry(2)), "bitmap_entry"),
    "a bitmap's entry in no cluster": (bitmap(patches=entry(512)), "bitmap_entry"),
    "a bitmap's entry that is data and all ones": (
        bitmap(patches=entry(0x10001)),
        "bitmap_entry",
    ),
}

# What is unusual, and all the same is sound.
SOUND: Mapping[str, Image] = {
    "a bitmap": bitmap(),
    "a bitmap with bits for 512 bytes": bitmap(granularity_bits=9),
    "a bitmap with bits for 2 GiB": bitmap(granularity_bits=31),
    "a bitmap with a long table": bitmap(LARGE, granularity_bits=9),
    "a bitmap in use, with a table of any length": bitmap(flags=1, patches=entries(2)),
    "a bitmap without a name": bitmap(name=b""),
    "a bitmap with the longest name": bitmap(name=b"x" * 1023),
    "bitmaps with much the same names": bitmaps(
        *(Bitmap(name=b"one" + bytes([65 + n])) for n in range(40))
    ),
    "an empty name of a data file": replace(V3, extensions=(Extension(0x44415441, b""),)),
    "a name of a data file that is zeros": replace(
        V3, extensions=(Extension(0x44415441, bytes(8)),)
    ),
    "a bitmap of a disk that ends within a sector": bitmap(replace(V3, size=(1 << 20) + 511)),
}

# Names by what a check keeps of each, which is a hash of 64 bits (FNV-1a), in twice as many places
# as there are names. The first two have the same.
HASHED = {
    "0": bytes.fromhex("100aed151e130a04301cea77150a"),
    "0 again": bytes.fromhex("052f7d7c0c1403180c58e02f2c12"),
    "2": bytes.fromhex("30010d720f017c1b03051b01fe10"),
    "7": bytes.fromhex("0b25eb350116391d05051c23150b"),
    "9": bytes.fromhex("0c04320f0a13177fd433762efa1f"),
    "15": bytes.fromhex("071d3d270b7c1c191933e4081c0a"),
    "17": bytes.fromhex("040b181b7003262a130af31f3105"),
    "23": bytes.fromhex("02040f031f3a093a3b0c3c03080a"),
}


@pytest.mark.parametrize(
    ("names", "repeated"),
    [
        (("0", "0"), 1),
        (("0", "0 again"), 1),
        (("2", "7", "2", "2"), 2),
        (("0", "2"), 0),
        (("0", "9", "17", "2"), 0),
        (("0", "9", "17", "9"), 1),
        (("7", "15", "23", "2"), 0),
        (("7", "15", "23", "23"), 1),
    ],
)
def test_names_of_bitmaps_are_told_apart_by_their_hashes(
    names: tuple[str, ...], repeated: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    bitmaps(*(Bitmap(name=HASHED[name]) for name in names)).write(path)
    result = instar.check(path)
    assert [finding.name for finding in result.findings] == ["bitmap_name"] * repeated


def test_what_follows_a_name_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    patch = ("bitmap_directory", 64, b"after the directory")
    bitmaps(Bitmap(name=b"of eight"), Bitmap(name=b"of eight"), patches=[patch]).write(path)
    assert [finding.name for finding in instar.check(path).findings] == ["bitmap_name"]


@pytest.mark.parametrize("what", UNSOUND)
def test_what_qemu_img_refuses_is_not_called_sound(
    what: str, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    path = tmp_path / "t.qcow2"
    image, name = UNSOUND[what]
    image.write(path)
    result = instar.check(path)
    assert result.exit_status == 2
    assert name in {finding.name for finding in result.findings}
    for qemu in (qemu_versions[0], qemu_versions[-1]):
        assert ask_qemu(qemu, path)[1] is None
        found, names = differences(qemu, path)
        assert [one for one in found if explain(one, names, CHECK) is None] == []
        assert information.unexplained(qemu, path) == []


@pytest.mark.parametrize("what", SOUND)
def test_what_is_unusual_is_sound_as_qemu_img_says(
    what: str, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    path = tmp_path / "t.qcow2"
    SOUND[what].write(path)
    assert instar.check(path).exit_status == 0
    assert not instar.info(path).problems
    for qemu in (qemu_versions[0], qemu_versions[-1]):
        assert differences(qemu, path)[0] == []
        assert information.unexplained(qemu, path) == []
