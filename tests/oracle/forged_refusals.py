"""Images for the reasons to refuse that qemu-img cannot make, or not in a moment. Test side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.forge import Bitmap, Data, Image, Snapshot, Zero

CLUSTER = 1 << 16
ZERO_OVER_BACKING = Image(size=1 << 20, backing_file=b"b", clusters={0: Zero()})
"""A downgrade needs a new cluster, and the file has none that is free."""

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


def write_repeated_tables(path: Path) -> None:
    """An L1 table that names 45 L2 tables, none beside another, 91 times each."""
    tables = 90
    image = Image(
        cluster_bits=9, size=1 << 27, clusters={64 * n: Data(b"d") for n in range(tables)}
    )
    regions = image.regions()
    data = bytearray(image.build())
    places = [regions[f"l2_table[{n}]"].start for n in range(0, tables, 2)]
    start = regions["l1_table"].start
    for n in range(len(regions["l1_table"]) // 8):
        entry = places[n % len(places)]
        data[start + 8 * n : start + 8 * n + 8] = entry.to_bytes(8, "big")
    path.write_bytes(data)


FORGED: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "growth": (ZERO_OVER_BACKING.write, {"compat": "0.10", "max_growth": CLUSTER - 1}),
    "refcount": (_uncounted_table, {"compat": "0.10"}),
    "refcount_table_full": (_full_refcount_table, {"compat": "0.10", "max_growth": 1 << 62}),
    "snapshot_table_full": (_full_snapshot_table, {"compat": "1.1"}),
    "bitmaps": (_broken_bitmaps, {"compat": "0.10", "drop_bitmaps": True}),
    "downgrade_encrypted_zeroes": (
        replace(ZERO_OVER_BACKING, crypt_method=1).write,
        {"compat": "0.10"},
    ),
}
"""By the reason: what writes the image, and what is asked of it."""
