"""Test side: images for which an amend rewrites tables: downgrades, and upgrades with snapshots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.forge import (
    Compressed,
    Data,
    Image,
    RawEntry,
    Snapshot,
    Zero,
    ZeroAllocated,
    layout,
)
from tests.support.forge.clusters import Cluster

SMALL: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 20}
BACKED: dict[str, Any] = {"backing_file": b"base"}
MIXED: dict[int, Cluster] = {
    0: Data(b"a"),
    1: Zero(),
    2: ZeroAllocated(b"x"),
    3: Compressed(b"c" * 50),
    70: Zero(),
}
SHARED = Snapshot(name=b"shared")
OWN = Snapshot(name=b"own", clusters={0: Data(b"b"), 1: Zero(), 2: Data(b"x"), 5: Zero()})

COMPRESSED: dict[int, Cluster] = {
    0: Compressed(b"c", stored=b"c" * 700),
    64: Compressed(b"d"),
    65: Zero(),
}
"""The first entry of the second sector names bytes within a cluster."""

DOWNGRADES: dict[str, Image] = {
    "zero clusters": Image(**SMALL, clusters=MIXED),
    "zero clusters, backing file": Image(**SMALL, **BACKED, clusters=MIXED),
    "64 KiB": Image(clusters=MIXED),
    "a zero cluster beside a compressed one": Image(size=8 << 20, clusters=COMPRESSED),
    "a zero cluster beside a compressed one, backing file": Image(
        size=8 << 20, **BACKED, clusters=COMPRESSED
    ),
    "64 KiB, backing file": Image(**BACKED, clusters=MIXED),
    "2 MiB, backing file": Image(cluster_bits=21, **BACKED, clusters={0: Zero(), 1: Data(b"a")}),
    "shared tables": Image(**SMALL, clusters=MIXED, snapshots=[SHARED]),
    "shared tables, backing file": Image(**SMALL, **BACKED, clusters=MIXED, snapshots=[SHARED]),
    "own tables": Image(**SMALL, clusters=MIXED, snapshots=[OWN]),
    "own tables, backing file": Image(**SMALL, **BACKED, clusters=MIXED, snapshots=[OWN]),
    "zero clusters of a snapshot only": Image(
        **SMALL, **BACKED, clusters={0: Data(b"a")}, snapshots=[OWN]
    ),
    "new refcount blocks": Image(
        **SMALL, **BACKED, clusters={n: Zero() for n in range(600)}, snapshots=[SHARED]
    ),
    "a larger refcount table": Image(
        cluster_bits=9, size=16 << 20, **BACKED, clusters={n: Zero() for n in range(17000)}
    ),
    "free clusters first": Image(
        **SMALL, **BACKED, clusters={n: Zero() for n in range(6)}, holes=[2, 3, 7]
    ),
}

UPGRADES: dict[str, list[Snapshot]] = {
    "none": [Snapshot(name=b"a", extra_data_size=0, vm_state=b"state")],
    "eight bytes": [Snapshot(name=b"abc", extra_data_size=8)],
    "some of them": [
        Snapshot(name=b"whole", extra_data_size=32),
        Snapshot(name=b"n" * 200, extra_data_size=0),
        Snapshot(name=b"cut", extra_data_size=13),
        Snapshot(name=b"required", extra_data_size=16),
    ],
    "many": [Snapshot(name=b"snapshot %d" % n, extra_data_size=0) for n in range(40)],
}

_CUT_BITS = 12


def cut(size: int, *, backed: bool = False, **clusters: Cluster) -> bytes:
    """An image whose last host cluster is a zero cluster's, of which the file has `size` bytes."""
    image = Image(
        cluster_bits=_CUT_BITS,
        size=1 << 16,
        backing_file=b"base" if backed else None,
        clusters={0: Data(b"d"), 3: RawEntry(0), 4: clusters.get("other", Data(b"e"))},
    )
    host = len(image.build()) >> _CUT_BITS
    last = {3: RawEntry(host << _CUT_BITS | layout.COPIED | 1)}
    counted = ("refcount_block[0]", 2 * host, b"\0\1")
    image = replace(image, clusters={**image.clusters, **last}, patches=[counted])
    return image.build().ljust(host << _CUT_BITS, b"\0") + b"s" * size
