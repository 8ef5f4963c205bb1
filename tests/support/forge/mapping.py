"""Cluster mapping: the L1 and L2 tables of all layers. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tests.support.forge import layout
from tests.support.forge.clusters import Cluster, Compressed, RawEntry, StandardCluster, Subclusters
from tests.support.forge.space import Space, SparseFile

SECTOR = 512


# The layout is written for reading, and slow: what it makes of the same values is remembered.
@lru_cache(1 << 16)
def _standard_word(cluster_bits: int, *, copied: bool, host: int, zeros: bool) -> int:
    word = layout.l2_entry(cluster_bits).build(
        {
            "copied": copied,
            "compressed": False,
            "cluster": {"host_cluster_offset": host, "reads_as_zeros": zeros},
        }
    )
    return int.from_bytes(word, "big")


@lru_cache(1 << 16)
def _bitmap_word(allocated: int, zeros: int) -> int:
    bitmap = layout.SubclusterBitmap.build({"allocated": allocated, "reads_as_zeros": zeros})
    return int.from_bytes(bitmap, "big")


@dataclass(frozen=True)
class Geometry:
    """The numbers that follow from cluster_bits and the width of an L2 entry."""

    cluster_bits: int
    extended_l2: bool

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster_size // self.l2_entry_size

    @property
    def l2_entry_size(self) -> int:
        return 16 if self.extended_l2 else 8

    def l1_entries(self, size: int) -> int:
        """How many L1 table entries describe a disk of `size` bytes."""
        return -(-size // (self.cluster_size * self.l2_entries))


@dataclass(frozen=True)
class Entry:
    """An L2 entry. Whether COPIED is set in it is open until it is known who shares `host`."""

    word: int
    subcluster_bitmap: int = 0
    host: range = range(0)
    standard: bool = True

    def pack(self, width: int, copied: bool) -> bytes:
        word = self.word | (layout.COPIED if copied else 0)
        return (word.to_bytes(8, "big") + self.subcluster_bitmap.to_bytes(8, "big"))[:width]


@dataclass(frozen=True)
class Table:
    """An L2 table: where it is and the entries that are described."""

    offset: int
    entries: Mapping[int, Entry]


@dataclass(frozen=True)
class Layer:
    """An L1 table: where it is, its number of entries and the L2 tables it names."""

    l1_table_offset: int
    l1_size: int
    tables: Mapping[int, Table]


class Mapper:
    """Maps layers of guest clusters to host clusters.

    What layers describe alike at the same guest place (stored bytes, L2 tables) is stored once.
    With a data file the guest clusters go there, each at its guest offset, and are not counted.
    """

    def __init__(self, geometry: Geometry, space: Space, data_file: SparseFile | None) -> None:
        self._geometry = geometry
        self._space = space
        self._data_file = data_file
        self._hosts: dict[tuple[int, bool, bytes], int] = {}
        self._tables: dict[tuple[int, tuple[tuple[int, Entry], ...]], Table] = {}
        self._layers: list[Layer] = []

    def add(self, name: str, clusters: Mapping[int, Cluster], size: int) -> Layer:
        """Store a layer for a disk of `size` bytes, or more if the clusters reach further."""
        tables: dict[int, dict[int, Entry]] = {}
        for index, cluster in sorted(clusters.items()):
            l1_index, l2_index = divmod(index, self._geometry.l2_entries)
            entry = self._entry(f"{name}data[{index}]", index, cluster)
            tables.setdefault(l1_index, {})[l2_index] = entry
        l1_size = max(self._geometry.l1_entries(size), max(tables, default=-1) + 1)
        offset = self._space.place(f"{name}l1_table", bytes(8 * l1_size)) if l1_size else 0
        placed = {n: self._table(f"{name}l2_table[{n}]", n, tables[n]) for n in tables}
        layer = Layer(offset, l1_size, placed)
        self._layers.append(layer)
        return layer

    def write(self) -> None:
        """Write all tables; the layer added first is the active one, whose COPIED flags matter."""
        for layer in reversed(self._layers):
            active = layer is self._layers[0]
            for l1_index, table in layer.tables.items():
                self._write_table(table, active)
                entry = layout.L1Entry.build(
                    {
                        "copied": active and self._is_exclusive(table.offset),
                        "l2_table_offset": table.offset,
                    }
                )
                self._space.file.write(layer.l1_table_offset + 8 * l1_index, entry)

    def _write_table(self, table: Table, active: bool) -> None:
        width = self._geometry.l2_entry_size
        for index, entry in table.entries.items():
            copied = active and entry.standard and bool(entry.host)
            copied = copied and self._is_exclusive(entry.host.start)
            self._space.file.write(table.offset + width * index, entry.pack(width, copied))

    def _is_exclusive(self, offset: int) -> bool:
        return self._space.refcounts[offset // self._geometry.cluster_size] == 1

    def _table(self, name: str, l1_index: int, entries: dict[int, Entry]) -> Table:
        key = (l1_index, tuple(entries.items()))
        if key not in self._tables:
            offset = self._space.allocate(name, self._geometry.cluster_size)
            self._tables[key] = Table(offset, entries)
        table = self._tables[key]
        self._space.refer(table.offset, self._geometry.cluster_size)
        # A table that two layers share counts twice for all that it names, as if each had its own.
        for entry in entries.values():
            if entry.host:
                self._space.refer(entry.host.start, len(entry.host))
        return table

    def _entry(self, name: str, index: int, cluster: Cluster) -> Entry:
        if isinstance(cluster, RawEntry):
            return Entry(cluster.entry, cluster.subcluster_bitmap)
        if isinstance(cluster, Compressed):
            return self._compressed(name, index, cluster)
        return self._standard(name, index, cluster)

    def _standard(self, name: str, index: int, cluster: StandardCluster) -> Entry:
        if isinstance(cluster, Subclusters) and not self._geometry.extended_l2:
            raise ValueError(f"guest cluster {index}: subclusters need extended_l2")
        size = self._geometry.cluster_size
        stored = cluster.stored(size)
        offset = 0 if stored is None else self._host(name, index, stored)
        allocated, zeros = cluster.subclusters()
        word = _standard_word(
            self._geometry.cluster_bits,
            # Clusters of a data file have an implicit refcount of one.
            copied=stored is not None and self._data_file is not None,
            host=offset,
            zeros=bool(zeros) and not self._geometry.extended_l2,
        )
        counted = stored is not None and self._data_file is None
        host = range(offset, offset + size) if counted else range(0)
        return Entry(word, _bitmap_word(allocated, zeros), host)

    def _host(self, name: str, index: int, stored: bytes) -> int:
        if self._data_file is not None:
            offset = index * self._geometry.cluster_size
            self._data_file.write(offset, stored)
            return offset
        key = (index, False, stored)
        if key not in self._hosts:
            offset = self._hosts[key] = self._space.allocate(name, len(stored))
            self._space.file.write(offset, stored)
        return self._hosts[key]

    def _compressed(self, name: str, index: int, cluster: Compressed) -> Entry:
        data = cluster.deflated(self._geometry.cluster_size)
        key = (index, True, data)
        if key not in self._hosts:
            self._hosts[key] = self._space.pack(name, data)
        offset = self._hosts[key]
        sectors = (offset % SECTOR + len(data) - 1) // SECTOR
        word = layout.l2_entry(self._geometry.cluster_bits).build(
            {
                "compressed": True,
                "cluster": {"additional_sectors": sectors, "host_cluster_offset": offset},
            }
        )
        end = offset - offset % SECTOR + (sectors + 1) * SECTOR
        return Entry(int.from_bytes(word, "big"), host=range(offset, end), standard=False)
