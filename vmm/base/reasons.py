"""Host side: the reasons to refuse, in words: what is in the way, and what the user can do.

One table, in the order of the ABI's REFUSAL_* numbers, of which those that no guest sends any more
are left out. docs/amend.md has it too (scripts/generate_tables).
"""

from __future__ import annotations

import instar.abi as abi

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
        "the image is marked dirty, as it was not closed cleanly; instar amend --repair repairs it",
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
        "the refcount table, {clusters} clusters at {offset:#x}, is not a whole table inside "
        "the image of {image_size} bytes; qemu-img check -r all writes it anew if the rest of the "
        "header is sound",
    ),
    abi.REFUSAL_L1_TABLE: (
        "l1_table",
        ("offset", "entries", "image_size"),
        "the L1 table, {entries} entries at {offset:#x}, is not a whole table inside the "
        "image of {image_size} bytes; the header is damaged",
    ),
    abi.REFUSAL_L1_TOO_SMALL: (
        "l1_too_small",
        ("entries", "needed"),
        "the L1 table has {entries} entries, and the virtual size needs {needed}; the header "
        "is damaged",
    ),
    abi.REFUSAL_SNAPSHOT_TABLE: (
        "snapshot_table",
        ("offset", "count", "snapshot"),
        "the snapshot table, or an L1 table it names, is not valid ({count} at {offset:#x}); "
        "qemu-img convert copies the disk if the header is sound",
    ),
    abi.REFUSAL_BACKING_FILE: (
        "backing_file",
        ("offset", "size"),
        "the backing file name, {size} bytes at {offset:#x}, is too long or not in the "
        "header cluster; the header is damaged",
    ),
    abi.REFUSAL_EXTENSIONS: (
        "header_extension",
        ("offset", "type", "length"),
        "the header extension {type:#x} at {offset:#x} has the invalid length {length}; the "
        "header is damaged",
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
        "the compression type {compression_type} is unknown or contradicts its feature bit "
        "{bit}; use a tool that knows it",
    ),
    abi.REFUSAL_SUBCLUSTERS: (
        "extended_l2_cluster_size",
        ("cluster_bits",),
        "extended L2 entries need clusters of 2^14 bytes, not 2^{cluster_bits}; the header "
        "is damaged",
    ),
    abi.REFUSAL_RAW_WITHOUT_DATA_FILE: (
        "raw_without_data_file",
        (),
        "the raw external data bit is set without an external data file; the header is damaged",
    ),
    abi.REFUSAL_BITMAPS_EXTENSION: (
        "bitmaps_extension",
        ("offset", "type", "length"),
        "the bitmaps header extension at {offset:#x} is malformed; the header is damaged",
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
        "compat=0.10 requires refcount_bits=16, and the image would have {refcount_bits}; give "
        "refcount_bits=16 too",
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
        ("count",),
        "cannot downgrade an image with bitmaps, and this one has {count}{names}; remove them "
        "with --drop-bitmaps, or with qemu-img bitmap --remove",
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_SIZE: (
        "downgrade_snapshot_size",
        ("snapshot", "snapshot_size", "virtual_size"),
        "internal snapshot {which} prevents the downgrade: its disk has {snapshot_size} bytes "
        "and the image {virtual_size}; delete it with qemu-img snapshot -d, or resize the image",
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE: (
        "downgrade_snapshot_vm_state",
        ("snapshot", "vm_state_size"),
        "internal snapshot {which} prevents the downgrade: its VM state of {vm_state_size} "
        "bytes is over 4 GiB; delete it with qemu-img snapshot -d",
    ),
    abi.REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS: (
        "downgrade_compressed_clusters",
        ("count", "compression_type"),
        "cannot downgrade an image with zstd-compressed clusters, and this one has {count}; "
        "copy it with qemu-img convert",
    ),
    abi.REFUSAL_L2_TABLE: (
        "l2_table",
        ("l1_table", "index", "offset"),
        "entry {index} of the L1 table at {l1_table:#x} names an L2 table at {offset:#x}, "
        "which is unaligned or outside the image; qemu-img convert --salvage copies what can be "
        "read",
    ),
    abi.REFUSAL_NO_ROOM: (
        "no_room",
        ("needed", "cluster_size"),
        "the amended header needs {needed} bytes, and the header cluster has {cluster_size}; "
        "copy the image with qemu-img convert and larger clusters",
    ),
    abi.REFUSAL_HEADER_TOO_LARGE: (
        "header_too_large",
        ("end", "limit"),
        "the header's extensions or names reach to byte {end}, and only {limit} are supported; "
        "copy the image with qemu-img convert",
    ),
    abi.REFUSAL_READ_FAILED: (
        "read_failed",
        ("offset", "length"),
        "reading {length} bytes at {offset:#x} failed",
    ),
    abi.REFUSAL_WRITE_FAILED: ("write_failed", (), "writing failed"),
    abi.REFUSAL_GROWTH: (
        "growth",
        ("needed", "allowed"),
        "up to {needed} bytes of new clusters are needed, and the file may grow by "
        "{allowed}; allow more with --max-growth",
    ),
    abi.REFUSAL_DEVICE_FULL: (
        "device_full",
        ("needed", "device_size"),
        "up to {needed} bytes of new clusters are needed, and the block device of "
        "{device_size} bytes has no room for them; enlarge the device",
    ),
    abi.REFUSAL_L2_ENTRY: (
        "l2_entry",
        ("l2_table", "index", "entry"),
        "entry {index} of the L2 table at {l2_table:#x}, {entry:#x}, is not valid; qemu-img "
        "convert --salvage copies what can be read",
    ),
    abi.REFUSAL_REFCOUNT: (
        "refcount",
        ("offset", "refcount", "needed"),
        "the image's refcounts are wrong: the cluster at {offset:#x} has refcount {refcount}, "
        "and {needed} references are needed; repair it with instar check -r all",
    ),
    abi.REFUSAL_DOWNGRADE_ENCRYPTED_ZEROES: (
        "downgrade_encrypted_zeroes",
        ("count",),
        "cannot downgrade an encrypted image with zero clusters over a backing file, and this "
        "one has {count}: filling them needs the key; copy it with qemu-img convert",
    ),
    abi.REFUSAL_REFCOUNT_TABLE_FULL: (
        "refcount_table_full",
        ("offset", "needed"),
        "the refcount table at {offset:#x} is full, and one of {needed} bytes is more than is "
        "supported; copy the image with qemu-img convert",
    ),
    abi.REFUSAL_SNAPSHOT_TABLE_FULL: (
        "snapshot_table_full",
        ("needed",),
        "the snapshot table with the extra data that version 3 requires takes {needed} bytes, "
        "more than is supported; delete snapshots",
    ),
    abi.REFUSAL_BITMAPS: (
        "bitmaps",
        ("offset", "count"),
        "the directory of {count} bitmaps, or a table it names, is not valid (at "
        "{offset:#x}); remove it with qemu-img bitmap --remove, if that opens the image",
    ),
    abi.REFUSAL_OVERLAP: (
        "overlap",
        ("offset", "user", "other_user"),
        "the cluster at {offset:#x} is used twice{users}, and the amend would change it; "
        "copy the image with qemu-img convert, unless instar check -r all repairs it",
    ),
    abi.REFUSAL_WORK_LIMIT: (
        "work_limit",
        ("limit",),
        "following the image's tables takes more work than reading {limit} bytes, which is out of "
        "proportion to what the file holds; copy the image with qemu-img convert if it is to be "
        "trusted",
    ),
    abi.REFUSAL_CHANGE_LIMIT: (
        "change_limit",
        ("bytes", "ranges"),
        "the amend takes more than {bytes} bytes of tables, or {ranges} separate ranges to be "
        "zeroed, which is more than instar stages for one change; say with --backing-size "
        "how far a backing file reaches if the disk grows over one, amend the image with "
        "qemu-img amend if it is to be trusted, or copy it with qemu-img convert",
    ),
    abi.REFUSAL_SNAPSHOT_EXTRA_DATA: (
        "snapshot_extra_data",
        ("snapshot", "size", "limit"),
        "internal snapshot {which} has {size} bytes of extra data, and only {limit} are "
        "supported; repair it with qemu-img check -r all, which drops the others",
    ),
    abi.REFUSAL_SIZE_LIMIT: (
        "size_limit",
        ("size", "limit"),
        "with this cluster size a disk has at most {limit} bytes, not {size}",
    ),
    abi.REFUSAL_RESIZE_V2_SNAPSHOTS: (
        "resize_v2_snapshots",
        ("count",),
        "cannot resize an image of version 2 that has snapshots, and this one has {count}: "
        "version 2 does not say how large their disks are; amend it to compat=1.1 first",
    ),
    abi.REFUSAL_SHRINK_NOT_ALLOWED: (
        "shrink_not_allowed",
        ("size", "virtual_size"),
        "a disk of {size} bytes instead of {virtual_size} loses all data after its new end; allow "
        "it with --shrink",
    ),
    abi.REFUSAL_GROW_OVER_BACKING_V2: (
        "grow_over_backing_v2",
        ("virtual_size", "backing_size"),
        "what the backing file has past the disk's end of {virtual_size} bytes would show, "
        "and version 2 has no zero clusters to hide it; amend the image to compat=1.1 first, "
        "or say with --backing-size that the backing file is no longer than the disk",
    ),
    abi.REFUSAL_GROW_HEAD_OVER_BACKING: (
        "grow_head_over_backing",
        ("virtual_size", "cluster_size"),
        "the disk ends at byte {virtual_size}, within a cluster of {cluster_size} bytes that "
        "the backing file holds, and what that has past the end would show; say with "
        "--backing-size that it has nothing there, or write to the disk's last cluster first",
    ),
    abi.REFUSAL_SIZE_DATA_FILE: (
        "size_data_file",
        (),
        "the image keeps its data in another file, which would have to be resized too, and no "
        "file that an image names is ever opened; copy the image with qemu-img convert",
    ),
    abi.REFUSAL_SIZE_BITMAPS: (
        "size_bitmaps",
        ("count", "size"),
        "a disk of {size} bytes does not fit the image's {count} bitmaps{names}; remove them with "
        "--drop-bitmaps, or with qemu-img bitmap --remove",
    ),
    abi.REFUSAL_BITMAP_IN_USE: (
        "bitmap_in_use",
        ("count",),
        "the image has {count} bitmaps{names}, of which one is inconsistent, as it was not closed "
        "cleanly, and cannot be resized; remove it with qemu-img bitmap --remove, or all of them "
        "with --drop-bitmaps",
    ),
    abi.REFUSAL_SIZE_DIFFERENCE: (
        "size_difference",
        ("virtual_size", "difference"),
        "the disk has {virtual_size} bytes, and cannot {direction} by {difference}: its size is "
        "a positive multiple of 512, and less than 8 EiB",
    ),
    abi.REFUSAL_RESIZE_SNAPSHOT_SIZE: (
        "resize_snapshot_size",
        ("snapshot", "virtual_size"),
        "internal snapshot {which} does not say how large its disk is, so that it has the "
        "{virtual_size} bytes of the image's and would change with it; qemu-img check -r all "
        "writes the size down",
    ),
    abi.REFUSAL_BACKING_CHANGE: (
        "backing_change",
        (),
        "the image's backing file and its format are not those given. One that is not given "
        "counts as none; --change-backing or instar rebase -u changes them, without a "
        "look at either backing file",
    ),
    abi.REFUSAL_BACKING_FMT_MISSING: (
        "backing_fmt_missing",
        (),
        "a backing file needs its format, and the image has none; give it with backing_fmt",
    ),
    abi.REFUSAL_BACKING_FILE_MISSING: (
        "backing_file_missing",
        (),
        "the image would have a backing format and no backing file; give one with backing_file",
    ),
    abi.REFUSAL_BACKING_RAW: (
        "backing_raw",
        (),
        "the image's data file is marked as a raw copy of the disk, which a backing file would "
        "make wrong; instar amend -o data_file_raw=off gives that up",
    ),
    abi.REFUSAL_BACKING_ITSELF: (
        "backing_itself",
        (),
        "the backing file is the image itself; name another file",
    ),
    abi.REFUSAL_NO_DATA_FILE: (
        "no_data_file",
        (),
        "data_file can only be set for images that use an external data file; create such an "
        "image with qemu-img convert -o data_file=NAME",
    ),
    abi.REFUSAL_DATA_FILE_RAW: (
        "data_file_raw",
        (),
        "data_file_raw cannot be switched on for an existing image; create such an image with "
        "qemu-img convert -o data_file=NAME,data_file_raw=on",
    ),
    abi.REFUSAL_REFCOUNT_BITS_V2: (
        "refcount_bits_v2",
        ("refcount_bits",),
        "refcount widths other than 16 bits, such as {refcount_bits}, require compatibility level "
        "1.1 or above; use compat=1.1",
    ),
    abi.REFUSAL_REFCOUNT_OVERFLOW: (
        "refcount_overflow",
        ("offset", "refcount", "refcount_bits"),
        "the cluster at {offset:#x} has the refcount {refcount}, which does not fit into "
        "{refcount_bits} bits; use more of them, or delete snapshots",
    ),
    abi.REFUSAL_REFCOUNT_BITS_APART: (
        "refcount_bits_apart",
        ("count",),
        "compat=1.1 writes the table of {count} snapshots anew, and refcount_bits can change only "
        "in a step after that",
    ),
    abi.REFUSAL_REPAIR_ENTRY: (
        "repair_entry",
        ("finding", "detail", "entry"),
        "the image has {found}, which only a guess could repair; instar check lists all that is "
        "wrong, and qemu-img convert --salvage copies what can be read",
    ),
    abi.REFUSAL_REPAIR_EXTENSION: (
        "repair_extension",
        ("extension", "offset"),
        "the image has a header extension of unknown type {extension:#x}, which may name clusters "
        "that a repair would free; repair it with the program that made it",
    ),
    abi.REFUSAL_REPAIR_REFCOUNTS: (
        "repair_refcounts",
        ("offset",),
        "the refcount table at {offset:#x} is damaged, so that leaks cannot be told from it; "
        "instar check -r all writes all refcounts anew",
    ),
    abi.REFUSAL_REPAIR_TOO_LARGE: (
        "repair_too_large",
        ("clusters", "most"),
        "the image has {clusters} clusters, and the sandbox can count the references to {most}; "
        "repair it with qemu-img check -r all",
    ),
    abi.REFUSAL_NOT_ENCRYPTED: (
        "not_encrypted",
        (),
        "Can't amend encryption options - encryption not present",
    ),
    abi.REFUSAL_NOT_LUKS: (
        "not_luks",
        (),
        "Only LUKS encryption options can be amended",
    ),
    abi.REFUSAL_LUKS_REGION: (
        "luks_region",
        ("offset", "length", "image_size"),
        "the LUKS header, {length} bytes at {offset:#x}, is not a region inside the image of "
        "{image_size} bytes; the header is damaged",
    ),
    abi.REFUSAL_LUKS_TRUNCATED: (
        "luks_truncated",
        ("size", "needed"),
        "there are {size} of the {needed} bytes of a LUKS header; it is not whole",
    ),
    abi.REFUSAL_LUKS_MAGIC: (
        "luks_magic",
        (),
        "this is not a LUKS header",
    ),
    abi.REFUSAL_LUKS_VERSION: (
        "luks_version",
        ("version",),
        "LUKS version {version} is not supported, only 1 is; see cryptsetup",
    ),
    abi.REFUSAL_LUKS_CIPHER: (
        "luks_cipher",
        (),
        "the LUKS header's cipher, mode and hash{names} are not supported, only aes with xts, cbc "
        "or ecb, and sha1, sha256, sha512 or ripemd160 are; change keys with qemu-img amend or "
        "cryptsetup",
    ),
    abi.REFUSAL_LUKS_HEADER: (
        "luks_header",
        ("place", "value"),
        "the LUKS header is not valid: {luks_field} is {value}; see cryptsetup luksDump",
    ),
    abi.REFUSAL_LUKS_ITERATIONS: (
        "luks_iterations",
        ("seconds", "left"),
        "the PBKDF2 iterations of the keyslots would take about {seconds} s, and {left} s are left "
        "of --timeout; raise it",
    ),
    abi.REFUSAL_LUKS_ITER_TIME: (
        "luks_iter_time",
        ("iterations",),
        "PBKDF iterations {iterations} too large; take a smaller iter-time",
    ),
    abi.REFUSAL_LUKS_PASSWORD: (
        "luks_password",
        (),
        "Invalid password, cannot unlock any keyslot",
    ),
    abi.REFUSAL_LUKS_NO_SLOT: (
        "luks_no_slot",
        (),
        "Can't add a keyslot - all keyslots are in use",
    ),
    abi.REFUSAL_LUKS_SLOT_IN_USE: (
        "luks_slot_in_use",
        ("slot",),
        "Refusing to overwrite active keyslot {slot} - please erase it first",
    ),
    abi.REFUSAL_LUKS_SLOT_INACTIVE: (
        "luks_slot_inactive",
        ("slot",),
        "Given keyslot {slot} is already erased (inactive)",
    ),
    abi.REFUSAL_LUKS_SLOT_MISMATCH: (
        "luks_slot_mismatch",
        ("slot",),
        "Given keyslot {slot} doesn't contain the given old password for erase operation",
    ),
    abi.REFUSAL_LUKS_NO_MATCH: (
        "luks_no_match",
        (),
        "No keyslots match given (old) password for erase operation",
    ),
    abi.REFUSAL_LUKS_LAST_SLOT: (
        "luks_last_slot",
        ("slot",),
        "Attempt to erase the only active keyslot {slot} which will erase all the data in the "
        "image irreversibly - refusing operation",
    ),
    abi.REFUSAL_LUKS_ALL_SLOTS: (
        "luks_all_slots",
        (),
        "All the active keyslots match the (old) password that was given and erasing them will "
        "erase all the data in the image irreversibly - refusing operation",
    ),
    abi.REFUSAL_LUKS_ONLY_SLOT: (
        "luks_only_slot",
        ("slot",),
        "keyslot {slot} is the only active one, and cannot be replaced at once: a crash could "
        "leave no key; add the new one to a free keyslot, then erase this one",
    ),
}

OF_NONE: dict[int, str] = {
    abi.REFUSAL_DOWNGRADE_BITMAPS: (
        "cannot downgrade an image with bitmaps, and this one still has some that a program "
        "without bitmaps has made invalid; remove them with --drop-bitmaps"
    ),
}
"""Messages of reasons whose count is 0."""

OF_REPAIRS: dict[int, str] = {
    abi.REFUSAL_OVERLAP: (
        "the cluster at {offset:#x} is used twice{users}, and a repair would have to guess which "
        "use is right; copy the image with qemu-img convert"
    ),
}
"""Messages of reasons where a repair is refused, and not an amend that it is advised for."""
