"""Test side: LUKS1 headers, valid and with fields at their bounds, and whether one may be read.

Written from the LUKS1 On-Disk Format Specification and docs/keys.md, apart from `vmm/luks`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from struct import pack_into, unpack_from

from tests.support.luks_headers import (
    ACTIVE,
    AREA,
    CIPHER,
    HASH,
    HASHES,
    INACTIVE,
    ITERATIONS,
    KEY_BYTES,
    KEYS,
    MODE,
    PAYLOAD,
    SECTOR,
    SIZE,
    SLOT_ITERATIONS,
    SLOT_STRIPES,
    SLOTS,
    SORTS,
    STRIPES,
    area_sectors,
    make_header,
)

_U32 = (0, 1, 2, 7, 8, 0xFFFF, 0x10000, 1 << 23, (1 << 31) - 1, 1 << 31, (1 << 32) - 2)
_BOUNDS = (*_U32, (1 << 32) - 1)
_NAMES = (b"", b"aes", b"AES", b"serpent", b"cast5", b"xts", b"xts-plain65", b"cbc-essiv:sha1")
_TEXTS = (*_NAMES, b"sha3", b"SHA256", b"\x1b[2J", b"\xff\xfe", b"{0}", b"%s", b"\n\r\0\t")


def draw(rng: random.Random) -> tuple[bytes, int]:
    """A header that is valid, or is so but for up to three fields, and its region's length."""
    raw = bytearray(make_header(*rng.choice(SORTS), rng.choice((1, 8))))
    _shuffle(rng, raw)
    end = _end(raw)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        rng.choice(_MUTATIONS)(rng, raw)
    if rng.random() < 0.01:
        raw = raw.ljust(SIZE + 48, b"\xff")[: rng.choice((0, 1, 6, 8, 207, 208, 591, 593, 640))]
    lengths = (end, end, end, end + 1, end - 1, 0, 591, SIZE, 4096, 1 << 40, 1 << 63)
    return bytes(raw), rng.choice(lengths)


def may_be_read(raw: bytes, length: int) -> bool:
    """Whether a header is one that instar says it supports, in a region of this length."""
    if len(raw) != SIZE or raw[:8] != b"LUKS\xba\xbe\0\1":
        return False
    cipher, mode, hash_name = (_text(raw, at) for at in (CIPHER, MODE, HASH))
    payload, key_bytes = unpack_from(">II", raw, PAYLOAD)
    if cipher != "aes" or hash_name not in HASHES or key_bytes not in KEYS.get(mode, ()):
        return False
    slots = [(*unpack_from(">II", raw, at), *unpack_from(">II", raw, at + AREA)) for at in SLOTS]
    for state, iterations, _, stripes in slots:
        if state not in (ACTIVE, INACTIVE) or stripes != STRIPES:
            return False
        if state == ACTIVE and not iterations:
            return False
    starts = sorted(SECTOR * area for _, _, area, _ in slots)
    size = SECTOR * area_sectors(key_bytes)
    apart = all(after - before >= size for before, after in pairwise(starts))
    inside = starts[0] >= 4096 and starts[-1] + size <= min(length, SECTOR * payload)
    return bool(unpack_from(">I", raw, ITERATIONS)[0]) and apart and inside


def _text(raw: bytes, at: int) -> str:
    """A field of 32 bytes that is a text and zeros to its end; nothing, if it is not."""
    text = raw[at : at + 32].rstrip(b"\0")
    return text.decode("latin-1") if len(text) < 32 and b"\0" not in text else ""


def _end(raw: bytearray) -> int:
    """Where the last area ends, in bytes."""
    last = max(unpack_from(">I", raw, slot + AREA)[0] for slot in SLOTS)
    return int(SECTOR * (last + area_sectors(unpack_from(">I", raw, KEY_BYTES)[0])))


def _shuffle(rng: random.Random, raw: bytearray) -> None:
    """Have other slots be in use, and in every fourth header have the areas in another order."""
    for slot in rng.sample(SLOTS, rng.choice((0, 0, 1, 3))):
        pack_into(">II", raw, slot, ACTIVE, rng.choice((1, 1000, (1 << 32) - 1)))
    if rng.random() < 0.25:
        areas = [raw[slot + AREA : slot + AREA + 4] for slot in SLOTS]
        rng.shuffle(areas)
        for slot, area in zip(SLOTS, areas, strict=True):
            raw[slot + AREA : slot + AREA + 4] = area


def _number(rng: random.Random, raw: bytearray) -> None:
    """A field that is a number gets one at a bound, its own or any."""
    slot = rng.choice(SLOTS)
    in_slot = (slot, slot + SLOT_ITERATIONS, slot + AREA, slot + SLOT_STRIPES)
    at = rng.choice((PAYLOAD, KEY_BYTES, ITERATIONS, *in_slot))
    old = unpack_from(">I", raw, at)[0]
    near = (old - 1, old + 1, old * 2, STRIPES - 1, STRIPES, STRIPES + 1, ACTIVE, INACTIVE)
    value = rng.choice((*_BOUNDS, *near, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65))
    pack_into(">I", raw, at, value & 0xFFFFFFFF)


def _overlap(rng: random.Random, raw: bytearray) -> None:
    """An area goes to another, the header, the payload or the end of all numbers, or next to it."""
    one, other = rng.sample(SLOTS, 2)
    size = area_sectors(min(unpack_from(">I", raw, KEY_BYTES)[0], 1 << 16))
    places = (unpack_from(">I", raw, other + AREA)[0], 8, unpack_from(">I", raw, PAYLOAD)[0], 0)
    value = rng.choice(places) + rng.choice((0, size, -size)) + rng.choice((-1, 0, 0, 1))
    pack_into(">I", raw, one + AREA, value & 0xFFFFFFFF)


def _rename(rng: random.Random, raw: bytearray) -> None:
    """A name becomes another, one without an end, or one with something after its end."""
    at = rng.choice((CIPHER, MODE, HASH))
    known: tuple[str, ...] = {CIPHER: ("aes",), MODE: tuple(KEYS), HASH: HASHES}[at]
    text = rng.choice(_TEXTS) if rng.random() < 0.5 else rng.choice(known).encode()
    fill = rng.choice((b"\0", b"\0", b"a", b"\xff"))
    raw[at : at + 32] = text.ljust(32, fill)
    if rng.random() < 0.2:
        raw[at + rng.choice((len(text), 30, 31))] = rng.choice((1, 0x61, 0xFF))


def _bytes(rng: random.Random, raw: bytearray) -> None:
    """Some bytes become any others."""
    at = rng.choice((0, 4, 6, 7, rng.randrange(SIZE - 4)))
    raw[at : at + 4] = rng.choice((rng.randbytes(4), bytes(4), b"\xff" * 4, b"\0\2\0\0"))


def _exchange(rng: random.Random, raw: bytearray) -> None:
    """A whole slot becomes a copy of another."""
    one, other = rng.sample(SLOTS, 2)
    raw[one : one + 48] = raw[other : other + 48]


_MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(_number, _number, _number, _overlap, _overlap, _rename, _bytes, _exchange),
)
