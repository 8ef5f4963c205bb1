"""Damages a qcow2 image in what a check looks at: table entries and refcounts. Test side.

The header is left as it is, as qemu-img refuses at once what is wrong there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from struct import pack_into, unpack_from

_OFFSET = 0x00FFFFFFFFFFFE00
_COPIED = 1 << 63


def damage(path: Path, seed: int) -> bool:
    """Change up to four numbers in the tables of an image; False if it is none to be damaged."""
    source = random.Random(seed)  # noqa: S311 - the same in every run
    image = bytearray(path.read_bytes())
    if len(image) < 104 or image[:4] != b"QFI\xfb" or not 9 <= image[23] <= 21:
        return False
    for _ in range(source.randint(1, 4)):
        at = source.choice(_PLACES)(image, source)
        if at is not None and at + 8 <= len(image):
            (number,) = unpack_from(">Q", image, at)
            changed = source.choice(_CHANGES)(number, 1 << image[23], len(image), source)
            pack_into(">Q", image, at, changed & (1 << 64) - 1)
    path.write_bytes(image)
    return True


def _number(image: bytearray, at: int) -> int:
    return int(unpack_from(">Q", image, at)[0]) if at + 8 <= len(image) else 0


def _l1_entry(image: bytearray, source: random.Random) -> int | None:
    (entries,) = unpack_from(">I", image, 36)
    return _number(image, 40) + 8 * source.randrange(entries) if entries else None


def _l2_entry(image: bytearray, source: random.Random) -> int | None:
    at = _l1_entry(image, source)
    table = _number(image, at) & _OFFSET if at is not None else 0
    return table + 8 * source.randrange((1 << image[23]) // 8) if table else None


def _refcounts(image: bytearray, source: random.Random) -> int | None:
    block = _number(image, _number(image, 48)) & _OFFSET
    used = max(len(image) >> image[23], 8)  # those at the start are in use, whatever their width
    return block + source.randrange(used) if block else None


def _refcount_table(image: bytearray, source: random.Random) -> int | None:
    return _number(image, 48) + 8 * source.randrange(4)


_PLACES: tuple[Callable[[bytearray, random.Random], int | None], ...] = (
    *(_l1_entry, _l2_entry, _l2_entry, _refcounts, _refcounts, _refcount_table),
)
_CHANGES: tuple[Callable[[int, int, int, random.Random], int], ...] = (
    lambda number, _cluster, _size, _source: number ^ _COPIED,
    lambda number, _cluster, _size, source: number ^ 1 << source.randrange(64),
    lambda number, cluster, _size, source: number ^ 1 << source.randrange(cluster.bit_length() + 4),
    lambda number, cluster, _size, _source: number + cluster,
    lambda _number, cluster, size, source: (
        source.randrange(size // cluster + 3) * cluster | source.choice((0, _COPIED))
    ),
    lambda _number, _cluster, _size, _source: 0,
)
