"""Host side: what a file is, by signatures at fixed places; nothing in it is followed.

A file can have several at once: a qcow2 image whose other sectors begin an ISO file system is one
thing to one reader and another thing to the next.
"""

from __future__ import annotations

from struct import Struct

from ..qcow2.probe import PACKED, PROBE_SIZE, SIGNATURES, is_vmdk_text, parse_fixed_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512
NEAR_SIZE = 4096 + SECTOR
"""Bytes from the start of a file: one read, which has all signatures but those of optical discs."""

_FAR = 32768
_ZIP_END = Struct("<4s8xII2x")  # of a zip file: signature, size and place of its directory
_END_SIZE = _ZIP_END.size + 0xFFFF
"""Bytes from a file's end in which readers look for that: a comment may come after it."""
_NO_SIZE = 0xFFFFFFFF  # there is another such record, for sizes of 64 bits
_FOOTERS = ((b"conectix", "vpc"), (b"koly", "dmg"))
_FOOTERS_SIZE = 1024
"""Bytes from the end in which footers begin: of 511 or 512 bytes, in a file that readers take to be
as long as whole sectors."""
_PARTITIONS = ((510, b"\x55\xaa", "mbr"), (512, b"EFI PART", "gpt"), (4096, b"EFI PART", "gpt"))
_DISCS = (
    *((1, b"CD001", "iso"), (9, b"CDROM", "iso")),
    *((1, name, "udf") for name in (b"BEA01", b"BOOT2", b"CDW02", b"NSR02", b"NSR03")),
)
"""From _FAR on."""


def recognise(
    near: bytes, read: Callable[[int, int], bytes], size: int
) -> tuple[str, tuple[str, ...]]:
    """The format, in qemu's names, and whatever else has its signature in the file.

    `near` are the first NEAR_SIZE bytes of the file, and `read(offset, size)` gives others; both
    have fewer at its end. What has the signature of no image format is "raw", whatever is in it.
    """
    far, end = read(_FAR, SECTOR), read(max(size - _END_SIZE, 0), _END_SIZE)
    last = end[-_FOOTERS_SIZE:]
    header = parse_fixed_header(near[:PROBE_SIZE])
    formats = ["qcow2"] if header is not None and header.version >= 2 else []
    formats += [name for at, signature, name, _ in SIGNATURES if near.startswith(signature, at)]
    formats += ["vmdk"] if is_vmdk_text(near) else []
    formats += [name for signature, name in _FOOTERS if signature in last]
    contents = [name for at, signature, name in _PARTITIONS if near.startswith(signature, at)]
    if b"EFI PART" in last or end[-4096:].startswith(b"EFI PART"):
        contents.append("gpt")  # its copy, in the last sector
    contents += [name for at, signature, name in _DISCS if far.startswith(signature, at)]
    contents += [name for at, signature, name, _ in PACKED if near.startswith(signature, at)]
    if _ends_a_zip(end, size - len(end)):
        contents.append("zip")
    found, *others = formats or ["raw"]
    return found, tuple(dict.fromkeys(name for name in (*others, *contents) if name != found))


def _ends_a_zip(end: bytes, start: int) -> bool:
    """Whether a zip file's end record is among these bytes, which begin at `start` of the file."""
    # To look for one byte first takes a fortieth of the time, where it is not there.
    at = end.find(b"PK\5\6") if b"\6" in end else -1
    while 0 <= at <= len(end) - _ZIP_END.size:
        _, size, _ = _ZIP_END.unpack_from(end, at)
        if size <= start + at or size == _NO_SIZE:
            return True
        at = end.find(b"PK\5\6", at + 1)
    return False
