"""The structures of a qcow2 file, as `construct` declarations. Test side of the trust boundary.

Names of fields are those of the specification (qemu, docs/interop/qcow2.rst); where it describes
a field without naming it (snapshot table, table entries) the name says what the description says.
Nothing here judges a value: an invalid structure can be built and parsed like a valid one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from construct import (
    Adapter,
    Aligned,
    BitsInteger,
    BitStruct,
    Bitwise,
    Bytes,
    Default,
    ExprAdapter,
    Flag,
    GreedyBytes,
    GreedyRange,
    IfThenElse,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64sb,
    Int64ub,
    Optional,
    Rebuild,
    Struct,
    len_,
    obj_,
    this,
)

MAGIC = b"QFI\xfb"
HEADER_V2_LENGTH = 72
HEADER_V3_LENGTH = 104
HEADER_LENGTH = 112
"""Version 3 with the one additional field that there is, compression_type, and its padding."""

INCOMPATIBLE_DIRTY = 1 << 0
INCOMPATIBLE_CORRUPT = 1 << 1
INCOMPATIBLE_DATA_FILE = 1 << 2
INCOMPATIBLE_COMPRESSION_TYPE = 1 << 3
INCOMPATIBLE_EXTENDED_L2 = 1 << 4
COMPATIBLE_LAZY_REFCOUNTS = 1 << 0
AUTOCLEAR_BITMAPS = 1 << 0
AUTOCLEAR_DATA_FILE_RAW = 1 << 1

EXTENSION_END = 0x00000000
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_FEATURE_NAME_TABLE = 0x6803F857
EXTENSION_BITMAPS = 0x23852875
EXTENSION_CRYPTO_HEADER = 0x0537BE77
EXTENSION_DATA_FILE = 0x44415441

COPIED = 1 << 63
"""Bit 63 of L1 and L2 table entries: what is pointed at has a refcount of exactly one."""

SUBCLUSTERS = 32
ALL_SUBCLUSTERS = (1 << SUBCLUSTERS) - 1


def _offset(bits: int) -> Any:
    """A file offset of which only the bits from 9 upwards are stored."""
    return ExprAdapter(BitsInteger(bits), obj_ << 9, obj_ >> 9)


def _reserved(bits: int) -> Any:
    return Default(BitsInteger(bits), 0)


class _ZeroPadded(Adapter):  # type: ignore[misc]  # construct has no type information
    """A string filled up with zero bytes to the size of its field."""

    def _decode(self, obj: bytes, context: Any, path: Any) -> bytes:
        return obj.rstrip(b"\0")

    def _encode(self, obj: bytes, context: Any, path: Any) -> bytes:
        return obj.ljust(self.subcon.length, b"\0")


HeaderV2 = Struct(
    "magic" / Bytes(4),
    "version" / Int32ub,
    "backing_file_offset" / Int64ub,
    "backing_file_size" / Int32ub,
    "cluster_bits" / Int32ub,
    "size" / Int64ub,
    "crypt_method" / Int32ub,
    "l1_size" / Int32ub,
    "l1_table_offset" / Int64ub,
    "refcount_table_offset" / Int64ub,
    "refcount_table_clusters" / Int32ub,
    "nb_snapshots" / Int32ub,
    "snapshots_offset" / Int64ub,
)
"""Section "Header": bytes 0 to 71, the whole header of version 2."""

HeaderV3 = Struct(
    "incompatible_features" / Int64ub,
    "compatible_features" / Int64ub,
    "autoclear_features" / Int64ub,
    "refcount_order" / Int32ub,
    "header_length" / Int32ub,
)
"""Section "Header": bytes 72 to 103, in version 3 only."""

AdditionalFields = Struct("compression_type" / Int8ub, "padding" / Default(Bytes(7), bytes(7)))
"""Section "Additional fields": bytes 104 to 111, present as far as header_length reaches."""

HeaderExtension = Struct("type" / Int32ub, "length" / Int32ub)
"""Section "Header extensions": the head; the data follow, and padding to a multiple of 8 bytes.

