"""Reads what the guest would read from an image. Test side of the trust boundary.

For images that tests made. Owes nothing to the code that builds them, so that each can be held
against the other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.forge import layout
from tests.support.forge.parse import parse_header, parse_snapshots, parsed

U64 = 8
SECTOR = 512


class UnreadableError(Exception):
    """The L2 entry means nothing in this image; qemu answers such a read with an I/O error."""


class L2Entry(NamedTuple):
    """An L2 entry, and its subcluster bitmap (None without extended L2 entries)."""

    descriptor: Any
    subclusters: Any


class Reader:
    """An image in memory; its structures must be whole, as in an image that qemu opens.

    data_file: the external data file, for an image that has one.
    backing: the guest's view of the backing file, which is zero where it ends.
    Wherever a `snapshot` is asked for, it is its number in the table; None is the active layer.
    """

    def __init__(self, data: bytes, *, data_file: bytes = b"", backing: bytes = b"") -> None:
        self.data = data
        self.header = parse_header(data)
        self.snapshots = parse_snapshots(data)
        self.cluster_size = 1 << self.header.cluster_bits
        incompatible = self.header.get("incompatible_features", 0)
        self.extended_l2 = bool(incompatible & layout.INCOMPATIBLE_EXTENDED_L2)
        self.has_data_file = bool(incompatible & layout.INCOMPATIBLE_DATA_FILE)
        self.l2_entry_size = 2 * U64 if self.extended_l2 else U64
        self.l2_entries = self.cluster_size // self.l2_entry_size
        self._guest_data = data_file if self.has_data_file else data
        self.backing = backing

    @property
    def layers(self) -> tuple[int | None, ...]:
        """The active layer and the snapshots."""
        return None, *range(len(self.snapshots))

    def read(self, index: int, snapshot: int | None = None) -> bytes:
        """What the guest reads from cluster `index`, up to the end of the disk, in whole sectors.

        Raises UnreadableError for a zero flag in version 2, and for a subcluster that is allocated
        and reads as zeros at once.
        """
        size = self.header.size
        if snapshot is not None:
            disk_size = self.snapshots[snapshot].extra_data.disk_size
            size = size if disk_size is None else disk_size
        size &= -512
        return self.read_whole(index, snapshot)[: max(size - index * self.cluster_size, 0)]

    def read_whole(self, index: int, snapshot: int | None = None) -> bytes:
        """The same, wherever the disk ends."""
        below = self._cluster(self.backing, index * self.cluster_size)
        return self._visible(self.entry(index, snapshot), below)

    def entry(self, index: int, snapshot: int | None = None) -> L2Entry:
        """The L2 entry of guest cluster `index`; all zeros if there is no L2 table."""
        l1_index, l2_index = divmod(index, self.l2_entries)
        offset, entries = self.l1_table(snapshot)
        table = self._l1_entry(offset, l1_index).l2_table_offset if l1_index < entries else 0
        return self._l2_entry(table, l2_index)

    def l1_table(self, snapshot: int | None = None) -> tuple[int, int]:
        """Offset and number of entries of an L1 table."""
        owner = self.header if snapshot is None else self.snapshots[snapshot]
        return owner.l1_table_offset, owner.l1_size

    def l1_entries(self, snapshot: int | None = None) -> Iterator[tuple[int, Any]]:
        """The entries of an L1 table that are not zero, with their indices."""
        offset, entries = self.l1_table(snapshot)
        for index in nonzero(self.stored(offset, U64 * entries), U64):
            yield index, self._l1_entry(offset, index)

    def l2_entries_in(self, l1_index: int, l1_entry: Any) -> Iterator[tuple[int, L2Entry]]:
        """The entries of an L2 table that are not zero, with the guest clusters they describe."""
        table = self.stored(l1_entry.l2_table_offset, self.cluster_size)
        for index in nonzero(table, self.l2_entry_size):
            guest = l1_index * self.l2_entries + index
            yield guest, self._l2_entry(l1_entry.l2_table_offset, index)

    def host_range(self, entry: L2Entry) -> range:
        """The bytes in the guest data that an entry names; empty if it names none."""
        descriptor = entry.descriptor
        start = descriptor.cluster.host_cluster_offset
        if descriptor.compressed:
            end = start - start % SECTOR + SECTOR * (descriptor.cluster.additional_sectors + 1)
            return range(start, end)
        # Offset 0 is a place only in a data file, where COPIED says so.
        if start or (self.has_data_file and descriptor.copied):
            return range(start, start + self.cluster_size)
        return range(0)

    def take(self, offset: int, length: int) -> bytes:
        """Bytes of the image; behind its end they are zero."""
        return bytes(self.data[offset : offset + length]).ljust(length, b"\0")

    def stored(self, offset: int, length: int) -> bytes:
        """The same without what is behind the end, of tables that may be megabytes; whole words."""
        found = bytes(self.data[offset : offset + length])
        return found.ljust(len(found) + -len(found) % U64, b"\0")

    def _visible(self, entry: L2Entry, below: bytes) -> bytes:
        host = self.host_range(entry)
        if entry.descriptor.compressed:
            stored = self.take(host.start, len(host))
            return zlib.decompressobj(-12).decompress(stored, self.cluster_size)
        stored = self._cluster(self._guest_data, host.start)
        if entry.subclusters is not None:
            return self._merge(entry.subclusters, stored, below)
        if entry.descriptor.cluster.reads_as_zeros:
            if self.header.version == 2:
                raise UnreadableError("version 2 has no zero clusters")
            return bytes(self.cluster_size)
        return stored if host else below

    def _merge(self, subclusters: Any, stored: bytes, below: bytes) -> bytes:
        if subclusters.allocated & subclusters.reads_as_zeros:
            raise UnreadableError("a subcluster is allocated and reads as zeros")
        step = self.cluster_size // layout.SUBCLUSTERS
        parts = []
        for n in range(layout.SUBCLUSTERS):
            source = stored if subclusters.allocated >> n & 1 else below
            part = source[n * step : (n + 1) * step]
            parts.append(bytes(step) if subclusters.reads_as_zeros >> n & 1 else part)
        return b"".join(parts)

    def _l1_entry(self, table: int, index: int) -> Any:
        return parsed(layout.L1Entry, self.take(table + U64 * index, U64))

    def _l2_entry(self, table: int, index: int) -> L2Entry:
        raw = bytes(self.l2_entry_size)
        if table:
            raw = self.take(table + self.l2_entry_size * index, self.l2_entry_size)
        descriptor = parsed(layout.l2_entry(self.header.cluster_bits), raw[:U64])
        bitmap = layout.SubclusterBitmap.parse(raw[U64:]) if self.extended_l2 else None
        return L2Entry(descriptor, bitmap)

    def _cluster(self, data: bytes, offset: int) -> bytes:
        return data[offset : offset + self.cluster_size].ljust(self.cluster_size, b"\0")


def nonzero(table: bytes, entry_size: int) -> list[int]:
    """The indices of the entries of a table that are not zero."""
    used = len(table.rstrip(b"\0"))
    words = memoryview(table[: used + -used % U64]).cast("Q")
    return sorted({n * U64 // entry_size for n, word in enumerate(words) if word})
