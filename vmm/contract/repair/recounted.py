"""Host side: judges refcounts that a repair writes anew, by what has been counted."""

from __future__ import annotations

from ...base.errors import GuestFault
from ...qcow2 import REFCOUNT_ORDER_V2
from ..differences import PREPARE
from ..reader.disk import stored
from ..recoded import Recoded, Structures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...image.staging import StagedWrites
    from ...qcow2.header_view import HeaderView
    from ..reader.disk import Disk
    from ..reader.reference_counts import ReferenceCounts


def refcount_structures(disk: Disk, fields: dict[str, int]) -> tuple[range, dict[int, int]]:
    """The clusters of the refcount table, and of each block, by its index.

    GuestFault for an entry that cannot be.
    """
    offset = fields["refcount_table_offset"]
    size = fields["refcount_table_clusters"] << disk.cluster_bits
    blocks = {}
    for at, entry in _entries(disk, offset, size):
        if entry % disk.cluster_size or entry >= disk.size:
            raise GuestFault(f"the guest leaves the refcount table entry {entry:#x}")
        blocks[at // 8] = entry >> disk.cluster_bits
    return disk.clusters(offset, size), blocks


def _entries(disk: Disk, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """The entries of the refcount table that are not 0, with their places in it."""
    disk.hold(size)
    start = 0
    for piece in disk.pieces(offset, size):
        for at, block in stored(piece):
            for place in range(0, len(block), 8):
                if entry := int.from_bytes(block[place : place + 8], "big"):
                    yield start + at + place, entry
        start += len(piece)


class _Counted(Structures):
    """In the place of old refcount structures: what has been counted, with no structure in it."""

    def __init__(self, disk: Disk, order: int, references: ReferenceCounts) -> None:
        super().__init__(disk, order, range(0), {})
        counts = references.counts
        step = self.in_block
        indexes = (
            n for n in range(-(-len(counts) // step)) if any(counts[n * step : (n + 1) * step])
        )
        self.blocks = dict.fromkeys(indexes, 0)


class Recounted(Recoded):
    """Judges refcounts that are written anew, by what has been counted."""

    def __init__(
        self,
        references: ReferenceCounts,
        before: HeaderView,
        after: HeaderView,
        staged: StagedWrites,
        disk: Disk,
    ) -> None:
        order = before.fields.get("refcount_order", REFCOUNT_ORDER_V2)
        self.begin(disk, after, staged, _Counted(disk, order, references), (PREPARE,))
        self._references, self._fields = references, before.fields

    def judge(self, *, is_device: bool) -> None:
        """See that the new refcounts are the counts, and where they are."""
        self.judge_new(is_device=is_device)
        if is_device:
            self._judge_free()

    def _judge_free(self) -> None:
        """See that nothing of the old structures is written over, whatever they name."""
        disk, fields = self._disk, self._fields
        offset = fields["refcount_table_offset"]
        size = fields["refcount_table_clusters"] << disk.cluster_bits
        old = set(disk.clusters(offset, size))
        old.update(entry >> disk.cluster_bits for _, entry in _entries(disk, offset, size))
        if not old.isdisjoint(self._new.clusters):
            raise GuestFault("the guest writes new refcounts over old ones")

    def _read_old(self, first: int) -> Iterator[bytes]:
        width, counts = self._old.width, self._references.counts
        for index, at, size in self._old.parts(first):
            start = index * self._old.in_block + at * 8 // width.bits
            count = size * 8 // width.bits
            found = counts[start : start + count]
            yield width.pack([*found, *bytes(count - len(found))])