The data are not part of the declaration, so that a length that lies can be written and read.
"""

FeatureName = Struct("type" / Int8ub, "bit" / Int8ub, "name" / _ZeroPadded(Bytes(46)))
"""Section "Feature name table": one entry."""

FeatureNameTable = GreedyRange(FeatureName)
"""Section "Feature name table": the data of the header extension."""

BitmapsExtension = Struct(
    "nb_bitmaps" / Int32ub,
    "reserved" / Default(Int32ub, 0),
    "bitmap_directory_size" / Int64ub,
    "bitmap_directory_offset" / Int64ub,
)
"""Section "Bitmaps extension": the data of the header extension."""

CryptoHeaderExtension = Struct("offset" / Int64ub, "length" / Int64ub)
"""Section "Full disk encryption header pointer": the data of the header extension."""

RefcountTableEntry = BitStruct("refcount_block_offset" / _offset(55), "reserved" / _reserved(9))
"""Section "Host cluster management": one entry of the refcount table."""

L1Entry = BitStruct(
    "copied" / Default(Flag, False),
    "reserved_high" / _reserved(7),
    "l2_table_offset" / _offset(47),
    "reserved_low" / _reserved(9),
)
"""Section "Cluster mapping": one entry of an L1 table."""

StandardClusterDescriptor = Struct(
    "reserved_high" / _reserved(6),
    "host_cluster_offset" / _offset(47),
    "reserved_low" / _reserved(8),
    "reads_as_zeros" / Default(Flag, False),
)
"""Section "Cluster mapping", "Standard Cluster Descriptor": bits 0 to 61 of an L2 table entry."""

SubclusterBitmap = BitStruct("reads_as_zeros" / BitsInteger(32), "allocated" / BitsInteger(32))
"""Section "Extended L2 Entries": the second half of an entry; bit x is subcluster x."""

BitmapTableEntry = BitStruct(
    "reserved_high" / _reserved(8),
    "host_cluster_offset" / _offset(47),
    "reserved_low" / _reserved(8),
    "all_ones" / Default(Flag, False),
)
"""Section "Bitmap table": one entry; `all_ones` counts only if the offset is 0."""

SnapshotExtraData = Struct(
    "vm_state_size" / Optional(Int64ub),
    "disk_size" / Optional(Int64ub),
    "icount" / Optional(Int64sb),
    "unknown" / GreedyBytes,
)
"""Section "Snapshots": the extra data; a field that is cut short or missing parses as None."""

SnapshotTableEntry = Aligned(
    8,
    Struct(
        "l1_table_offset" / Int64ub,
        "l1_size" / Int32ub,
        "id_size" / Rebuild(Int16ub, len_(this.id)),
        "name_size" / Rebuild(Int16ub, len_(this.name)),
        "date_sec" / Int32ub,
        "date_nsec" / Int32ub,
        "vm_clock_nsec" / Int64ub,
        "vm_state_size" / Int32ub,
        "extra_data_size" / Rebuild(Int32ub, len_(this.extra_data)),
        "extra_data" / Bytes(this.extra_data_size),
        "id" / Bytes(this.id_size),
        "name" / Bytes(this.name_size),
    ),
)
"""Section "Snapshots": one entry of the snapshot table, with its padding."""

BitmapDirectoryEntry = Aligned(
    8,
    Struct(
        "bitmap_table_offset" / Int64ub,
        "bitmap_table_size" / Int32ub,
        "flags" / Int32ub,
        "type" / Int8ub,
        "granularity_bits" / Int8ub,
        "name_size" / Rebuild(Int16ub, len_(this.name)),
        "extra_data_size" / Rebuild(Int32ub, len_(this.extra_data)),
        "extra_data" / Default(Bytes(this.extra_data_size), b""),
        "name" / Bytes(this.name_size),
    ),
)
"""Section "Bitmap directory": one entry, with its padding."""


@cache
def compressed_cluster_descriptor(cluster_bits: int) -> Any:
    """Section "Cluster mapping", "Compressed Clusters Descriptor"; x = 62 - (cluster_bits - 8)."""
    return Struct(
        "additional_sectors" / BitsInteger(cluster_bits - 8),
        "host_cluster_offset" / BitsInteger(62 - (cluster_bits - 8)),
    )


@cache
def l2_entry(cluster_bits: int) -> Any:
    """Section "Cluster mapping": one entry of an L2 table, standard or compressed."""
    return Bitwise(
        Struct(
            "copied" / Default(Flag, False),
            "compressed" / Flag,
            "cluster"
            / IfThenElse(
                this.compressed,
                compressed_cluster_descriptor(cluster_bits),
                StandardClusterDescriptor,
            ),
        )
    )
