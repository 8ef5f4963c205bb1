"""Test side: random images from the forge, their headers and tables mutated, for the sandbox."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from construct import ConstructError

from instar.vmm.request import AmendRequest
from tests.fuzz.seeds import REQUESTS
from tests.support.forge import (
    Bitmap,
    Compressed,
    Data,
    Extension,
    Image,
    Snapshot,
    Unallocated,
    Zero,
    ZeroAllocated,
)

CASES_PER_IMAGE = 40
_SIZE_MAX = 4 << 20
_TYPES = (0x11111111, 0x22222222, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441)
_FIELDS = (
    *((4, 4), (8, 8), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8)),
    *((56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)),
)
_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 72, 104, 112, 120, 392, 504, 511, 512, 513, 1023, 1024),
    *(4095, 4096, 0xFFF8, 0x10000, 0x10008, 0x200000, 0xFFFFFFFF, 1 << 32, 1 << 62, (1 << 63) - 1),
    *(1 << 63, (1 << 64) - 1),
)


@dataclass(frozen=True)
class Case:
    """An image, what is asked of it, and the first sector as the host saw it."""

    name: str
    image: bytes
    request: AmendRequest
    seen: bytes


def random_image(rng: random.Random) -> Image:
    """The description of an image that is valid, or nearly."""
    version = rng.choice((2, 3))
    bits = rng.choice((9, 9, 10, 11, 12, 12, 13, 16))
    fields: dict[str, Any] = {"version": version, "cluster_bits": bits}
    fields["size"] = rng.choice((0, 1 << 12, 1 << 14, 1 << 16, (1 << 15) + 512))
    fields["clusters"] = _clusters(rng, version)
    if rng.random() < 0.5:
        fields["backing_file"] = b"b" * rng.choice((0, 1, 8, 100, 500, 1023))
        if rng.random() < 0.3:
            fields["backing_file_offset"] = rng.randrange(72, 1 << bits)
    if rng.random() < 0.4:
        fields["backing_format"] = b"qcow2"[: rng.randrange(6)]
    if rng.random() < 0.6:
        fields["extensions"] = [_extension(rng) for _ in range(rng.randrange(5))]
    if rng.random() < 0.3:
        fields["snapshots"] = [_snapshot(rng, version) for _ in range(rng.randrange(1, 4))]
    if version == 3:
        _add_version_3(rng, fields)
    return Image(**fields)


def _add_version_3(rng: random.Random, fields: dict[str, Any]) -> None:
    fields["lazy_refcounts"] = rng.random() < 0.4
    fields["feature_name_table"] = rng.random() < 0.4
    fields["compatible_features"] = rng.choice((0, 0, 0, 0xF0))
    fields["autoclear_features"] = rng.choice((0, 0, 0, 0xF0))
    length = rng.choice((112, 112, 112, 104, 120, 256))
    fields.update(header_length=length, unknown_header_fields=b"\xee" * max(0, length - 112))
    if rng.random() < 0.1:
        fields["refcount_order"] = rng.randrange(7)
    if rng.random() < 0.1:
        fields["compression_type"] = 1
    if rng.random() < 0.1:
        fields["bitmaps"] = [Bitmap(name=b"b0", dirty=(0,))]
    if rng.random() < 0.05:
        fields.update(rng.choice(({"dirty": True}, {"corrupt": True}, {"data_file": b"raw"})))


def _clusters(rng: random.Random, version: int) -> dict[int, Any]:
    kinds: list[Any] = [Data(b"d"), Data(b"e"), Unallocated(), Compressed(b"c")]
    if version == 3 and rng.random() < 0.6:
        kinds += [Zero(), ZeroAllocated(b"z")]
    return {rng.randrange(24): rng.choice(kinds) for _ in range(rng.randrange(8))}


def _extension(rng: random.Random) -> Extension:
    size = rng.choice((0, 1, 7, 8, 15, 24, 40, 200, 400, 480, 1500))
    return Extension(rng.choice(_TYPES), b"x" * size, padding=rng.choice((b"\0", b"\xee")))


def _snapshot(rng: random.Random, version: int) -> Snapshot:
    return Snapshot(
        name=b"n" * rng.randrange(20),
        clusters=rng.choice((None, _clusters(rng, version))),
        extra_data_size=rng.choice((0, 8, 16, 16, 24, 40)),
        vm_state=b"s" * rng.choice((0, 0, 600)),
        disk_size=rng.choice((None, None, 1 << 13)),
    )


def random_cases(seed: int) -> Iterator[Case]:
    """Cases without end, the same ones for the same seed."""
    for number in _numbers():
        # Each image has a generator of its own: a case is found again without those before it.
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - reproducible, not secret
        image, regions = _build(rng)
        for variant in range(CASES_PER_IMAGE):
            changed = _mutate(rng, image, regions) if variant >= len(REQUESTS) else image
            request = REQUESTS[variant % len(REQUESTS)]
            seen = changed if rng.random() < 0.97 else _mutate(rng, changed, regions)
            yield Case(f"{seed}/{number}/{variant}", changed, request, seen)


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _build(rng: random.Random) -> tuple[bytes, list[range]]:
    """An image that can be written down, and where its tables are."""
    while True:
        image = random_image(rng)
        try:
            data = image.build()
        except (ConstructError, ValueError):
            continue
        if len(data) <= _SIZE_MAX:
            names = ("l1_table", "l2_table", "snapshot_table", "extensions", "refcount", "bitmap")
            regions = [r for name, r in image.regions().items() if any(n in name for n in names)]
            return data, [r for r in regions if len(r)]


def _mutate(rng: random.Random, image: bytes, regions: list[range]) -> bytes:
    changed = bytearray(image)
    edits: tuple[Callable[[random.Random, bytearray, list[range]], None], ...] = (
        *(_edit_field, _edit_field, _edit_region, _edit_size),
    )
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(edits)(rng, changed, regions)
    return bytes(changed)


def _number(rng: random.Random, image: bytearray) -> int:
    value = rng.choice(
        (rng.choice(_NUMBERS), rng.randrange(64) << 9, len(image), 1 << rng.randrange(64))
    )
    return value + rng.choice((0, 0, 0, 1, -1, 8))


def _put(image: bytearray, at: int, size: int, value: int) -> None:
    if at + size <= len(image):
        image[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "big")


def _edit_field(rng: random.Random, image: bytearray, regions: list[range]) -> None:
    at, size = rng.choice(_FIELDS)
    if 72 <= at < 96 <= len(image) and rng.random() < 0.7:
        _put(image, at + 7, 1, image[at + 7] ^ 1 << rng.randrange(6))
    else:
        _put(image, at, size, _number(rng, image))


def _edit_region(rng: random.Random, image: bytearray, regions: list[range]) -> None:
    if regions:
        region = rng.choice(regions)
        at = region.start + rng.randrange(min(len(region), 256)) // 4 * 4
        _put(image, at, rng.choice((1, 2, 4, 8)), _number(rng, image))


def _edit_size(rng: random.Random, image: bytearray, regions: list[range]) -> None:
    if rng.random() < 0.5 and image:
        del image[rng.randrange(len(image)) :]
    else:
        image += bytes(rng.choice((1, 511, 512, 4096)))
