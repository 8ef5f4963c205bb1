"""Host side: how often each cluster of an image is referred to, as the judge counts it.

The qcow2 specification, "Host cluster management": a refcount is the number of references. Those to
the refcount table and its blocks are left out, as they are what a repair writes. The bytes are
hostile, but the guest has accepted them: an entry that cannot be is its fault.
"""

from __future__ import annotations

from struct import unpack

from ...base.arrays import array
from ...base.errors import GuestFault
from ...qcow2 import INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_EXTENDED_L2, OFFSET_MASK
from .disk import COMPRESSED, COPIED, stored
from .structures import Snapshots, bitmap_clusters, kept_bitmaps, luks_clusters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...qcow2.header_view import HeaderView
    from .disk import Disk

_SECTOR = 512
_TABLE_MEMORY = 200  # bytes for an L2 table in a set and in a dict
_ENTRY_WORK = 8  # bytes: to count an entry takes as long as reading so many more
_CLUSTERS_MAX = 1 << 25  # of an image whose references are counted
_TWO_USES = "the guest accepted a structure in cluster {}, which has another use"


class ReferenceCounts:
    """Counts of all references but those to refcount structures, of the image as it is.

    Memory goes with the number of clusters in the file, 2 bytes each, or 4 where refcounts are
    wider; work with the bytes of the tables, each of which is read once.
    """

    def __init__(self, disk: Disk, header: HeaderView, order: int) -> None:
        """Count. GuestFault, ImageRejected and OutsideError, as Disk has them."""
        self._disk = disk
        self.clusters = -(-disk.size // disk.cluster_size)
        """Of the file; the last one counts as whole. One more may be referred to."""
        if self.clusters > _CLUSTERS_MAX:
            raise GuestFault(f"the guest accepted an image of {self.clusters} clusters")
        size = 4 if order > 4 else 2
        disk.hold(size * self.clusters)
        self.counts = array("I" if size == 4 else "H", bytes(size * (self.clusters + 1)))
        """Of each cluster."""
        features = header.fields.get("incompatible_features", 0)
        self.has_data_file = bool(features & INCOMPATIBLE_DATA_FILE)
        self._words = 2 if features & INCOMPATIBLE_EXTENDED_L2 else 1
        self.tables: dict[int, int] = {}
        """The clusters of L2 tables, and how many L1 entries name each."""
        self.active: set[int] = set()
        """Those that the active L1 table names."""
        self._structures = array("I")
        """The clusters of all other structures; each has one user."""
        try:
            self._count(header)
        except (IndexError, OverflowError) as error:
            raise GuestFault("the guest accepted a reference that cannot be") from error

    def _count(self, header: HeaderView) -> None:
        fields, disk = header.fields, self._disk
        self._add_structure(range(1))
        self._add_l1_table(fields["l1_table_offset"], fields["l1_size"])
        self.active.update(self.tables)
        snapshots = Snapshots(
            disk, fields["snapshots_offset"], fields["nb_snapshots"], fields["size"]
        )
        self._add_structure(snapshots.clusters)
        for offset, entries in snapshots.l1_tables:
            self._add_l1_table(offset, entries)
        for clusters in luks_clusters(disk, header.extensions):
            self._add_structure(clusters)
        bitmaps = kept_bitmaps(header, header)
        for cluster in bitmap_clusters(disk, bitmaps) if bitmaps is not None else ():
            self._add_structure(range(cluster, cluster + 1))
        for table, users in self.tables.items():
            for words in self.entries(table):
                self._add_entries(words, users)
        self._judge_uses()

    def _add_structure(self, clusters: range) -> None:
        """Count clusters that have no other user, neither now nor when all is counted."""
        self._disk.spend(_ENTRY_WORK * len(clusters))
        self._disk.hold(self._structures.itemsize * len(clusters))
        for cluster in clusters:
            if self.counts[cluster]:
                raise GuestFault(_TWO_USES.format(cluster))
            self.counts[cluster] = 1
        self._structures.extend(clusters)

    def _judge_uses(self) -> None:
        """See that no structure is anything else too. Guest data may be counted twice."""
        counts = self.counts
        for cluster in self._structures:
            if counts[cluster] != 1:
                raise GuestFault(_TWO_USES.format(cluster))
        for table, users in self.tables.items():
            if counts[table] != users:
                raise GuestFault(_TWO_USES.format(table))

    def _add_l1_table(self, offset: int, entries: int) -> None:
        disk = self._disk
        self._add_structure(disk.clusters(offset, 8 * entries))
        for words in disk.words(offset, entries):
            disk.spend(_ENTRY_WORK * len(words))
            for word in words:
                place = word & OFFSET_MASK
                if place % disk.cluster_size:
                    raise GuestFault(f"the guest accepted the unaligned L1 entry {word:#x}")
                if place:
                    cluster = place >> disk.cluster_bits
                    if cluster not in self.tables:
                        disk.hold(_TABLE_MEMORY)
                    self.tables[cluster] = self.tables.get(cluster, 0) + 1
                    self.counts[cluster] += 1

    def entries(self, table: int) -> Iterator[tuple[int, ...]]:
        """The entries of an L2 table; of extended ones their first halves. Zeros are left out."""
        for _, words in self.entries_at(table):
            yield words

    def entries_at(self, table: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The same in blocks, each with its place in the file, in bytes."""
        start = table << self._disk.cluster_bits
        for data in self._disk.pieces(start, self._disk.cluster_size):
            for at, block in stored(data):
                words = unpack(f">{len(block) // 8}Q", block)[:: self._words]
                self._disk.spend(_ENTRY_WORK * len(words))
                yield start + at, words
            start += len(data)

    def is_run(self, words: tuple[int, ...]) -> bool:
        """Whether the entries name clusters in a row, alike but for that."""
        first, size = words[0], self._disk.cluster_size
        if first & COMPRESSED or not first & OFFSET_MASK or self.has_data_file:
            return False
        row = range(first, first + len(words) * size, size)
        return words[-1] == row[-1] and words == tuple(row)  # most others end otherwise

    def _add_entries(self, words: tuple[int, ...], users: int) -> None:
        counts, shift = self.counts, self._disk.cluster_bits
        within = (1 << shift) - 1
        if self.is_run(words) and not words[0] & OFFSET_MASK & within:
            first = (words[0] & OFFSET_MASK) >> shift
            row = counts[first : first + len(words)]
            if len(row) == len(words) and not any(row):
                counts[first : first + len(words)] = array(counts.typecode, [users]) * len(words)
                return
        seen = 0
        for word in filter(None, words):
            if word & COMPRESSED:
                self._add_compressed(word, users)
            elif word & OFFSET_MASK and not self.has_data_file:
                seen |= word
                counts[(word & OFFSET_MASK) >> shift] += users
        if seen & OFFSET_MASK & within:
            raise GuestFault("the guest accepted an L2 entry that names no whole cluster")

    def _add_compressed(self, word: int, users: int) -> None:
        """Compressed Clusters Descriptor: where the data begin, and how many sectors more."""
        if self.has_data_file or word & COPIED:
            raise GuestFault(f"the guest accepted the compressed cluster {word:#x}")
        bits = self._disk.cluster_bits
        shift = 62 - (bits - 8)
        offset = word & ((1 << shift) - 1)
        sectors = (word >> shift & ((1 << bits - 8) - 1)) + 1
        end = offset - offset % _SECTOR + sectors * _SECTOR
        for cluster in range(offset >> bits, (end - 1 >> bits) + 1):
            self.counts[cluster] += users
