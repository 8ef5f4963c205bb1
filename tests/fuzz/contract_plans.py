"""Test side: honest images with what an honest guest stages for them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from construct import ConstructError

from instar.vmm.request import AmendRequest
from tests.fuzz.contract_images import lying_images, strange_images
from tests.fuzz.images import random_image
from tests.support.deaf import DeafPlanner
from tests.support.disks import half_zeroed
from tests.support.forge import (
    Bitmap,
    Data,
    Image,
    Reader,
    Snapshot,
    Zero,
    ZeroAllocated,
    faults,
    layout,
)
from tests.support.planner import SECTOR, ask
from tests.support.planning import Case, case_of
from tests.support.project import load_planner
from tests.support.tables import BACKED, BLOCKS, OLD, PLAIN

_GROWTH = 1 << 26
_SIZE_MAX = 1 << 19
_AT = 0x18000
_LARGE = Image(
    cluster_bits=17,
    size=1 << 19,
    clusters={0: Data(b"a"), 1: Zero()},
    backing_file=b"base",
    backing_format=b"raw",
)
"""Whose header cluster is larger than what is looked at as a header."""
_NAMING = (*(layout.EXTENSION_BITMAPS, layout.EXTENSION_CRYPTO_HEADER, layout.EXTENSION_DATA_FILE),)
_REASONS = (
    *("overlap", "overlap", "overlap", "overlap", "refcount", "refcount", "l2_entry", "l2_table"),
    *("bitmaps", "size_bitmaps", "downgrade_bitmaps", "grow_head_over_backing"),
)
"""What is to be refused, and a planner may be deaf to."""
ALLOWED = ("drop_bitmaps", "shrink", "change_backing", "backing_size")
_REQUESTS = (
    *(
        AmendRequest.of(compat=2),
        AmendRequest.of(compat=2),
        AmendRequest.of(compat=2, drop_bitmaps=True),
    ),
    *(
        AmendRequest.of(compat=3),
        AmendRequest.of(compat=3),
        AmendRequest.of(compat=3, lazy_refcounts=True),
    ),
    *(
        AmendRequest.of(compat=2, lazy_refcounts=False, drop_bitmaps=True),
        AmendRequest.of(lazy_refcounts=True),
        AmendRequest.of(lazy_refcounts=False),
    ),
)


def honest_cases(rng: random.Random) -> Iterator[Case]:
    """Images without faults, with the planner's plans: the same ones for the same generator."""
    while True:
        image = _image(rng)
        try:
            data = _far(image) if image is _LARGE else image.build()
            if faults(Reader(data)) or (len(data) > _SIZE_MAX and image is not _LARGE):
                continue
        # No image, or with extensions that nothing reads, or that name what is nowhere.
        except (ConstructError, OverflowError, ValueError):
            continue
        yield from plans(rng, load_planner(), data)


def strange_cases(rng: random.Random) -> Iterator[Case]:
    """The same for images that may have faults of every kind but wrong refcounts and flags."""
    for data in strange_images(rng):
        yield from plans(rng, load_planner(), data)


@lru_cache(1)
def _deaf_planner() -> DeafPlanner:
    with TemporaryDirectory() as folder:  # of which a process that has opened it needs no more
        return DeafPlanner(Path(folder) / "libdeaf.so")


def deaf_cases(rng: random.Random) -> Iterator[Case]:
    """What a planner for those images stages that goes on where it should refuse."""
    for data in strange_images(rng):
        planner = _deaf_planner()
        planner.be_deaf_to(rng.choice(_REASONS))
        yield from plans(rng, planner, data)


def lying_cases(rng: random.Random) -> Iterator[Case]:
    """The same for images of which some refcounts are too low, as any planner may."""
    for data in lying_images(rng):
        planner = _deaf_planner()
        planner.be_deaf_to(rng.choice((*_REASONS, None, None)))
        yield from plans(rng, planner, data)


