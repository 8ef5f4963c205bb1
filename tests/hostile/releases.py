"""Hostile images: refcounts and free clusters, and bitmaps that a downgrade gives up. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.bulk import regions_end
from tests.hostile.case import BACKED, CLUSTER, V3, Case, fields, number, u32, u64
from tests.hostile.zeroes import OVERLAY, named
from tests.support.forge import Bitmap, Cluster, Data, Extension, Image, Snapshot, Zero, layout

MAPPED = replace(V3, bitmaps=[Bitmap(name=b"b0", dirty=(0, 3)), Bitmap(name=b"b1", dirty=(1,))])
ENTRY = 32
"""The bytes of a directory entry of MAPPED."""
BITMAPS = "bitmaps"
KEPT = "metadata_kept"
BLOCK = "bitmaps_block"
UNREAD = "bitmap_directory_not_read"
UNREADABLE = (
    *("the nb_bitmaps is", "the directory size is", "the directory offset is", "two extensions"),
    *("flags are unknown", "type is unknown", "granularity is", "name has no bytes"),
    *("name has 9 bytes", "name has 1023", "name has 1024", "name has 65535", "extra data"),
    *("table is in the header", "table is within", "table is off by", "table is the L1 table"),
    *(
        "table is the L2 table",
        "table is a refcount block",
        "table is at 2^63",
        "first's table has",
    ),
    *("names with reserved bits", "names the header", "names off by", "names all ones everywhere"),
)
"""What qemu-img refuses to read, by words of the case."""
READABLE = ("the nb_bitmaps is 2", "the directory size is 64")
"""Of these, what it reads."""
WRONG = {
    "table is the other one's": "refcount",
    "table is the directory": "overlap",
    "table is the L": "overlap",
    "table is the refcount table": "overlap",
    "names the other one's": "refcount",
    "names its own table": "refcount",
    "names the L": "overlap",
    "names the refcount table": "overlap",
    "names a refcount block": "overlap",
    "names a cluster of data": "overlap",
    "has 8193 entries": "refcount",
    "has refcount 0": "refcount",
}
"""Why instar cannot drop them, where that is for the refcounts' sake."""
OUTSIDE = (
    *("the first's table is at the end", "the first's table is at 2^50"),
    "the first's entry names the end",
)
"""What lies where the file has nothing."""


def cases() -> Iterator[Case]:
    yield from _refcount_table()
    yield from _free_clusters()
    yield from _full()
    yield from _directory()
    yield from _entries()
    yield from _tables()


def _refcount_table() -> Iterator[Case]:
    """Entries of the refcount table that a downgrade follows."""
    end = regions_end(OVERLAY)
    block = OVERLAY.regions()["refcount_block[0]"].start
    nothing = ("is 0", "is itself", "is the L1 table", "is the L2 table")
    twice = ("is repeated by the next one", "is repeated by the last one")
    shared = (*twice, "is followed by one that is not aligned")
    reasons = {**dict.fromkeys(nothing, "refcount"), **dict.fromkeys(shared, "overlap")}
    differs = {
        "has its reserved bits set": "reserved_refcount_bits",
        **dict.fromkeys(("is the L1 table", *shared), KEPT),
    }
    for what, at, entry in (
        ("is 0", 0, 0),
        ("is off by a sector", 0, block + 512),
        ("has its reserved bits set", 0, block | 511),
        ("has bit 63 set", 0, block | 1 << 63),
        ("is in the header", 0, 512),
        ("is the end", 0, end),
        ("is behind the end", 0, end + CLUSTER),
        ("is 2^63", 0, 1 << 63),
        ("is all ones", 0, (1 << 64) - 1),
        ("is repeated by the next one", 8, block),
        ("is repeated by the last one", CLUSTER - 8, block),
        ("is itself", 0, OVERLAY.regions()["refcount_table"].start),
        ("is the L1 table", 0, OVERLAY.regions()["l1_table"].start),
        ("is the L2 table", 0, OVERLAY.regions()["l2_table[0]"].start),
        ("is followed by one behind the end", 8, end),
        ("is followed by one that is not aligned", 8, block + 8),
    ):
        yield Case(
            f"zero clusters over a backing file: the refcount table's entry {what}",
            replace(OVERLAY, patches=[("refcount_table", at, u64(entry))]),
            reason=reasons.get(what, "refcount_table"),
            differs=differs.get(what, ""),
            rewrites=True,
        )


