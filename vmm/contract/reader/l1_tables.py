"""Host side: the L2 tables of an image's layers, for the judge."""

from __future__ import annotations

from ...qcow2 import OFFSET_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .disk import Disk

_TABLE_MEMORY = 100  # bytes for the number of an L2 table in a set


def l2_tables(disk: Disk, l1_tables: Iterable[tuple[int, int]], known: set[int]) -> set[int]:
    """The clusters of the L2 tables of layers, without those that are known already.

    The layers are given by offset and number of entries of their L1 tables. Raises OutsideError and
    ImageRejected, as Disk does.
    """
    found: set[int] = set()
    for offset, entries in apart(l1_tables):
        for words in disk.distinct_words(offset, entries):
            count = len(found)
            tables = {(word & OFFSET_MASK) >> disk.cluster_bits for word in words}
            found |= tables - known  # takes as long as there are of these, not of those known
            disk.hold(_TABLE_MEMORY * (len(found) - count))
    return found - {0}


def apart(l1_tables: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """L1 tables without what others have of them, so that it is read once."""
    done = 0
    for offset, entries in sorted(l1_tables):
        start, end = max(offset, done), offset + 8 * entries
        if start < end:
            yield start, (end - start) // 8
            done = end
