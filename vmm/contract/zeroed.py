"""Host side: the clusters that are to be filled with zeros, each of which must have its reason."""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..image.staging import Numbers
    from .reader.disk import Disk

NEW, OWN = 1, 2
"""Reasons: an entry takes the cluster, or has it already."""

_U64 = Struct("=Q")


class Zeroed:
    """The clusters that are filled with zeros, each of which must have its reason."""

    def __init__(self, disk: Disk, starts: Numbers, ends: Numbers, clusters_max: int) -> None:
        """Take ranges of sectors as StagedWrites has them. GuestFault if they are not clusters.

        The image's last cluster counts as whole where the file ends, if an entry has it already.
        `clusters_max` bounds how many clusters there may be: no more than entries are staged.
        """
        self._shift = disk.cluster_bits - 9
        self._starts, self._ends = starts, ends
        before = bytearray()  # how many clusters the ranges before each one have
        total, part = 0, (1 << self._shift) - 1
        self._short = -1  # the cluster that is filled no further than the file goes
        file_end = -(-disk.size // SECTOR_SIZE)
        for start, end in zip(starts, ends, strict=True):
            if start & part or (end & part and end != file_end):
                raise GuestFault(f"the guest zeroes a part of a cluster, from sector {start} on")
            before += _U64.pack(total)
            total += -(-(end - start) >> self._shift)
            if end & part:
                self._short = end >> self._shift
        if total > clusters_max:
            raise GuestFault("the guest zeroes more clusters than it changes entries")
        self._before = memoryview(before).cast("Q")
        self._reasons = bytearray(total)

    def __contains__(self, cluster: int) -> bool:
        return self._index(cluster) is not None

    def give(self, cluster: int, reason: int) -> bool:
        """Give a cluster a reason to be zeroed. False if it is not zeroed, or for another one."""
        index = self._index(cluster)
        if index is None or self._reasons[index] not in (0, reason):
            return False
        # What comes into use has to be there, or nothing can be written to its end.
        if reason == NEW and cluster == self._short:
            return False
        self._reasons[index] = reason
        return True

    def give_run(self, first: int, count: int, reason: int) -> bool:
        """The same for clusters in a row without a reason yet; False, and nothing given, else."""
        start, last = self._index(first), self._index(first + count - 1)
        if start is None or last is None or last - start != count - 1:
            return False
        if reason == NEW and self._short in range(first, first + count):
            return False
        run = slice(start, last + 1)
        if any(self._reasons[run]):
            return False
        self._reasons[run] = bytes((reason,)) * count
        return True

    def has_reason(self, cluster: int, reason: int) -> bool:
        """Whether a cluster is zeroed, and for this reason already."""
        index = self._index(cluster)
        return index is not None and self._reasons[index] == reason

    def all_have_reasons(self) -> bool:
        """Whether no cluster is zeroed that no entry refers to."""
        return 0 not in self._reasons

    def rows(self) -> Iterator[range]:
        """All of them, in rows."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield range(start >> self._shift, -(-end >> self._shift))

    def _index(self, cluster: int) -> int | None:
        sector = cluster << self._shift
        at = bisect_right(self._starts, sector) - 1
        if at < 0 or sector >= self._ends[at]:
            return None
        return self._before[at] + ((sector - self._starts[at]) >> self._shift)
