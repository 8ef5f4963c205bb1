"""Hostile images: metadata with two meanings, which a change must not destroy. Test side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.hostile.case import Case, fields, u32, u64
from tests.hostile.plot import Plot, bitmap, drawn, words
from tests.support.forge import layout

COPIED, ZERO = layout.COPIED, 1
STEP = 512
"""The size of the smallest clusters: files stay small, and what they hold is compared."""
COVERED = STEP // 2 * STEP
"""What a refcount block of them covers."""


def cases() -> Iterator[Case]:
    yield from _uncounted_tables()
    yield from _blocks()
    yield from _bitmaps()
    yield from _names()
    yield from _unaligned_neighbours()
    yield from _short_clusters()


def _uncounted_tables() -> Iterator[Case]:
    """Nothing but plain zero clusters, for which the planner reads no refcount."""
    for crypt_method in (0, 1):
        for refcount in (0, 2, None):
            count = "without a refcount" if refcount is None else f"with refcount {refcount}"
            name = f"encryption {crypt_method}: a plain zero cluster in an L2 table {count}"
            draw = partial(_uncounted_table, refcount=refcount)
            refused = refcount != 2
            yield drawn(
                name,
                draw,
                crypt_method=crypt_method,
                reason="refcount" * refused,
                rewrites=not refused,
                differs="no_secret_needed" if crypt_method else None,
            )


def _uncounted_table(plot: Plot, refcount: int | None) -> None:
    plot.l1([plot.put(u64(ZERO)) | COPIED])
    plot.refcounts([0 if refcount is None else plot.block(refcount)])


def _blocks() -> Iterator[Case]:
    """A refcount block that is something else too, in which a refcount falls or rises."""
    name = "a refcount block counts two clusters that are given up"
    yield drawn(name, _block_twice, 9, reason="overlap")
    name = "a refcount block counts clusters that are given up in ten places"
    yield drawn(name, _block_ten_times, 9, reason="overlap")
    name = "a refcount block far from the others is an L2 table that changes first"
    yield drawn(name, _far_block_is_l2_table, 9, backed=True, reason="overlap", differs="")
    name = "a refcount block counts as free, and the snapshot table could take its place"
    yield drawn(name, _block_is_free, 9, version=2, reason="overlap", differs="")
    name = "a refcount block counts itself as free, and the snapshot table could take its place"
    yield drawn(name, _block_counts_itself_free, version=2, reason="overlap", differs="")
    name = "a snapshot's L2 table lies where new refcount blocks are put"
    draw = _table_where_refcounts_end
    yield drawn(name, draw, 9, backed=True, reason="overlap", differs="metadata_kept")
    name = "a refcount block is the L2 table whose zero cluster it counts"
    yield drawn(name, _block_is_l2_table, 9, reason="overlap", differs="")
    for part in (
        *("L1 table", "snapshot's L1 table", "snapshot's L2 table", "snapshot table"),
        *("refcount table", "cluster of data"),
    ):
        for taken in (False, True):
            if taken and part in ("refcount table", "cluster of data"):
                continue
            how = "is taken" if taken else "is given up"
            name = f"a refcount block is the {part}, and a cluster in it {how}"
            draw = partial(_block_is, part=part, taken=taken)
            yield drawn(name, draw, 9, backed=taken, reason="overlap")


def _block_twice(plot: Plot) -> None:
    first = 200 * STEP
    plot.l1([plot.put(words([first | ZERO, COVERED + first | ZERO])) | COPIED])
    block = plot.block(1)
    plot.patches.append((block + 400, b"\0\2"))
    plot.refcounts([block, block])
    plot.length = 2 * COVERED


def _block_ten_times(plot: Plot) -> None:
    """More refcounts change than sectors of them do."""
    hosts = [(COVERED // STEP * n + 100 + n) * STEP for n in range(1, 11)]
    plot.l1([plot.put(words([host | ZERO for host in hosts])) | COPIED])
    plot.refcounts([plot.block(1), *[plot.block(2)] * 10])
    plot.length = 11 * COVERED


def _far_block_is_l2_table(plot: Plot) -> None:
    """The planner has read neither when the table changes."""
    host, far = plot.hole(1), 150 * STEP
    shared = plot.put(words([ZERO | host]))
    plot.hole(3)
    plot.l1([shared | COPIED, far | COPIED, plot.put(words([ZERO] * 4)) | COPIED])
    block = plot.block(1)
    plot.refcounts([block, far])
    plot.patches += [(far, words([ZERO] + [0] * 63)), (block + 2 * (host // STEP), b"\0\2")]
    plot.patches.append((block + 2 * 60, bytes(4)))
    plot.length = 2 * COVERED


def _block_is_free(plot: Plot) -> None:
    """The snapshot's name would stand for refcounts then."""
    l1_table, name = plot.l1([0]), b"\1" * 64
    first, second = plot.block(1), plot.block(1)
    plot.refcounts([first, second])
    plot.patches.append((first + 2 * (second // STEP), b"\0\0"))
    plot.end = 300 * STEP
    head = u64(l1_table) + u32(1) + b"\0\0\0\x40" + bytes(24) + name
    plot.snapshots_at(plot.put(head), 1)
    plot.length = 2 * COVERED


def _block_counts_itself_free(plot: Plot) -> None:
    plot.snapshots([(plot.hole(8), 1)], extra=0)
    plot.l1_hole(1)
    block = plot.put(b"\0\1" * (plot.step // 2))
    plot.patches.append((block + 2 * (block >> plot.bits), b"\0\0"))
    plot.refcounts([block])


def _table_where_refcounts_end(plot: Plot) -> None:
    """By the time that it is visited, it is full of refcounts, which read as zero clusters."""
    tables = plot.put(words([ZERO] * 64 * 17))
    plot.l1(range(tables | COPIED, plot.end | COPIED, STEP))
    plot.refcounts([plot.block(1)])
    own = plot.put(u64(COVERED))
    plot.snapshots([(own, 1)])
    plot.length = COVERED + STEP


def _block_is_l2_table(plot: Plot) -> None:
    # The third 16 bits of entry 0 are 4: so many users has the third cluster that they count.
    data, host = 4 << 16, COVERED + 2 * STEP
    table = plot.put(words([data | COPIED, host | ZERO]))
    plot.l1([table | COPIED])
    block = plot.block(1)
    plot.refcounts([block, table, block])
    plot.patches.append((data, b"\5" * STEP))


def _block_is(plot: Plot, part: str, *, taken: bool) -> None:
    # The first entry of all these is an offset, whose first or second 16 bits are 0: a free
    # cluster. The last are over 1: a cluster with other users.
    host = 0 if taken else COVERED + 3 * STEP
    data = plot.put(u64(plot.hole(1)))
    l1_table = plot.l1([plot.put(u64(data | COPIED, host | ZERO)) | COPIED])
    l2_table = plot.put(u64(data))
    own_table = plot.put(u64(l2_table))
    snapshots = plot.snapshots([(own_table, 1)])
    places = {
        "L1 table": l1_table,
        "snapshot's L1 table": own_table,
        "snapshot's L2 table": l2_table,
        "snapshot table": snapshots,
        "cluster of data": data,
        "refcount table": plot.end + plot.step,
    }
    plot.refcounts([plot.block(1), places[part]])
    plot.length = 2 * COVERED


def _bitmaps() -> Iterator[Case]:
    """Bitmaps to be dropped, of which something counts as another's."""
    for part in ("data", "table", "directory"):
        name = f"a bitmap's {part} counts as free and is taken"
        draw = partial(_bitmap_is_free, part=part)
        yield drawn(name, draw, backed=True, drop_bitmaps=True, reason="refcount")
    name = "a bitmap's data are a zero cluster's"
    yield drawn(name, _bitmap_is_zero, drop_bitmaps=True, reason="refcount")


def _bitmap_is_free(plot: Plot, part: str) -> None:
    plot.l1([plot.put(u64(ZERO)) | COPIED])
    places = {"data": plot.hole(8)}
    places["table"] = plot.put(u64(places["data"]))
    places["directory"] = plot.end
    plot.bitmaps(bitmap(places["table"], 1), 1)
    block = plot.block(1)
    plot.patches.append((block + 2 * (places[part] >> 16), b"\0\0"))
    plot.refcounts([block])


def _bitmap_is_zero(plot: Plot) -> None:
    data = plot.hole(8)
    plot.l1([plot.put(u64(data | COPIED | ZERO)) | COPIED])
    plot.bitmaps(bitmap(plot.put(u64(data)), 1), 1)
    plot.all_count(1, plot.end)


def _names() -> Iterator[Case]:
    """The last snapshot's name ends where the file has ended."""
    for version in (2, 3):
        for size in (600, 65535):
            name = f"version {version}: a snapshot's name of {size} bytes behind the end"
            draw = partial(_name, size=size)
            yield drawn(name, draw, 9, version=version, backed=True, reason="snapshot_table")


def _name(plot: Plot, size: int) -> None:
    version = plot.image.version
    plot.l1([plot.put(u64(ZERO)) | COPIED])
    l1_table = plot.hole(8)
    plot.refcounts([plot.block(1)] * (16 if version == 3 else 1))
    extra = u64(0, plot.image.size) if version == 3 else b""
    head = u64(l1_table) + b"\0\0\0\1" + b"\0\0" + size.to_bytes(2, "big") + bytes(20)
    plot.snapshots_at(plot.put(head + len(extra).to_bytes(4, "big") + extra), 1)


def _unaligned_neighbours() -> Iterator[Case]:
    """A zero cluster beside an entry that is not valid, and that the amend leaves as it is."""
    for place in (0, 2):
        for what, entry in (("data", 1025 << 9), ("a compressed cluster", 1025 << 9 | 1 << 62)):
            for backed in (False, True):
                name = f"{what} within a cluster at entry {place}, beside a plain zero cluster"
                draw = partial(_neighbours, place=place, entry=entry)
                yield drawn(f"{name}{', backed' * backed}", draw, backed=backed, rewrites=True)


def _neighbours(plot: Plot, place: int, entry: int) -> None:
    entries = [0, ZERO, 0]
    entries[place] = entry
    plot.l1([plot.put(words(entries)) | COPIED])
    plot.hole(8 << 16)
    plot.patches.append((1025 << 9, b"\5" * 4096))
    used = plot.end >> 16
    plot.refcounts([plot.put(b"\0\1" * (used + 8))])


def _short_clusters() -> Iterator[Case]:
    """Tables of more than a MiB in a last cluster that the file has not all of."""
    kinds: tuple[tuple[str, Callable[[Plot], None], dict[str, Any]], ...] = (
        ("an L2 table", _short_l2_table, {"exits": 80, "mib": 15}),
        ("an L1 table", _short_l1_table, {"exits": 80, "mib": 15}),
        ("a bitmap table", _short_bitmap, {"drop_bitmaps": True, "mib": 3}),
        ("the snapshot table", _short_snapshots, {"version": 2, "mib": 3}),
    )
    for what, draw, more in kinds:
        differs = "bitmap_directory_not_read" if "drop_bitmaps" in more else None
        name = f"{what} in the last cluster, of which the file has a page"
        yield drawn(name, draw, 21, rewrites=True, differs=differs, **more)


def _one_page(plot: Plot, data: bytes) -> int:
    place = plot.hole(8)
    plot.patches.append((place, data))
    plot.end = place + 4096
    return place


def _short_l2_table(plot: Plot) -> None:
    plot.align(plot.step)
    plot.refcounts([plot.put(b"\0\1" * 64)])
    host = plot.hole(8)
    plot.l1([plot.end + plot.step | COPIED])
    _one_page(plot, u64(host | COPIED | ZERO))


def _short_l1_table(plot: Plot) -> None:
    plot.refcounts([plot.put(b"\0\1" * 64)])
    host = plot.hole(8)
    place = _one_page(plot, u64(plot.put(u64(host | COPIED | ZERO)) | COPIED))
    plot.patches += fields(l1_table_offset=place, l1_size=200_000)


def _short_bitmap(plot: Plot) -> None:
    plot.l1([0])
    plot.refcounts([plot.put(b"\0\1" * 64)])
    plot.bitmaps(bitmap(plot.end + plot.step, 200_000), 1)
    _one_page(plot, bytes(8))


def _short_snapshots(plot: Plot) -> None:
    plot.l1([0])
    plot.refcounts([plot.put(b"\0\1" * 64)])
    plot.snapshots_at(_one_page(plot, bytes(8)), 5000)
