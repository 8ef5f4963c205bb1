"""Test side: images with which the fuzzers start, made by the forge; each shows something else."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from instar.abi import AMEND_FLAG_DROP_BITMAPS
from instar.vmm.request import AmendRequest
from tests.fuzz.container import Input, asking, from_image, request_flags
from tests.support.forge import (
    Bitmap,
    Compressed,
    Data,
    Extension,
    Image,
    Snapshot,
    Subclusters,
    Unallocated,
    Zero,
    ZeroAllocated,
)

REQUESTS = tuple(
    AmendRequest.of(compat=version, lazy_refcounts=lazy)
    for version in (None, 2, 3)
    for lazy in (None, False, True)
)
OTHERS = (
    *(AmendRequest.of(refcount_bits=bits) for bits in (1, 8, 64)),
    AmendRequest.of(refcount_bits=32, compat=3),
    *(AmendRequest.of(size=size, shrink=True) for size in (512, 10 << 10, 1 << 20)),
    AmendRequest.of(size=1 << 20, backing_size=1 << 15, drop_bitmaps=True),
    AmendRequest.of(backing_file=b"base.qcow2", backing_fmt=b"qcow2"),
    AmendRequest.of(backing_file=b"n" * 300, backing_fmt=b"raw", change_backing=True),
    AmendRequest.of(backing_file=b"", change_backing=True, data_file_raw=False),
    AmendRequest.of(data_file=b"disk.raw", data_file_raw=False),
)
"""Of options that an input has in a chunk of its own."""
_PARTS = (
    *("header_cluster", "l1_table", "l2_table", "snapshot_table"),
    *("refcount_table", "refcount_block", "bitmap_directory", "table"),
)
_SMALL = 1 << 14
MODE_TWICE, MODE_LONG, LIMITED = 0x01, 0x7E, 0x80
"""Of sparse.h."""
_EXTENSION = Extension(0x11111111, b"kept as it is", padding=b"\xee")
_LONG = Extension(0x22222222, b"long" * 110)
_NAMED: dict[str, Any] = {"backing_file": b"base.qcow2", "backing_format": b"qcow2"}
_SNAPSHOTS = (
    Snapshot(name=b"before", clusters={0: Data(b"\x04")}),
    Snapshot(name=b"state", vm_state=b"registers", extra_data_size=40),
)
_OLD_SNAPSHOT = Snapshot(name=b"old", extra_data_size=0)
_CLUSTERS = {0: Data(b"\x05"), 3: Unallocated(), 9: Data(b"\x07")}


def seed_images() -> Iterator[tuple[str, Image]]:
    """Small images by name, valid ones but for a few."""
    for version in (2, 3):
        for bits in (9, 10, 12, 16):
            base: dict[str, Any] = {"version": version, "cluster_bits": bits, "size": _SMALL}
            yield f"v{version}-{bits}-empty", Image(**base)
            yield f"v{version}-{bits}-data", Image(**base, **_NAMED, clusters=_CLUSTERS)
            if bits > 9:
                yield f"v{version}-{bits}-snapshots", Image(**base, snapshots=_SNAPSHOTS)
                full = [_EXTENSION, _LONG, _EXTENSION]
                yield f"v{version}-{bits}-full", Image(**base, **_NAMED, extensions=full)
        base = {"version": version, "cluster_bits": 12, "size": _SMALL}
        yield f"v{version}-far-name", Image(**base, backing_file=b"far", backing_file_offset=4000)
        yield f"v{version}-open", Image(**base, backing_file=b"next", end_marker=False)
        yield f"v{version}-old-snapshot", Image(**base, snapshots=(_OLD_SNAPSHOT,))
        yield f"v{version}-compressed", Image(**base, clusters={0: Compressed(b"text")})
        wide: dict[str, Any] = {"version": version, "cluster_bits": 16, "size": _SMALL}
        long = [Extension(0x33333333, b"x" * 500), Extension(0x44444444, b"y" * 3600)]
        yield f"v{version}-over-4096", Image(**wide, **_NAMED, extensions=long)
        yield (
            f"v{version}-name-over-4096",
            Image(**wide, backing_file=b"n" * 1023, backing_file_offset=5000, extensions=[_LONG]),
        )
        luks: dict[str, Any] = {"crypt_method": 2, "crypto_header": b"LUKS\xba\xbe"}
        yield f"v{version}-luks", Image(**base, **luks)
    yield from _version_3_only()


def _version_3_only() -> Iterator[tuple[str, Image]]:
    base: dict[str, Any] = {"cluster_bits": 12, "size": _SMALL}
    yield "lazy", Image(**base, lazy_refcounts=True, feature_name_table=True)
    yield "unknown-bits", Image(**base, compatible_features=0xF0, autoclear_features=0xF0)
    yield "zeros", Image(**base, clusters={0: Zero(), 2: ZeroAllocated(b"\x01")})
    zeros = Snapshot(name=b"zeros", clusters={1: Zero()})
    yield "zeros-in-snapshot", Image(**base, clusters=_CLUSTERS, snapshots=(zeros,))
    sized = Snapshot(name=b"sized", disk_size=_SMALL // 2, vm_state_size=1 << 33)
    yield "snapshot-size", Image(**base, snapshots=(sized,))
    yield "zstd", Image(**base, compression_type=1, clusters={0: Compressed(b"", b"\x28\xb5")})
    yield "zstd-unused", Image(**base, compression_type=1)
    yield "bitmaps", Image(**base, bitmaps=(Bitmap(name=b"b0", dirty=(0,)),))
    yield "data-file", Image(**base, data_file=b"raw", data_file_raw=True)
    subclusters = {0: Subclusters({0: Data(b"\x01"), 5: Zero()})}
    yield (
        "extended-l2",
        Image(cluster_bits=14, size=1 << 18, extended_l2=True, clusters=subclusters),
    )
    for order in (0, 6):
        yield f"refcounts-{order}", Image(**base, refcount_order=order)
    for length in (104, 120, 504, 1024):
        unknown = b"\xee" * max(0, length - 112)
        yield (
            f"header-{length}",
            Image(
                **base, header_length=length, unknown_header_fields=unknown, extensions=[_EXTENSION]
            ),
        )
    yield "dirty", Image(**base, dirty=True)
    yield "corrupt", Image(**base, corrupt=True)
    yield (
        "many-tables",
        Image(cluster_bits=9, size=1 << 19, clusters={n: Data(b"m") for n in range(0, 1024, 64)}),
    )


def _zero_images() -> Iterator[tuple[str, Image]]:
    """Images with zero clusters of each kind, alone and shared, and with little room."""
    zeros: dict[int, Any] = {0: Zero(), 1: ZeroAllocated(b"\x01"), 3: Data(b"\x02")}
    shared = Snapshot(name=b"shared")
    other = Snapshot(name=b"other", clusters={0: Zero(), 2: ZeroAllocated(b"\x03")})
    for bits in (9, 12):
        for named in ({}, _NAMED):
            base: dict[str, Any] = {"cluster_bits": bits, "size": 4 << bits, **named}
            if bits == 9 and named:
                base["backing_format"] = None
            name = f"zeros-{bits}-{len(named)}"
            yield name, Image(**base, clusters=zeros)
            yield f"{name}-shared", Image(**base, clusters=zeros, snapshots=(shared,))
            yield f"{name}-other", Image(**base, clusters=zeros, snapshots=(other, shared))
            yield f"{name}-counts", Image(**base, clusters=zeros, refcounts={1: 2, 2: 3, 5: 0})
            many: dict[int, Any] = dict.fromkeys(range(300), Zero())
            base["size"] = 300 << bits
            yield f"{name}-many", Image(**base, clusters=many)
    yield (
        "zeros-luks",
        Image(cluster_bits=12, size=1 << 14, clusters=zeros, crypt_method=2, crypto_header=b"LUKS"),
    )


def _long_images() -> Iterator[tuple[str, Image]]:
    """Images with tables too long for most inputs, in version 3."""
    base: dict[str, Any] = {
        "cluster_bits": 16,
        "clusters": {n << 13: Unallocated() for n in range(20)},
    }
    yield "long-batch", Image(size=20 << 29, **base)
    yield "long-l1", Image(cluster_bits=9, size=9000 << 15)
    yield "long-snapshots", Image(cluster_bits=9, size=_SMALL, snapshots=[Snapshot(name=b"")] * 60)


def seed_input(image: Image, request: AmendRequest, mode: int = 0) -> Input:
    """The planner fuzzer's input for a request on an image."""
    parts = [r for name, r in image.regions().items() if name.split(".")[-1].startswith(_PARTS)]
    return from_image(image.build(), request_flags(request), parts, mode)


