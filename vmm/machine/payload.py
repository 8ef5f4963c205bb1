"""Host side: the payload's two ELF images. They are ours, yet checked: a bad build must not run."""

from __future__ import annotations

import os
from struct import Struct

from instar import abi
from instar.abi import (
    INSTAR_ABI_VERSION,
    INSTAR_CORE_ADDR,
    INSTAR_CORE_LIMIT,
    INSTAR_NOTE_TYPE,
    INSTAR_OPERATION_ADDR,
    INSTAR_OPERATION_LIMIT,
)

from ..base.errors import NO_DESCRIPTOR, HostError, UsageError, reason_of
from ..base.record import record
from ..devices.memory import PAGE_SIZE

# System V ABI, "ELF Header", "Program Header", "Section Header", "Symbol Table", "Note Section"
_HEADER = Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = Struct("<IIQQQQQQ")
_SECTION = Struct("<IIQQQQIIQQ")
_SYMBOL = Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
_ET_EXEC, _EM_X86_64 = 2, 62
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB = 2
_STT_FUNC = 2
PF_X, PF_W, PF_R = 1, 2, 4


@record
class Segment:
    """A loadable segment: pages of one kind of access."""

    address: int
    """Guest address, page-aligned."""
    size: int
    """Bytes in memory; beyond `data` they are zero."""
    flags: int
    """PF_R, or that with one of PF_W and PF_X."""
    data: bytes
    """The initial contents."""


@record
class Image:
    """One ELF image of the payload."""

    name: str
    """"core" or the operation's name."""
    elf: bytes
    """The file."""
    entry: int
    """The guest address to start at."""
    segments: tuple[Segment, ...]
    """In ascending order, without overlap."""
    abi_version: int
    """From the ELF note."""


@record
class Payload:
    """The executor and one operation."""

    images: tuple[Image, ...]
    """The executor first."""
    sha256: str
    """Of the files one after the other, in hexadecimal; empty if nobody wants it."""

    @property
    def abi_version(self) -> int:
        """The ABI version of all images."""
        return self.images[0].abi_version

    def locate(self, address: int) -> str:
        """Name a guest address as image:function+offset, as far as the symbols tell."""
        for image in self.images:
            for name, start, size in _functions(image.elf):
                if start <= address < start + max(size, 1):
                    return f"{image.name}:{name}+{address - start:#x}"
        return "no function"


def load_payload(
    operation: str = "amend", directory: str | None = None, *, hashed: bool = True
) -> Payload:
    """Load and check the executor and `operation`, by default from the installed package.

    The same files, by their identity and times, are read and checked once in a process. The hash
    takes 0.3 ms, and its module as much: a caller that shows it to nobody does without `hashed`.
    Raises HostError if a file is missing or is not an image for this ABI version.
    """
    folder = directory or _installed_folder()
    identity = tuple(_identify(os.path.join(folder, f"{name}.elf")) for name in ("core", operation))
    known = _loaded.get((folder, operation, hashed))
    if known is not None and known[0] == identity:
        return known[1]
    core = load_image(folder, "core", INSTAR_CORE_ADDR, INSTAR_CORE_LIMIT)
    chosen = load_image(folder, operation, INSTAR_OPERATION_ADDR, INSTAR_OPERATION_LIMIT)
    payload = Payload((core, chosen), _sha256(core.elf + chosen.elf) if hashed else "")
    _loaded[folder, operation, hashed] = identity, payload
    return payload


def choose_payload(
    payload: Payload | None, operation: str = "amend", *, hashed: bool = True
) -> Payload:
    """Return what a caller wants to be run, or the installed payload. UsageError, HostError."""
    if payload is None:
        return load_payload(operation, hashed=hashed)
    if not isinstance(payload, Payload):
        raise UsageError(f"payload is a Payload or None, not {payload!r:.60}")
    return payload


# By what it was asked for: the files' identities, taken before they were read, and the payload.
_loaded: dict[tuple[str, str, bool], tuple[tuple[object, ...], Payload]] = {}


