"""What an image is and holds, by the forge's reading; comparable with qemu's records. Test side."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.contents import digest
from tests.support.forge import (
    Reader,
    UnreadableError,
    faults,
    find_extension,
    layout,
    parse_bitmaps,
    parse_extensions,
)

ZSTD = 1
ENCRYPTION = ("none", "aes", "luks")
_DEFAULTS = {
    "compat": "1.1",
    "lazy-refcounts": False,
    "refcount-bits": 16,
    "corrupt": False,
    "extended-l2": False,
    "compression-type": "zlib",
    "encryption": "none",
    "data-file": None,
    "data-file-raw": False,
    "snapshots": [],
    "bitmaps": [],
    "backing-filename": None,
    "backing-filename-format": None,
}
_BITMAP_FLAGS = ("in-use", "auto")


def without_defaults(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts but for those that hold for most images."""
    absent = object()
    return {key: facts[key] for key in facts if facts[key] != _DEFAULTS.get(key, absent)}


def normalised(info: dict[str, Any]) -> dict[str, Any]:
    """What `qemu-img info --output=json` says, in the words of all versions; no dates."""
    data = info["format-specific"]["data"]
    known = {**info, **data, "encryption": data.get("encrypt", {}).get("format", "none")}
    known["snapshots"] = [
        [one["id"], one["name"], one["vm-state-size"]] for one in info.get("snapshots", ())
    ]
    known["bitmaps"] = [
        [one["name"], one["granularity"], sorted(one["flags"])] for one in data.get("bitmaps", ())
    ]
    names = (*_DEFAULTS, "virtual-size", "cluster-size")
    return without_defaults({name: known[name] for name in names if name in known})


def described(path: Path) -> dict[str, Any]:
    """The same, by the forge."""
    image = Reader(path.read_bytes())
    header = image.header
    facts = {
        "virtual-size": header.size // 512 * 512,
        "cluster-size": image.cluster_size,
        "compat": "0.10" if header.version == 2 else "1.1",
        "lazy-refcounts": bool(header.get("compatible_features", 0) & 1),
        "refcount-bits": 1 << header.get("refcount_order", 4),
        "corrupt": bool(header.get("incompatible_features", 0) & layout.INCOMPATIBLE_CORRUPT),
        "extended-l2": image.extended_l2,
        "compression-type": ("zlib", "zstd")[header.get("compression_type", 0)],
        "encryption": ENCRYPTION[header.crypt_method],
        **_names(image),
        "snapshots": [_snapshot(entry) for entry in image.snapshots],
        "bitmaps": _bitmaps(image),
    }
    return without_defaults(facts)


def _names(image: Reader) -> dict[str, Any]:
    header = image.header
    start, size = header.backing_file_offset, header.backing_file_size
    name = image.data[start : start + size].partition(b"\0")[0].decode() if start else ""
    formats = [
        extension.data.partition(b"\0")[0].decode()
        for extension in parse_extensions(image.data)
        if extension.type == layout.EXTENSION_BACKING_FORMAT
    ]
    data_file = find_extension(image.data, layout.EXTENSION_DATA_FILE)
    data_file = None if header.version == 2 else data_file
    raw = header.get("autoclear_features", 0) & layout.AUTOCLEAR_DATA_FILE_RAW
    return {
        "backing-filename": name or None,
        "backing-filename-format": formats[-1] if name and formats and formats[-1] else None,
        "data-file": None if data_file is None else data_file.decode(),
        "data-file-raw": bool(raw) and image.has_data_file,
    }


def _snapshot(entry: Any) -> list[Any]:
    size = entry.extra_data.vm_state_size
    return [entry.id.decode(), entry.name.decode(), entry.vm_state_size if size is None else size]


def _bitmaps(image: Reader) -> list[Any]:
    if not image.header.get("autoclear_features", 0) & layout.AUTOCLEAR_BITMAPS:
        return []
    return [
        [
            one.name.decode(),
            1 << one.granularity_bits,
            sorted(name for bit, name in enumerate(_BITMAP_FLAGS) if one.flags >> bit & 1),
        ]
        for one in parse_bitmaps(image.data)
    ]


def open_image(path: Path) -> Reader:
    """An image with its backing file and data file, as far as they are there."""
    data = path.read_bytes()
    names = _names(Reader(data))
    beside = path.with_name(names["data-file"] or "no data file")
    data_file = beside.read_bytes() if beside.is_file() else b""
    return Reader(data, data_file=data_file, backing=_backing(path, names))


def _backing(path: Path, names: dict[str, Any]) -> bytes:
    beside = path.parent / (names["backing-filename"] or "no backing file")
    if not beside.is_file():
        return b""
    content = beside.read_bytes()
    if names["backing-filename-format"] == "raw" or not content.startswith(layout.MAGIC):
        return content
    below = open_image(beside)
    disk = bytearray(below.header.size)
    for offset, piece in pieces(below, None):
        disk[offset : offset + len(piece)] = piece
    return bytes(disk)


def is_opaque(image: Reader) -> bool:
    """Whether what is stored cannot be read here: zstd, or encryption."""
    zstd: bool = image.header.get("compression_type", 0) == ZSTD
    return zstd or image.header.crypt_method != 0


def layer_digests(image: Reader) -> dict[str, str]:
    """The digests of all layers, by the names that Seen.layers uses; "unreadable" is one too.

    Of what is compressed with zstd the bytes count as they are stored.
    """
    found = {}
    for layer in image.layers:
        name = "active" if layer is None else f"snapshot {image.snapshots[layer].id.decode()}"
        try:
            found[name] = digest(image.header.size // 512 * 512, pieces(image, layer))
        except (UnreadableError, zlib.error):
            found[name] = "unreadable"
    return found


def pieces(image: Reader, layer: int | None) -> Iterator[tuple[int, bytes]]:
    """All of a layer that may not be zero, by offset; of the disk's size as it is now."""
    size, step = image.header.size // 512 * 512, image.cluster_size
    mapped = {
        index
        for l1_index, l1_entry in image.l1_entries(layer)
        if l1_entry.l2_table_offset
        for index, _ in image.l2_entries_in(l1_index, l1_entry)
    }
    below = image.backing
    backed = range(-(-min(len(below), size) // step))
    for index in sorted(mapped.union(backed)):
        at = index * step
        if at < size:
            data = _cluster(image, index, layer) if index in mapped else below[at : at + step]
            yield at, data[: size - at]


def _cluster(image: Reader, index: int, layer: int | None) -> bytes:
    entry = image.entry(index, layer)
    if entry.descriptor.compressed and image.header.get("compression_type", 0) == ZSTD:
        host = image.host_range(entry)
        return image.take(host.start, len(host))
    return image.read_whole(index, layer)


def audited(path: Path) -> int:
    """How many faults check would find, by the forge."""
    return len(faults(Reader(path.read_bytes())))
