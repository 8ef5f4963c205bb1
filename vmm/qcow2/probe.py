"""Host side: what the host reads of an image itself: the fixed header, at fixed offsets.

No offset or length found in the image is followed here. What is read serves as the guest's
cross-check, and to name what a file is that is not a qcow2 image.
"""

from __future__ import annotations

from struct import Struct

from ..base.errors import ImageRejected
from ..base.record import record
from . import (
    CLUSTER_BITS_MAX,
    CLUSTER_BITS_MIN,
    COMPATIBLE_LAZY_REFCOUNTS,
    HEADER_LENGTH_V2,
    REFCOUNT_ORDER_MAX,
    REFCOUNT_ORDER_V2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_SIZE = 512
_MAGIC = b"QFI\xfb"
_LUKS = "a luks volume"
_VERSION_END = 8
_QCOW1 = _MAGIC + b"\0\0\0\1"
_VERSION_2 = b"\0\0\0\2"

# The qcow2 specification, "Header".
_HEADER = Struct(">4xIQIIQIIQQIIQ")
_HEADER_V3 = Struct(_HEADER.format + "QQQII")
_V3 = Struct(">QQQI")
"""What version 3 has after that, but for the header's length."""
HEADER_FIELDS = (
    *("version", "backing_file_offset", "backing_file_size", "cluster_bits", "size"),
    *("crypt_method", "l1_size", "l1_table_offset", "refcount_table_offset"),
    *("refcount_table_clusters", "nb_snapshots", "snapshots_offset"),
)
V3_FIELDS = (
    *("incompatible_features", "compatible_features", "autoclear_features"),
    *("refcount_order", "header_length"),
)
_ALL_FIELDS = (*HEADER_FIELDS, *V3_FIELDS)

# Offset, signature, the format's name in qemu, and in words; then what is no image format.
SIGNATURES = (
    (0, _QCOW1, "qcow", "a qcow (version 1) image"),
    (0, b"KDMV", "vmdk", "a vmdk image"),
    (0, b"COWD", "vmdk", "a vmdk image"),
    (0, b"# Disk DescriptorFile", "vmdk", "a vmdk descriptor"),
    (0, b"conectix", "vpc", "a vhd (vpc) image"),
    (0, b"vhdxfile", "vhdx", "a vhdx image"),
    (64, b"\x7f\x10\xda\xbe", "vdi", "a vdi image"),
    (0, b"QED\0", "qed", "a qed image"),
    (0, b"LUKS\xba\xbe", "luks", _LUKS),
    (0, b"WithoutFreeSpace", "parallels", "a parallels image"),
    (0, b"WithouFreSpacExt", "parallels", "a parallels image"),
    (0, b"Bochs Virtual HD Image", "bochs", "a bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop", "a cloop image"),
)
_VMDK_LINES = (b"version=1", b"version=2", b"version=3")
PACKED = (
    (0, b"\x1f\x8b", "gzip", "gzip (.gz)"),
    (0, b"\xfd7zXZ\0", "xz", "xz (.xz)"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "zstd (.zst)"),
    (0, b"BZh", "bzip2", "bzip2 (.bz2)"),
    (0, b"\x04\x22\x4d\x18", "lz4", "lz4 (.lz4)"),
    (0, b"PK\3\4", "zip", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "7-Zip (.7z)"),
    (257, b"ustar", "tar", "tar"),
)


@record
class FixedHeader:
    """The header's fixed fields; those that version 2 lacks have the values it implies."""

    version: int
    cluster_bits: int
    size: int
    incompatible_features: int
    compatible_features: int
    autoclear_features: int
    refcount_order: int
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    l1_table_offset: int = 0

    @property
    def cluster_size(self) -> int:
        """In bytes; 0 where cluster_bits are out of range."""
        bits = self.cluster_bits
        return 1 << bits if CLUSTER_BITS_MIN <= bits <= CLUSTER_BITS_MAX else 0

    @property
    def refcount_bits(self) -> int:
        """Of one refcount; 0 where refcount_order is out of range."""
        return 1 << self.refcount_order if self.refcount_order <= REFCOUNT_ORDER_MAX else 0

    @property
    def lazy_refcounts(self) -> bool:
        """Whether the lazy refcounts bit is set."""
        return bool(self.compatible_features & COMPATIBLE_LAZY_REFCOUNTS)


def header_fields(head: bytes) -> dict[str, int]:
    """Name the fields of a header's first 104 bytes; those of version 3 only if it is that."""
    if head[4:8] == _VERSION_2:
        return dict(zip(HEADER_FIELDS, _HEADER.unpack_from(head), strict=True))
    return dict(zip(_ALL_FIELDS, _HEADER_V3.unpack_from(head), strict=True))


def parse_fixed_header(head: bytes) -> FixedHeader | None:
    """Read the fields that the guest's reading is compared with; None if it is not qcow2's magic.

    `head` is the start of the file; where the file ends early, the rest counts as zeros. Without a
    version it is no header, though the magic is there.
    """
    if len(head) < _VERSION_END or not head.startswith(_MAGIC) or head.startswith(_QCOW1):
        return None
    head = head.ljust(PROBE_SIZE, b"\0")
    fixed = _HEADER.unpack_from(head)
    version, _, _, cluster_bits, size, _, _, l1_table, refcount_table, clusters, _, _ = fixed
    words = (0, 0, 0, REFCOUNT_ORDER_V2) if version == 2 else _V3.unpack_from(head, _HEADER.size)
    incompatible, compatible, autoclear, order = words
    return FixedHeader(
        *(version, cluster_bits, size, incompatible, compatible, autoclear, order),
        *(refcount_table, clusters, l1_table),
    )


def is_vmdk_text(head: bytes) -> bool:
    """Whether a file that begins so is a VMDK's descriptor to qemu: text that names other files.

    Before the line that counts only comments may stand, and lines of spaces (QEMU, block/vmdk.c).
    """
    rest = head[:PROBE_SIZE]
    while True:
        line, newline, rest = rest.partition(b"\n")
        if not newline:
            return False
        line = line.removesuffix(b"\r")
        if not (line.startswith(b"#") or (line.startswith(b" ") and not line.strip(b" "))):
            return line in _VMDK_LINES


def identify(head: bytes, tail: bytes) -> str:
    """Name what a file that is not qcow2 looks like, by its first and its last 512 bytes."""
    if not head:
        return "an empty file"
    # What begins the file says more than what stands further on.
    for offset, signature, _, words in sorted(SIGNATURES, key=lambda row: row[0]):
        if head[offset : offset + len(signature)] == signature:
            return words
    if is_vmdk_text(head):
        return "a vmdk descriptor"
    if tail[-512:].startswith(b"conectix"):
        return "a vhd (vpc) image"
    for offset, signature, _, words in PACKED:
        if head[offset : offset + len(signature)] == signature:
            return f"a file packed by {words}, to be unpacked first"
    if len(head) < HEADER_LENGTH_V2:
        size = "1 byte" if len(head) == 1 else f"{len(head)} bytes"
        return f"a file of {size}, too short for any image"
    return "a raw image, or no image at all"


def other_format(
    head: bytes,
    read: Callable[[int, int], bytes],
    size: int,
    wanted: str,
    *,
    offers_keys: bool = False,
) -> ImageRejected:
    """What to raise for a file of another format: an error that names what it is instead.

    `head` is the file's first PROBE_SIZE bytes, and `read(offset, size)` gives bytes of it;
    `wanted` says what it should have been. `offers_keys` is whether to say of a LUKS file that its
    keyslots can be amended.
    """
    from ..base.refusals import not_qcow2

    tail = read(max(size - PROBE_SIZE, 0), PROBE_SIZE)
    found = "a qcow2 image" if parse_fixed_header(head) else identify(head, tail)
    if found == _LUKS and offers_keys:
        wanted += ", and with -f luks the keyslots of this"
    return ImageRejected((not_qcow2(found, wanted),))
