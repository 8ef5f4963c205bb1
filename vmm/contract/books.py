"""Host side: the judge's own books of the refcounts that a change must lead to.

The host does not trust one refcount that the guest staged: it collects what each judged change
takes and gives back, computes the refcount blocks from that, and compares them byte for byte.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import compress

from ..base.arrays import array
from ..base.errors import GuestFault, ImageRejected
from ..base.refusals import overlap
from ..image.staging import SECTOR_SIZE
from .reader.refcounts import Refcounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .pending import Pending
    from .reader.disk import Disk
    from .reader.widths import Counts

TAKEN, FREED, LESSENED, LEFT_TO_ONE = 1, 2, 3, 4
"""What becomes of a cluster whose refcount changes."""

_NOTHING = bytes(SECTOR_SIZE)
_WINDOW_MEMORY = 1 << 9  # bytes of memory for a window, besides its changes


class Books(Refcounts):
    """Refcounts as they are on disk, and by how much each is to change."""

    def __init__(
        self, disk: Disk, offset: int, clusters: int, order: int, windows_max: int
    ) -> None:
        """Take the place of the refcount table, and the header's refcount_order.

        `windows_max` bounds how many windows may change: no more than are staged.
        """
        super().__init__(disk, offset, clusters, order)
        self.new_blocks: dict[int, int] = {}
        """Index and offset of the refcount blocks that are added."""
        self.taken = 0
        """How many clusters come into use."""
        self.longest = 1
        """How many of them in a row the longest new structure takes."""
        self._changes: dict[int, Counts] = {}
        self._windows_max = windows_max
        self._block_clusters: array[int] | None = None  # of the old blocks, ascending
        self._sectors: dict[int, int] = {}
        """Where the windows that change lie, but for those in new blocks."""
        self._windows_at: set[int] = set()

    def overlap(self, cluster: int, *users: int) -> ImageRejected:
        """The error for a cluster in use that would be used anew, overwritten or set free.

        `users` says by what, by AMEND_USE_* numbers, as far as is known.
        """
        return ImageRejected((overlap(cluster << self._disk.cluster_bits, *users),))

    def change(self, cluster: int) -> int:
        """By how much the refcount is to change, as far as is known."""
        number, at = divmod(cluster, self._in_window)
        window = self._changes.get(number)
        return window[at] if window else 0

    def take(self, cluster: int, references: int = 1) -> None:
        """A cluster that is free on disk comes into use.

        Raises GuestFault if it is not free, and ImageRejected if by its refcount it is, yet it is
        released: the guest could not know.
        """
        window, at = self._change_window(cluster), cluster % self._in_window
        if window[at] or self.old(cluster):
            if window[at] < 0 and not self.old(cluster):
                raise self.overlap(cluster)
            raise GuestFault(f"the guest takes cluster {self._offset(cluster)}, which is in use")
        window[at] = self._fit(references)
        self.taken += 1

    def take_structure(self, clusters: range) -> None:
        """The same for the clusters of a new table, which are in no block and not the header's."""
        if not clusters.start:
            raise GuestFault("the guest puts a table into the header cluster")
        # Its contents would be refcounts too, so that they need not be what they should.
        if self._block_clusters is None:
            found = sorted(offset >> self._disk.cluster_bits for _, offset in self.blocks())
            self._block_clusters = array("Q", found)
        at = bisect_left(self._block_clusters, clusters.start)
        if at < len(self._block_clusters) and self._block_clusters[at] in clusters:
            raise self.overlap(self._block_clusters[at])
        self.longest = max(self.longest, len(clusters))
        for cluster in clusters:
            self.take(cluster)

    def take_run(self, first: int, count: int, references: int) -> None:
        """The same for clusters in a row."""
        for number, at, end in self._parts(first, count):
            changes, window = self._change_window(number * self._in_window), self._window(number)
            if any(changes[at:end]) or (window and any(window[at:end])):
                raise GuestFault(f"the guest takes clusters from {self._offset(first)}, in use")
            for place in range(at, end):
                changes[place] = self._fit(references)
            self.taken += end - at

    def all_have(self, first: int, count: int, references: int) -> bool:
        """Whether each of the clusters in a row has this many references on disk."""
        return all(
            (window := self._window(number)) is not None
            and window[at:end].count(references) == end - at
            for number, at, end in self._parts(first, count)
        )

    def release_run(self, first: int, count: int, references: int) -> bool:
        """Clusters in a row lose references. False, and nothing done, if one is newly in use."""
        parts = [
            (self._change_window(number * self._in_window), at, end)
            for number, at, end in self._parts(first, count)
        ]
        if any(max(changes[at:end]) > 0 for changes, at, end in parts):
            return False
        for changes, at, end in parts:
            for place in range(at, end):
                changes[place] = self._fit(changes[place] - references)
        return True

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Clusters in a row as windows, and the places in each of them from and to."""
        last = first + count
        while first < last:
            window, at = divmod(first, self._in_window)
            end = min(at + last - first, self._in_window)
            yield window, at, end
            first += end - at

    def release(self, clusters: Iterable[int], references: int = 1) -> None:
        """Clusters lose references. ImageRejected if one is newly in use, as it counted as free."""
        last, window = -1, self._width.zeros()
        for cluster in clusters:
            number, at = divmod(cluster, self._in_window)
            if number != last:
                window = self._change_window(cluster)
                last = number
            if window[at] > 0:
                raise self.overlap(cluster)
            window[at] = self._fit(window[at] - references)

    def _fit(self, change: int) -> int:
        """The change, if there can be such a one."""
        if not -self._width.most <= change <= min(self._width.most, (1 << 63) - 1):
            raise self._out_of_range()
        return max(change, -(1 << 63))

    def _out_of_range(self) -> GuestFault:
        return GuestFault(
            f"the guest makes a refcount less than 0, or more than {self._width.most}"
        )

    def moved(self) -> Iterator[tuple[range, int]]:
        """The clusters whose refcounts change, as far as is known, in rows that change alike.

        With each row TAKEN, FREED, or for those that have users left, LESSENED or LEFT_TO_ONE.
        """
        becomes = {0: FREED, 1: LEFT_TO_ONE}
        places = range(self._in_window)
        for number, changes in self._changes.items():
            window, base = self._window(number) or bytes(self._in_window), number * self._in_window
            start = end = kind = 0
            for at in compress(places, changes):
                if changes[at] > 0:
                    moves = TAKEN
                else:
                    moves = becomes.get(max(window[at] + changes[at], 0), LESSENED)
                if at != end or moves != kind:
                    if start < end:
                        yield range(base + start, base + end), kind
                    start, kind = at, moves
                end = at + 1
            if start < end:
                yield range(base + start, base + end), kind

    def count_free(self, clusters: range, row: int) -> int:
        """How many of these clusters a block counts as free, and nothing takes.

        But for those of which fewer than `row` follow each other.
        """
        found = begun = 0
        for number, at, end in self._parts(clusters.start, len(clusters)):
            lengths = [len(free) for free in self._free(number, at, end).split(b"\0")]
            lengths[0] += begun
            begun = lengths.pop()
            found += sum(length for length in lengths if length >= row)
        return found + (begun if begun >= row else 0)

    def _free(self, number: int, at: int, end: int) -> bytes:
        """A part of a window as a byte for each cluster, which is 1 if it counts as free."""
        window = self._window(number)
        if window is None and number * self._in_window // self.in_block not in self.new_blocks:
            return bytes(end - at)
        free = bytes(not refcount for refcount in window[at:end]) if window else b"\1" * (end - at)
        changes = self._changes.get(number)
        if changes:
            some = zip(free, changes[at:end], strict=True)
            free = bytes(is_free and change <= 0 for is_free, change in some)
        return free

    def add_block(self, index: int, offset: int) -> None:
        """A new refcount block; it takes its own cluster."""
        if offset % self._disk.cluster_size or not offset:
            raise GuestFault(f"the guest puts a refcount block at {offset:#x}")
        self.new_blocks[index] = offset
        self.take(offset >> self._disk.cluster_bits)

    def judge(self, prepared: Pending, released: Pending) -> None:
        """Compare the refcounts staged before and after the switch with those that must be.

        Before it, entries rise from 0 only; after it, all are as they shall stay. Raises GuestFault
        for one that is missing or wrong.
        """
        for index, offset in self.new_blocks.items():
            self._judge_block(index, offset >> 9, prepared)
        for number, changes in self._changes.items():
            if number * self._in_window // self.in_block in self.new_blocks:
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

    def _judge_block(self, index: int, sector: int, prepared: Pending) -> None:
        first, count = (
            index * self.in_block // self._in_window,
            self._disk.cluster_size // SECTOR_SIZE,
        )
        missing = prepared.has_row(sector, sector + count)
        staged = prepared.take_row(sector, sector + count)
        for at in range(count):
            changes = self._changes.get(first + at)
            final = self._sums(first + at, changes)[1] if changes else _NOTHING
            if staged[at * SECTOR_SIZE : (at + 1) * SECTOR_SIZE] != final:
                missing = min(missing, sector + at)
        if missing < sector + count:
            raise _wrong(missing)

    def _sums(self, number: int, changes: Counts) -> tuple[bytes, bytes]:
        """A sector of refcounts before the release, and after it."""
        window = self._window(number)
        final = self._width.unpack(_NOTHING) if window is None else window[:]
        raised = final[:]
        try:
            for at in compress(range(self._in_window), changes):
                final[at] += changes[at]
                if changes[at] > 0:
                    raised[at] = final[at]
            return self._width.pack(raised), self._width.pack(final)
        except OverflowError as error:
            raise self._out_of_range() from error

    def _change_window(self, cluster: int) -> Counts:
        number = cluster // self._in_window
        if number not in self._changes:
            self._place(number)
            if len(self._changes) >= self._windows_max:
                raise GuestFault("the guest stages fewer refcounts than it changes")
            window = self._width.zeros()
            self._disk.hold(_WINDOW_MEMORY + len(window) * window.itemsize)
            self._changes[number] = window
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

    def _offset(self, cluster: int) -> str:
        return hex(cluster << self._disk.cluster_bits)


def _expect(phase: Pending, sector: int, data: bytes, *, needed: bool) -> None:
    staged = phase.take(sector)
    if staged != data and (needed or staged is not None):
        raise _wrong(sector)


def _wrong(sector: int) -> GuestFault:
    return GuestFault(f"the refcounts in sector {sector} are not what the changes add up to")
