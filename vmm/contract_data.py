"""Host side: the write contract's look at the data: no cluster that holds any is zeroed or freed.

Refcounts say which clusters are free and which have one user, and they may be wrong. So where an
amend fills clusters or sets some free, every L2 entry of every layer is looked at first (qcow2
specification, "Cluster mapping").
"""

from __future__ import annotations

from struct import unpack

from instar.vmm.contract_disk import COMPRESSED, OFFSET_MASK, ZERO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instar.vmm.contract_disk import Disk
    from instar.vmm.contract_mapping import Zeroed
    from instar.vmm.contract_refcounts import Ledger


def judge_data(disk: Disk, tables: Iterable[int], zeroed: Zeroed, ledger: Ledger) -> None:
    """See that no entry of `tables`, clusters with L2 tables as they are, names such a cluster.

    Entries that read as zeros may. Raises ImageRejected: the image's refcounts are wrong.
    """
    freed = ledger.freed()
    if not freed and not zeroed.any():
        return
    for table in sorted(tables):
        for data in disk.pieces(table << disk.cluster_bits, disk.cluster_size):
            if data.count(0) == len(data):
                continue
            words = set(unpack(f">{len(data) // 8}Q", data))
            for cluster in _in_use(words, disk.cluster_bits):
                if cluster in zeroed or cluster in freed:
                    raise ledger.overlap(cluster)


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
