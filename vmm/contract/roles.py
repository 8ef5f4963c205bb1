"""Host side: the write contract's look at the data: no cluster that holds any is zeroed or freed.

Refcounts say which clusters are free and which have one user, and they may be wrong. So where an
amend fills clusters or sets some free, every L2 entry of every layer is looked at first (qcow2
specification, "Cluster mapping").
"""

from __future__ import annotations

from struct import unpack

from instar.vmm.contract_disk import COMPRESSED, OFFSET_MASK, ZERO, stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from instar.vmm.contract_disk import Disk
    from instar.vmm.contract_mapping import Zeroed
    from instar.vmm.contract_refcounts import Ledger


class Data:
    """Sees that no cluster with data of any layer comes into use for something else."""

    def __init__(self, disk: Disk, zeroed: Zeroed, ledger: Ledger, written: set[int]) -> None:
        """Take what is zeroed, the books, and the clusters with tables that are written.

        ImageRejected if a cluster is zeroed and set free.
        """
        self._disk, self._zeroed, self._ledger, self._written = disk, zeroed, ledger, written
        for cluster in ledger.freed():
            if cluster in zeroed:
                raise ledger.overlap(cluster)
        self._needed = ledger.has_changes() or zeroed.any()
        # Layers share most of their tables. Those that are stored are looked at once, as it takes
        # time; the set takes a tenth of what they take on the disk.
        self._seen: set[int] = set()

    def judge(self, tables: set[int]) -> None:
        """See that no entry of `tables`, clusters with L2 tables as they are, names such a cluster.

        Entries that read as zeros may. Raises ImageRejected: the image's refcounts are wrong.
        """
        for table in sorted(tables - self._seen) if self._needed else ():
            start, size = table << self._disk.cluster_bits, self._disk.cluster_size
            for data in self._disk.pieces(start, size):
                for _, block in stored(data):
                    self._seen.add(table)
                    self._judge_entries(block)

    def _judge_entries(self, block: bytes) -> None:
        zeroed, written, moves = self._zeroed, self._written, self._ledger.moves
        words = set(unpack(f">{len(block) // 8}Q", block))
        for cluster in _in_use(words, self._disk.cluster_bits):
            if cluster in zeroed or cluster in written or moves(cluster):
                raise self._ledger.overlap(cluster)


def compressed_in_header(disk: Disk, tables: set[int]) -> bool:
    """Whether an entry of these L2 tables has its data in the header's cluster."""
    offset_mask = (1 << (62 - (disk.cluster_bits - 8))) - 1
    return any(
        word & COMPRESSED and not (word & offset_mask) >> disk.cluster_bits
        for table in sorted(tables)
        for words in disk.distinct_words(table << disk.cluster_bits, disk.cluster_size // 8)
        for word in words
    )


def _in_use(words: set[int], cluster_bits: int) -> Iterator[int]:
    """The clusters that these entries' data lie in."""
    compressed = {word for word in words if word & COMPRESSED}
    plain = words - compressed if compressed else words
    yield from {(word & OFFSET_MASK) >> cluster_bits for word in plain if not word & ZERO} - {0}
    # "Compressed Clusters Descriptor": x bits of offset, then so many sectors more than one.
    offset_bits = 62 - (cluster_bits - 8)
    for word in compressed:
        start = word & ((1 << offset_bits) - 1)
        sectors = (word & (COMPRESSED - 1)) >> offset_bits
        end = (start >> 9) + sectors + 1 << 9
        yield from range(start >> cluster_bits, (end - 1 >> cluster_bits) + 1)
