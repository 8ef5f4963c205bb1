"""Host side: the cluster that the end of a disk is within, when the disk grows.

Behind the old end it may hold what an earlier shrink left, and a snapshot may use it too.
"""

from __future__ import annotations

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from ..qcow2 import OFFSET_MASK
from .reader.disk import COMPRESSED, ZERO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pending import Pending
    from .reader.disk import Disk

SUBCLUSTERS = 32
"""In a cluster of an image with extended L2 entries."""
ALL_SUBCLUSTERS = (1 << SUBCLUSTERS) - 1
_HEAD = "the guest grows over a backing file whose end is within an unallocated cluster"


class Tail:
    """What may hide beyond the old end of the disk, from a byte of its last cluster on."""

    def __init__(self, disk: Disk, prepare: Pending, start: int) -> None:
        """`prepare` is what the first phase writes, `start` the byte."""
        self._disk, self._prepare, self._start = disk, prepare, start

    def standard(self, entry: bytes, *, backed: bool, zeros: bool) -> tuple[int, bytes]:
        """Up to which byte something may hide, 0 for none; and the entry as it must be.

        `backed` says that a backing file has something beyond the end, `zeros` whether there are
        zero clusters.
        """
        word = int.from_bytes(entry, "big")
        if word & COMPRESSED or (zeros and word & ZERO):
            return 0, entry
        if word & OFFSET_MASK:
            return self._disk.cluster_size, entry
        if backed:
            raise GuestFault(_HEAD)
        return 0, entry

    def extended(self, entry: bytes, *, backed: bool) -> tuple[int, bytes]:
        """The same for an extended entry: subclusters that are wholly beyond it become zeros."""
        word, bitmap = int.from_bytes(entry[:8], "big"), int.from_bytes(entry[8:], "big")
        if word & COMPRESSED:
            return 0, entry
        size = self._disk.cluster_size // SUBCLUSTERS
        number, after = self._start // size, -(-self._start // size)
        beyond = ALL_SUBCLUSTERS >> after << after
        hidden = 0
        if number != after and bitmap >> number & 1:
            hidden = after * size
        elif number != after and not bitmap >> SUBCLUSTERS + number & 1 and backed:
            raise GuestFault(_HEAD)
        if bitmap & beyond or (backed and (bitmap >> SUBCLUSTERS) & beyond != beyond):
            bitmap = (bitmap & ~beyond) | beyond << SUBCLUSTERS
        return hidden, entry[:8] + bitmap.to_bytes(8, "big")

    def cleared(self, cluster: bytes, end: int) -> bytes:
        """A cluster with zeros where something may hide."""
        return cluster[: self._start] + bytes(end - self._start) + cluster[end:]

    def is_cleared(self, offset: int, end: int) -> bool:
        """See that nothing hides in a cluster once the first phase is written, and nothing else.

        Returns whether anything is written. GuestFault if something still hides, or else changes.
        """
        written = False
        first = self._start // SECTOR_SIZE
        data = self._disk.read(offset, self._disk.cluster_size)
        wanted = self.cleared(data, end)
        for number in range(first, -(-end // SECTOR_SIZE)):
            part = slice(number * SECTOR_SIZE, (number + 1) * SECTOR_SIZE)
            staged = self._prepare.take(offset // SECTOR_SIZE + number)
            written |= staged is not None
            if (data[part] if staged is None else staged) != wanted[part]:
                raise GuestFault("the guest leaves something past the old end of the disk")
        return written
