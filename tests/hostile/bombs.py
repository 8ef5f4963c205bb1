"""Hostile images: tables that name very many others, most of them in holes. Test side.

What a table names may lie in a hole, which takes no room on the disk, and as long to read as
anything else. The work that an amend may take follows from what the file stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.hostile.case import Case, number, u64
from tests.hostile.plot import Plot, bitmap, drawn, words
from tests.support.forge import Extension, Image

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
L1_MAX = 1 << 22
LIMIT = "work_limit"
UNREAD = "bitmap_directory_not_read"
MANY = 1 << 15
"""Snapshots: half of what there can be, so that the table has 2 MiB."""


def cases() -> Iterator[Case]:
    yield from _walks()
    yield from _snapshots()
    yield from _overlapping_tables()
    yield from _bitmaps()
    yield from _upgrades()
    yield from _headers()


def _walks() -> Iterator[Case]:
    """L1 tables that name very many L2 tables."""
    for bits, count, apart, reason, exits, mib in (
        (9, 1 << 16, 1, "", 64, 33),
        (9, 1 << 17, 2, LIMIT, 64, 1),
        (16, 1 << 14, 1, LIMIT, 64, 1),
        (16, 1 << 16, 2, LIMIT, 64, 1),
    ):
        where = "in a row" if apart == 1 else "apart"
        name = f"clusters of 2^{bits}: {count} L2 tables in holes, {where}"
        draw = partial(_l2_tables, count=count, apart=apart)
        yield drawn(name, draw, bits, reason=reason, exits=exits, mib=mib)
    for bits, turn, mib in ((9, 82, 1), (16, 34, 3)):
        name = f"clusters of 2^{bits}: {turn} L2 tables in turn, 65536 times"
        yield drawn(name, partial(_in_turn, turn=turn), bits, mib=mib)


def _l2_tables(plot: Plot, count: int, apart: int = 1) -> None:
    start = plot.hole(apart * count << plot.bits)
    plot.l1(range(start, plot.end, apart << plot.bits))


def _in_turn(plot: Plot, turn: int) -> None:
    start = plot.hole(2 * turn << plot.bits)
    plot.l1([start + (2 * n << plot.bits) for n in range(turn)] * ((1 << 16) // turn))
    plot.length = TIB


def _snapshots() -> Iterator[Case]:
    """Snapshots with L1 tables in holes."""
    for bits, entries, reason, exits, mib in (
        (9, 1, "", 1000, 22),
        (9, 193, LIMIT, 64, 2),
        (16, 8192, LIMIT, 64, 2),
    ):
        name = f"clusters of 2^{bits}: {MANY} snapshots, each with {entries} entries"
        draw = partial(_own_tables, entries=entries)
        yield drawn(name, draw, bits, reason=reason, exits=exits, mib=mib)
    name = f"1000 snapshots whose L1 tables of {number(L1_MAX)} entries overlap in a hole"
    yield drawn(name, _shifted_tables, 9, reason=LIMIT, differs="")
    name = "100 snapshots that have one L1 table in turn, or one entry of it"
    yield drawn(name, _long_and_short, exits=1600, mib=100)


def _own_tables(plot: Plot, entries: int) -> None:
    room = -(-8 * entries >> plot.bits) << plot.bits
    start = plot.hole(MANY * room)
    plot.snapshots([(start + n * room, entries) for n in range(MANY)])


def _shifted_tables(plot: Plot) -> None:
    start = plot.hole(8 * L1_MAX + 1000 * plot.step)
    plot.snapshots([(start + n * plot.step, L1_MAX) for n in range(1000)])


def _long_and_short(plot: Plot) -> None:
    plot.l1_hole(L1_MAX)
    start = plot.hole(8 * L1_MAX)
    plot.snapshots([(start, L1_MAX), (start, 1)] * 50)


def _overlapping_tables() -> Iterator[Case]:
    """A file whose clusters all are L1 tables of snapshots, and are named as L2 tables."""
    for size, entries, reason, exits, mib in ((1, 1 << 13, LIMIT, 64, 1), (2, 193, "", 4600, 12)):
        name = f"{size} MiB of L1 tables of {entries} entries that overlap and name all of it"
        draw = partial(_all_named, size=size * MIB, entries=entries)
        yield drawn(name, draw, 9, reason=reason, differs="", exits=exits, mib=mib)


def _all_named(plot: Plot, size: int, entries: int) -> None:
    clusters, start = size >> plot.bits, plot.end
    step = 40503  # odd: all clusters in turn
    plot.put(words(start + (n * step % clusters << plot.bits) for n in range(size // 8)))
    count = clusters - (8 * entries >> plot.bits)
    plot.snapshots([(start + (n << plot.bits), entries) for n in range(count)])


def _bitmaps() -> Iterator[Case]:
    """Bitmaps to be dropped, whose directory, tables and clusters are large or often the same."""
    for name, draw, bits, reason, exits, mib in (
        ("a bitmap table of 1 GiB in a hole", _largest_bitmap, 16, LIMIT, 64, 1),
        ("a bitmap of 131072 clusters of one sector", _fine_bitmap, 9, "", 64, 2),
        ("a bitmap table that names two clusters in turn", _bitmap_in_turn, 16, LIMIT, 64, 1),
        ("a bitmap table of 90 MiB in a hole", _large_bitmap, 21, "", 2000, 110),
        ("65535 bitmaps with one table", _one_bitmap_table, 16, LIMIT, 64, 1),
        ("65535 bitmaps with one table in a hole", _one_empty_table, 16, LIMIT, 64, 1),
        ("a bitmap directory of 2 MiB", _long_directory, 16, "", 2200, 4),
    ):
        more: dict[str, Any] = {
            "reason": reason,
            "differs": UNREAD,
            "rewrites": not reason,
            "exits": exits,
            "mib": mib,
        }
        yield drawn(name, draw, bits, drop_bitmaps=True, **more)


def _largest_bitmap(plot: Plot) -> None:
    plot.bitmaps(bitmap(plot.hole(GIB), 1 << 27), 1)
    plot.count_each(1, plot.end + 64 * MIB)


def _large_bitmap(plot: Plot) -> None:
    plot.bitmaps(bitmap(plot.hole(90 * MIB), 90 * MIB // 8), 1)
    plot.refcounts([plot.put(b"\0\1" * 2048)])


def _fine_bitmap(plot: Plot) -> None:
    data = plot.hole(1 << 17 << plot.bits)
    table = plot.put(words(range(data, plot.end, plot.step)))
    plot.bitmaps(bitmap(table, 1 << 17), 1)
    plot.count_each(1, plot.end + 64 * MIB)


def _bitmap_in_turn(plot: Plot) -> None:
    """The refcounts of the two are far apart."""
    near, far = plot.hole(1), 2 * GIB
    table = plot.put(words([near, far] * 2000))
    plot.bitmaps(bitmap(table, 4000), 1)
    plot.refcounts([plot.block(65535), plot.block(65535)])
    plot.length = far + plot.step


def _one_bitmap_table(plot: Plot) -> None:
    data = plot.hole(8192 << plot.bits)
    table = plot.put(words(range(data, plot.end, plot.step)))
    _same_bitmaps(plot, table)


def _one_empty_table(plot: Plot) -> None:
    _same_bitmaps(plot, plot.hole(8 * 8192))


def _same_bitmaps(plot: Plot, table: int) -> None:
    plot.bitmaps(bitmap(table, 8192) * 65535, 65535)
    plot.all_count(65535, plot.end + 64 * MIB)
    plot.length = 2 * TIB


def _long_directory(plot: Plot) -> None:
    plot.bitmaps(bitmap(plot.hole(8), 1, b"n" * 1000) * 2000, 2000)
    plot.all_count(65535, plot.end + 64 * MIB)


def _upgrades() -> Iterator[Case]:
    """Upgrades that complete the snapshot table; the planner looks at no L1 table then."""
    for bits, count, entries, reason, mib in (
        (9, 1, 1 << 24, "", 1),
        (16, 1, (1 << 32) - 1, LIMIT, 1),
        (9, 1 << 14, L1_MAX, "", 2),
    ):
        whose = "a snapshot" if count == 1 else f"{count} snapshots"
        what = f"an upgrade of {whose} with an L1 table of {number(8 * entries)} bytes"
        draw = partial(_incomplete, count=count, entries=entries)
        more: dict[str, Any] = {"reason": reason, "rewrites": not reason, "mib": mib}
        yield drawn(f"clusters of 2^{bits}: {what}", draw, bits, version=2, **more)
    name = "an upgrade of 400 snapshots with L1 tables of 1 MiB, in holes"
    yield drawn(name, _tables_apart, 9, version=2, rewrites=True, mib=2)
    for bits, tables in ((16, 1 << 12), (9, 1 << 15)):
        name = f"clusters of 2^{bits}: an upgrade with {tables} L2 tables in holes"
        draw = partial(_incomplete, count=1, entries=1, tables=tables)
        yield drawn(name, draw, bits, version=2, rewrites=True)
    name = "an upgrade of 16 snapshots with names in holes"
    yield drawn(name, _names_in_holes, version=2, rewrites=True, exits=90, mib=5)


def _incomplete(plot: Plot, count: int, entries: int, tables: int = 0) -> None:
    end = plot.end + (-(-40 * count // plot.step) << plot.bits)
    plot.snapshots([(end, entries)] * count, extra=0)
    plot.hole(8 * entries)
    if tables:
        _l2_tables(plot, tables)
    plot.count_near(end, 64 * count + MIB)


def _tables_apart(plot: Plot) -> None:
    count = 400
    start = plot.hole(count * MIB)
    plot.snapshots([(start + n * MIB, MIB // 8) for n in range(count)], extra=0)
    plot.count_near(plot.end, 64 * count + MIB)


def _names_in_holes(plot: Plot) -> None:
    count = 16
    l1_table = plot.hole(8)
    head = u64(l1_table) + b"\0\0\0\1" + b"\xff" * 4 + bytes(24)
    room = -(-(len(head) + 2 * 65535) // 8) * 8
    place = plot.hole(count * room)
    plot.patches += [(place + n * room, head) for n in range(count)]
    plot.snapshots_at(place, count)
    plot.count_near(plot.end, 2 * count * room)


def _headers() -> Iterator[Case]:
    """As many header extensions as are read."""
    for version in (2, 3):
        extensions = [Extension(0x10000 + n) for n in range(8000)]
        image = Image(version=version, extensions=extensions)
        yield Case(f"version {version}: 8000 header extensions", image)
