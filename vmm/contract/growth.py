"""Host side: how much a change may add to the image: no more than what it does needs.

The planner appends refcount blocks a few at a time, and moves the refcount table with room for
those to come; so each bound leaves that much over.
"""

from __future__ import annotations

from ..base.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .books import Books
    from .reader.disk import Disk

_CLUSTER_WORK = 64  # bytes: to look a refcount up in a row takes as long as reading so many
_AT_ONCE = 16  # blocks: what the planner appends at most, if it has use for them


def judge_growth(
    disk: Disk, books: Books, new: Mapping[str, int], end: int, entries_max: int
) -> None:
    """Judge new refcount blocks, the new refcount table and the new end of the file.

    `new` are the fields of the header as it will be, `end` is where the file will end, in bytes,
    and `entries_max` how many clusters may have been filled, by all layers that share the entries.
    GuestFault for more than is needed.
    """
    taken, blocks = books.taken, len(books.new_blocks)
    expected = -(-entries_max // (books.in_block - 1))
    others = taken - blocks
    needed = -(-others // (books.in_block - 1)) if others else 0
    spare = 2 * min(_AT_ONCE, expected) + 1 if others else 0
    if blocks > needed + spare:
        raise GuestFault(f"the guest adds {blocks} refcount blocks, and {needed} are needed")
    _judge_table(disk, books, new, expected)
    _judge_end(disk, books, end, taken)


def _judge_table(disk: Disk, books: Books, new: Mapping[str, int], expected: int) -> None:
    clusters, old = new["refcount_table_clusters"], len(books.table_clusters)
    if new["refcount_table_offset"] == books.table_clusters.start << disk.cluster_bits:
        return
    last = max(books.new_blocks, default=0)
    # It moves at once for all that may come, as what it names is not written there any more.
    if 8 * (last + 1 + expected) <= old << disk.cluster_bits:
        raise GuestFault("the guest moves a refcount table that has room for what is added")
    entries = last + 1 + expected + len(books.new_blocks) + 2 * _AT_ONCE
    most = -(-8 * entries >> disk.cluster_bits) + 1
    if clusters > most:
        raise GuestFault(f"the guest makes the refcount table {clusters} clusters, for {most}")


def _judge_end(disk: Disk, books: Books, end: int, taken: int) -> None:
    """Clusters after the old end that count as free, and that nothing takes, are no reason.

    But the image may count clusters there as used, and what lies between these may be too little
    for a table.
    """
    added = range(-(-disk.size >> disk.cluster_bits), -(-end >> disk.cluster_bits))
    if len(added) > taken + _AT_ONCE:
        disk.spend(_CLUSTER_WORK * len(added))
        if books.count_free(added, books.longest) > taken + _AT_ONCE:
            raise GuestFault("the guest lets the file grow by clusters that nothing takes")
