"""Host side: the guest's refusals in words: what is in the way, and what the user can do.

One table, in the order of the ABI's REFUSAL_* numbers, of which those that no guest sends any more
are left out. The numbers and names in a message come from the guest; they are shown, never used.
"""

from __future__ import annotations

import instar.abi as abi

from .errors import GuestFault, Refusal
from .escape import escape
from .record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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
            "the image of {image_size} bytes; {check}"
        ),
    ),
    abi.REFUSAL_L1_TABLE: (
        "l1_table",
        ("offset", "entries", "image_size"),
        (
            "the L1 table, {entries} entries at {offset:#x}, is not a whole table inside the "
            "image of {image_size} bytes; {check}"
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
            "{check}"
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
        ("count",),
        (
            "cannot downgrade an image with bitmaps, and this one has {count}{names}; remove them "
            "with --drop-bitmaps, or with qemu-img bitmap --remove"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_SIZE: (
        "downgrade_snapshot_size",
        ("snapshot", "snapshot_size", "virtual_size"),
        (
            "internal snapshot {which} prevents the downgrade: its disk has {snapshot_size} bytes "
            "and the image {virtual_size}; delete it with qemu-img snapshot -d, or resize the image"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE: (
        "downgrade_snapshot_vm_state",
        ("snapshot", "vm_state_size"),
        (
            "internal snapshot {which} prevents the downgrade: its VM state of {vm_state_size} "
            "bytes is over 4 GiB; delete it with qemu-img snapshot -d"
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
    abi.REFUSAL_L2_TABLE: (
        "l2_table",
        ("l1_table", "index", "offset"),
        (
            "entry {index} of the L1 table at {l1_table:#x} names an L2 table at {offset:#x}, "
            "which is unaligned or outside the image; {check}"
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
    abi.REFUSAL_GROWTH: (
        "growth",
        ("needed", "allowed"),
        (
            "the amend has to fill up to {needed} bytes of new clusters, and the file may grow by "
            "{allowed}; allow more with --max-growth"
        ),
    ),
    abi.REFUSAL_DEVICE_FULL: (
        "device_full",
        ("needed", "device_size"),
        (
            "the amend has to fill up to {needed} bytes of new clusters, and the block device of "
            "{device_size} bytes has no room for them; enlarge the device"
        ),
    ),
    abi.REFUSAL_L2_ENTRY: (
        "l2_entry",
        ("l2_table", "index", "entry"),
        (
            "entry {index} of the L2 table at {l2_table:#x}, {entry:#x}, is not valid; "
            "see qemu-img check"
        ),
    ),
    abi.REFUSAL_REFCOUNT: (
        "refcount",
        ("offset", "refcount", "needed"),
        (
            "the image's refcounts are wrong: the cluster at {offset:#x} has refcount {refcount}, "
            "and {needed} references are needed; repair it with qemu-img check -r all"
        ),
    ),
    abi.REFUSAL_DOWNGRADE_ENCRYPTED_ZEROES: (
        "downgrade_encrypted_zeroes",
        ("count",),
        (
            "cannot downgrade an encrypted image with zero clusters over a backing file, and this "
            "one has {count}: to fill them takes the key; copy it with qemu-img convert"
        ),
    ),
    abi.REFUSAL_REFCOUNT_TABLE_FULL: (
        "refcount_table_full",
        ("offset", "needed"),
        (
            "the refcount table at {offset:#x} is full, and one of {needed} bytes is more than is "
            "supported; copy the image with qemu-img convert"
        ),
    ),
    abi.REFUSAL_SNAPSHOT_TABLE_FULL: (
        "snapshot_table_full",
        ("needed",),
        (
            "the snapshot table with the extra data that version 3 requires takes {needed} bytes, "
            "more than is supported; delete snapshots"
        ),
    ),
    abi.REFUSAL_BITMAPS: (
        "bitmaps",
        ("offset", "count"),
        (
            "the directory of {count} bitmaps, or a table it names, is not valid (at "
            "{offset:#x}); see qemu-img check"
        ),
    ),
    abi.REFUSAL_OVERLAP: (
        "overlap",
        ("offset", "user", "other_user"),
        (
            "the cluster at {offset:#x} is used twice{users}, and the amend would change it; "
            "repair the image with qemu-img check -r all, or else copy it with qemu-img convert"
        ),
    ),
    abi.REFUSAL_WORK_LIMIT: (
        "work_limit",
        ("limit",),
        (
            "to follow the image's tables takes more work than to read {limit} bytes, out of "
            "proportion to what the file holds; see qemu-img check, and copy the image with "
            "qemu-img convert if it is to be trusted"
        ),
    ),
    abi.REFUSAL_CHANGE_LIMIT: (
        "change_limit",
        ("bytes", "ranges"),
        (
            "the amend takes more than {bytes} bytes of tables, or {ranges} separate ranges to be "
            "zeroed, which is more than is held back until it is judged; say with --backing-size "
            "how far a backing file reaches if the disk grows over one, amend the image with "
            "qemu-img amend if it is to be trusted, or copy it with qemu-img convert"
        ),
    ),
    abi.REFUSAL_SNAPSHOT_EXTRA_DATA: (
        "snapshot_extra_data",
        ("snapshot", "size", "limit"),
        (
            "internal snapshot {which} has {size} bytes of extra data, and only {limit} are "
            "supported; repair it with qemu-img check -r all, which drops the others"
        ),
    ),
    abi.REFUSAL_SIZE_LIMIT: (
        "size_limit",
        ("size", "limit"),
        "no image with these clusters can have a disk of {size} bytes; the most are {limit}",
    ),
    abi.REFUSAL_RESIZE_V2_SNAPSHOTS: (
        "resize_v2_snapshots",
        ("count",),
        (
            "cannot resize an image of version 2 that has snapshots, and this one has {count}: "
            "version 2 does not say how large their disks are; amend it to compat=1.1 first"
        ),
    ),
    abi.REFUSAL_SHRINK_NOT_ALLOWED: (
        "shrink_not_allowed",
        ("size", "virtual_size"),
        (
            "a disk of {size} bytes loses what the present one of {virtual_size} bytes has behind "
            "that; allow it with --shrink"
        ),
    ),
    abi.REFUSAL_GROW_OVER_BACKING_V2: (
        "grow_over_backing_v2",
        ("virtual_size", "backing_size"),
        (
            "what the backing file has behind the disk's end of {virtual_size} bytes would show, "
            "and version 2 has no zero clusters to hide it; amend the image to compat=1.1 first, "
            "or say with --backing-size that the backing file is no longer than the disk"
        ),
    ),
    abi.REFUSAL_GROW_HEAD_OVER_BACKING: (
        "grow_head_over_backing",
        ("virtual_size", "cluster_size"),
        (
            "the disk ends at byte {virtual_size}, within a cluster of {cluster_size} bytes that "
            "the backing file holds, and what that has behind the end would show; say with "
            "--backing-size that it has nothing there, or write to the disk's last cluster first"
        ),
    ),
    abi.REFUSAL_SIZE_DATA_FILE: (
        "size_data_file",
        (),
        (
            "the image keeps its data in another file, which would have to be resized too, and no "
            "file that an image names is ever opened; copy the image with qemu-img convert"
        ),
    ),
    abi.REFUSAL_SIZE_BITMAPS: (
        "size_bitmaps",
        ("count", "size"),
        (
            "the image's {count} bitmaps{names} do not fit a disk of {size} bytes; remove them "
            "with qemu-img bitmap --remove"
        ),
    ),
    abi.REFUSAL_BITMAP_IN_USE: (
        "bitmap_in_use",
        ("count",),
        (
            "one of the image's {count} bitmaps{names} is inconsistent, as it was not closed, and "
            "cannot be resized; remove it with qemu-img bitmap --remove"
        ),
    ),
    abi.REFUSAL_BACKING_CHANGE: (
        "backing_change",
        (),
        (
            "the image's backing file and its format are not those given, of which one that is not "
            "given counts as none; --change-backing or instar rebase -u changes them, without a "
            "look at either backing file"
        ),
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
        (
            "the image's data file is marked as a raw copy of the disk, which a backing file would "
            "make wrong; give data_file_raw=off too"
        ),
    ),
    abi.REFUSAL_BACKING_ITSELF: (
        "backing_itself",
        (),
        "the backing file is the image itself; name another file",
    ),
    abi.REFUSAL_NO_DATA_FILE: (
        "no_data_file",
        (),
        (
            "data_file can only be set for images that use an external data file; create such an "
            "image with qemu-img convert -o data_file"
        ),
    ),
    abi.REFUSAL_DATA_FILE_RAW: (
        "data_file_raw",
        (),
        (
            "data_file_raw cannot be switched on for an existing image; create such an image with "
            "qemu-img convert -o data_file_raw=on"
        ),
    ),
}

_USES = {
    abi.AMEND_USE_HEADER: "the header",
    abi.AMEND_USE_REFCOUNT_TABLE: "the refcount table",
    abi.AMEND_USE_REFCOUNT_BLOCK: "a refcount block",
    abi.AMEND_USE_L1_TABLE: "the L1 table",
    abi.AMEND_USE_L2_TABLE: "an L2 table",
    abi.AMEND_USE_SNAPSHOT_TABLE: "the snapshot table",
    abi.AMEND_USE_SNAPSHOT_L1_TABLE: "a snapshot's L1 table",
    abi.AMEND_USE_DATA: "data",
    abi.AMEND_USE_COMPRESSED: "compressed data",
    abi.AMEND_USE_ZERO_CLUSTER: "a zero cluster",
    abi.AMEND_USE_CRYPTO_HEADER: "the LUKS header",
    abi.AMEND_USE_BITMAP_DIRECTORY: "the bitmap directory",
    abi.AMEND_USE_BITMAP: "a bitmap",
    abi.AMEND_USE_NEW: "a free cluster",
}

_NAMES_SHOWN, _NAME_LENGTH = 8, 64

_CODES = {
    value: name.removeprefix("AMEND_ERROR_")
    for name, value in vars(abi).items()
    if name.startswith("AMEND_ERROR_")
}


@record
class Circumstances:
    """What the host knows of an image that is refused, for the messages."""

    names: tuple[bytes, ...] = ()
    """Of bitmaps, as far as the guest gave them."""
    snapshots: Mapping[int, tuple[bytes, bytes]] = {}
    """ID and name of snapshots by their numbers, as far as the guest gave them."""
    size: int = 0
    """Of the file in bytes; 0 if it is not known."""
    header: Mapping[str, int] = {}
    """Fields of the header, as the specification names them."""


_NOTHING = Circumstances()


def translate(
    refusals: tuple[tuple[int, ...], ...], about: Circumstances = _NOTHING
) -> tuple[Refusal, ...]:
    """Put AmendRefusals, as unpacked, into words. GuestFault for numbers that mean nothing."""
    return tuple(_translate(about, *refusal) for refusal in refusals)


def is_known(refusal: Refusal) -> bool:
    """Whether a refusal from another process is one that this program makes, as far as one can see.

    What is shown of the image, names in it or what else the file is, can be any text.
    """
    reason, code, detail = refusal.number, refusal.code_number, refusal.detail
    if reason not in REASONS or code not in _CODES or detail.keys() != set(REASONS[reason][1]):
        return False
    if any(type(value) is not int or not 0 <= value < 1 << 64 for value in detail.values()):
        return False
    try:
        names = tuple(name.encode("utf-8", "surrogateescape") for name in refusal.names)
    except UnicodeEncodeError:
        return False
    if (refusal.name, refusal.code) != (REASONS[reason][0], _CODES[code]):
        return False
    if names and not (
        "{names}" in REASONS[reason][2] or ("snapshot" in detail and len(names) == 2)
    ):
        return False
    return reason == abi.REFUSAL_BAD_MAGIC or refusal.message in {
        _phrase(reason, detail, names, ends_early=early, has_snapshots=snapshots)
        for early in (False, True)
        for snapshots in (False, True)
    }


def overlap(
    offset: int, user: int = abi.AMEND_USE_UNKNOWN, other_user: int = abi.AMEND_USE_UNKNOWN
) -> Refusal:
    """Say that a cluster would be written, used anew or set free that something else uses too."""
    users = user, other_user
    return _translate(_NOTHING, abi.REFUSAL_OVERLAP, abi.AMEND_ERROR_PARSE_FAILED, offset, *users)


def table_outside(offset: int) -> Refusal:
    """Say that an L1 or L2 table is not in the image, where the guest had no need to look."""
    return _translate(_NOTHING, abi.REFUSAL_L2_TABLE, abi.AMEND_ERROR_PARSE_FAILED, 0, 0, offset)


def bad_refcount_table(offset: int, clusters: int, image_size: int) -> Refusal:
    """Say that the refcount table names what is no block, where the guest had no need to look."""
    details = offset, clusters, image_size
    return _translate(_NOTHING, abi.REFUSAL_REFCOUNT_TABLE, abi.AMEND_ERROR_PARSE_FAILED, *details)


def work_limit(limit: int) -> Refusal:
    """Say that it takes too much work to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_WORK_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, limit)


def change_limit(size: int, ranges: int) -> Refusal:
    """Say that it takes too much memory to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_CHANGE_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, size, ranges)


def too_few_references(offset: int, refcount: int) -> Refusal:
    """Say that a cluster has one user more than its refcount counts."""
    details = offset, refcount, refcount + 1
    return _translate(_NOTHING, abi.REFUSAL_REFCOUNT, abi.AMEND_ERROR_PARSE_FAILED, *details)


def _translate(about: Circumstances, reason: int, error: int, *details: int) -> Refusal:
    if reason not in REASONS or error not in _CODES:
        raise GuestFault(f"the guest refuses with reason {reason} and error {error}")
    name, detail_names, message = REASONS[reason]
    detail = dict(zip(detail_names, details, strict=False))
    names: tuple[bytes, ...] = about.snapshots.get(detail.get("snapshot", 0), ())
    if "{names}" in message:
        names = about.names
    text = _phrase(
        *(reason, detail, names),
        ends_early=_ends_early(about, detail),
        has_snapshots=about.header.get("nb_snapshots", 0) > 0,
    )
    told = tuple(name.decode("utf-8", "surrogateescape") for name in names)
    return Refusal(name, reason, _CODES[error], error, text, detail, told)


def _phrase(
    reason: int,
    detail: Mapping[str, int],
    names: tuple[bytes, ...],
    *,
    ends_early: bool,
    has_snapshots: bool,
) -> str:
    """The message; `names` are those of bitmaps, or the ID and the name of a snapshot."""
    text = REASONS[reason][2].format(
        names=_list_names(names),
        users=_list_users(detail.get("user", 0), detail.get("other_user", 0)),
        which=_name_snapshot(names, detail.get("snapshot", 0)),
        check=_ENDS_EARLY if ends_early else "see qemu-img check",
        **detail,
    )
    return text.replace(_CONVERT, _CONVERT_WITHOUT_SNAPSHOTS) if has_snapshots else text


_CONVERT = "qemu-img convert"
_CONVERT_WITHOUT_SNAPSHOTS = "qemu-img convert (which drops internal snapshots)"
_ENDS_EARLY = "the file ends before its tables: is it a truncated download or copy?"
_ENTRY, _SNAPSHOT = 8, 40  # bytes of an L1 entry, of a snapshot without its texts


def _ends_early(about: Circumstances, detail: Mapping[str, int]) -> bool:
    """Whether a table is missing since the file is too short, which no repair brings back."""
    if not about.size or "offset" not in detail:
        return False
    cluster_size = 1 << min(about.header["cluster_bits"], 21)
    lengths = {"entries": _ENTRY, "clusters": cluster_size, "count": _SNAPSHOT, "l1_table": 0}
    length = next((detail[key] * unit for key, unit in lengths.items() if key in detail), 0)
    end = detail["offset"] + (length or cluster_size)
    return detail["offset"] % cluster_size == 0 and about.size < end < 1 << 62


def _name_snapshot(names: tuple[bytes, ...], number: int) -> str:
    if len(names) != 2:
        return f"number {number}"
    identity, name = map(_show, names)
    return f"'{name}' (ID '{identity}')"


def _list_users(*users: int) -> str:
    """What a cluster is used as, as far as is known: AMEND_USE_* numbers from the guest."""
    known = [f"as {_USES[user]}" for user in users if user in _USES]
    return f", {' and '.join([*known, 'for something else'][:2])}" if known else ""


def _list_names(names: tuple[bytes, ...]) -> str:
    """Names, hostile bytes, as a part of a line: some of them, in brackets."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    quoted = ", ".join(f"'{_show(name)}'" for name in names[:_NAMES_SHOWN])
    return f" ({quoted}{more})"


def _show(name: bytes) -> str:
    shown = escape(name.decode("utf-8", "backslashreplace"))
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[:_NAME_LENGTH]}..."


def backing_itself() -> Refusal:
    """Say that an image would be its own backing file."""
    return _translate(_NOTHING, abi.REFUSAL_BACKING_ITSELF, abi.AMEND_ERROR_BACKING_FILE)


def not_qcow2(found: str) -> Refusal:
    """Say that a file is no qcow2 image at all, but `found`."""
    message = f"this is {found}; only qcow2 images can be amended"
    code = abi.AMEND_ERROR_UNSUPPORTED_FORMAT
    return Refusal("not_qcow2", abi.REFUSAL_BAD_MAGIC, _CODES[code], code, message, {})