def _free_clusters() -> Iterator[Case]:
    """Tables that count as free lie where the next free cluster is looked for."""
    base = replace(OVERLAY, snapshots=[Snapshot(name=b"s", clusters={0: Data(b"\4")})])
    for region in (
        "l1_table",
        "l2_table[0]",
        "snapshot[0].l1_table",
        "snapshot[0].l2_table[0]",
        "snapshot_table",
        "refcount_table",
        "refcount_block[0]",
        "data[0]",
    ):
        yield Case(
            f"the first free cluster is the {region}",
            replace(base, refcounts={named(base, region): 0}),
            reason="refcount" if region in ("l2_table[0]", "refcount_block[0]") else "overlap",
            differs=KEPT if region in ("snapshot[0].l2_table[0]", "data[0]") else "",
            rewrites=True,
        )
    free = replace(base, refcounts={0: 0})
    yield Case("the header counts as free", free, differs="header_never_free", rewrites=True)
    last = regions_end(base) // CLUSTER
    yield Case(
        "the clusters behind the end count as used",
        replace(base, patches=[("refcount_block[0]", 2 * last, b"\0\1" * (32768 - last))]),
        reason="growth",
        differs="growth_limited",
        rewrites=True,
    )


def _full() -> Iterator[Case]:
    """Refcount blocks and tables without room."""
    for bits in (9, 12, 16):
        size = 1 << bits
        zeros: dict[int, Cluster] = {n: Zero() for n in range(3)}
        base = replace(BACKED, cluster_bits=bits, size=1 << 16, clusters=zeros)
        full = [("refcount_block[0]", 0, b"\0\1" * (size // 2))]
        differs = "growth_limited" if bits == 16 else ""
        yield Case(
            f"clusters of 2^{bits}: all refcounts are 1",
            replace(base, patches=full),
            reason="growth",
            differs=differs,
            rewrites=True,
        )
        ones = [("refcount_block[0]", 0, b"\xff" * size)]
        yield Case(
            f"clusters of 2^{bits}: all refcounts are 65535",
            replace(base, patches=ones),
            reason="growth" if bits == 16 else "overlap",
            differs=differs or KEPT,
            rewrites=True,
        )
        if bits == 12:
            continue
        end = regions_end(base)
        block = u64(base.regions()["refcount_block[0]"].start)
        length = 8 << 20
        edges = fields(refcount_table_offset=end, refcount_table_clusters=length // size)
        yield Case(
            f"clusters of 2^{bits}: a full refcount table of {number(length)} bytes",
            replace(base, patches=[*full, *edges, (end, block * (length // 8))]),
            reason="growth",
            differs="growth_limited" if bits == 9 else "",
            rewrites=True,
            exits=4000,
            bytes_read=64 << 20,
        )


def _bitmaps(what: str, image: Image) -> Iterator[Case]:
    reason = next((why for words, why in WRONG.items() if words in what), "bitmaps")
    damaged = any(words in what for words in UNREADABLE) and what not in READABLE
    for drop in (False, True):
        accepted = drop and reason == "bitmaps" and what not in OUTSIDE
        differs = "" if accepted or "no extension" in what else KEPT if drop else BLOCK
        yield Case(
            f"bitmaps{', to be dropped' * drop}: {what}",
            image,
            reason=reason if drop else "downgrade_bitmaps",
            drop_bitmaps=drop,
            rewrites=drop,
            differs=UNREAD if damaged else differs,
        )


def _directory() -> Iterator[Case]:
    """The extension's fields, of which the header's checks let these pass."""
    start = MAPPED.regions()["extensions"].start + 8
    true = MAPPED.regions()["bitmap_directory"].start
    end = regions_end(MAPPED)
    for name, at, pack, values in (
        ("nb_bitmaps", 0, u32, (1, 2, 3, 65535)),
        ("directory size", 8, u64, (0, 1, 31, 32, 63, 64, 65, 72, CLUSTER + 64, 1024 * 65535)),
        ("directory offset", 16, u64, (0, CLUSTER, true + CLUSTER, end - CLUSTER, end, 1 << 56)),
    ):
        for value in values:
            image = replace(MAPPED, patches=[(start + at, pack(value))])
            yield from _bitmaps(f"the {name} is {number(value)}", image)
    twice = replace(MAPPED, extensions=[Extension(layout.EXTENSION_BITMAPS, u32(1, 0, 0, 0, 0, 0))])
    yield from _bitmaps("two extensions", twice)
    yield from _bitmaps("no extension, but the bit", replace(V3, autoclear_features=1))
    stale = replace(MAPPED, patches=[(88, bytes(8))])
    yield from _bitmaps("the bit is unset", stale)


def _entries() -> Iterator[Case]:
    """Entries of the directory."""
    for what, at, data in (
        ("the flags are unknown", 12, u32(0xFFFFFFF8)),
        ("it is in use", 12, u32(1)),
        ("the type is unknown", 16, b"\xff"),
        ("the granularity is 2^255", 17, b"\xff"),
        ("the name has no bytes", 18, b"\0\0"),
        ("the name has 1 byte", 18, b"\0\1"),
        ("the name has 8 bytes", 18, b"\0\x08"),
        ("the name has 9 bytes", 18, b"\0\x09"),
        ("the name has 1023 bytes", 18, b"\x03\xff"),
        ("the name has 1024 bytes", 18, b"\x04\0"),
        ("the name has 65535 bytes", 18, b"\xff\xff"),
        ("the extra data have 1 byte", 20, u32(1)),
        ("the extra data have 8 bytes", 20, u32(8)),
        ("the extra data have 2^32-1 bytes", 20, u32((1 << 32) - 1)),
        ("the name is hostile", 24, b"\x1b["),
    ):
        image = replace(MAPPED, patches=[("bitmap_directory", at, data)])
        yield from _bitmaps(f"of the first, {what}", image)
    for length in (1, 1022, 1023):
        named_so = [Bitmap(name=b"n" * length, dirty=(1,)), Bitmap(name=b"o" * length)]
        yield from _bitmaps(f"names of {length} bytes", replace(V3, bitmaps=named_so))
    extra = [Bitmap(name=b"e", extra_data=b"\1" * 8)]
    yield from _bitmaps("extra data of 8 bytes", replace(V3, bitmaps=extra))


def _tables() -> Iterator[Case]:
    """The bitmap tables, their places and what they name."""
    regions, end = MAPPED.regions(), regions_end(MAPPED)
    other = regions["bitmap[1].table"].start
    for what, offset in (
        ("in the header", 0),
        ("within a cluster", other + 8),
        ("off by a sector", other + 512),
        ("the other one's", other),
        ("the directory", regions["bitmap_directory"].start),
        ("the L1 table", regions["l1_table"].start),
        ("the L2 table", regions["l2_table[0]"].start),
        ("the refcount table", regions["refcount_table"].start),
        ("a refcount block", regions["refcount_block[0]"].start),
        ("at the end", end),
        ("at 2^50", 1 << 50),
        ("at 2^63", 1 << 63),
    ):
        image = replace(MAPPED, patches=[("bitmap_directory", 0, u64(offset))])
        yield from _bitmaps(f"the first's table is {what}", image)
    for count in (0, 2, 8192, 8193, 1 << 20, 1 << 31, (1 << 32) - 1):
        image = replace(MAPPED, patches=[("bitmap_directory", 8, u32(count))])
        yield from _bitmaps(f"the first's table has {number(count)} entries", image)
    for what, word in (
        ("1, all ones", 1),
        ("with reserved bits", (1 << 63) | 0x1FE),
        ("the header", 512),
        ("off by a sector", regions["bitmap[0].data[0]"].start + 512),
        ("the other one's", regions["bitmap[1].data[0]"].start),
        ("its own table", regions["bitmap[0].table"].start),
        ("the L1 table", regions["l1_table"].start),
        ("the L2 table", regions["l2_table[0]"].start),
        ("the refcount table", regions["refcount_table"].start),
        ("a refcount block", regions["refcount_block[0]"].start),
        ("a cluster of data", regions["data[0]"].start),
        ("the end", end),
        ("all ones everywhere", (1 << 64) - 1),
    ):
        image = replace(MAPPED, patches=[("bitmap[0].table", 0, u64(word))])
        yield from _bitmaps(f"the first's entry names {what}", image)
    for region in ("bitmap[0].table", "bitmap[0].data[0]", "bitmap_directory"):
        for count in (0, 2, 65535):
            image = replace(MAPPED, refcounts={named(MAPPED, region): count})
            yield from _bitmaps(f"the {region} has refcount {count}", image)
