"""Host side: what a file is, by signatures at fixed places; nothing in it is followed.

A file can have several at once: a qcow2 image whose other sectors begin an ISO file system is one
thing to one reader and another thing to the next.
"""

from __future__ import annotations

from ..qcow2.probe import parse_fixed_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR = 512

# Offset, signature, and what has it there: first those formats that qemu knows by name.
_FORMATS = (
    (0, b"QFI\xfb\0\0\0\1", "qcow"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vpc"),
    (0, b"vhdxfile", "vhdx"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"QED\0", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"OOOO SCSI", "bochs"),
)
_FROM_END = ((b"conectix", "vpc"), (b"koly", "dmg"))
_CONTENTS = (
    (510, b"\x55\xaa", "mbr"),
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (32769, b"CD001", "iso"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"PK\3\4", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (257, b"ustar", "tar"),
)


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
    formats += [name for at, signature, name in _FORMATS if is_there(at, signature)]
    formats += [name for signature, name in _FROM_END if tail.startswith(signature)]
    contents = [name for at, signature, name in _CONTENTS if is_there(at, signature)]
    found, *others = formats or ["raw"]
    return found, tuple(dict.fromkeys(name for name in (*others, *contents) if name != found))
