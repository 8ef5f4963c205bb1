"""Host side: what a file is, by signatures at fixed places; nothing in it is followed.

A file can have several at once: a qcow2 image whose other sectors begin an ISO file system is one
thing to one reader and another thing to the next.
"""

from __future__ import annotations

from ..qcow2.probe import PACKED, PROBE_SIZE, SIGNATURES, is_vmdk_text, parse_fixed_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512
NEAR_SIZE = 4096 + SECTOR
"""Bytes from the start of a file: one read, which has all signatures but those of optical discs."""

_FAR = 32768
_ZIP_END = 22  # bytes, where a zip file has no comment; its readers begin there
_FROM_END = ((b"conectix", "vpc"), (b"koly", "dmg"))
_PARTITIONS = ((510, b"\x55\xaa", "mbr"), (512, b"EFI PART", "gpt"), (4096, b"EFI PART", "gpt"))
_DISCS = ((b"CD001", "iso"), (b"BEA01", "udf"), (b"NSR02", "udf"), (b"NSR03", "udf"))
"""From the byte after _FAR on."""


def recognise(
    near: bytes, read: Callable[[int, int], bytes], size: int
) -> tuple[str, tuple[str, ...]]:
    """The format, in qemu's names, and whatever else has its signature in the file.

    `near` are the first NEAR_SIZE bytes of the file, and `read(offset, size)` gives others; both
    have fewer at its end. What has the signature of no image format is "raw", whatever is in it.
    """
    far, tail = read(_FAR, SECTOR), read(max(size - SECTOR, 0), SECTOR)
    header = parse_fixed_header(near[:PROBE_SIZE])
    formats = ["qcow2"] if header is not None and header.version >= 2 else []
    formats += [name for at, signature, name, _ in SIGNATURES if near.startswith(signature, at)]
    formats += ["vmdk"] if is_vmdk_text(near) else []
    formats += [name for signature, name in _FROM_END if tail.startswith(signature)]
    contents = [name for at, signature, name in _PARTITIONS if near.startswith(signature, at)]
    contents += [name for signature, name in _DISCS if far.startswith(signature, 1)]
    contents += [name for at, signature, name, _ in PACKED if near.startswith(signature, at)]
    if tail[-_ZIP_END:].startswith(b"PK\5\6"):
        contents.append("zip")
    found, *others = formats or ["raw"]
    return found, tuple(dict.fromkeys(name for name in (*others, *contents) if name != found))
