"""Host side: the guest's refusals in words: what is in the way, and what the user can do.

One table, in the order of the ABI's REFUSAL_* numbers. The numbers in a message come from the
guest; they are shown, never used.
"""

from __future__ import annotations

import instar.abi as abi
from instar.vmm.errors import GuestFault, Refusal

# Reason: (name, names of the details, message).
REASONS: dict[int, tuple[str, tuple[str, ...], str]] = {
    abi.REFUSAL_BAD_MAGIC: ("not_qcow2", (), "this is not a qcow2 image"),
    abi.REFUSAL_BAD_VERSION: (
        "version",
        ("version",),
        "qcow2 version {version} is not supported, only 2 and 3 are",
    ),
    abi.REFUSAL_TRUNCATED_HEADER: (
        "truncated_header",
        ("size", "needed"),
        "the file ends within the header, after {size} of {needed} bytes; it is not whole",
    ),
    abi.REFUSAL_CLUSTER_BITS: (
        "cluster_bits",
        ("cluster_bits",),
        "the cluster size 2^{cluster_bits} is not between 2^9 and 2^21; the header is damaged",
    ),
    abi.REFUSAL_HEADER_LENGTH: (
        "header_length",
        ("header_length",),
        "the header length {header_length} is not valid; the header is damaged",
    ),
    abi.REFUSAL_UNKNOWN_INCOMPATIBLE: (
        "unknown_incompatible_features",
        ("bits",),
        "the image uses unknown incompatible features {bits:#x}; use a tool that knows them",
    ),
    abi.REFUSAL_DIRTY: (
        "dirty",
        (),
        "the image is marked dirty, as it was not closed; repair it with qemu-img check -r all",
    ),
    abi.REFUSAL_CORRUPT: (
        "corrupt",
        (),
        "the image is marked corrupt; repair it with qemu-img check -r all",
    ),
    abi.REFUSAL_REFCOUNT_ORDER: (
        "refcount_order",
        ("refcount_order",),
        "the refcount width 2^{refcount_order} bits is over 64; the header is damaged",
    ),
    abi.REFUSAL_REFCOUNT_TABLE: (
        "refcount_table",
        ("offset", "clusters", "image_size"),
        (
            "the refcount table, {clusters} clusters at {offset:#x}, is not a whole table inside "
            "the image of {image_size} bytes; see qemu-img check"
        ),
    ),
    abi.REFUSAL_L1_TABLE: (
        "l1_table",
        ("offset", "entries", "image_size"),
        (
            "the L1 table, {entries} entries at {offset:#x}, is not a whole table inside the "
            "image of {image_size} bytes; see qemu-img check"
        ),
    ),
    abi.REFUSAL_L1_TOO_SMALL: (
        "l1_too_small",
        ("entries", "needed"),
        (
            "the L1 table has {entries} entries, and the virtual size needs {needed}; the header "
            "is damaged"
        ),
    ),
    abi.REFUSAL_SNAPSHOT_TABLE: (
        "snapshot_table",
        ("offset", "count", "snapshot"),
        (
            "the snapshot table, or an L1 table it names, is not valid ({count} at {offset:#x}); "
            "see qemu-img check"
        ),
    ),
    abi.REFUSAL_BACKING_FILE: (
        "backing_file",
        ("offset", "size"),
        (
            "the backing file name, {size} bytes at {offset:#x}, is too long or not in the "
            "header cluster; the header is damaged"
        ),
    ),
    abi.REFUSAL_EXTENSIONS: (
        "header_extension",
        ("offset", "type", "length"),
        (
            "the header extension {type:#x} at {offset:#x} has the invalid length {length}; the "
            "header is damaged"
        ),
    ),
    abi.REFUSAL_CRYPT_METHOD: (
        "crypt_method",
        ("crypt_method",),
        "the encryption method {crypt_method} is unknown; use a tool that knows it",
    ),
    abi.REFUSAL_CRYPTO_EXTENSION: (
        "crypto_extension",
        ("offset", "type", "length"),
        "the LUKS header extension is missing, out of place or malformed; the header is damaged",
    ),
    abi.REFUSAL_COMPRESSION_TYPE: (
        "compression_type",
        ("compression_type", "bit"),
        (
            "the compression type {compression_type} is unknown or contradicts its feature bit "
            "{bit}; use a tool that knows it"
        ),
    ),
    abi.REFUSAL_SUBCLUSTERS: (
        "extended_l2_cluster_size",
        ("cluster_bits",),
        (
            "extended L2 entries need clusters of 2^14 bytes, not 2^{cluster_bits}; the header "
            "is damaged"
        ),
    ),
    abi.REFUSAL_RAW_WITHOUT_DATA_FILE: (
        "raw_without_data_file",
        (),
        "the raw external data bit is set without an external data file; the header is damaged",
    ),
    abi.REFUSAL_BITMAPS_EXTENSION: (
        "bitmaps_extension",
        ("offset", "type", "length"),
        "the bitmaps header extension at {offset:#x} is malformed; see qemu-img check",
    ),
    abi.REFUSAL_VIRTUAL_SIZE: (
        "virtual_size",
        ("size",),
        "the virtual size {size} is over 2^63 - 1; the header is damaged",
    ),
    abi.REFUSAL_HEADER_MISMATCH: (
        "header_mismatch",
        (),
        "the header changed while it was read; another program writes to the image, try again",
    ),
    abi.REFUSAL_LAZY_NEEDS_V3: (
        "lazy_needs_v3",
        (),
        "lazy refcounts are only supported with compatibility level 1.1 and above; use compat=1.1",
    ),
    abi.REFUSAL_DOWNGRADE_REFCOUNT_WIDTH: (
        "downgrade_refcount_width",
        ("refcount_bits",),
        (
            "compat=0.10 requires refcount_bits=16, and the image has {refcount_bits}; change it "
            "with qemu-img amend -o refcount_bits=16"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_DATA_FILE: (
        "downgrade_data_file",
        (),
        "cannot downgrade an image with an external data file; copy it with qemu-img convert",
    ),
    abi.REFUSAL_DOWNGRADE_EXTENDED_L2: (
        "downgrade_extended_l2",
        (),
        "cannot downgrade an image with extended L2 entries; copy it with qemu-img convert",
    ),
    abi.REFUSAL_DOWNGRADE_BITMAPS: (
        "downgrade_bitmaps",
        (),
        "cannot downgrade an image with bitmaps; remove them with qemu-img bitmap --remove",
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_SIZE: (
        "downgrade_snapshot_size",
        ("snapshot", "snapshot_size", "virtual_size"),
        (
            "internal snapshot number {snapshot} prevents the downgrade: its disk has "
            "{snapshot_size} bytes and the image {virtual_size}; delete it or resize the image"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE: (
        "downgrade_snapshot_vm_state",
        ("snapshot", "vm_state_size"),
        (
            "internal snapshot number {snapshot} prevents the downgrade: its VM state of "
            "{vm_state_size} bytes is over 4 GiB; delete it"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_ZERO_CLUSTERS: (
        "downgrade_zero_clusters",
        ("count",),
        (
            "cannot downgrade an image with zero clusters yet, and this one has {count}; copy it "
            "with qemu-img convert -o compat=0.10"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS: (
        "downgrade_compressed_clusters",
        ("count", "compression_type"),
        (
            "cannot downgrade an image with zstd-compressed clusters, and this one has {count}; "
            "copy it with qemu-img convert"
        ),
    ),
    abi.REFUSAL_UPGRADE_SNAPSHOT_EXTRA_DATA: (
        "upgrade_snapshot_extra_data",
        ("snapshot", "extra_data_size"),
        (
            "internal snapshot number {snapshot} lacks the extra data that version 3 requires, "
            "and adding it is not supported yet; delete the snapshot"
        ),
    ),
    abi.REFUSAL_L2_TABLE: (
        "l2_table",
        ("l1_table", "index", "offset"),
        (
            "entry {index} of the L1 table at {l1_table:#x} names an L2 table at {offset:#x}, "
            "which is unaligned, outside the image or named before; see qemu-img check"
        ),
    ),
    abi.REFUSAL_NO_ROOM: (
        "no_room",
        ("needed", "cluster_size"),
        (
            "the amended header needs {needed} bytes, and the header cluster has {cluster_size}; "
            "copy the image with qemu-img convert and larger clusters"
        ),
    ),
    abi.REFUSAL_HEADER_TOO_LARGE: (
        "header_too_large",
        ("end", "limit"),
        (
            "the header extensions reach to byte {end}, and only {limit} are supported; copy the "
            "image with qemu-img convert"
        ),
    ),
    abi.REFUSAL_READ_FAILED: (
        "read_failed",
        ("offset", "length"),
        "reading {length} bytes at {offset:#x} failed",
    ),
    abi.REFUSAL_WRITE_FAILED: ("write_failed", (), "writing failed"),
}

_CODES = {
    value: name.removeprefix("AMEND_ERROR_")
    for name, value in vars(abi).items()
    if name.startswith("AMEND_ERROR_")
}


def translate(refusals: tuple[tuple[int, ...], ...]) -> tuple[Refusal, ...]:
    """Put AmendRefusals, as unpacked, into words. GuestFault for numbers that mean nothing."""
    return tuple(_translate(*refusal) for refusal in refusals)


def _translate(reason: int, error: int, *details: int) -> Refusal:
    if reason not in REASONS or error not in _CODES:
        raise GuestFault(f"the guest refuses with reason {reason} and error {error}")
    name, detail_names, message = REASONS[reason]
    detail = dict(zip(detail_names, details, strict=False))
    return Refusal(name, reason, _CODES[error], error, message.format(**detail), detail)


def not_qcow2(found: str) -> Refusal:
    """Say that a file is no qcow2 image at all, but `found`."""
    message = f"this is {found}; only qcow2 images can be amended"
    code = abi.AMEND_ERROR_UNSUPPORTED_FORMAT
    return Refusal("not_qcow2", abi.REFUSAL_BAD_MAGIC, _CODES[code], code, message, {})
