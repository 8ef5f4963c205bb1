"""Random images from the forge; qemu opens them all, but for bits that forbid it. Test side."""

from __future__ import annotations

import random
from typing import Any

from construct import ConstructError

from tests.support.forge import (
    Bitmap,
    Cluster,
    Compressed,
    Data,
    Extension,
    Feature,
    Image,
    Snapshot,
    Subclusters,
    Unallocated,
    Zero,
    ZeroAllocated,
)

_UNKNOWN_TYPES = (0x11111111, 0x22222222, 0x33333333)
_PATTERNS = (b"\x05", b"\x06", b"seven", b"")


def cluster_bits(rng: random.Random) -> int:
    """All sizes, the small ones more often, as they take less time."""
    return rng.choice(
        (*(9, 9, 9, 10, 11, 12, 12, 12, 13, 14, 15, 16, 16, 16), *[rng.randrange(17, 22)] * 2)
    )


def disk_size(rng: random.Random, bits: int) -> int:
    """A few clusters or a few L2 tables, whole clusters or not."""
    clusters = rng.choice((1, 4, 24, 24, 64, 200) if bits < 13 else (1, 4, 24))
    return (clusters << bits) - rng.choice((0, 0, 0, 512)) if rng.random() < 0.98 else 0


def forged(rng: random.Random) -> Image:
    """An image, and what can be written down of the names and extensions it was to have."""
    while True:
        fields = _fields(rng)
        try:
            image = Image(**fields)
            image.build()
        except (ConstructError, ValueError):
            continue
        return image


def _fields(rng: random.Random) -> dict[str, Any]:
    bits = cluster_bits(rng)
    version = 3 if rng.random() < 0.7 else 2
    fields: dict[str, Any] = {
        "version": version,
        "cluster_bits": bits,
        "size": disk_size(rng, bits),
    }
    if version == 3:
        _add_features(rng, fields)
    if rng.random() < 0.04 and not fields.get("data_file"):
        fields["crypt_method"] = 1  # the legacy encryption, which needs no header
    if rng.random() < 0.5:
        _add_backing(rng, fields)
    if rng.random() < 0.4:
        fields["extensions"] = [_extension(rng) for _ in range(rng.randrange(1, 4))]
    fields["clusters"] = clusters(rng, fields, rng.choice((0, 3, 8, 16, 16)))
    if bits == 9 and rng.random() < 0.3:
        # So many that the refcount block is about full: it counts 256 clusters.
        fields["size"] = 400 << 9
        fields["clusters"] = clusters(rng, fields, rng.randrange(200, 600))
    if rng.random() < 0.4 and "data_file" not in fields:
        count = rng.choice((1, 1, 2, 3))
        fields["snapshots"] = [_snapshot(rng, fields, n) for n in range(count)]
    if rng.random() < 0.2:
        fields["holes"] = tuple({rng.randrange(1, 30) for _ in range(rng.randrange(4))})
    return fields


def _add_features(rng: random.Random, fields: dict[str, Any]) -> None:
    fields["lazy_refcounts"] = rng.random() < 0.3
    fields["feature_name_table"] = rng.choice((False, True, True, (Feature(0, 9, b"mine"),)))
    chance = rng.random()
    if chance < 0.08:
        fields["refcount_order"] = rng.randrange(7)
    elif chance < 0.14:
        fields["compression_type"] = 1
    elif chance < 0.22 and fields["cluster_bits"] >= 14:
        fields["extended_l2"] = True
    elif chance < 0.26:
        fields["data_file"] = b"d.raw"
        fields["data_file_raw"] = rng.random() < 0.3
    elif chance < 0.34:
        fields["bitmaps"] = [_bitmap(rng, n) for n in range(rng.randrange(1, 3))]
    elif chance < 0.40:
        fields["compatible_features"] = rng.choice((0xF0, 1 << 63))
    elif chance < 0.46:
        fields["autoclear_features"] = rng.choice((0xF0, 1 << 63))
    elif chance < 0.50:
        fields.update(rng.choice(({"dirty": True}, {"corrupt": True})))
    elif chance < 0.53:
        fields["incompatible_features"] = 1 << rng.choice((5, 8, 40, 63))
    elif chance < 0.60:
        length = rng.choice((104, 120, 256))
        fill = rng.choice((b"\0", b"\xab"))
        fields.update(header_length=length, unknown_header_fields=fill * max(0, length - 112))


