"""Host side: the refcounts of an image as they are on disk, which the judge's books begin with.

The bytes are hostile; that the refcount table is one, the guest has accepted.
"""

from __future__ import annotations

from struct import unpack

from ...base.errors import GuestFault, ImageRejected
from ...base.refusals import REFCOUNT_TABLE_MAX, bad_refcount_table
from ...image.staging import SECTOR_SIZE
from .disk import stored
from .widths import Width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .disk import Disk
    from .widths import Counts

_KNOWN_MAX = 1 << 21  # refcounts that are kept in memory


class Refcounts:
    """Refcounts as they are on disk.

    A window is a sector's worth of refcounts.
    """

    def __init__(self, disk: Disk, offset: int, clusters: int, order: int) -> None:
        """Take the place of the refcount table, and the header's refcount_order."""
        self._disk = disk
        size = clusters << disk.cluster_bits
        if not 0 < size <= REFCOUNT_TABLE_MAX:
            raise GuestFault(f"the guest accepted a refcount table of {clusters} clusters")
        self.table_clusters = disk.clusters(offset, size)
        self._table: bytes | None = None
        self.in_block = disk.cluster_size * 8 >> order
        """Clusters that a block counts."""
        self._width = Width(order)
        self._in_window = self._width.in_sector
        self._known: dict[int, Counts] = {}

    @property
    def table(self) -> bytes:
        """The refcount table, which is read when it is first asked for."""
        if self._table is None:
            place = self.table_clusters
            bits = self._disk.cluster_bits
            self._table = self._disk.read(place.start << bits, len(place) << bits)
        return self._table

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Index and offset of each refcount block that is there."""
        for at, data in stored(self.table):
            for index, entry in enumerate(unpack(f">{len(data) // 8}Q", data), at // 8):
                if entry and (offset := self._block(index)):
                    yield index, offset

    def old(self, cluster: int) -> int:
        """The refcount on disk; 0 where no block covers the cluster."""
        number, at = divmod(cluster, self._in_window)
        window = self._window(number)
        return window[at] if window else 0

    def _window(self, number: int) -> Counts | None:
        """The window with this number, as it is; None where no block holds it."""
        index, at = divmod(number * SECTOR_SIZE, self._disk.cluster_size)
        block = self._block(index)
        if not block:
            return None
        if number not in self._known:
            if len(self._known) * self._in_window >= _KNOWN_MAX:
                self._known.clear()
            self._known[number] = self._width.unpack(self._disk.read(block + at, SECTOR_SIZE))
        return self._known[number]

    def _block(self, index: int) -> int:
        """The offset of a refcount block on disk, or 0."""
        offset = int.from_bytes(self.table[8 * index : 8 * index + 8], "big") & ~0x1FF
        if offset % self._disk.cluster_size or offset >= max(self._disk.size, 1):
            start = self.table_clusters.start << self._disk.cluster_bits
            details = start, len(self.table_clusters), self._disk.size
            raise ImageRejected((bad_refcount_table(*details),))
        return offset
