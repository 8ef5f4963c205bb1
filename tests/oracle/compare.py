"""Tells in what way two images that were amended alike differ. Test side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.forge import layout, parse_extensions, parse_header
from tests.support.qemu import Qemu, QemuError

# Where things are and what is left over is each program's own affair.
_PLACES = {"backing_file_offset", "header_length", "padding", "unknown_header_fields"}
_BITMAPS_KNOWN = 16
"""Of the bitmaps extension: behind it stands where the directory is, which qemu moves."""


def differences(qemu: Qemu, ours: Path, theirs: Path) -> list[str]:
    """What a reader can tell apart in two images, feature names not counted."""
    mine, other = _describe(qemu, ours), _describe(qemu, theirs)
    return [
        f"{qemu}: {what}: {mine.get(what)} in ours, {other.get(what)} in theirs"
        for what in sorted(mine.keys() | other.keys())
        if mine.get(what) != other.get(what)
    ]


def header(path: Path) -> dict[str, Any]:
    """What a header cluster says: fields, extensions in order, the name of the backing file."""
    with path.open("rb") as file:
        data = file.read(1 << 21)
    fields = parse_header(data)
    start, size = fields.backing_file_offset, fields.backing_file_size
    found = {name: value for name, value in fields.items() if not _is_place(name)}
    found["extensions"] = [
        (f"{extension.type:#x}", _known(extension.type, extension.data))
        for extension in parse_extensions(data)
        if extension.type != layout.EXTENSION_FEATURE_NAME_TABLE
    ]
    found["backing file"] = data[start : start + size] if start else None
    found["backing_file_size"] = size if start else 0
    return found


def _is_place(name: str) -> bool:
    return name in _PLACES or name.startswith("_")


def _known(kind: int, data: bytes) -> bytes:
    return data[:_BITMAPS_KNOWN] if kind == layout.EXTENSION_BITMAPS else data


def _describe(qemu: Qemu, path: Path) -> dict[str, Any]:
    try:
        info = qemu.info(path)
    except QemuError as error:
        info = {"error": str(error).partition("': ")[2]}
    return {**header(path), "info": info}
