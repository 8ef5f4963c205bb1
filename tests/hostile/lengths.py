"""Hostile images: files that end too early, or go on too long. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import BACKED, SNAPPED, TINY, V2, V3, Case
from tests.support.forge import Extension

INSIDE = "file_must_be_whole"


def cases() -> Iterator[Case]:
    yield from _header()
    yield from _tables()
    yield from _tiny()


def _header() -> Iterator[Case]:
    for reason, lengths in (
        ("not_qcow2", (0, 1, 3, 4, 7)),  # without a version there is no header
        ("truncated_header", (8, 20, 24, 40, 64, 71, 72, 73, 96, 103)),
    ):
        for length in lengths:
            yield Case(f"v3: the file ends after {length} bytes", V3, length=length, reason=reason)
    for length in (
        104,
        111,
        112,
        120,
        200,
        400,
        511,
        512,
        513,
        600,
        1024,
        4095,
        4096,
        65535,
        65536,
    ):
        yield Case(
            f"v3: the file ends after {length} bytes",
            V3,
            length=length,
            reason="refcount_table",
            differs=INSIDE,
        )
    for length in (8, 64, 70, 71):
        yield Case(
            f"v2: the file ends after {length} bytes",
            V2,
            length=length,
            reason="truncated_header",
            differs="file_must_be_whole" if length >= 64 else "",
        )
    for length in (72, 79, 80, 104, 512):
        yield Case(
            f"v2: the file ends after {length} bytes",
            V2,
            length=length,
            reason="refcount_table",
            differs=INSIDE,
        )
    start = BACKED.regions()["backing_file"].start
    for length in (start, start + 1, start + 7):
        yield Case(
            f"the file ends within the backing file name, after {length} bytes",
            BACKED,
            length=length,
            reason="refcount_table",
            differs=INSIDE if length == start else "",
        )
    long = replace(V3, extensions=[Extension(0x11111111, b"\1" * 1000)])
    yield Case(
        "the file ends within an extension",
        long,
        length=600,
        reason="refcount_table",
        differs=INSIDE,
    )


def _tables() -> Iterator[Case]:
    regions = SNAPPED.regions()
    for name in (
        "l1_table",
        "l2_table[0]",
        "refcount_table",
        "refcount_block[0]",
        "snapshot_table",
    ):
        for apart in (-1, 0, 1):
            # A cluster of which one byte is left counts as whole.
            behind = name == "refcount_block[0]" or (name == "refcount_table" and apart == 1)
            yield Case(
                f"the file ends {apart:+} bytes from the start of the {name}",
                SNAPPED,
                length=regions[name].start + apart,
                reason="" if behind else "refcount_table",
                differs="" if behind else INSIDE,
            )
    end = max(part.stop for part in regions.values())
    for apart in (-65535, -512, -511, -1, 1, 511, 512, 65536, 1 << 30):
        yield Case(f"the file is {apart:+} bytes from whole", SNAPPED, length=end + apart)


def _tiny() -> Iterator[Case]:
    regions = TINY.regions()
    end = max(part.stop for part in regions.values())
    for apart in (-513, -512, -511, -1, 1):
        yield Case(
            f"tiny clusters: the file is {apart:+} bytes from whole",
            TINY,
            length=end + apart,
        )