def plans(rng: random.Random, planner: Any, data: bytes) -> Iterator[Case]:
    """The plans for some requests, if there are such."""
    requests = rng.sample(_REQUESTS, 3)
    if rng.random() < 0.6:
        requests[rng.randrange(3)] = _another(rng, data)
    for request in requests:
        allowed = {key: getattr(request, key) for key in ALLOWED}
        grown = AmendRequest.of(**request.options, **allowed, max_growth=_GROWTH)
        try:
            answer = ask(planner, data, grown)
        except AssertionError:  # no header
            return
        if answer.planned and not answer.refusals:
            yield case_of(data, grown, answer)


def _another(rng: random.Random, data: bytes) -> AmendRequest:
    """Another backing file, refcounts of another width, or another size."""
    if rng.random() < 0.25:
        return _names(rng)
    if rng.random() < 0.4:
        return AmendRequest.of(refcount_bits=1 << rng.randrange(7))
    _, _, name, _, bits, old = struct.unpack(">IIQIIQ", data[:32])
    cluster, size = 1 << bits, old
    # Over a backing file each cluster of the new part may get an entry.
    span = min(cluster // 8, 600 if name else cluster) * cluster
    steps = (SECTOR, cluster, span, 40 * cluster)
    size += rng.choice((-1, 1)) * (rng.choice(steps) + rng.choice((-SECTOR, 0, SECTOR)))
    known = {}
    if name and rng.random() < 0.5:
        known["backing_size"] = rng.choice((0, old, old + 3 * SECTOR))
    size = max(size // SECTOR * SECTOR, SECTOR)
    return AmendRequest.of(size=size, shrink=True, drop_bitmaps=rng.random() < 0.5, **known)


def _names(rng: random.Random) -> AmendRequest:
    """The names of another backing file and its format; of none, they are empty."""
    if rng.random() < 0.25:
        return AmendRequest.of(backing_file=b"", change_backing=True)
    length = rng.choice((1, rng.randrange(1, 40), rng.randrange(1, 400), 1023))
    names = {"backing_file": b"n" * length, "backing_fmt": rng.choice((b"raw", b"qcow2", b"file"))}
    return AmendRequest.of(**names, change_backing=True)


def _far(image: Image) -> bytes:
    """The image with its backing file's name past what is looked at as a header."""
    data = bytearray(image.build())
    start, size = struct.unpack(">QI", data[8:20])
    data[_AT : _AT + size] = data[start : start + size]
    data[8:16] = _AT.to_bytes(8, "big")
    return bytes(data)


def _image(rng: random.Random) -> Image:
    if rng.random() < 0.04:
        return _LARGE
    if rng.random() < 0.4:
        return rng.choice((PLAIN, BACKED, BLOCKS, OLD, *_shared()))
    image = random_image(rng)
    # Those that the forge does not fill name whatever their bytes happen to say.
    image = replace(image, extensions=[e for e in image.extensions if e.type not in _NAMING])
    if rng.random() < 0.3 and image.version == 3:
        bitmaps = [Bitmap(name=b"b%d" % n, dirty=(n,)) for n in range(rng.randrange(1, 4))]
        image = replace(image, bitmaps=bitmaps, extensions=())
    if rng.random() < 0.15:
        size = rng.choice((600, 4096))
        image = replace(image, crypto_header=b"LUKS\xba\xbe" * (size // 6), extensions=())
    return image


def _shared() -> tuple[Image, ...]:
    """Tables and clusters that layers share, bitmaps and slack."""
    clusters = {0: Data(b"a"), 1: Zero(), 2: ZeroAllocated(b"z"), 70: Zero(), 71: Data(b"q")}
    base: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 16, "clusters": clusters}
    snapshots = [Snapshot(name=b"same"), Snapshot(name=b"own", clusters={1: Zero(), 2: Data(b"z")})]
    bitmaps = [Bitmap(name=b"one", dirty=(0, 1)), Bitmap(name=b"two")]
    return (
        Image(**base, snapshots=snapshots),
        Image(**base, snapshots=snapshots, backing_file=b"base"),
        Image(**base, snapshots=snapshots, bitmaps=bitmaps, backing_file=b"base"),
        Image(**{**base, "size": (1 << 16) - 300}, bitmaps=bitmaps),
        Image(version=2, size=1 << 20, snapshots=[Snapshot(name=b"s", extra_data_size=0)]),
        Image(version=2, size=1 << 20, clusters={0: Data(b"a")}),
        half_zeroed(3),
    )
