"""Host side: the write contract's own books of the refcounts that a change must lead to.

The host does not trust one refcount that the guest staged: it collects what each judged change
takes and gives back, computes the refcount blocks from that, and compares them byte for byte.
"""

from __future__ import annotations

from struct import Struct

from instar.vmm.contract_disk import stored
from instar.vmm.errors import GuestFault, ImageRejected
from instar.vmm.staging import SECTOR_SIZE
from instar.vmm.verdict import bad_refcount_table, overlap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instar.vmm.contract_disk import Disk

_COUNTS = Struct(">256H")  # a sector of a refcount block, 16 bits wide
_IN_SECTOR, _SECTOR_SHIFT = 256, 8
_NOTHING = (0,) * _IN_SECTOR
_TABLE_MAX = 8 << 20  # qemu takes no larger one
_KNOWN_MAX = 1 << 13  # sectors that are kept in memory


class Ledger:
    """Refcounts as they are on disk, and by how much each is to change."""

    def __init__(self, disk: Disk, offset: int, clusters: int, windows_max: int) -> None:
        """Take the place of the refcount table.

        `windows_max` bounds how many sectors' worth of refcounts may change: no more than are
        staged.
        """
        self._disk = disk
        size = clusters << disk.cluster_bits
        if size > _TABLE_MAX:
            raise GuestFault(f"the guest accepted a refcount table of {clusters} clusters")
        self.table_clusters = disk.clusters(offset, size)
        self.table = disk.read(offset, size)
        self._in_block = disk.cluster_size // 2
        self._new_blocks: dict[int, int] = {}
        self._known: dict[int, bytes] = {}
        self._changes: dict[int, list[int]] = {}
        self._windows_max = windows_max
        self._sectors: dict[int, int] = {}
        """Where the windows that change lie, but for those in new blocks."""
        self._windows_at: set[int] = set()

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Index and offset of each refcount block that is there."""
        for at, data in stored(self.table):
            for index in range(at // 8, (at + len(data)) // 8):
                offset = self._block(index)
                if offset:
                    yield index, offset

    def old(self, cluster: int) -> int:
        """The refcount on disk; 0 where no block covers the cluster."""
        at = cluster % _IN_SECTOR * 2
        return int.from_bytes(self._window(cluster >> _SECTOR_SHIFT)[at : at + 2], "big")

    def overlap(self, cluster: int, *users: int) -> ImageRejected:
        """The error for a cluster in use that would be used anew, overwritten or set free.

        `users` says by what, by AMEND_USE_* numbers, as far as is known.
        """
        return ImageRejected((overlap(cluster << self._disk.cluster_bits, *users),))

    def change(self, cluster: int) -> int:
        """By how much the refcount is to change, as far as is known."""
        window = self._changes.get(cluster >> _SECTOR_SHIFT)
        return window[cluster % _IN_SECTOR] if window else 0

    def take(self, cluster: int, references: int = 1) -> None:
        """A cluster that is free on disk comes into use.

        Raises GuestFault if it is not free, and ImageRejected if by its refcount it is, yet it is
        released: the guest could not know.
        """
        window, at = self._change_window(cluster), cluster % _IN_SECTOR
        if window[at] or self.old(cluster):
            if window[at] < 0 and not self.old(cluster):
                raise self.overlap(cluster)
            raise GuestFault(f"the guest takes cluster {self._offset(cluster)}, which is in use")
        window[at] = references

    def take_run(self, first: int, count: int, references: int) -> None:
        """The same for clusters in a row."""
        for window, at, end in self._parts(first, count):
            changes = self._change_window(window << _SECTOR_SHIFT)
            if any(changes[at:end]) or any(self._window(window)[2 * at : 2 * end]):
                raise GuestFault(f"the guest takes clusters from {self._offset(first)}, in use")
            changes[at:end] = [references] * (end - at)

    def all_have(self, first: int, count: int, references: int) -> bool:
        """Whether all of the clusters in a row have so many references on disk."""
        one = references.to_bytes(2, "big")
        return all(
            self._window(window)[2 * at : 2 * end] == one * (end - at)
            for window, at, end in self._parts(first, count)
        )

    def release_run(self, first: int, count: int, references: int) -> bool:
        """Clusters in a row lose references. False, and nothing done, if one is newly in use."""
        parts = [
            (self._change_window(w << _SECTOR_SHIFT), at, end)
            for w, at, end in self._parts(first, count)
        ]
        if any(max(changes[at:end]) > 0 for changes, at, end in parts):
            return False
        for changes, at, end in parts:
            changes[at:end] = [change - references for change in changes[at:end]]
        return True

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Clusters in a row as windows, and the places in each of them from and to."""
        behind = first + count
        while first < behind:
            window, at = divmod(first, _IN_SECTOR)
            end = min(at + behind - first, _IN_SECTOR)
            yield window, at, end
            first += end - at

    def moves(self, cluster: int) -> bool:
        """Whether a cluster comes into use, or is set free."""
        window = self._changes.get(cluster >> _SECTOR_SHIFT)
        if window is None:
            return False
        change = window[cluster % _IN_SECTOR]
        return change > 0 or (change < 0 and self.old(cluster) + change == 0)

    def freed(self) -> Iterator[int]:
        """The clusters that are in use now, and will not be."""
        for number, changes in self._changes.items():
            if min(changes) < 0:
                first = number << _SECTOR_SHIFT
                for at, change in enumerate(changes, first):
                    if change < 0 and self.moves(at):
                        yield at

    def changed(self, clusters: range) -> Iterator[int]:
        """Those of clusters in a row whose refcount is to change, as far as is known."""
        numbers = range(clusters.start >> _SECTOR_SHIFT, (clusters.stop - 1 >> _SECTOR_SHIFT) + 1)
        few = len(self._changes) < len(numbers)
        for number in sorted(self._changes) if few else numbers:
            window = self._changes.get(number)
            if window is None or number not in numbers:
                continue
            for at, change in enumerate(window, number << _SECTOR_SHIFT):
                if change and at in clusters:
                    yield at

    def has_changes(self) -> bool:
        """Whether any refcount is to change, as far as is known."""
        return bool(self._changes)

    def release(self, clusters: Iterable[int], references: int = 1) -> None:
        """Clusters lose references. ImageRejected if one is newly in use, as it counted as free."""
        changes, last, window = self._changes, -1, [0]
        for cluster in clusters:
            number = cluster >> _SECTOR_SHIFT
            if number != last:
                window = changes.get(number) or self._change_window(cluster)
                last = number
            at = cluster % _IN_SECTOR
            if window[at] > 0:
                raise self.overlap(cluster)
            window[at] -= references

    def add_block(self, index: int, offset: int) -> None:
        """A new refcount block; it takes its own cluster."""
        if offset % self._disk.cluster_size or not offset:
            raise GuestFault(f"the guest puts a refcount block at {offset:#x}")
        self._new_blocks[index] = offset
        self.take(offset >> self._disk.cluster_bits)

    def judge(self, prepared: dict[int, bytes], released: dict[int, bytes]) -> None:
        """Compare the refcounts staged before and after the switch with those that must be.

        Takes the sectors that it knows out of both. Before it, entries rise from 0 only; after it,
        all are as they shall stay. Raises GuestFault for one that is missing or wrong.
        """
        for index, offset in self._new_blocks.items():
            self._judge_block(index, offset >> 9, prepared)
        for number, changes in self._changes.items():
            if number // (self._disk.cluster_size // SECTOR_SIZE) in self._new_blocks:
                continue
            if number not in self._sectors:
                raise GuestFault("the guest changes refcounts that no refcount block holds")
            sector = self._sectors[number]
            raised, final = self._sums(number, changes)
            _expect(prepared, sector, raised, needed=max(changes) > 0)
            _expect(released, sector, final, needed=min(changes) < 0)

    def written_blocks(self) -> set[int]:
        """The clusters with those refcount blocks of the image that are written."""
        shift = self._disk.cluster_bits - 9
        return {sector >> shift for sector in self._sectors.values()}

    def _judge_block(self, index: int, sector: int, prepared: dict[int, bytes]) -> None:
        first = index * self._in_block >> _SECTOR_SHIFT
        for at in range(self._disk.cluster_size // SECTOR_SIZE):
            changes = self._changes.get(first + at)
            final = self._sums(first + at, changes)[1] if changes else bytes(SECTOR_SIZE)
            _expect(prepared, sector + at, final, needed=True)

    def _sums(self, number: int, changes: list[int]) -> tuple[bytes, bytes]:
        """A sector of refcounts before the release, and after it."""
        window = self._window(number)
        old = _COUNTS.unpack(window) if window else _NOTHING
        final = [count + change for count, change in zip(old, changes, strict=True)]
        if min(final) < 0 or max(final) > 0xFFFF:
            raise GuestFault("the guest makes a refcount less than 0, or more than 65535")
        raised = [max(count, now) for count, now in zip(old, final, strict=True)]
        return _COUNTS.pack(*raised), _COUNTS.pack(*final)

    def _change_window(self, cluster: int) -> list[int]:
        number = cluster >> _SECTOR_SHIFT
        if number not in self._changes:
            self._place(number)
            if len(self._changes) >= self._windows_max:
                raise GuestFault("the guest stages fewer refcounts than it changes")
            self._changes[number] = [0] * _IN_SECTOR
        return self._changes[number]

    def _place(self, number: int) -> None:
        """Note where in the image the window is, unless that is a new block.

        ImageRejected if another one is there, as the refcount table names the block twice.
        """
        index, at = divmod(number, self._disk.cluster_size // SECTOR_SIZE)
        block = self._block(index)
        if not block:
            return
        sector = (block >> 9) + at
        if sector in self._windows_at:
            raise self.overlap(block >> self._disk.cluster_bits)
        self._windows_at.add(sector)
        self._sectors[number] = sector

    def _window(self, number: int) -> bytes:
        """The sector of refcounts with this number, as it is; empty where no block holds it."""
        if number not in self._known:
            index, at = divmod(number * SECTOR_SIZE, self._disk.cluster_size)
            block = self._block(index)
            if len(self._known) == _KNOWN_MAX:
                self._known.clear()
            self._known[number] = self._disk.read(block + at, SECTOR_SIZE) if block else b""
        return self._known[number]

    def _block(self, index: int) -> int:
        """The offset of a refcount block on disk, or 0."""
        offset = int.from_bytes(self.table[8 * index : 8 * index + 8], "big") & ~0x1FF
        if offset % self._disk.cluster_size or offset >= max(self._disk.size, 1):
            raise self._bad_table()
        return offset

    def _bad_table(self) -> ImageRejected:
        start, clusters = self.table_clusters.start, len(self.table_clusters)
        place = start << self._disk.cluster_bits
        return ImageRejected((bad_refcount_table(place, clusters, self._disk.size),))

    def _offset(self, cluster: int) -> str:
        return hex(cluster << self._disk.cluster_bits)


def _expect(phase: dict[int, bytes], sector: int, data: bytes, *, needed: bool) -> None:
    staged = phase.pop(sector, None)
    if staged != data and (needed or staged is not None):
        raise GuestFault(f"the refcounts in sector {sector} are not what the changes add up to")
