"""Hostile images: the bitmaps and the crypto extension, which point into the file. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import CLUSTER, V2, V3, Case, number, u32, u64
from tests.support.forge import Bitmap, Extension, layout

BITMAPS = layout.EXTENSION_BITMAPS
CRYPTO = layout.EXTENSION_CRYPTO_HEADER
BAD_BITMAPS = "bitmaps_extension"
BAD_CRYPTO = "crypto_extension"

MAPPED = replace(V3, bitmaps=[Bitmap(name=b"b0", dirty=(0, 3))])
LUKS = replace(V3, crypt_method=2, crypto_header=b"LUKS\xba\xbe")


def cases() -> Iterator[Case]:
    yield from _bitmap_fields()
    yield from _bitmap_lengths()
    yield from _bitmap_directory()
    yield from _crypto()


def _bitmap_fields() -> Iterator[Case]:
    start = MAPPED.regions()["extensions"].start + 8
    top = 1024 * 65535
    for name, at, pack, bad, good in (
        ("nb_bitmaps", 0, u32, (0, 65536, 1 << 31, (1 << 32) - 1), (2, 65535)),
        ("reserved", 4, u32, (1, (1 << 32) - 1), ()),
        ("directory size", 8, u64, (top + 1, 1 << 63, (1 << 64) - 1), (0, 1, top)),
        (
            "directory offset",
            16,
            u64,
            (1, 512, CLUSTER - 512, (1 << 64) - 1),
            (0, 1 << 30, 1 << 63),
        ),
    ):
        for value in (*bad, *good):
            yield Case(
                f"bitmaps: {name} is {number(value)}",
                replace(MAPPED, patches=[(start + at, pack(value))]),
                reason=BAD_BITMAPS if value in bad else "downgrade_bitmaps",
                differs="" if value in bad else "bitmap_directory_not_read",
            )


def _bitmap_lengths() -> Iterator[Case]:
    good = u32(1, 0) + u64(64, CLUSTER)
    for length in (0, 1, 23, 24, 25, 32):
        data = good.ljust(length, b"\0")[:length]
        for title, base, bit, differs in (
            ("v3", V3, 0, "bitmaps_block"),
            ("v3 with the bit", V3, 1, "bitmap_directory_not_read"),
            ("v2", V2, 0, ""),
        ):
            yield Case(
                f"{title}: a bitmaps extension of {length} bytes",
                replace(base, autoclear_features=bit, extensions=[Extension(BITMAPS, data)]),
                reason=BAD_BITMAPS if length != 24 else "downgrade_bitmaps",
                differs=differs if length == 24 else "",
            )
    twice = [Extension(BITMAPS, good)] * 2
    yield Case(
        "two bitmaps extensions",
        replace(MAPPED, extensions=twice),
        reason="downgrade_bitmaps",
        differs="bitmap_directory_not_read",
    )


def _bitmap_directory() -> Iterator[Case]:
    for what, at, data in (
        ("table is in the header", 0, u64(0)),
        ("table is unaligned", 0, u64(CLUSTER + 8)),
        ("table is far away", 0, u64(1 << 50)),
        ("table has 2^32-1 entries", 8, u32((1 << 32) - 1)),
        ("flags are unknown", 12, u32(0xFFFFFFF8)),
        ("type is unknown", 16, b"\xff"),
        ("granularity is 2^255", 17, b"\xff"),
        ("name has 65535 bytes", 18, b"\xff\xff"),
        ("extra data have 2^32-1 bytes", 20, u32((1 << 32) - 1)),
    ):
        yield Case(
            f"bitmaps: in the directory, the {what}",
            replace(MAPPED, patches=[("bitmap_directory", at, data)]),
            reason="downgrade_bitmaps",
            differs="bitmaps_block bitmap_directory_not_read",
        )


def _crypto() -> Iterator[Case]:
    good = u64(CLUSTER, 512)
    yield Case(
        "a crypto extension without encryption",
        replace(V3, extensions=[Extension(CRYPTO, good)]),
        reason=BAD_CRYPTO,
    )
    yield Case(
        "a crypto extension with the old encryption",
        replace(V3, crypt_method=1, extensions=[Extension(CRYPTO, good)]),
        reason=BAD_CRYPTO,
    )
    yield Case("LUKS without a crypto extension", replace(V3, crypt_method=2), reason=BAD_CRYPTO)
    for length in (0, 1, 8, 15, 17, 24):
        data = good.ljust(length, b"\0")[:length]
        yield Case(
            f"LUKS with a crypto extension of {length} bytes",
            replace(V3, crypt_method=2, extensions=[Extension(CRYPTO, data)]),
            reason=BAD_CRYPTO,
        )
    start = LUKS.regions()["extensions"].start + 8
    for name, at, bad, fine in (
        ("offset", 0, (1, 512, CLUSTER + 8, (1 << 64) - 1, 0), (1 << 40, 1 << 63)),
        ("length", 8, (), (0, 1, 1 << 32, 1 << 63, (1 << 64) - 1)),
    ):
        for value in (*bad, *fine):
            yield Case(
                f"LUKS: the crypto header's {name} is {number(value)}",
                replace(LUKS, patches=[(start + at, u64(value))]),
                reason=BAD_CRYPTO if value in bad else "",
                differs="" if value in bad else "no_secret_needed",
            )
