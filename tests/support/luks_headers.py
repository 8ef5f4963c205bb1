"""Test side: valid LUKS1 headers, byte by byte.

Written from the LUKS1 On-Disk Format Specification and docs/keys.md, apart from `vmm/luks`.
"""

from __future__ import annotations

from functools import cache
from struct import pack_into

SIZE, SECTOR, STRIPES = 592, 512, 4000
ACTIVE, INACTIVE = 0x00AC71F3, 0x0000DEAD
CIPHER, MODE, HASH, PAYLOAD, KEY_BYTES, ITERATIONS = 8, 40, 72, 104, 108, 164
SLOTS = range(208, SIZE, 48)
SLOT_ITERATIONS, AREA, SLOT_STRIPES = 4, 40, 44  # in a slot, whose state comes first

_IVS = ("plain", "plain64", "essiv:sha256")
KEYS = {
    **{f"xts-{iv}": (32, 64) for iv in _IVS},
    **{f"cbc-{iv}": (16, 24, 32) for iv in _IVS},
    **dict.fromkeys(("ecb", "ecb-plain", "ecb-plain64"), (16, 24, 32)),
}
"""The bytes of key that a mode of AES may have."""
HASHES = ("sha1", "sha256", "sha512", "ripemd160")
SORTS = [(mode, size, name) for mode, sizes in KEYS.items() for size in sizes for name in HASHES]
"""All modes, with each size of key and each hash."""


def area_sectors(key_bytes: int) -> int:
    """How many sectors a slot's key material takes."""
    return -(-key_bytes * STRIPES // SECTOR)


@cache
def make_header(mode: str, key_bytes: int, hash_name: str, gap: int = 8) -> bytes:
    """A valid header with slot 0 in use; the areas begin at multiples of `gap` sectors."""
    raw = bytearray(SIZE)
    raw[:8] = b"LUKS\xba\xbe\0\1"
    for at, text in ((CIPHER, "aes"), (MODE, mode), (HASH, hash_name)):
        raw[at : at + len(text)] = text.encode()
    stride = -(-area_sectors(key_bytes) // gap) * gap
    pack_into(">II", raw, PAYLOAD, 8 + 8 * stride, key_bytes)
    pack_into(">I", raw, ITERATIONS, 1000)
    for number, slot in enumerate(SLOTS):
        pack_into(">II", raw, slot, *((INACTIVE, 0) if number else (ACTIVE, 1000)))
        pack_into(">II", raw, slot + AREA, 8 + stride * number, STRIPES)
    return bytes(raw)
