"""What an image says and holds, for comparing before and after an amend. Test side."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tests.hostile.case import BACKING_FILE
from tests.support import sparse
from tests.support.forge import Reader, UnreadableError, layout, parse_extensions, parse_header

LARGEST = 4 << 20
"""Of the files that are read guest cluster by guest cluster; of the others the bytes must do."""
ENTRIES = 1 << 16
"""Of the L1 tables that are followed."""
MOST = 24
"""Of the guest clusters of a layer that are read, at either end of the disk."""

Place = tuple[int | None, int]
"""A layer, None for the active one, and the number of a guest cluster."""
Contents = dict[Place, bytes]

_PLACES = ("body", "refcount_table_offset", "refcount_table_clusters", "snapshots_offset")
_FIELDS = (
    *("cluster_bits", "size", "crypt_method", "l1_size", "l1_table_offset"),
    *("refcount_table_offset", "refcount_table_clusters", "nb_snapshots", "snapshots_offset"),
)


class Meaning:
    """An image file, of which each part is looked at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settled(self, *, rewritten: bool, without_bitmaps: bool) -> dict[str, Any]:
        """What stays as described; of an image that is rewritten, all but where its tables are."""
        found = dict(self.described)
        if without_bitmaps:
            found["extensions"] = [
                extension
                for extension in found["extensions"]
                if extension[0] != layout.EXTENSION_BITMAPS
            ]
        if rewritten:
            for name in _PLACES:
                del found[name]
        return found

    @cached_property
    def described(self) -> dict[str, Any]:
        """What no amend may change: the header but for version and features, and all behind it."""
        return _described(self.path)

    @cached_property
    def features(self) -> tuple[int, int, bool]:
        """The version, the incompatible features and whether lazy refcounts are on."""
        return _features(self.path)

    @cached_property
    def readable(self) -> Contents:
        """What a guest can read, by layer and cluster; nothing of a file that is too large."""
        if self.path.stat().st_size > LARGEST:
            return {}
        reader = self._reader()
        return _read(
            reader, {(layer, n) for layer in _ends(reader.layers) for n in _mapped(reader, layer)}
        )

    def read(self, places: Collection[Place]) -> Contents:
        """What a guest reads there; what cannot be read is missing."""
        return _read(self._reader(), places) if places else {}

    def _reader(self) -> Reader:
        backing = b""
        if self.described["backing file"] == BACKING_FILE:
            backing = self.path.with_name(BACKING_FILE.decode()).read_bytes()
        # The last cluster counts as whole.
        return Reader(self.path.read_bytes() + bytes(1 << 16), backing=backing)


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


def _read(reader: Reader, places: Collection[Place]) -> Contents:
    found = {}
    for layer, index in places:
        try:
            found[layer, index] = reader.read(index, layer)
        except (UnreadableError, zlib.error):
            continue
    return found


def _ends(layers: Sequence[int | None]) -> Sequence[int | None]:
    """The active layer, and the first and the last snapshots."""
    return layers[:3] if len(layers) <= 5 else (*layers[:3], *layers[-2:])


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
