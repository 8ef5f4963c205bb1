"""Host side: judges tables that get entries or move: the refcount table and the snapshot table.

What they must hold follows from what they held, and from what the options allow.
"""

from __future__ import annotations

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from .differences import BLOCKS, LAYER, PREPARE, REFCOUNT_TABLE, SNAPSHOTS_PLACE, SWITCH
from .reader.limits import SNAPSHOT_TABLE_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .books import Books
    from .differences import Differences
    from .pending import Pending
    from .reader.disk import Disk
    from .reader.structures import Snapshots


class Moved:
    """Judges the refcount table and the snapshot table; the books learn what they take."""

    def __init__(
        self,
        disk: Disk,
        books: Books,
        pending: Sequence[Pending],
        old: Mapping[str, int],
        new: Mapping[str, int],
        allowed: Differences,
    ) -> None:
        """Take what is staged by phase, the header's old and new fields, and what may differ."""
        self._disk, self._books, self._pending = disk, books, pending
        self._old, self._new, self._allowed = old, new, allowed
        self.moves_refcounts = self._moves("refcount_table_offset", "refcount_table_clusters")
        """Whether the refcount table gets another place."""
        self.moves_snapshots = self._moves("snapshots_offset")
        """Whether the snapshot table does."""
        self.written: set[int] = set()
        """The clusters of the refcount table that are written in place."""

    def _moves(self, *names: str) -> bool:
        """Whether one of these fields changes."""
        return any(self._old[name] != self._new[name] for name in names)

    def judge_refcount_table(self) -> None:
        """New refcount blocks, named by the table as it is or by one in a new place."""
        books, disk = self._books, self._disk
        if self.moves_refcounts:
            clusters = self._new["refcount_table_clusters"]
            size = clusters * disk.cluster_size
            if clusters < len(books.table_clusters):
                raise GuestFault("the guest makes the refcount table smaller")
            if size > self._pending[PREPARE].count * SECTOR_SIZE:
                raise GuestFault("the guest moves the refcount table and does not write it")
            place = disk.clusters(self._new["refcount_table_offset"], size)
            table = self._take_structure(place)
            books.release(books.table_clusters)
        else:
            new = bytearray(books.table)
            pending = self._pending[REFCOUNT_TABLE]
            first = books.table_clusters.start << (disk.cluster_bits - 9)
            for at in range(0, len(new) if pending.count else 0, SECTOR_SIZE):
                staged = pending.take(first + at // SECTOR_SIZE)
                if staged is not None:
                    new[at : at + SECTOR_SIZE] = staged
                    self.written.add((first << 9) + at >> disk.cluster_bits)
            table = new
        self._judge_table_entries(table)

    def _judge_table_entries(self, table: bytearray) -> None:
        old = self._books.table.ljust(len(table), b"\0")
        if table == old:
            return
        if (REFCOUNT_TABLE, BLOCKS) not in self._allowed:
            raise GuestFault("the guest adds refcount blocks that nobody asked for")
        next_one = -(-len(old.rstrip(b"\0")) // 8)
        for at in range(0, len(table), SECTOR_SIZE):
            if table[at : at + SECTOR_SIZE] == old[at : at + SECTOR_SIZE]:
                continue
            for place in range(at, at + SECTOR_SIZE, 8):
                entry, was = (int.from_bytes(t[place : place + 8], "big") for t in (table, old))
                if entry == was:
                    continue
                if was:
                    raise GuestFault(f"the guest changes the refcount table's entry {was:#x}")
                # Past a gap clusters would have no refcounts, and could not count as unused.
                if place // 8 != next_one:
                    raise GuestFault(f"the guest adds refcount block {place // 8}, not {next_one}")
                self._books.add_block(next_one, entry)
                next_one += 1

    def judge_snapshots(self, snapshots: Snapshots) -> None:
        """The new table is the old one with the extra data that version 3 requires."""
        needed = (SWITCH, SNAPSHOTS_PLACE) in self._allowed and snapshots.lacks_extra_data
        if (SWITCH, LAYER) in self._allowed and snapshots.lacks_extra_data:
            raise GuestFault("the guest resizes a snapshot, which has the size of the header")
        if needed and not self.moves_snapshots:
            raise GuestFault("the guest leaves snapshots without the extra data of version 3")
        if not self.moves_snapshots:
            return
        if not needed:
            raise GuestFault("the guest moves a snapshot table that need not change")
        size = sum(map(len, snapshots.upgraded()))
        if size > SNAPSHOT_TABLE_MAX:
            raise GuestFault(f"the guest leaves a snapshot table of {size} bytes")
        place = self._disk.clusters(self._new["snapshots_offset"], size)
        table = self._take_structure(place, size)
        at = 0
        for entry in snapshots.upgraded():
            if table[at : at + len(entry)] != entry:
                raise GuestFault("the guest changes more of the snapshots than they lack")
            at += len(entry)
        if any(table[at:]):
            raise GuestFault("the guest changes more of the snapshots than they lack")
        self._books.release(snapshots.clusters)

    def _take_structure(self, clusters: range, size: int | None = None) -> bytearray:
        """The staged contents of new clusters, the first `size` bytes of which must be staged."""
        self._books.take_structure(clusters)
        shift, pending = self._disk.cluster_bits - 9, self._pending[PREPARE]
        start, end = clusters.start << shift, clusters.stop << shift
        missing = pending.has_row(start, end)
        if missing < (end if size is None else start + -(-size // SECTOR_SIZE)):
            raise GuestFault(f"the guest leaves sector {missing} of a new table unwritten")
        return pending.take_row(start, end)
