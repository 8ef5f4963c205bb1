"""Hostile images: zero clusters, which a downgrade has to give a place. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.bulk import regions_end
from tests.hostile.case import BACKED, CLUSTER, SNAPPED, V3, Case, number
from tests.support.forge import (
    Cluster,
    Data,
    Image,
    RawEntry,
    Snapshot,
    Zero,
    ZeroAllocated,
    layout,
)

ENTRY = "l2_entry"
OVERLAP = "overlap"
REFCOUNT = "refcount"
KEPT = "metadata_kept"
GIVEN_UP = "zero_cluster_given_up"
CLUSTERS: dict[int, Cluster] = {0: Data(b"\5"), 1: Zero(), 2: ZeroAllocated(b"\7")}
ZEROED = replace(V3, clusters=CLUSTERS)
OVERLAY = replace(BACKED, clusters=CLUSTERS)
STEP = 512
"""The size of the smallest clusters."""


def cases() -> Iterator[Case]:
    yield from _metadata()
    yield from _places()
    yield from _refcounts()
    yield from _shared()
    yield from _encrypted()
    yield from _growth()


def named(image: Image, region: str) -> int:
    """The number of the cluster that a region begins in."""
    return image.regions()[region].start >> image.cluster_bits


def _metadata() -> Iterator[Case]:
    """A zero cluster whose host cluster is one of the image's own tables."""
    base = replace(SNAPPED, clusters={0: Data(b"\5"), 5: RawEntry(0)})
    for region in (
        "l1_table",
        "l2_table[0]",
        "refcount_table",
        "refcount_block[0]",
        "snapshot_table",
        "snapshot[0].l1_table",
        "snapshot[0].l2_table[0]",
        "data[0]",
    ):
        host = named(base, region)
        entry = RawEntry(host << 16 | layout.COPIED | 1)
        clusters: dict[int, Cluster] = {0: Data(b"\5"), 5: entry}
        for count in (0, 1, 2):
            unseen = region in ("snapshot[0].l2_table[0]", "data[0]")
            refused = count < 2 or region in ("l2_table[0]", "refcount_block[0]")
            yield Case(
                f"a zero cluster lies in the {region}, with refcount {count}",
                replace(base, clusters=clusters, refcounts={host: count}),
                reason=OVERLAP if count else REFCOUNT,
                differs=(KEPT if unseen else "") if refused else ("" if unseen else GIVEN_UP),
                rewrites=not refused,
            )


def _places() -> Iterator[Case]:
    end = regions_end(replace(V3, clusters={0: Data(b"\5"), 5: RawEntry(0)}))
    for what, offset in (
        ("in the header", 0),
        ("within the header", STEP),
        ("off by a sector", CLUSTER + STEP),
        ("off by all but a sector", CLUSTER - STEP),
        ("in the last cluster", end - CLUSTER),
        ("at the end", end),
        ("behind the end", end + CLUSTER),
        (f"at {number(1 << 40)}", 1 << 40),
        ("in the last cluster that there is", (1 << 56) - CLUSTER),
    ):
        for flag in (0, layout.COPIED):
            for base in (V3, BACKED):
                clusters: dict[int, Cluster] = {0: Data(b"\5"), 5: RawEntry(offset | flag | 1)}
                yield Case(
                    f"a zero cluster {what}{', COPIED' * bool(flag)}"
                    f"{', over a backing file' * (base is BACKED)}",
                    replace(base, clusters=clusters),
                    reason=OVERLAP if what == "in the last cluster" else ENTRY,
                    differs="zeroes_inside" if end <= offset <= 1 << 40 else "",
                    rewrites=offset == 0,
                )


