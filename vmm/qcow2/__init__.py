"""Host side: the format's numbers, each once; the files here read headers, within bounds.

All are from the qcow2 specification. shared/qcow2/qcow2.h has them for the guest: what plans and
what judges share no source.
"""

from __future__ import annotations

CLUSTER_BITS_MIN, CLUSTER_BITS_MAX = 9, 21

HEADER_LENGTH_V2 = 72
"""Bytes of a header of version 2, which has no field that says so."""
HEADER_LENGTH_V3_MIN = 104
"""Bytes of the shortest header of version 3; longer ones have compression_type there."""
HEADER_LENGTH_V3 = 112
"""Bytes of a header that becomes version 3, as qemu makes it too."""

REFCOUNT_TABLE_FIELDS = ("refcount_table_offset", "refcount_table_clusters")
"""The fields that name the refcount table."""
REFCOUNT_TABLE_BYTES = slice(48, 60)
"""Their bytes in the header."""
REFCOUNT_ORDER_V2 = 4
"""What version 2 has instead of a field: 16 bits."""
REFCOUNT_ORDER_MAX = 6
"""What the widest refcounts have, which are of 64 bits."""
OFFSET_MASK = 0x00FFFFFFFFFFFE00
"""The host offset in an entry of an L1, L2 or bitmap table."""
CRYPT_AES, CRYPT_LUKS = 1, 2
"""Values of crypt_method."""

INCOMPATIBLE_DIRTY, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DATA_FILE = 1, 2, 4
INCOMPATIBLE_COMPRESSION, INCOMPATIBLE_EXTENDED_L2, INCOMPATIBLE_KNOWN = 8, 16, 0x1F
COMPATIBLE_LAZY_REFCOUNTS, COMPATIBLE_KNOWN = 1, 1
AUTOCLEAR_BITMAPS, AUTOCLEAR_DATA_FILE_RAW, AUTOCLEAR_KNOWN = 1, 2, 3

EXTENSION_BACKING_FORMAT, EXTENSION_FEATURE_NAMES = 0xE2792ACA, 0x6803F857
EXTENSION_DATA_FILE, EXTENSION_BITMAPS, EXTENSION_LUKS = 0x44415441, 0x23852875, 0x0537BE77
"""Types of header extensions."""

NO_ICOUNT = (1 << 64) - 1
"""In a snapshot: it was not taken under record and replay."""


def whole_sectors(size: int) -> int:
    """The bytes of a disk: readers round a size that is none of whole sectors down."""
    return size & -512