def _cut_table() -> Input:
    """An L2 table in the last cluster, of which the file has one sector."""
    whole = Image(cluster_bits=12, size=_SMALL, clusters={0: Unallocated()})
    end = len(whole.build())
    moved = replace(whole, patches=[("l1_table", 0, (1 << 63 | end).to_bytes(8, "big"))])
    seed = seed_input(moved, AmendRequest.of(compat=2), MODE_TWICE)
    return replace(seed, size=end + 512)


def _tables_in_turn() -> Input:
    """An L1 table that names more L2 tables than are read at once, apart, and all of them twice."""
    tables, first = 100, 100
    names = [(first + 2 * n) << 9 | 1 << 63 for n in range(tables)] * 2
    image = Image(cluster_bits=9, size=2 * tables << 15)
    moved = replace(image, patches=[("l1_table", 0, struct.pack(f">{len(names)}Q", *names))])
    seed = seed_input(moved, AmendRequest.of(compat=2), MODE_TWICE)
    return replace(seed, size=(first + 2 * tables) << 9)


def _failing_rewrite() -> Input:
    """No room for two headers in the cluster, and the read of what the new one takes fails."""
    full = [Extension(0x33333333, b"x" * 3900)]
    image = Image(
        version=2, cluster_bits=13, size=_SMALL, backing_file=b"n" * 1000, extensions=full
    )
    return replace(seed_input(image, AmendRequest.of(compat=3)), fail_read=2)


