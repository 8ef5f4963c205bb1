"""Hostile images: L1 and L2 tables that overlap, loop, or name what they must not. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import CLUSTER, SNAPPED, TINY, V2, V3, Case, field, number, u64
from tests.support.forge import (
    Cluster,
    Compressed,
    Data,
    Image,
    RawEntry,
    Zero,
    ZeroAllocated,
    layout,
)
from tests.support.forge.description import Patch

COPIED = layout.COPIED
COMPRESSED = 1 << 62
INSIDE = "file_must_be_whole"
UNREAD = "refcounts_not_read"
TABLE, LONG = "snapshot_table", "snapshot_extra_data"
ENTRY = "l2_entry"
MANY = replace(V3, size=8 << 29)
"""An L1 table of eight entries, of which one is used."""


def cases() -> Iterator[Case]:
    yield from _overlaps()
    yield from _loops()
    yield from _l1_entries()
    yield from _l2_entries()
    yield from _compressed()
    yield from _zero_clusters()
    yield from _small()


def _moved(name: str, region: str) -> list[Patch]:
    """Let a field of SNAPPED's header name another part of the file."""
    return [field(name, SNAPPED.regions()[region].start)]


def _overlaps() -> Iterator[Case]:
    zeros, extra = "l2_entry", "overlap"
    empty, blocks = "empty_snapshot_l1", "metadata_kept"
    l1, refcounts, snapshots = "l1_table_offset", "refcount_table_offset", "snapshots_offset"
    for what, name, region, reason, differs in (
        ("L1 table is the refcount table", l1, "refcount_table", (zeros, ""), ("", "")),
        ("L1 table is a refcount block", l1, "refcount_block[0]", ("l2_table", ""), (INSIDE, "")),
        ("L1 table is an L2 table", l1, "l2_table[0]", (zeros, ""), ("", "")),
        ("L1 table is the snapshot table", l1, "snapshot_table", ("", ""), ("", "")),
        ("L1 table is a data cluster", l1, "data[0]", ("l2_table", ""), ("", "")),
        ("L1 table is the snapshot's", l1, "snapshot[0].l1_table", ("", ""), ("", "")),
        ("refcount table is the L1 table", refcounts, "l1_table", ("", ""), (UNREAD, "")),
        ("refcount table is a data cluster", refcounts, "data[0]", ("", ""), (UNREAD, "")),
        ("refcount table is its block", refcounts, "refcount_block[0]", ("", ""), ("", "")),
        ("snapshot table is the L1 table", snapshots, "l1_table", ("", extra), (empty, blocks)),
        ("snapshot table is a data cluster", snapshots, "data[0]", (LONG, LONG), ("", "")),
        (
            "snapshot table is a refcount table",
            snapshots,
            "refcount_table",
            ("", extra),
            (empty, blocks),
        ),
        ("snapshot table is an L2 table", snapshots, "l2_table[0]", ("", extra), (empty, blocks)),
    ):
        for version, why, divergence in zip((3, 2), reason, differs, strict=True):
            base = replace(SNAPPED, version=version, patches=_moved(name, region))
            yield Case(f"v{version}: the {what}", base, reason=why, differs=divergence)


def _loops() -> Iterator[Case]:
    for what, region, reason in (
        ("the L1 table itself", "l1_table", ""),
        ("the refcount table", "refcount_table", ""),
        ("a refcount block", "refcount_block[0]", "l2_entry"),
        ("a data cluster", "data[0]", "l2_entry"),
        ("the snapshot table", "snapshot_table", ""),
        ("the snapshot's L1 table", "snapshot[0].l1_table", ""),
    ):
        target = SNAPPED.regions()[region].start
        yield Case(
            f"an L1 entry names {what}",
            replace(SNAPPED, patches=[("l1_table", 0, u64(target | COPIED))]),
            reason=reason,
        )
    table = MANY.regions()["l2_table[0]"].start
    yield Case(
        "all L1 entries name one L2 table",
        replace(MANY, patches=[("l1_table", 0, u64(*[table | COPIED] * 8))]),
        reason="l2_table",
    )
    snapshot = SNAPPED.regions()["l1_table"].start
    yield Case(
        "the snapshot's L1 table is the active one",
        replace(SNAPPED, patches=[("snapshot_table", 0, u64(snapshot))]),
    )
    yield Case(
        "an L2 entry names the L2 table",
        replace(V3, patches=[("l2_table[0]", 0, u64(V3.regions()["l2_table[0]"].start | COPIED))]),
    )
    yield Case(
        "an L2 entry names the header",
        replace(V3, patches=[("l2_table[0]", 0, u64(COPIED))]),
    )


def _l1_entries() -> Iterator[Case]:
    table = V3.regions()["l2_table[0]"].start
    end = max(part.stop for part in V3.regions().values())
    for version in (3, 2):
        base = replace(V3, version=version)
        for bit in (0, 1, 8, 56, 57, 61, 62):
            yield _l1_entry(base, f"with reserved bit {bit} set", table | 1 << bit)
        for apart in (512, 4096, CLUSTER - 512):
            yield _l1_entry(base, f"off by {apart}", table + apart, "l2_table")
        differs = INSIDE if version == 3 else ""
        for offset in (end, end + CLUSTER, 1 << 40, (1 << 56) - CLUSTER):
            yield _l1_entry(base, f"at {number(offset)}", offset, "l2_table", differs)
        for offset in (512, (1 << 56) - 512):
            yield _l1_entry(base, f"at {number(offset)}", offset, "l2_table")
        yield _l1_entry(base, "in the last cluster", end - CLUSTER, "l2_entry")
        yield _l1_entry(base, "that is all ones", (1 << 64) - 1, "l2_table")
        yield _l1_entry(base, "that is nothing but COPIED", COPIED)


