"""Host side: what a file is, by signatures at fixed places; nothing in it is followed.

A file can have several at once: a qcow2 image whose other sectors begin an ISO file system is one
thing to one reader and another thing to the next.
"""

from __future__ import annotations

from ..qcow2.probe import PACKED, SIGNATURES, is_vmdk_text, parse_fixed_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512

_ZIP_END = 22  # bytes, where a zip file has no comment; its readers begin there
_FROM_END = ((b"conectix", "vpc"), (b"koly", "dmg"))
_CONTENTS = (
    (510, b"\x55\xaa", "mbr"),
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (32769, b"CD001", "iso"),
    *((32769, signature, "udf") for signature in (b"BEA01", b"NSR02", b"NSR03")),
    *(row[:3] for row in PACKED),
)
"""Offset, signature, and what has it there, though no image format is that."""


def recognise(read: Callable[[int, int], bytes], size: int) -> tuple[str, tuple[str, ...]]:
    """The format, in qemu's names, and whatever else has its signature in the file.

    `read(offset, size)` gives bytes of the file, fewer at its end. What has the signature of no
    image format is "raw", whatever is in it.
    """
    sectors = {at: read(at, SECTOR) for at in (0, SECTOR, 4096, 32768)}
    tail = read(max(size - SECTOR, 0), SECTOR)

    def is_there(place: int, signature: bytes) -> bool:
        sector = sectors[place - place % SECTOR]
        return sector[place % SECTOR :].startswith(signature)

    header = parse_fixed_header(sectors[0])
    formats = ["qcow2"] if header is not None and header.version >= 2 else []
    formats += [name for at, signature, name, _ in SIGNATURES if is_there(at, signature)]
    formats += ["vmdk"] if is_vmdk_text(sectors[0]) else []
    formats += [name for signature, name in _FROM_END if tail.startswith(signature)]
    contents = [name for at, signature, name in _CONTENTS if is_there(at, signature)]
    if tail[-_ZIP_END:].startswith(b"PK\5\6"):
        contents.append("zip")
    found, *others = formats or ["raw"]
    return found, tuple(dict.fromkeys(name for name in (*others, *contents) if name != found))