def write_seeds(directory: Path) -> int:
    """Write an input for each seed image and request; returns how many."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, image in seed_images():
        for number, request in enumerate(REQUESTS):
            (directory / f"{name}-{number}").write_bytes(seed_input(image, request).pack())
            count += 1
        for number, request in enumerate(OTHERS, len(REQUESTS)):
            seed = asking(seed_input(image, request), request)
            (directory / f"{name}-{number}").write_bytes(seed.pack())
            count += 1
    for name, image in _zero_images():
        for mode in (0, MODE_LONG):
            seed = seed_input(image, AmendRequest.of(compat=2), mode)
            (directory / f"{name}-{mode}").write_bytes(seed.pack())
            count += 1
        for units in (4, 16, 64):  # end before the first zero cluster, and behind it
            seed = seed_input(image, AmendRequest.of(compat=2))
            limited = replace(seed, fail_read=LIMITED | units)
            (directory / f"{name}-limited-{units}").write_bytes(limited.pack())
            count += 1
    bitmaps = seed_input(dict(seed_images())["bitmaps"], AmendRequest.of(compat=2))
    bitmaps = replace(bitmaps, flags=bitmaps.flags | AMEND_FLAG_DROP_BITMAPS)
    (directory / "bitmaps-dropped").write_bytes(bitmaps.pack())
    count += 1
    for name, image in _long_images():
        seed = seed_input(image, AmendRequest.of(compat=2), MODE_LONG)
        (directory / name).write_bytes(seed.pack())
        count += 1
    others = {
        "cut-table": _cut_table(),
        "failing-rewrite": _failing_rewrite(),
        "tables-in-turn": _tables_in_turn(),
    }
    for name, seed in others.items():
        (directory / name).write_bytes(seed.pack())
        count += 1
    return count