def _add_backing(rng: random.Random, fields: dict[str, Any]) -> None:
    fields["backing_file"] = b"./" * rng.choice((0, 0, rng.randrange(240))) + b"b.raw"
    if rng.random() < 0.03:
        fields["backing_file"] = b"missing.raw"
    if rng.random() < 0.8:
        fields["backing_format"] = b"raw"
    if rng.random() < 0.1:
        fields["backing_file_offset"] = (1 << fields["cluster_bits"]) - len(fields["backing_file"])


def clusters(rng: random.Random, fields: dict[str, Any], count: int) -> dict[int, Cluster]:
    """Some clusters of one layer, of any kind that the image can have."""
    kinds: list[Any] = [lambda: Data(rng.choice(_PATTERNS)), Unallocated]
    if not fields.keys() & {"compression_type", "data_file", "crypt_method"}:
        kinds.append(lambda: Compressed(rng.choice(_PATTERNS)))
    if fields["version"] == 3 and rng.random() < 0.65:
        kinds += [Zero, Zero]
        if not fields.get("data_file_raw"):
            kinds.append(lambda: ZeroAllocated(rng.choice(_PATTERNS)))
    if fields.get("extended_l2"):
        kinds.append(lambda: _subclusters(rng))
    end = -(-fields["size"] >> fields["cluster_bits"])
    return {rng.randrange(end): rng.choice(kinds)() for _ in range(count) if end > 0}


def _subclusters(rng: random.Random) -> Subclusters:
    parts = (Data(b"s"), Zero())
    return Subclusters({rng.randrange(32): rng.choice(parts) for _ in range(5)})


def _snapshot(rng: random.Random, fields: dict[str, Any], number: int) -> Snapshot:
    layer = rng.choice((None, "new", "shared", "turned"))
    changed: dict[int, Cluster] | None = None
    if layer == "new":
        changed = clusters(rng, fields, 6)
    elif layer == "shared":
        # The layers then share host clusters, but not the L2 table.
        changed = {**fields["clusters"], **clusters(rng, fields, 2)}
    elif layer == "turned":
        changed = {n: _turned(rng, fields, one) for n, one in fields["clusters"].items()}
    return Snapshot(
        name=b"snapshot %d" % number if rng.random() < 0.9 else b"",
        id=b"%d" % (number + 1),
        clusters=changed,
        extra_data_size=rng.choice((0, 8, 16, 16, 24, 24, 24, 24, 40)),
        vm_state=rng.choice((b"", b"", b"", b"state")),
        vm_state_size=(5 << 30) if rng.random() < 0.03 else None,
        disk_size=_other_size(rng, fields) if rng.random() < 0.15 else None,
    )


def _other_size(rng: random.Random, fields: dict[str, Any]) -> int:
    """A sector from the disk's size, or from a boundary of clusters or of L2 tables."""
    bits = fields["cluster_bits"]
    near = rng.choice((fields["size"], fields["size"] + (1 << bits), 1 << 2 * bits - 3))
    return max(int(near) + rng.choice((-512, 0, 512)), 512)


def _turned(rng: random.Random, fields: dict[str, Any], cluster: Cluster) -> Cluster:
    """Another cluster with the same host cluster: zeros in place of data, or data for zeros."""
    if fields["version"] == 2 or rng.random() < 0.5:
        return cluster
    if isinstance(cluster, Data):
        return ZeroAllocated(cluster.pattern)
    return Data(cluster.stale) if isinstance(cluster, ZeroAllocated) else cluster


def _bitmap(rng: random.Random, number: int) -> Bitmap:
    dirty = (0,) if rng.random() < 0.5 else ()
    return Bitmap(name=b"b%d" % number, dirty=dirty, flags=rng.choice((0, 2)))


def _extension(rng: random.Random) -> Extension:
    size = rng.choice((0, 1, 7, 8, 24, 40, 200, 400, 1500))
    return Extension(rng.choice(_UNKNOWN_TYPES), b"x" * size)
