"""What an image says and holds, for comparing before and after an amend. Test side."""

from __future__ import annotations

import zlib
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tests.forge import Reader, UnreadableError, layout, parse_extensions, parse_header
from tests.hostile import sparse

LARGEST = 4 << 20
"""Of the files that are read guest cluster by guest cluster; of the others the bytes must do."""
ENTRIES = 1 << 16
"""Of the L1 tables that are followed."""
MOST = 24
"""Of the guest clusters of a layer that are read, at either end of the disk."""

_FIELDS = (
    *("cluster_bits", "size", "crypt_method", "l1_size", "l1_table_offset"),
    *("refcount_table_offset", "refcount_table_clusters", "nb_snapshots", "snapshots_offset"),
)


class Meaning:
    """An image file, of which each part is looked at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def described(self) -> dict[str, Any]:
        """What no amend may change: the header but for version and features, and all behind it."""
        return _described(self.path)

    @cached_property
    def features(self) -> tuple[int, int, bool]:
        """The version, the incompatible features and whether lazy refcounts are on."""
        return _features(self.path)

    @cached_property
    def readable(self) -> dict[tuple[int | None, int], bytes]:
        """What a guest can read, by layer and cluster; nothing of a file that is too large."""
        return _readable(self.path)


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        head = stream.read(1 << 21)
    header = parse_header(head)
    start = header.backing_file_offset
    found = {name: header[name] for name in _FIELDS}
    found["backing file"] = head[start : start + header.backing_file_size] if start else None
    found["extensions"] = [
        (extension.type, extension.data)
        for extension in parse_extensions(head)
        if extension.type != layout.EXTENSION_FEATURE_NAME_TABLE
    ]
    found["body"] = sparse.digest(path, 1 << header.cluster_bits)
    return found


def _features(path: Path) -> tuple[int, int, bool]:
    with path.open("rb") as stream:
        header = parse_header(stream.read(1 << 16))
    lazy = header.get("compatible_features", 0) & layout.COMPATIBLE_LAZY_REFCOUNTS
    return header.version, header.get("incompatible_features", 0), bool(lazy)


def _readable(path: Path) -> dict[tuple[int | None, int], bytes]:
    if path.stat().st_size > LARGEST:
        return {}
    # The last cluster counts as whole.
    reader = Reader(path.read_bytes() + bytes(1 << 16))
    found = {}
    for layer in reader.layers[:3]:
        for index in _mapped(reader, layer):
            try:
                found[layer, index] = reader.read(index, layer)
            except (UnreadableError, zlib.error):
                continue
    return found


def _mapped(reader: Reader, layer: int | None) -> list[int]:
    """Some guest clusters that an L2 table says something about."""
    found: list[int] = []
    if reader.l1_table(layer)[1] > ENTRIES:
        return found
    for l1_index, entry in islice(reader.l1_entries(layer), MOST):
        if entry.l2_table_offset:
            tables = reader.l2_entries_in(l1_index, entry)
            found += [index for index, _ in islice(tables, MOST)]
    return found
