"""Images for the reasons to refuse that qemu-img cannot make, or not in a moment. Test side."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from instar.abi import INSTAR_SEGMENTS_MAX
from tests.support.disks import with_size
from tests.support.forge import Bitmap, Image, Snapshot, Zero

CLUSTER = 1 << 16
ZERO_OVER_BACKING = Image(size=1 << 20, backing_file=b"b", clusters={0: Zero()})
"""A downgrade needs a new cluster, and the file has none that is free."""

ONE = Snapshot(name=b"s")

CLUSTERS_OF_TABLES = 1 << 15

_TABLE_MAX = 8 << 20
_SNAPSHOT_TABLE_MAX = 64 << 20


def _uncounted_table(path: Path) -> None:
    """The L2 table with the zero cluster has no refcount."""
    table = ZERO_OVER_BACKING.regions()["l2_table[0]"].start // CLUSTER
    replace(ZERO_OVER_BACKING, refcounts={table: 0}).write(path)


def _full_refcount_table(path: Path) -> None:
    """A refcount table of the largest size, whose last block is in use, and nothing is free."""
    small = replace(ZERO_OVER_BACKING, cluster_bits=9, size=1 << 12)
    regions = small.regions()
    block = regions["refcount_block[0]"].start
    data = bytearray(small.build())
    data.extend(bytes(-len(data) % 512))
    table = len(data)
    data[block : block + 512] = b"\0\1" * 256
    data.extend(bytes(_TABLE_MAX))
    for at in (table, len(data) - 8):
        data[at : at + 8] = block.to_bytes(8, "big")
    data[48:60] = table.to_bytes(8, "big") + (_TABLE_MAX // 512).to_bytes(4, "big")
    path.write_bytes(data)


def _full_snapshot_table(path: Path) -> None:
    """A snapshot table of the largest size, without extra data."""
    count = 1024
    name = b"n" * (_SNAPSHOT_TABLE_MAX // count - 40 - len(b"1024"))
    snapshots = [
        Snapshot(name=name, id=b"%04d" % n, extra_data_size=0, clusters={}) for n in range(count)
    ]
    Image(version=2, size=1 << 16, snapshots=snapshots).write(path)


def _broken_bitmaps(path: Path) -> None:
    image = Image(bitmaps=[Bitmap(name=b"b0")])
    directory = image.regions()["bitmap_directory"].start
    data = bytearray(image.build())
    data[directory : directory + 8] = (1 << 40).to_bytes(8, "big")
    path.write_bytes(data)


def _tables_in_holes(path: Path) -> None:
    """An L1 table that names 2 GiB of L2 tables, of which the file stores nothing."""
    image = Image(size=CLUSTERS_OF_TABLES * CLUSTER // 8 * CLUSTER)
    start = image.regions()["l1_table"].start
    data = bytearray(image.build())
    for n in range(CLUSTERS_OF_TABLES):
        table = (n + 1 << 20) | 1 << 63
        data[start + 8 * n : start + 8 * n + 8] = table.to_bytes(8, "big")
    path.write_bytes(data)
    os.truncate(path, CLUSTERS_OF_TABLES + 1 << 20)


def _scattered_zero_clusters(path: Path) -> None:
    """Zero clusters with a host cluster each, none of which is beside another."""
    entries = CLUSTER // 8
    tables = INSTAR_SEGMENTS_MAX // entries + 1
    image = Image(size=tables * entries * CLUSTER)
    regions = image.regions()
    data = bytearray(image.build())
    data.extend(bytes(-len(data) % CLUSTER))
    first = len(data) // CLUSTER
    behind = first + tables
    words = [((behind + 2 * n) * CLUSTER) | 1 << 63 | 1 for n in range(tables * entries)]
    data += struct.pack(f">{len(words)}Q", *words)
    start, block = regions["refcount_table"].start, regions["refcount_block[0]"].start
    end = behind + 2 * len(words)
    data[block : block + CLUSTER] = b"\0\1" * (CLUSTER // 2)  # for all of the file
    for n in range(end * 2 // CLUSTER + 1):
        data[start + 8 * n : start + 8 * n + 8] = block.to_bytes(8, "big")
    start = regions["l1_table"].start
    for n in range(tables):
        table = (first + n) * CLUSTER | 1 << 63
        data[start + 8 * n : start + 8 * n + 8] = table.to_bytes(8, "big")
    path.write_bytes(data)
    os.truncate(path, end * CLUSTER)


BACKED = Image(size=1 << 20, backing_file=b"b")
HALF = (1 << 19) + 512
"""The end of a disk within a cluster."""


def _bitmaps(flags: int) -> Callable[[Path], None]:
    return Image(bitmaps=[Bitmap(name=b"b0", flags=flags)]).write


def _disk_that_ends_in_a_cluster(path: Path) -> None:
    path.write_bytes(with_size(BACKED.build(), HALF))


FORGED: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "growth": (ZERO_OVER_BACKING.write, {"compat": "0.10", "max_growth": CLUSTER - 1}),
    "refcount": (_uncounted_table, {"compat": "0.10"}),
    "refcount_table_full": (_full_refcount_table, {"compat": "0.10", "max_growth": 1 << 62}),
    "snapshot_table_full": (_full_snapshot_table, {"compat": "1.1"}),
    "bitmaps": (_broken_bitmaps, {"compat": "0.10", "drop_bitmaps": True}),
    "work_limit": (_tables_in_holes, {"compat": "0.10"}),
    "change_limit": (_scattered_zero_clusters, {"compat": "0.10"}),
    "downgrade_encrypted_zeroes": (
        replace(ZERO_OVER_BACKING, crypt_method=1).write,
        {"compat": "0.10"},
    ),
    "size_limit": (Image(cluster_bits=9).write, {"size": (1 << 37) + 512}),
    "resize_v2_snapshots": (Image(version=2, snapshots=[ONE]).write, {"size": 1 << 30}),
    "resize_snapshot_size": (
        Image(snapshots=[replace(ONE, extra_data_size=8)]).write,
        {"size": 1 << 30},
    ),
    "shrink_not_allowed": (Image(size=1 << 20).write, {"size": 1 << 19}),
    "grow_over_backing_v2": (replace(BACKED, version=2).write, {"size": 1 << 30}),
    "grow_head_over_backing": (_disk_that_ends_in_a_cluster, {"size": 1 << 30}),
    "size_data_file": (Image(data_file=b"d").write, {"size": 1 << 30}),
    "size_bitmaps": (_bitmaps(0), {"size": 1 << 40}),
    "bitmap_in_use": (_bitmaps(1), {"size": 1 << 40}),
    "backing_fmt_missing": (
        Image().write,
        {"backing_file": "other", "change_backing": True},
    ),
    "backing_file_missing": (
        Image().write,
        {"backing_fmt": "raw", "change_backing": True},
    ),
}
"""By the reason: what writes the image, and what is asked of it."""