def _l1_entry(base: Image, what: str, entry: int, reason: str = "", differs: str = "") -> Case:
    patches = [("l1_table", 0, u64(entry))]
    name = f"v{base.version}: an L1 entry {what}"
    return Case(name, replace(base, patches=patches), reason=reason, differs=differs)


def _l2_entries() -> Iterator[Case]:
    end = max(part.stop for part in V3.regions().values())
    data = V3.regions()["data[0]"].start
    for version in (3, 2):
        for what, entry in (
            *((f"with reserved bit {bit} set", data | 1 << bit) for bit in (1, 8, 56, 61)),
            *((f"off by {apart}", data + apart) for apart in (512, CLUSTER - 512)),
            *((f"at {number(at)}", at) for at in (end, 1 << 40, (1 << 56) - CLUSTER, 1 << 55)),
            ("in cluster 0, off by 512", 512),
            ("that is nothing but COPIED", COPIED),
            ("that shares its cluster with the next one", data),
        ):
            clusters = {0: RawEntry(entry), 1: RawEntry(data)}
            name = f"v{version}: an L2 entry {what}"
            yield Case(name, replace(V3, version=version, clusters=clusters))


def _compressed() -> Iterator[Case]:
    sectors = 0xFF << 54
    for what, entry in (
        ("at 0", 0),
        ("at 1", 1),
        ("at the end of the address space", (1 << 54) - 1),
        ("at 2^53", 1 << 53),
        ("over 256 sectors", CLUSTER | sectors),
        ("behind the end of the file", (1 << 30) | sectors),
        ("in the L1 table", 2 * CLUSTER),
        ("with COPIED set", CLUSTER | COPIED),
    ):
        for version in (3, 2):
            clusters: dict[int, Cluster] = {0: RawEntry(entry | COMPRESSED), 1: Data(b"\1")}
            name = f"v{version}: a compressed cluster {what}"
            # A downgrade looks at all entries, an upgrade at none: nothing speaks of this one.
            refused = version == 3 and entry < CLUSTER
            yield Case(
                name,
                replace(V3, version=version, clusters=clusters),
                reason="overlap" if refused else "",
                differs="metadata_kept" if refused else "",
            )
    garbage = {n: Compressed(b"", stored=b"\xff" * 512) for n in range(16)}
    yield Case("compressed clusters of garbage", replace(V3, clusters=garbage))
    zstd = replace(V3, clusters=garbage, compression_type=1)
    yield Case(
        "compressed clusters of garbage, said to be zstd",
        zstd,
        reason="downgrade_compressed_clusters",
        differs="no_zstd_in_5_2",
    )
    tiny = {n: RawEntry(COMPRESSED | ((1 << 62) - 1)) for n in range(64)}
    yield Case("tiny clusters: compressed entries that are all ones", replace(TINY, clusters=tiny))


def _zero_clusters() -> Iterator[Case]:
    kinds: list[tuple[str, Cluster, str, str]] = [
        ("", Zero(), "", ""),
        (", and keeps a host cluster", ZeroAllocated(b"\7"), "", ""),
        (", and names a cluster behind the end", RawEntry(1 << 30 | 1), ENTRY, "zeroes_inside"),
        (", and names an unaligned cluster", RawEntry(CLUSTER + 512 | 1), ENTRY, ""),
        (", and names the L1 table", RawEntry(2 * CLUSTER | 1), "overlap", ""),
        (", and names all there is", RawEntry((1 << 56) - 1), ENTRY, ""),
    ]
    for what, cluster, reason, differs in kinds:
        for version in (3, 2):
            yield Case(
                f"v{version}: an L2 entry reads as zeros{what}",
                replace(V3, version=version, clusters={0: Data(b"\5"), 5: cluster}),
                reason=reason if version == 3 else "",
                differs=differs if version == 3 else "",
                rewrites=version == 3 and not reason,
            )
    both = {0: RawEntry(COMPRESSED | CLUSTER | 1)}
    yield Case("an L2 entry is compressed, and ends in a one", replace(V3, clusters=both))
    for word in (1, CLUSTER | 1, (1 << 64) - 1):
        everywhere = replace(V2, patches=[("l2_table[0]", 0, u64(word) * 8192)])
        yield Case(f"v2: all L2 entries are {word:#x}", everywhere)


def _small() -> Iterator[Case]:
    """Tables of nothing but hostile entries, and the smallest disks."""
    for what, entry in (("all ones", (1 << 64) - 1), ("all 0x00ff", 0x00FF00FF00FF00FF)):
        full = replace(V3, patches=[("l2_table[0]", 0, u64(entry) * 8192)])
        reason = "l2_entry" if "ff" in what else ""
        yield Case(f"an L2 table of entries that are {what}", full, reason=reason)
    yield Case("a disk of no bytes", Image(size=0))
    nowhere = Image(size=0, header={"l1_table_offset": 0})
    yield Case("a disk of no bytes, and an L1 table nowhere", nowhere)
    yield Case("a disk of one byte", Image(size=1, clusters={0: Data(b"\1")}))
    odd = Image(size=0, header={"l1_table_offset": 1})
    yield Case("a disk of no bytes, and an L1 table that is not aligned", odd, reason="l1_table")
    wraps = Image(size=0, header={"l1_table_offset": 1 << 63})
    yield Case("a disk of no bytes, and an L1 table at 2^63", wraps, reason="l1_table")
