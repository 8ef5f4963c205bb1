"""What is read of each layer of an image in memory, at the cost of what it stores. Test side.

By the forge's Model, without qemu; the digests are those of contents.py, so that each can be held
against what qemu-img reads. Disks may be of any size, as long as their tables are short.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from struct import Struct, unpack
from typing import NamedTuple

from tests.support.contents import digest
from tests.support.forge import layout
from tests.support.forge.model import COMPRESSED, COPIED, OFFSET, ZERO, Model, Snapshot

_MOST = 1 << 22
"""No L1 table of these images has more entries."""
_CHUNK = 1 << 12
_DIRECTORY = Struct(">IBBHI")
"""What an entry of the bitmap directory says from its flags on."""


class UnreadableError(Exception):
    """This is not the reader for the image, or the image is damaged."""


class Bitmap(NamedTuple):
    """A persistent bitmap, without where it is."""

    name: bytes
    flags: int
    granularity: int
    bits: bytes
    """Without the zeros at the end."""


class Layers:
    """An image and the files that it names.

    Args:
        data: the image.
        backing: the guest's view of the backing file; None if it cannot be had.
        data_file: the external data file; likewise.
    """

    def __init__(self, data: bytes, backing: bytes | None, data_file: bytes | None) -> None:
        self.model = Model(data)
        self._backing, self._data_file = backing, data_file
        self._blocks: dict[int, bytes] = {}
        self._tables: dict[tuple[int, int], dict[int, int]] = {}
        self._known: dict[tuple[int | None, bool], dict[str, str]] = {}
        if self.model.crypt_method or (self.model.has_data_file and data_file is None):
            raise UnreadableError
        if self.model.backing_file_offset and backing is None:
            raise UnreadableError

    @classmethod
    def open(cls, path: Path) -> Layers:
        """Read an image and the raw or qcow2 files that it names. UnreadableError."""
        data = path.read_bytes()
        model = Model(data)
        forms = {kind: text for kind, _, text in model.extensions}
        backing = data_file = None
        if model.backing_file_offset:
            name = model.take(model.backing_file_offset, min(model.backing_file_size, 1023))
            backing = _guest_view(_beside(path, name), forms.get(layout.EXTENSION_BACKING_FORMAT))
        if model.has_data_file:
            data_file = _beside(path, forms.get(layout.EXTENSION_DATA_FILE, b"")).read_bytes()
        return cls(data, backing, data_file)

    @property
    def size(self) -> int:
        """Of the active disk, in bytes."""
        return int(self.model.size)

    @property
    def sizes(self) -> list[int]:
        """Of the disk of each layer."""
        return [size for size, _, _ in self._disks]

    @cached_property
    def names(self) -> list[str]:
        """The layers, as observe.py calls them."""
        return ["active", *(f"snapshot {_id_of(saved)}" for saved in self.model.snapshots)]

    @cached_property
    def _disks(self) -> list[tuple[int, int, int]]:
        """Of each layer the disk's size, and offset and entries of the L1 table."""
        model = self.model
        saved = [(_size_of(s), s.l1_table_offset, s.l1_size) for s in model.snapshots]
        return [(model.size, model.l1_table_offset, model.l1_size), *saved]

    def digests(self, size: int | None = None, *, backed: bool = True) -> dict[str, str]:
        """The digest of each layer.

        Args:
            size: of the active disk, cut or extended by zeros; None as it is.
            backed: whether what is not allocated is read from the backing file.
        """
        if (size, backed) not in self._known:
            self._known[size, backed] = dict(self._digests(size, backed=backed))
        return self._known[size, backed]

    def _digests(self, size: int | None, *, backed: bool) -> Iterator[tuple[str, str]]:
        for number, name in enumerate(self.names):
            disk = self._disks[number][0]
            shown = size if number == 0 and size is not None else disk
            end = disk + self.kept_tail if number == 0 else disk
            yield name, digest(shown, self.pieces(number, min(end, shown), backed=backed))

    @cached_property
    def kept_tail(self) -> int:
        """How many bytes of a compressed cluster are behind the disk's end: those stay."""
        last, inside = divmod(self.size, self.model.cluster_size)
        entry, _ = dict(self._entries(0)).get(last, (0, 0))
        return self.model.cluster_size - inside if inside and entry & COMPRESSED else 0

    def pieces(self, layer: int, end: int, *, backed: bool = True) -> Iterator[tuple[int, bytes]]:
        """All before `end` that may not be zero, in order."""
        model, entries = self.model, dict(self._entries(layer))
        below = self._backing if model.backing_file_offset and backed else b""
        assert below is not None
        guests = set(entries)
        if below:
            guests.update(range(-(-min(len(below), end) >> model.bits)))
        for guest in sorted(guests):
            at = guest << model.bits
            if at >= end:
                return
            under = below[at : at + model.cluster_size]
            entry, subclusters = entries.get(guest, (0, 0))
            yield at, self._visible(entry, subclusters, under)[: end - at]

    def _entries(self, layer: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Guest clusters, and their L2 entries with subcluster bitmaps, if they are not zeros."""
        _, offset, count = self._disks[layer]
        step = 2 if self.model.extended else 1
        per = self.model.cluster_size // 8 // step
        for index, word in self._table(offset, min(count, _MOST)).items():
            l2_table = self._table(word & OFFSET, per * step) if word & OFFSET else {}
            for at in {at - at % step for at in l2_table}:
                pair = l2_table.get(at, 0), l2_table.get(at + 1, 0) if step == 2 else 0
                yield index * per + at // step, pair

    def _table(self, offset: int, count: int) -> dict[int, int]:
        """The words of a table that are not zero, by index."""
        if (offset, count) not in self._tables:
            self._tables[offset, count] = dict(_words(self.model.take(offset, 8 * count)))
        return self._tables[offset, count]

    def _visible(self, entry: int, subclusters: int, under: bytes) -> bytes:
        model = self.model
        if entry & COMPRESSED:
            return self._decompressed(entry)
        host = entry & OFFSET
        if host % model.cluster_size:
            raise UnreadableError
        named = bool(host or (model.has_data_file and entry & COPIED))
        source = self._data_file if model.has_data_file else model.data
        assert source is not None
        stored = source[host : host + model.cluster_size] if named else b""
        if model.extended:
            return self._merged(subclusters, stored, under)
        if entry & ZERO:
            if model.version < 3:
                raise UnreadableError
            return b""
        return stored if named else under

    def _merged(self, bitmap: int, stored: bytes, under: bytes) -> bytes:
        allocated, zeros = bitmap & 0xFFFFFFFF, bitmap >> 32
        if allocated & zeros:
            raise UnreadableError
        if not allocated and (zeros == 0xFFFFFFFF or not under):
            return b""  # a disk that grew has millions of these
        step = self.model.cluster_size // layout.SUBCLUSTERS
        parts = []
        for n in range(layout.SUBCLUSTERS):
            source = b"" if zeros >> n & 1 else stored if allocated >> n & 1 else under
            parts.append(source[n * step : (n + 1) * step].ljust(step, b"\0"))
        return b"".join(parts)

    def _decompressed(self, entry: int) -> bytes:
        if entry not in self._blocks:
            start, length = self.model.compressed_range(entry)
            if self.model.incompatible & layout.INCOMPATIBLE_COMPRESSION_TYPE:
                raise UnreadableError
            try:
                stored = self.model.take(start, length)
                size = self.model.cluster_size
                self._blocks[entry] = zlib.decompressobj(-12).decompress(stored, size)
            except zlib.error as error:
                raise UnreadableError from error
        return self._blocks[entry]

    def facts(self) -> dict[str, object]:
        """What info would say, by its names, and of each snapshot all that its entry says."""
        model, forms = self.model, {kind: data for kind, _, data in self.model.extensions}
        start, size = model.backing_file_offset, model.backing_file_size
        name = _text(model.take(start, min(size, 1023))) if start else None
        form = _text(forms.get(layout.EXTENSION_BACKING_FORMAT, b""))
        raw = model.has_data_file and bool(model.autoclear & layout.AUTOCLEAR_DATA_FILE_RAW)
        version_3 = model.version > 2
        return {
            "virtual-size": self.size // 512 * 512,
            "cluster-size": model.cluster_size,
            "backing-filename": name,
            "backing-filename-format": form if name else None,
            "snapshots": [saved.said for saved in model.snapshots],
            "format-specific.data.compat": "1.1" if version_3 else "0.10",
            "format-specific.data.lazy-refcounts": bool(
                model.compatible & layout.COMPATIBLE_LAZY_REFCOUNTS
            ),
            "format-specific.data.refcount-bits": 1 << model.refcount_order,
            "format-specific.data.corrupt": bool(model.incompatible & layout.INCOMPATIBLE_CORRUPT),
            "format-specific.data.extended-l2": model.extended,
            "format-specific.data.data-file": _text(forms.get(layout.EXTENSION_DATA_FILE, b""))
            if version_3
            else None,
            "format-specific.data.data-file-raw": raw,
            "format-specific.data.bitmaps": [bitmap[:3] for bitmap in self.bitmaps()],
        }

    def bitmaps(self) -> list[Bitmap]:
        """The persistent bitmaps that are in force."""
        model, found = self.model, []
        for place, table, entries in model.bitmap_tables:
            flags, _, granularity, name_size, extra = _DIRECTORY.unpack(model.take(place + 12, 12))
            name = model.take(place + 24 + extra, name_size)
            data = [self._bits(word) for word in model.words(table, entries)]
            found.append(Bitmap(name, flags, granularity, b"".join(data).rstrip(b"\0")))
        return found

    def _bits(self, word: int) -> bytes:
        size = self.model.cluster_size
        if word & OFFSET:
            return self.model.take(word & OFFSET, size)
        return b"\xff" * size if word & 1 else bytes(size)


def _beside(path: Path, name: bytes) -> Path:
    file = path.parent / os.fsdecode(name)
    if b"\0" in name or not file.is_file():
        raise UnreadableError
    return file


def _guest_view(file: Path, form: bytes | None) -> bytes:
    """What the guest reads of a backing file, whose format is probed if it is not given."""
    data = file.read_bytes()
    if form == b"raw" or (form is None and data[:4] != layout.MAGIC):
        return data
    if form not in (None, b"qcow2"):
        raise UnreadableError
    below = Layers.open(file)
    view = bytearray(below.size)
    for at, piece in below.pieces(0, below.size):
        view[at : at + len(piece)] = piece
    return bytes(view)


def _text(data: bytes) -> str | None:
    """A name as qemu takes it, up to a zero byte; None if there is none."""
    return data.partition(b"\0")[0].decode("utf-8", "replace") or None


def _words(table: bytes) -> Iterator[tuple[int, int]]:
    zeros = bytes(_CHUNK)
    for start in range(0, len(table), _CHUNK):
        chunk = table[start : start + _CHUNK]
        if chunk != zeros[: len(chunk)]:
            for at, word in enumerate(unpack(f">{len(chunk) // 8}Q", chunk), start // 8):
                if word:
                    yield at, word


def _size_of(saved: Snapshot) -> int:
    size = saved.said[4]
    assert isinstance(size, int)
    return size


def _id_of(saved: Snapshot) -> str:
    *_, texts, length = saved.said
    assert isinstance(texts, bytes)
    assert isinstance(length, int)
    return texts[:length].decode("ascii", "replace")


def keeps_tail(path: Path) -> bool:
    """Whether a disk ends within a cluster that a grow may leave as it is: it cannot be read."""
    with path.open("rb") as stream:
        model = Model(stream.read(layout.HEADER_LENGTH))
    opaque = model.crypt_method or model.incompatible & layout.INCOMPATIBLE_COMPRESSION_TYPE
    return bool(opaque and model.size % model.cluster_size)


def cut(bitmap: Bitmap, size: int) -> Bitmap:
    """The bitmap of a disk that was cut to `size` bytes."""
    bits = -(-size >> bitmap.granularity)
    whole = bytearray(bitmap.bits[: -(-bits // 8)])
    if bits % 8 and len(whole) == -(-bits // 8):
        whole[-1] &= (1 << bits % 8) - 1
    return bitmap._replace(bits=bytes(whole).rstrip(b"\0"))
