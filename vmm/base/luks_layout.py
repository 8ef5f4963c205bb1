"""Host side: the layout of a LUKS1 header: its fields, its keyslots, and where they lie.

Source: LUKS1 On-Disk Format Specification 1.2.3, "partition header" and "key slot".
"""

from __future__ import annotations

from struct import Struct

MAGIC = b"LUKS\xba\xbe"
FIELDS = Struct(">6sH32s32s32sII20s32sI40s")
"""The magic, the version, the names of cipher, mode and hash, the payload's offset in sectors, the
bytes of the master key, its digest, the digest's salt and iterations, and a UUID."""
SLOT = Struct(">II32sII")
"""A slot's state, iterations and salt, where its key material is, in sectors, and its stripes."""
SLOTS = 8
FIRST_SLOT, SLOT_SIZE = FIELDS.size, SLOT.size
"""Where the first slot is in the header, and the bytes of each; the others follow."""
HEADER_SIZE = FIRST_SLOT + SLOTS * SLOT_SIZE
"""Bytes of the header, with its slots."""
ACTIVE, INACTIVE = 0x00AC71F3, 0x0000DEAD
"""The states of a slot."""
SALT_SIZE = 32
DIGEST_SIZE = 20
SECTOR_SIZE = 512
STRIPES = 4000


def place_of(number: int, field: int = 0) -> int:
    """Where a slot is in the header, or one of its fields."""
    return FIRST_SLOT + number * SLOT_SIZE + field
