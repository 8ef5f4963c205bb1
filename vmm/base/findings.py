"""Host side: what a check finds, in words: one table, in the order of the ABI's CHECK_* numbers.

docs/abi.md has it too (scripts/generate_tables).
"""

from __future__ import annotations

import instar.abi as abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# What a finding counts as, in qemu-img's terms and one of its own.
ERROR, CORRUPTION, LEAK, OVERLAP = "check-errors", "corruptions", "leaks", "overlaps"

# Kind: (name, what it counts as, names of the details, message, what keeps an image from being
# repaired, or "" if it does not).
FINDINGS: dict[int, tuple[str, str, tuple[str, ...], str, str]] = {
    abi.CHECK_REGION_OUTSIDE: (
        *("region_outside", CORRUPTION, ("offset", "size", "use")),
        "{use} of {size} bytes at {offset:#x} is beyond the end of the file by a cluster or more",
        "a reference beyond the end of the file",
    ),
    abi.CHECK_REFCOUNT_OVERFLOW: (
        *("refcount_overflow", CORRUPTION, ("offset",)),
        "the cluster at {offset:#x} has more users than its refcount can count",
        "",
    ),
    abi.CHECK_L1_RESERVED: (
        *("l1_reserved", CORRUPTION, ("index", "entry")),
        "L1 entry {index}, {entry:#x}, has reserved bits set",
        "an L1 entry with reserved bits",
    ),
    abi.CHECK_L2_TABLE_UNALIGNED: (
        *("l2_table_unaligned", CORRUPTION, ("index", "entry")),
        "L1 entry {index}, {entry:#x}, names an L2 table that begins in no cluster",
        "an L2 table that begins in no cluster",
    ),
    abi.CHECK_L2_RESERVED: (
        *("l2_reserved", CORRUPTION, ("entry",)),
        "the L2 entry {entry:#x} has reserved bits set",
        "an L2 entry with reserved bits",
    ),
    abi.CHECK_COMPRESSED_COPIED: (
        *("compressed_copied", CORRUPTION, ("offset",)),
        "the compressed cluster at {offset:#x} has its copied flag set",
        "a compressed cluster with a copied flag",
    ),
    abi.CHECK_COMPRESSED_DATA_FILE: (
        *("compressed_data_file", CORRUPTION, ("entry",)),
        "the L2 entry {entry:#x} names a compressed cluster, in an image with a data file",
        "a compressed cluster and a data file",
    ),
    abi.CHECK_COMPRESSED_SUBCLUSTERS: (
        *("compressed_subclusters", CORRUPTION, ("entry",)),
        "the L2 entry {entry:#x} names a compressed cluster, and has subclusters",
        "a compressed cluster with subclusters",
    ),
    abi.CHECK_SUBCLUSTERS: (
        *("subclusters", CORRUPTION, ("offset", "subclusters")),
        "the cluster at {offset:#x} has subclusters that are both allocated and zero",
        "subclusters that are both allocated and zero",
    ),
    abi.CHECK_CLUSTER_UNALIGNED: (
        *("cluster_unaligned", CORRUPTION, ("offset", "entry")),
        "the L2 entry {entry:#x} names data that begin in no cluster",
        "data that begin in no cluster",
    ),
    abi.CHECK_UNALLOCATED_SUBCLUSTERS: (
        *("unallocated_subclusters", CORRUPTION, ("entry", "subclusters")),
        "a cluster that is not allocated has subclusters that are",
        "subclusters without a cluster",
    ),
    abi.CHECK_SNAPSHOT_UNALIGNED: (
        *("snapshot_unaligned", CORRUPTION, ("snapshot", "offset")),
        "the L1 table of snapshot number {snapshot}, at {offset:#x}, begins in no cluster",
        "a snapshot whose L1 table begins in no cluster",
    ),
    abi.CHECK_SNAPSHOT_SIZE: (
        *("snapshot_size", CORRUPTION, ("snapshot", "entries")),
        "the L1 table of snapshot number {snapshot} is too large, with {entries} entries",
        "a snapshot whose L1 table is too large",
    ),
    abi.CHECK_SNAPSHOT_DATA_FILE: (
        *("snapshot_data_file", CORRUPTION, ("snapshot",)),
        "snapshot number {snapshot} is of an image with a data file, which can have none",
        "a snapshot and a data file",
    ),
    abi.CHECK_SNAPSHOT_INCOMPLETE: (
        *("snapshot_incomplete", CORRUPTION, ("snapshot",)),
        "snapshot number {snapshot} lacks what version 3 requires of its entry",
        "",
    ),
    abi.CHECK_BLOCK_RESERVED: (
        *("block_reserved", CORRUPTION, ("index", "entry")),
        "refcount table entry {index}, {entry:#x}, has reserved bits set",
        "",
    ),
    abi.CHECK_BLOCK_UNALIGNED: (
        *("block_unaligned", CORRUPTION, ("index", "entry")),
        "refcount block {index}, at {entry:#x}, begins in no cluster",
        "",
    ),
    abi.CHECK_BLOCK_OUTSIDE: (
        *("block_outside", CORRUPTION, ("index", "entry")),
        "refcount block {index}, at {entry:#x}, is outside the image",
        "",
    ),
    abi.CHECK_BLOCK_REFCOUNT: (
        *("block_refcount", CORRUPTION, ("index", "references")),
        "refcount block {index} has {references} users",
        "",
    ),
    abi.CHECK_CLUSTER_REFCOUNT: (
        *("cluster_refcount", CORRUPTION, ("cluster", "refcount", "references")),
        "cluster {cluster} has {references} users and refcount {refcount}",
        "",
    ),
    abi.CHECK_CLUSTER_LEAKED: (
        *("cluster_leaked", LEAK, ("cluster", "refcount", "references")),
        "cluster {cluster} has {references} users and refcount {refcount}",
        "",
    ),
    abi.CHECK_L2_TABLE_COPIED: (
        *("l2_table_copied", CORRUPTION, ("index", "entry", "refcount")),
        "L1 entry {index}, {entry:#x}, has a copied flag that its refcount contradicts",
        "",
    ),
    abi.CHECK_CLUSTER_COPIED: (
        *("cluster_copied", CORRUPTION, ("index", "entry", "refcount")),
        "the L2 entry {entry:#x} has a copied flag that its refcount contradicts",
        "",
    ),
    abi.CHECK_BITMAP: (
        *("bitmap", CORRUPTION, ("bitmap",)),
        "bitmap number {bitmap} has a type, flags or a granularity that no bitmap has",
        "a bitmap of an unknown type",
    ),
    abi.CHECK_BITMAP_ENTRY: (
        *("bitmap_entry", CORRUPTION, ("index", "entry")),
        "entry {index} of a bitmap table, {entry:#x}, is not valid",
        "a bitmap whose table is not valid",
    ),
    abi.CHECK_BLOCK_UNREADABLE: (
        *("block_unreadable", ERROR, ("cluster",)),
        "the refcount of cluster {cluster} cannot be read",
        "",
    ),
    abi.CHECK_OVERLAP: (
        *("overlap", OVERLAP, ("offset", "use", "other_use")),
        "the cluster at {offset:#x} is {use} and {other_use}",
        "",
    ),
    abi.CHECK_BITMAP_TABLE: (
        *("bitmap_table", CORRUPTION, ("bitmap", "entries", "needed")),
        "bitmap number {bitmap} has a table of {entries} entries, where the disk takes {needed}",
        "a bitmap whose table is longer or shorter than its disk takes",
    ),
    abi.CHECK_BITMAP_NAME: (
        *("bitmap_name", CORRUPTION, ("bitmap",)),
        "bitmap number {bitmap} has the name of another",
        "two bitmaps of one name",
    ),
}

_OF_ONE = {
    "references are": "reference is",
    "bitmaps": "bitmap",
    "bits": "bit",
    "bytes": "byte",
    "clusters": "cluster",
    "entries": "entry",
    "snapshots": "snapshot",
    "users": "user",
}
"""What is counted in messages, here and in reasons.py."""


def phrase(message: str, detail: Mapping[str, int], others: Mapping[str, str]) -> str:
    """A message with its details and what else stands in it; of a thing that there is one of."""
    for name, value in detail.items():
        if value == 1:
            for things, thing in _OF_ONE.items():
                message = message.replace(f"{{{name}}} {things}", f"{{{name}}} {thing}")
    return message.format(**{**detail, **others})