def _identify(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()  # the attempt to read it says what is wrong
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _installed_folder() -> str:
    # Beside instar.abi, which is made with it: an editable install has a link in the place of vmm/.
    package = os.path.dirname(os.path.dirname(os.path.abspath(abi.__file__)))
    return os.path.join(package, "guest")


def load_image(folder: str, name: str, start: int, limit: int) -> Image:
    """Load `name`.elf, which must lie within `limit` bytes from guest address `start` on."""
    path = os.path.join(folder, name + ".elf")
    try:
        with open(path, "rb") as file:
            elf = file.read()
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise HostError(f"payload {path}: {reason_of(error)}") from error
        raise HostError(f"payload {path}: {error.strerror}; reinstall instar") from error
    try:
        return _parse(name, elf, start, limit)
    except (ValueError, OverflowError) as error:
        raise HostError(f"payload {path}: {error}; reinstall instar") from error


def _parse(name: str, elf: bytes, start: int, limit: int) -> Image:
    from struct import error as struct_error

    try:
        header = _HEADER.unpack_from(elf)
        ident, kind, machine, entry, offset, count = (*header[:3], header[4], header[5], header[10])
        if not ident.startswith(_IDENT) or (kind, machine) != (_ET_EXEC, _EM_X86_64):
            raise ValueError("not an x86-64 executable")
        table = [_SEGMENT.unpack_from(elf, offset + i * _SEGMENT.size) for i in range(count)]
        version = _abi_version(elf, table)
    except struct_error as error:
        raise ValueError("truncated") from error
    # The section headers, without which faults could not be located, stand at the file's end.
    ends = [at + stored for _, _, at, _, _, stored, _, _ in table]
    if max([header[6] + header[12] * _SECTION.size, *ends]) > len(elf):
        raise ValueError("truncated")
    if version != INSTAR_ABI_VERSION:
        raise ValueError(f"built for ABI version {version}, this is {INSTAR_ABI_VERSION}")
    segments = tuple(
        Segment(address, size, flags, elf[at : at + stored])
        for kind, flags, at, address, _, stored, size, _ in table
        if kind == _PT_LOAD and size
    )
    _check_segments(segments, entry, start, start + limit)
    return Image(name, elf, entry, segments, version)


def _abi_version(elf: bytes, table: list[tuple[int, ...]]) -> int | None:
    note = Struct("<III8sI")
    for kind, _, at, *_ in table:
        if kind == _PT_NOTE:
            name_size, _, note_type, name, version = note.unpack_from(elf, at)
            if name[:name_size] == b"instar\0" and note_type == INSTAR_NOTE_TYPE:
                return int(version)
    return None


def _check_segments(segments: tuple[Segment, ...], entry: int, start: int, limit: int) -> None:
    at = start
    for segment in segments:
        if segment.address % PAGE_SIZE or not at <= segment.address < limit:
            raise ValueError(
                f"segment at {segment.address:#x} is unaligned, overlaps or is outside"
            )
        at = segment.address + segment.size
        if at > limit or len(segment.data) > segment.size:
            raise ValueError(f"segment at {segment.address:#x} is too large")
        if segment.flags not in (PF_R, PF_R | PF_X, PF_R | PF_W):
            raise ValueError(f"segment at {segment.address:#x} is writable and executable")
    if not any(s.flags & PF_X and 0 <= entry - s.address < s.size for s in segments):
        raise ValueError(f"entry {entry:#x} is not executable")


def _functions(elf: bytes) -> list[tuple[str, int, int]]:
    """The names, addresses and sizes of an image's functions."""
    header = _HEADER.unpack_from(elf)
    sections = [_SECTION.unpack_from(elf, header[6] + i * _SECTION.size) for i in range(header[12])]
    functions = []
    for section in sections:
        if section[1] != _SHT_SYMTAB:
            continue
        strings = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], _SYMBOL.size):
            name, info, _, _, value, size = _SYMBOL.unpack_from(elf, at)
            if info & 0xF == _STT_FUNC:
                text = elf[strings + name : elf.index(b"\0", strings + name)]
                functions.append((text.decode("ascii"), value, size))
    return functions


def _sha256(data: bytes) -> str:
    # hashlib loads OpenSSL, 3 ms; the interpreter's own SHA-256 is what it falls back to.
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256
    digest: str = sha256(data).hexdigest()
    return digest
