"""The refcount table and its blocks. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.forge.layout import RefcountTableEntry
from tests.support.forge.space import Space


def encode_block(counts: list[int], refcount_order: int) -> bytes:
    """Refcount block entries; widths under a byte fill each byte from its least significant bit."""
    bits = 1 << refcount_order
    for cluster, count in enumerate(counts):
        if count >> bits:
            raise ValueError(f"refcount {count} (entry {cluster}) does not fit into {bits} bits")
    if bits < 8:
        packed = sum(count << bits * n for n, count in enumerate(counts))
        return packed.to_bytes(-(-bits * len(counts) // 8), "little")
    return b"".join(count.to_bytes(bits // 8, "big") for count in counts)


def place_refcounts(
    space: Space, refcount_order: int, overrides: Mapping[int, int]
) -> tuple[int, int]:
    """Place table and blocks behind all else, since they count themselves too.

    `overrides` are refcounts, by host cluster, to be written whatever is true.
    Returns refcount_table_offset and refcount_table_clusters.
    """
    # Behind the holes, the structures are contiguous and what they need can be computed.
    space.skip_holes()
    block_entries = space.cluster_size * 8 >> refcount_order
    blocks = 1
    while True:
        table_clusters = space.clusters_for(8 * blocks)
        needed = -(-(space.next_cluster + table_clusters + blocks) // block_entries)
        if needed <= blocks:
            break
        blocks = needed
    table = space.place("refcount_table", bytes(table_clusters * space.cluster_size))
    offsets = [
        space.place(f"refcount_block[{n}]", bytes(space.cluster_size)) for n in range(blocks)
    ]
    counts = {**space.refcounts, **overrides}
    for n, offset in enumerate(offsets):
        entry = RefcountTableEntry.build({"refcount_block_offset": offset})
        space.file.write(table + 8 * n, entry)
        covered = range(n * block_entries, min((n + 1) * block_entries, space.next_cluster))
        block = encode_block([counts.get(cluster, 0) for cluster in covered], refcount_order)
        space.file.write(offset, block)
    return table, table_clusters