def _refcounts() -> Iterator[Case]:
    """Refcounts of the tables and of the host clusters, too low and too high."""
    for title, base in (("", ZEROED), (" over a backing file", OVERLAY)):
        for region in ("l2_table[0]", "data[2]", "l1_table", "refcount_table", "refcount_block[0]"):
            for count in (0, 2, 65535):
                yield Case(
                    f"zero clusters{title}: the {region} has refcount {count}",
                    replace(base, refcounts={named(base, region): count}),
                    reason=OVERLAP if region in ("l1_table", "refcount_table") else REFCOUNT,
                    differs=_low(base, region, count),
                    rewrites=True,
                )
    shared = replace(ZEROED, snapshots=[Snapshot(name=b"same")])
    table, host = named(shared, "l2_table[0]"), named(shared, "data[2]")
    for users, references in ((1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (65535, 65535)):
        yield Case(
            f"an L2 table has refcount {users}, and its zero cluster {references}",
            replace(shared, refcounts={table: users, host: references}),
            reason=REFCOUNT,
            differs=KEPT if references < users else "",
            rewrites=True,
            leaks=users == 1,
        )


def _low(base: Image, region: str, count: int) -> str:
    """Why instar refuses what qemu-img accepts."""
    if region == "l2_table[0]":
        return "" if count == 0 and base is OVERLAY else KEPT
    return KEPT if region == "data[2]" and count == 0 else ""


def _shared() -> Iterator[Case]:
    """Entries that name one host cluster."""
    host = named(ZEROED, "data[2]")
    entry = RawEntry(host << 16 | 1)
    for count in (1, 2, 3):
        for what, other in (("zero", entry), ("data", RawEntry(host << 16))):
            clusters = {**CLUSTERS, 3: other}
            yield Case(
                f"a zero and a {what} cluster are one, with refcount {count}",
                replace(ZEROED, clusters=clusters, refcounts={host: count}),
                reason=OVERLAP if what == "data" else REFCOUNT,
                differs=KEPT if count == 1 else "",
                rewrites=True,
            )
    snapshot = Snapshot(name=b"s", clusters={2: Data(b"\7")})
    kept = replace(ZEROED, snapshots=[snapshot])
    yield Case("a zero cluster is a snapshot's data", kept, rewrites=True)
    lost = replace(kept, refcounts={named(kept, "data[2]"): 1})
    told = "a zero cluster is a snapshot's data, with refcount 1"
    yield Case(told, lost, reason=OVERLAP, differs=KEPT)
    many = [replace(snapshot, clusters={0: Data(bytes([n]))}) for n in range(1, 30)]
    yield Case(
        "a zero cluster beside 29 snapshots",
        replace(ZEROED, snapshots=many),
        rewrites=True,
        bytes_read=8 << 20,
    )


def _encrypted() -> Iterator[Case]:
    for method, header in ((1, None), (2, b"LUKS\xba\xbe")):
        for title, base in (("", V3), (" over a backing file", BACKED)):
            for what, cluster in (
                ("zero cluster", Zero()),
                ("zero cluster with a host cluster", ZeroAllocated(b"\7")),
                ("cluster of data", Data(b"\7")),
            ):
                yield Case(
                    f"encryption {method}{title}: a {what}",
                    replace(base, crypt_method=method, crypto_header=header, clusters={3: cluster}),
                    reason="downgrade_encrypted_zeroes",
                    differs="no_secret_needed",
                    rewrites=True,
                )


def _growth() -> Iterator[Case]:
    """The file may grow by so many bytes, and by one cluster less than is needed."""
    for title, size in (("huge", 1 << 21), ("small", 1 << 12), ("tiny", STEP)):
        bits = size.bit_length() - 1
        zeros: dict[int, Cluster] = {n: Zero() for n in range(3)}
        base = replace(OVERLAY, cluster_bits=bits, size=8 * size, clusters=zeros)
        for allowed in (0, size - 1, size, 2 * size, 3 * size - 1, 3 * size, 3 * size + 1, 1 << 62):
            yield Case(
                f"{title} clusters: three to fill, in {number(allowed)} bytes",
                base,
                max_growth=allowed,
                reason="growth",
                bytes_read=8 << 20,
                differs="growth_limited" if allowed < 3 * size else "",
                rewrites=True,
            )
