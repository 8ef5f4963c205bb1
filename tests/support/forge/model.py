"""Reads all that an image means and counts, at once and quickly. Test side of the trust boundary.

For images that a fuzzer made, whose pointers go anywhere: nothing here fails. It owes nothing to
the other readers of the forge, which are slower and say more, so that each can be held against
the other. Names are the specification's (qemu, docs/interop/qcow2).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from struct import unpack, unpack_from
from typing import NamedTuple

from tests.support.forge import layout

OFFSET = 0x00FFFFFFFFFFFE00
ZERO, COMPRESSED, COPIED = 1, 1 << 62, 1 << 63
SECTOR = 512
MANY = 1 << 12
"""Entries that a table of a fuzzer's image has at most."""


class Use(NamedTuple):
    """Something in the image that names a part of it."""

    kind: str
    place: int
    """Where in the file the number is that names it; 0 for the header's own cluster."""
    offset: int
    length: int


class Snapshot(NamedTuple):
    """An entry of the snapshot table."""

    place: int
    l1_table_offset: int
    l1_size: int
    said: tuple[object, ...]
    """What it says besides, in terms of version 3."""


class Model:
    """An image in memory. `backing` is the guest's view of the backing file.

    No table has more than `most` entries; what a field says beyond that is ignored.
    """

    def __init__(self, data: bytes | bytearray, *, backing: bytes = b"", most: int = MANY) -> None:
        self._most = most
        self.data, self.backing = bytes(data).ljust(layout.HEADER_LENGTH, b"\0"), backing
        first = unpack_from(">4sIQIIQ", self.data)
        _, self.version, self.backing_file_offset, self.backing_file_size, bits, self.size = first
        self.bits: int = min(max(bits, 9), 21)
        self.cluster_size: int = 1 << self.bits
        self.crypt_method, self.l1_size, self.l1_table_offset = unpack_from(">IIQ", self.data, 32)
        (self.refcount_table_offset, self.refcount_table_clusters) = unpack_from(
            ">QI", self.data, 48
        )
        self.nb_snapshots, self.snapshots_offset = unpack_from(">IQ", self.data, 60)
        self.incompatible = self.compatible = self.autoclear = 0
        self.header_length, self.refcount_order = layout.HEADER_V2_LENGTH, 4
        if self.version > 2:
            words = unpack_from(">QQQII", self.data, 72)
            self.incompatible, self.compatible, self.autoclear = words[:3]
            self.refcount_order, self.header_length = words[3:]
        self.extended = bool(self.incompatible & layout.INCOMPATIBLE_EXTENDED_L2)
        self.has_data_file = bool(self.incompatible & layout.INCOMPATIBLE_DATA_FILE)
        self._tables: dict[int, tuple[int, ...]] = {}

    def take(self, offset: int, length: int) -> bytes:
        """Bytes of the image; behind its end they are zero."""
        return self.data[offset : offset + length].ljust(length, b"\0")

    def words(self, offset: int, count: int) -> tuple[int, ...]:
        """Entries of a table."""
        count = min(count, self._most)
        return unpack(f">{count}Q", self.take(offset, 8 * count))

    @cached_property
    def extensions(self) -> list[tuple[int, int, bytes]]:
        """Type, place of the data, and data of each header extension."""
        found: list[tuple[int, int, bytes]] = []
        at = self.header_length
        end = min(self.backing_file_offset or self.cluster_size, self.cluster_size, len(self.data))
        while at + 8 <= end and len(found) < self._most:
            kind, length = unpack_from(">II", self.data, at)
            if kind == layout.EXTENSION_END or length > end - at - 8:
                break
            found.append((kind, at + 8, self.data[at + 8 : at + 8 + length]))
            at += 8 + length + -length % 8
        return found

    def extension(self, kind: int, length: int) -> tuple[int, bytes] | None:
        """Place and data of the last extension of this type, if that has so many bytes."""
        found = [(place, data) for type_, place, data in self.extensions if type_ == kind]
        return found[-1] if found and len(found[-1][1]) == length else None

    @cached_property
    def snapshots(self) -> list[Snapshot]:
        """The snapshot table."""
        found: list[Snapshot] = []
        at = self.snapshots_offset
        for _ in range(min(self.nb_snapshots, self._most)):
            fixed = unpack(">QIHHIIQII", self.take(at, 40))
            offset, size, id_size, name_size, *times, vm_state, extra_size = fixed
            rest = self.take(at + 40, min(extra_size, self._most) + id_size + name_size)
            extra, texts = rest[: min(extra_size, self._most)], rest[min(extra_size, self._most) :]
            if len(extra) >= 8:
                vm_state = int.from_bytes(extra[:8], "big")
            disk = int.from_bytes(extra[8:16], "big") if len(extra) >= 16 else self.size
            icount = extra[16:24] if len(extra) >= 24 else b"\xff" * 8
            disk &= -SECTOR  # what is past the last whole one, no program shows
            said = (*times, vm_state, disk, icount, extra[24:], texts, id_size)
            found.append(Snapshot(at, offset, size, said))
            at += 40 + len(rest)
            at += -(at - self.snapshots_offset) % 8
        self.snapshots_end = at
        return found

    @property
    def l1_tables(self) -> list[tuple[int, int]]:
        """Offset and entries of each layer's L1 table, the active one first."""
        layers = [(s.l1_table_offset, min(s.l1_size, self._most)) for s in self.snapshots]
        return [(self.l1_table_offset, min(self.l1_size, self._most)), *layers]

    def l2_table(self, offset: int) -> tuple[int, ...]:
        """The words of an L2 table; none where the L1 entry names none."""
        offset &= OFFSET
        if not offset:
            return ()
        if offset not in self._tables:
            self._tables[offset] = self.words(offset, self.cluster_size // 8)
        return self._tables[offset]

    def compressed_range(self, entry: int) -> tuple[int, int]:
        """Offset and length of a compressed cluster's data."""
        return _compressed_range(entry, self.bits)

    def contents(self) -> list[list[object]]:
        """What is read, cluster by cluster, of each layer; None where nothing can be read."""
        known: dict[tuple[int, int], object] = {}
        sizes = [self.size & -SECTOR, *(int(str(s.said[4])) for s in self.snapshots)]
        layers = []
        step = 2 if self.extended else 1
        per = self.cluster_size // 8 // step
        for (offset, entries), size in zip(self.l1_tables, sizes, strict=True):
            l1_table, layer = self.words(offset, entries), []
            for guest in range(min(-(-size // self.cluster_size), self._most)):
                index, at = divmod(guest, per)
                table = self.l2_table(l1_table[index]) if index < entries else ()
                entry = table[at * step] if table else 0
                if step == 2 and table:
                    layer.append(self._extended(entry, table[2 * at + 1]))
                    continue
                key = entry, -1 if entry & (OFFSET | COMPRESSED) else guest
                if key not in known:
                    known[key] = self._visible(entry, guest)
                layer.append(known[key])
            layers.append(layer)
        return layers

    def is_within_header(self, layer: int, guest: int) -> bool:
        """Whether what is read there is compressed data within an extension, or the file's name."""
        if self.extended:
            return False
        offset, entries = self.l1_tables[layer]
        index, at = divmod(guest, self.cluster_size // 8)
        table = self.l2_table(self.words(offset, entries)[index]) if index < entries else ()
        entry = table[at] if table else 0
        place = self.compressed_range(entry)[0]
        name = range(self.backing_file_offset, self.backing_file_offset + self.backing_file_size)
        parts = [range(at - 8, at + len(data)) for _, at, data in self.extensions]
        parts += [name] if name.start else []
        return bool(entry & COMPRESSED) and any(place in part for part in parts)

    def _extended(self, entry: int, bitmap: int) -> object:
        offset = entry & OFFSET
        if offset % self.cluster_size:
            return None
        return entry, bitmap, self.take(offset, self.cluster_size) if offset else b""

    def _visible(self, entry: int, guest: int) -> object:
        offset = entry & OFFSET
        if entry & COMPRESSED:
            start, length = self.compressed_range(entry)
            if self.has_data_file or self.incompatible & layout.INCOMPATIBLE_COMPRESSION_TYPE:
                return start, self.take(start, min(length, 2 << self.bits))
            try:
                stored = self.take(start, min(length, 2 << self.bits))
                read = zlib.decompressobj(-12).decompress(stored, self.cluster_size)
            except zlib.error:
                return None
            return read if len(read) == self.cluster_size else None
        if offset % self.cluster_size:
            return None
        if entry & ZERO:
            return bytes(self.cluster_size) if self.version > 2 else None
        if self.has_data_file:
            return "in the data file", offset, entry & COPIED
        if not offset:
            below = self.backing[guest << self.bits : guest + 1 << self.bits]
            return below.ljust(self.cluster_size, b"\0")
        stored = self.take(offset, self.cluster_size)
        return ("encrypted", stored) if self.crypt_method else stored

    @cached_property
    def bitmap_directory(self) -> tuple[int, int, int, int]:
        """Place of the offset in the extension; count, size and offset; zeros if not consistent."""
        found = self.extension(layout.EXTENSION_BITMAPS, 24)
        if not found or not self.autoclear & layout.AUTOCLEAR_BITMAPS:
            return 0, 0, 0, 0
        count, _, size, offset = unpack(">IIQQ", found[1])
        return found[0] + 16, min(count, self._most), size, offset

    @cached_property
    def bitmap_tables(self) -> list[tuple[int, int, int]]:
        """Place of the entry in the directory, offset and entries of each bitmap table."""
        _, count, size, start = self.bitmap_directory
        found: list[tuple[int, int, int]] = []
        at = 0
        for _ in range(count):
            if at + 24 > min(size, 1 << 20):
                break
            table, entries, _, _, _, name, extra = unpack(">QIIBBHI", self.take(start + at, 24))
            found.append((start + at, table, min(entries, self._most)))
            at += 24 + min(extra, self._most) + name
            at += -at % 8
        return found

    def bitmaps(self) -> list[object]:
        """What the bitmaps say: the directory without the places, and the data."""
        said: list[object] = []
        for place, table, entries in self.bitmap_tables:
            # qemu reads none in the header's cluster.
            words = self.words(table, entries) if table >= self.cluster_size else ()
            data = [
                self.take(word & OFFSET, self.cluster_size)
                if word & OFFSET >= self.cluster_size
                else word & 1
                for word in words
            ]
            said.append((self.take(place + 8, 16), data))
        return said

    @cached_property
    def crypto_header(self) -> tuple[int, int, int]:
        """Place of the pointer, offset and length of the LUKS header; zeros if there is none."""
        found = self.extension(layout.EXTENSION_CRYPTO_HEADER, 16)
        return (found[0], *unpack(">QQ", found[1])) if found else (0, 0, 0)

    def said(self) -> dict[str, object]:
        """What else must stay as it is."""
        carried = [
            (kind, data)
            for kind, _, data in self.extensions
            if kind not in (layout.EXTENSION_FEATURE_NAME_TABLE, layout.EXTENSION_BITMAPS)
        ]
        at, size = self.backing_file_offset, self.backing_file_size
        _, offset, length = self.crypto_header
        return {
            "size": self.size,
            "crypt_method": self.crypt_method,
            "incompatible": self.incompatible,
            "extensions": carried,
            "backing file": self.take(at, min(size, 1023)) if at else None,
            "LUKS header": self.take(offset, min(length, 1 << 20)),
            "snapshots": [snapshot.said for snapshot in self.snapshots],
        }

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Index and offset of each refcount block."""
        entries = self.refcount_table_clusters << self.bits >> 3
        table = self.take(self.refcount_table_offset, 8 * min(entries, self._most))
        used = len(table.rstrip(b"\0"))
        words = unpack(f">{-(-used // 8)}Q", table[: -(-used // 8) * 8])
        return [(index, word & ~0x1FF) for index, word in enumerate(words) if word & ~0x1FF]

    @cached_property
    def uses(self) -> list[Use]:
        """All that something in the image names, once for each time."""
        return list(self._uses())

    def _uses(self) -> Iterator[Use]:
        size = self.cluster_size
        yield Use("header", 0, 0, size)
        clusters = min(self.refcount_table_clusters, self._most)
        yield Use("refcount_table", 48, self.refcount_table_offset, clusters * size)
        for index, offset in self.blocks:
            yield Use("refcount_block", self.refcount_table_offset + 8 * index, offset, size)
        places = [40, *(snapshot.place for snapshot in self.snapshots)]
        for place, (offset, entries) in zip(places, self.l1_tables, strict=True):
            kind = "l1_table" if place == 40 else "snapshot_l1_table"
            if entries:
                yield Use(kind, place, offset, 8 * entries)
            for index, word in enumerate(self.words(offset, entries)):
                if word & OFFSET:
                    yield Use("l2_table", offset + 8 * index, word & OFFSET, size)
                    yield from self._entries(word & OFFSET)
        if self.snapshots:
            length = self.snapshots_end - self.snapshots_offset
            yield Use("snapshot_table", 64, self.snapshots_offset, length)
        if self.crypto_header[2]:
            place, offset, length = self.crypto_header
            yield Use("crypto_header", place, offset, min(length, self._most * size))
        yield from self._bitmap_uses()

    def _entries(self, table: int) -> tuple[Use, ...]:
        data = self.take(table, self.cluster_size)
        return _uses_in(table, data, self.bits, 2 if self.extended else 1, self.has_data_file)

    def _bitmap_uses(self) -> Iterator[Use]:
        place, _, size, offset = self.bitmap_directory
        if not size:
            return
        yield Use("bitmap_directory", place, offset, min(size, 1 << 20))
        for entry, table, entries in self.bitmap_tables:
            if entries:
                yield Use("bitmap_table", entry, table, 8 * entries)
            for index, word in enumerate(self.words(table, entries)):
                if word & OFFSET:
                    yield Use("bitmap", table + 8 * index, word & OFFSET, self.cluster_size)

    @cached_property
    def counted(self) -> Counter[int]:
        """How many uses each host cluster has."""
        bits = self.bits
        ranges = [(use[2] >> bits, use[2] + use[3] - 1 >> bits) for use in self.uses]
        counts = Counter([first for first, _ in ranges])
        for first, last in ranges:
            if first != last:
                counts.update(range(first + 1, last + 1))
        return counts

    @cached_property
    def stored(self) -> dict[int, int]:
        """The refcounts that are not 0, where they are 16 bits wide."""
        counts = {}
        per_block = self.cluster_size // 2
        for index, offset in self.blocks:
            first = index * per_block
            for at, count in _refcounts_in(self.take(offset, self.cluster_size)):
                counts[first + at] = count
        return counts

    @cached_property
    def wrong_refcounts(self) -> dict[int, tuple[int, int]]:
        """Clusters whose refcount is not true: what it is, and what it should be."""
        stored, counted = self.stored, self.counted
        differ = {cluster for cluster, _ in stored.items() ^ counted.items()}
        return {cluster: (stored.get(cluster, 0), counted[cluster]) for cluster in differ}

    @cached_property
    def wrong_flags(self) -> list[int]:
        """The places of entries of the active tables whose COPIED flag is not true."""
        return list(self._wrong_flags(self.stored))

    def _wrong_flags(self, stored: dict[int, int]) -> Iterator[int]:
        offset, entries = self.l1_tables[0]
        step = 2 if self.extended else 1
        for index, word in enumerate(self.words(offset, entries)):
            table = word & OFFSET
            if bool(word & COPIED) != bool(table and stored.get(table >> self.bits) == 1):
                yield offset + 8 * index
            for at, entry in enumerate(self.l2_table(table)[::step]):
                if not entry:
                    continue
                host = 0 if entry & COMPRESSED else entry & OFFSET
                alone = bool(host and stored.get(host >> self.bits) == 1)
                if not self.has_data_file and bool(entry & COPIED) != alone:
                    yield table + 8 * step * at


# What follows depends on its arguments alone, and is kept, as images of a fuzzer differ in little.


def _compressed_range(entry: int, cluster_bits: int) -> tuple[int, int]:
    bits = 62 - (cluster_bits - 8)
    start = entry & ((1 << bits) - 1)
    sectors = (entry & (COMPRESSED - 1)) >> bits
    return start, ((start >> 9) + sectors + 1 << 9) - start


@lru_cache(512)
def _uses_in(offset: int, table: bytes, bits: int, step: int, external: bool) -> tuple[Use, ...]:
    """What the L2 table at this offset names, with `step` words for each entry."""
    found = []
    for index, entry in enumerate(unpack(f">{len(table) // 8}Q", table)[::step]):
        if entry < SECTOR:
            continue
        place = offset + 8 * step * index
        if entry & COMPRESSED:
            start, length = _compressed_range(entry, bits)
            found.append(Use("compressed", place, start & ~511, length + (start & 511)))
        elif entry & OFFSET and not external:
            kind = "zero_cluster" if entry & ZERO else "data"
            found.append(Use(kind, place, entry & OFFSET, 1 << bits))
    return tuple(found)


@lru_cache(512)
def _refcounts_in(block: bytes) -> tuple[tuple[int, int], ...]:
    """The refcounts of a block that are not 0, each with its index."""
    used = -(-len(block.rstrip(b"\0")) // 2)
    counts = unpack(f">{used}H", block[: 2 * used])
    return tuple((at, count) for at, count in enumerate(counts) if count)
