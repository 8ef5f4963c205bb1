"""Whether an image gives the ground for a refusal or a divergence. Test side.

A second opinion, by the forge's Reader: an entry of the registry explains a difference only where
what it is about is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.forge import Reader, find_extension, layout, parse_extensions, stored_refcounts
from tests.support.forge.reader import L2Entry
from tests.support.verdicts import Request

_HEADER_LIMIT = 0x10000


def founded(name: str, path: Path, request: Request) -> bool:
    """Whether the image gives the ground for a reason of instar's, or for a divergence.

    True for names that are not looked into.
    """
    look = _GROUNDS.get(name)
    return look is None or look(Reader(path.read_bytes()), request)


def _downgrade(image: Reader, request: Request) -> bool:
    return image.header.version == 3 and request.compat in ("0.10", "v2")


def _entries(image: Reader) -> list[L2Entry]:
    return [
        entry
        for layer in image.layers
        for l1_index, l1_entry in image.l1_entries(layer)
        if l1_entry.l2_table_offset
        for _, entry in image.l2_entries_in(l1_index, l1_entry)
    ]


def _shared_zeros(image: Reader, request: Request) -> bool:
    """Whether a cluster that reads as zeros shares its host cluster with another layer."""
    counts = stored_refcounts(image)
    hosts = (
        image.host_range(entry)
        for entry in _entries(image)
        if not entry.descriptor.compressed and entry.descriptor.cluster.reads_as_zeros
    )
    shared = any(counts.get(host.start // image.cluster_size, 0) > 1 for host in hosts if host)
    return _downgrade(image, request) and shared


def _encrypted_zeros(image: Reader, request: Request) -> bool:
    zeros = any(
        not entry.descriptor.compressed and entry.descriptor.cluster.reads_as_zeros
        for entry in _entries(image)
    )
    # A disk that grows over a backing file gets zero clusters before its version changes.
    zeros = zeros or _grows_backed(image, request)
    return _downgrade(image, request) and zeros and image.header.crypt_method != 0


def _has_compressed(image: Reader) -> bool:
    return any(entry.descriptor.compressed for entry in _entries(image))


def _compressed(image: Reader, request: Request) -> bool:
    zstd = image.header.get("compression_type", 0) == 1
    return _downgrade(image, request) and zstd and _has_compressed(image)


def _bitmaps(image: Reader, request: Request) -> bool:
    return _downgrade(image, request) and bool(find_extension(image.data, layout.EXTENSION_BITMAPS))


def _no_bitmaps(image: Reader, request: Request) -> bool:
    """Whether the autoclear bit of bitmaps is set, and there is no extension."""
    said = image.header.get("autoclear_features", 0) & layout.AUTOCLEAR_BITMAPS
    return bool(said) and find_extension(image.data, layout.EXTENSION_BITMAPS) is None


def _any_bitmaps(image: Reader, request: Request) -> bool:
    return find_extension(image.data, layout.EXTENSION_BITMAPS) is not None


def _size(image: Reader, request: Request) -> int:
    return request.size_after(image.header.size)


def _shrinks(image: Reader, request: Request) -> bool:
    return _size(image, request) < image.header.size and not request.allowed.get("shrink")


def _grows_backed(image: Reader, request: Request) -> bool:
    grown = _size(image, request) > image.header.size
    return grown and bool(image.header.backing_file_offset)


def _grows_v2(image: Reader, request: Request) -> bool:
    return _grows_backed(image, request) and image.header.version == 2


def _unsized_snapshots(image: Reader, request: Request) -> bool:
    return any(entry.extra_data.disk_size is None for entry in image.snapshots)


def _present_size(image: Reader, request: Request) -> bool:
    return bool(_size(image, request) == image.header.size)


def _hides(image: Reader, request: Request) -> bool:
    """Whether the disk grows, and has anything in its last cluster or behind it."""
    last = image.header.size // image.cluster_size
    return _size(image, request) > image.header.size and _has_from(image, last)


def _leaves_hidden(image: Reader, request: Request) -> bool:
    """Whether the disk shrinks, and has anything behind its last cluster."""
    end = -(-image.header.size // image.cluster_size)
    return _size(image, request) < image.header.size and _has_from(image, end)


def _has_from(image: Reader, first: int) -> bool:
    """Whether a table of the disk has an entry for its cluster `first`, or a later one."""
    return any(
        guest >= first
        for l1_index, l1_entry in image.l1_entries()
        if l1_entry.l2_table_offset
        for guest, _ in image.l2_entries_in(l1_index, l1_entry)
    )


def _compressed_tail(image: Reader, request: Request) -> bool:
    return _has_compressed(image) and image.extended_l2 and _grows_backed(image, request)


def _dirty(image: Reader, request: Request) -> bool:
    return bool(image.header.get("incompatible_features", 0) & layout.INCOMPATIBLE_DIRTY)


def _lazy(image: Reader, request: Request) -> bool:
    version = {"0.10": 2, "v2": 2, None: image.header.version}.get(request.compat, 3)
    return version == 2 and request.lazy_refcounts is True


def _unknown_fields(image: Reader, request: Request) -> bool:
    return _downgrade(image, request) and image.header.header_length > layout.HEADER_LENGTH


def _ghost_data_file(image: Reader, request: Request) -> bool:
    named = find_extension(image.data, layout.EXTENSION_DATA_FILE) is not None
    return named and not image.has_data_file


def _odd_size(image: Reader, request: Request) -> bool:
    return bool(image.header.size % 512)


def _several_formats(image: Reader, request: Request) -> bool:
    number = layout.EXTENSION_BACKING_FORMAT
    return [extension.type for extension in parse_extensions(image.data)].count(number) > 1


def _zstd(image: Reader, request: Request) -> bool:
    return bool(image.header.get("compression_type", 0) == 1)


def _far_header(image: Reader, request: Request) -> bool:
    header = image.header
    extensions = sum(len(part.pack()) for part in parse_extensions(image.data))
    end = header.get("header_length", layout.HEADER_V2_LENGTH) + extensions
    name_end = header.backing_file_offset + header.backing_file_size
    return bool(max(end, name_end) > _HEADER_LIMIT)


_GROUNDS: dict[str, Callable[[Reader, Request], bool]] = {
    "dirty": _dirty,
    "lazy_needs_v3": _lazy,
    "shared_zero_clusters": _shared_zeros,
    "encrypted_zero_clusters": _encrypted_zeros,
    "bitmaps_block": _bitmaps,
    "downgrade_compressed_clusters": _compressed,
    "downgrade_bitmaps": _bitmaps,
    "bitmaps_bit_alone": _no_bitmaps,
    "bitmaps_not_resized": _any_bitmaps,
    "snapshot_size_unknown": _unsized_snapshots,
    "compressed_tail_grows": _compressed_tail,
    "size_bitmaps": _any_bitmaps,
    "bitmap_in_use": _any_bitmaps,
    "shrink_not_allowed": _shrinks,
    "grow_over_backing_v2": _grows_v2,
    "grow_head_over_backing": _grows_backed,
    "resize_snapshot_size": _unsized_snapshots,
    "hidden_data_stays_hidden": _hides,
    "hidden_clusters_released": _leaves_hidden,
    "present_size_is_a_no_op": _present_size,
    "unknown_header_fields_dropped": _unknown_fields,
    "data_file_extension_kept": _ghost_data_file,
    "virtual_size_kept": _odd_size,
    "strings_kept": _several_formats,
    "no_zstd_in_5_2": _zstd,
    "header_limit": _far_header,
    "header_too_large": _far_header,
}
