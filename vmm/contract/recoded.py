"""Host side: judges refcounts that are written anew, in another width and beside the old ones.

All of it can be computed: the new blocks hold the old refcounts, less one for each cluster of the
old structures, and one for each cluster of the new ones. So the guest is believed nothing but where
the new structures are: after the end of the file, if it can grow. Every pointer of the image is
held against them, as an entry of a damaged image may lead there too.
"""

from __future__ import annotations

from bisect import bisect_left

from instar.abi import INSTAR_PHASE_COUNT

from ..base.errors import GuestFault, ImageRejected
from ..base.refusals import table_outside
from ..image.staging import SECTOR_SIZE
from ..qcow2 import INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_EXTENDED_L2, REFCOUNT_ORDER_V2
from .books import Books
from .differences import PREPARE
from .pending import Pending
from .reader.disk import Disk
from .reader.limits import check_tables
from .reader.structures import Snapshots, kept_bitmaps
from .reader.widths import Width
from .roles import Roles, State
from .terms import OutsideError
from .touched import Touched
from .zeroed import Zeroed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..image.staging import StagedWrites
    from ..qcow2.header_view import HeaderView
    from .terms import Transition

_WINDOW = 1 << 16  # clusters whose refcounts are judged at once
_BLOCK_MEMORY = 300  # bytes to know of a refcount block


def judge_recoded(transition: Transition, *, header: bool, is_device: bool) -> int:
    """Judge what is staged outside the header, whose change is judged but for the table's place.

    Args:
        transition: the step; its header gets another refcount_order.
        header: whether bytes of the header cluster change that other structures may own.
        is_device: whether the image cannot grow.

    Returns the work that it took.

    Raises:
        GuestFault: a refcount is wrong, or something else is staged.
        ImageRejected: the image uses a cluster that by its refcount is free; or it is too much to
            be judged.
        OutsideError: a table is not inside the image.
    """
    recoded = Recoded(transition)
    recoded.judge(is_device=is_device)
    if transition.before.fields["version"] < transition.after.fields["version"]:
        recoded.judge_snapshots()
    recoded.judge_roles(header=header)
    return recoded.work


class Structures:
    """A refcount table, and the blocks that it names."""

    def __init__(self, disk: Disk, order: int, clusters: range, blocks: dict[int, int]) -> None:
        """Take the table's clusters, and of each block its index and cluster."""
        disk.hold(_BLOCK_MEMORY * len(blocks))
        self.width = Width(order)
        self.table, self.blocks = clusters, blocks
        self.in_block = disk.cluster_size * 8 >> order
        """Clusters that a block counts."""
        self.clusters = sorted([*clusters, *blocks.values()])
        if len(set(self.clusters)) != len(self.clusters):
            raise GuestFault("a refcount structure has a cluster twice")
        self._next = 0

    def rows(self) -> Iterator[range]:
        """Its clusters in rows, ascending."""
        start = end = self.clusters[0]
        for cluster in self.clusters:
            if cluster != end:
                yield range(start, end)
                start = cluster
            end = cluster + 1
        yield range(start, end)

    def take(self, first: int, end: int) -> list[int]:
        """Those of its clusters from `first` on and before `end`; calls ascend.

        GuestFault if one before these was not taken: no refcount is known of it.
        """
        start = self._next
        self._next = bisect_left(self.clusters, end, start)
        if start < self._next and self.clusters[start] < first:
            raise GuestFault("the guest accepted, or made, refcounts that leave a structure out")
        return self.clusters[start : self._next]

    def parts(self, first: int) -> Iterator[tuple[int, int, int]]:
        """A window in blocks: the index of each, and the place and size of its part in bytes."""
        step, bits = min(_WINDOW, self.in_block), self.width.bits
        for cluster in range(first, first + _WINDOW, step):
            index, at = divmod(cluster, self.in_block)
            yield index, at * bits // 8, step * bits // 8

    def counts(self, first: int) -> bool:
        """Whether a block counts clusters of a window."""
        return any(index in self.blocks for index, _, _ in self.parts(first))


def _has_any(numbers: list[int], first: int, end: int) -> bool:
    """Whether one of ascending numbers is in this range."""
    at = bisect_left(numbers, first)
    return at < len(numbers) and numbers[at] < end


class Recoded:
    """Judges refcounts that are written anew, by the old ones."""

    def __init__(self, transition: Transition) -> None:
        before, after, staged = transition.before, transition.after, transition.staged
        self._before, self._staged = before, staged
        for header in (before, after):
            check_tables(header.fields)
        disk = Disk(transition.original, before.fields["cluster_bits"], staged.size())
        order = before.fields.get("refcount_order", REFCOUNT_ORDER_V2)
        place = before.fields["refcount_table_offset"], before.fields["refcount_table_clusters"]
        self._books = Books(disk, *place, order, 0)
        blocks = {n: offset >> disk.cluster_bits for n, offset in self._books.blocks()}
        old = Structures(disk, order, self._books.table_clusters, blocks)
        self.begin(disk, after, staged, old, range(INSTAR_PHASE_COUNT))

    def begin(
        self,
        disk: Disk,
        after: HeaderView,
        staged: StagedWrites,
        old: Structures,
        phases: Iterable[int],
    ) -> None:
        """Take the old refcounts; in these phases nothing may be staged but the new ones."""
        self._disk, self._after, self._old = disk, after, old
        self._shift = disk.cluster_bits - 9
        pending = {phase: Pending(staged, phase, disk.cluster_bits) for phase in phases}
        self._prepared, self._pending = pending[PREPARE], pending.values()
        self._filled: set[int] = set()
        self._counted = 0, b""

    @property
    def work(self) -> int:
        """What it has cost."""
        return self._disk.work

    def judge(self, *, is_device: bool) -> None:
        """See that the new refcounts are the old ones, and where they are."""
        if not self._books.old(0):
            raise GuestFault("the guest accepted a header whose refcount is 0")
        self.judge_new(is_device=is_device)

    def judge_new(self, *, is_device: bool) -> None:
        """The same of an image whose header is counted."""
        new = self._new = self._read_new(is_device=is_device)
        self._judge_extent(is_device=is_device)
        for first in self._windows():
            self._judge_window(first, is_device=is_device)
        for structures in (self._old, new):
            structures.take(1 << 64, 1 << 64)
        if self._filled != new.blocks.keys():
            raise GuestFault("the guest leaves refcount blocks out, or makes empty ones")
        if not is_device:
            self._judge_place()
        for pending in self._pending:
            pending.finish()

    def _read_new(self, *, is_device: bool) -> Structures:
        """The new table as it is staged, and the blocks that it names."""
        fields, disk = self._after.fields, self._disk
        size = fields["refcount_table_clusters"] << disk.cluster_bits
        place = disk.clusters(fields["refcount_table_offset"], size)
        start, end = place.start << self._shift, place.stop << self._shift
        if is_device and self._prepared.has_row(start, end) < end:
            raise GuestFault("the guest leaves a part of the refcount table unwritten")
        # What follows the end of a file is zeros, and need not be staged.
        table = self._prepared.take_row(start, end)
        blocks = {}
        for at in range(0, size, 8):
            entry = int.from_bytes(table[at : at + 8], "big")
            if entry:
                if entry % disk.cluster_size:
                    raise GuestFault(f"the guest puts a refcount block at {entry:#x}")
                blocks[at // 8] = entry >> disk.cluster_bits
                disk.hold(_BLOCK_MEMORY)
        if not blocks or (not is_device and size - 8 * max(blocks) > disk.cluster_size):
            raise GuestFault(
                f"the guest makes a refcount table of {size} bytes, which is too large"
            )
        return Structures(disk, fields.get("refcount_order", REFCOUNT_ORDER_V2), place, blocks)

    def _judge_extent(self, *, is_device: bool) -> None:
        """See that the new structures are no more, and no farther apart, than they can be.

        Each block costs a look at all that it counts, whatever that is.
        """
        old, new = self._old, self._new
        if not is_device and new.clusters[-1] - new.clusters[0] != len(new.clusters) - 1:
            raise GuestFault("the guest does not put the refcounts in a row")
        before = sorted(old.blocks)
        for index in new.blocks:
            first, end = index * new.in_block, (index + 1) * new.in_block
            counts_old = _has_any(before, first // old.in_block, -(-end // old.in_block))
            if not counts_old and not _has_any(new.clusters, first, end):
                raise GuestFault("the guest leaves refcount blocks out, or makes empty ones")

    def _windows(self) -> Iterator[int]:
        """The first clusters of all windows that an old or a new block counts, ascending."""
        old, new = self._old, self._new
        unit = max(old.in_block, new.in_block, _WINDOW)
        units = {n * kind.in_block // unit for kind in (old, new) for n in kind.blocks}
        for number in sorted(units):
            for first in range(number * unit, (number + 1) * unit, _WINDOW):
                if old.counts(first) or new.counts(first):
                    yield first

    def _judge_window(self, first: int, *, is_device: bool) -> None:
        old, new = self._old, self._new
        counts = bytearray(b"".join(self._read_old(first)))
        if counts != bytes(len(counts)):
            self._counted = first, bytes(counts)
        for cluster in old.take(first, first + _WINDOW):
            if not old.width.add(counts, cluster - first, -1):
                raise GuestFault("the guest accepted a refcount structure whose refcount is 0")
        for cluster in new.take(first, first + _WINDOW):
            if not old.width.add(counts, cluster - first, 1):
                place = cluster << self._disk.cluster_bits
                raise GuestFault(f"the guest takes cluster {place:#x}, which is in use")
        try:
            expected = old.width.recode(bytes(counts), new.width)
        except OverflowError as error:
            raise GuestFault(f"the guest accepted {error}") from error
        for start, data in self._rows(first, expected):
            if not self._prepared.matches(start, data, whole=is_device):
                raise GuestFault(f"the refcounts from sector {start} on are not the old ones")

    def _read_old(self, first: int) -> Iterator[bytes]:
        """The old refcounts of a window."""
        for index, at, size in self._old.parts(first):
            if index in self._old.blocks:
                place = self._old.blocks[index] << self._disk.cluster_bits
                yield self._disk.read(place + at, size)
            else:
                yield bytes(size)

    def _rows(self, first: int, expected: bytes) -> Iterator[tuple[int, bytes]]:
        """Where new refcounts of a window must be, as rows of sectors, and what they are."""
        start = end = done = at = 0  # sectors; where the row is in what is expected
        for index, place, size in self._new.parts(first):
            part, at = slice(at, at + size), at + size
            if expected[part] != bytes(size):
                self._filled.add(index)
            block = self._new.blocks.get(index)
            if block is None:
                continue
            sector = (block << self._shift) + place // SECTOR_SIZE
            if sector != end or part.start != done + (end - start) * SECTOR_SIZE:
                if start < end:
                    yield start, expected[done : done + (end - start) * SECTOR_SIZE]
                start, done = sector, part.start
            end = sector + size // SECTOR_SIZE
        if start < end:
            yield start, expected[done : done + (end - start) * SECTOR_SIZE]

    def _judge_place(self) -> None:
        """See that the new structures, which are a row, follow all that is there or counted."""
        first, counts = self._counted
        last = first + self._old.width.last(counts)
        end = max(-(-self._disk.size >> self._disk.cluster_bits), last + 1)
        if self._new.clusters[0] != end:
            raise GuestFault("the guest does not put the refcounts after the end of the image")

    def _snapshots(self) -> Snapshots:
        fields = self._before.fields
        return Snapshots(
            self._disk, fields["snapshots_offset"], fields["nb_snapshots"], fields["size"]
        )

    def judge_snapshots(self) -> None:
        """See that the snapshot table is one of version 3: it stays where it is."""
        if self._snapshots().lacks_extra_data:
            raise GuestFault("the guest leaves snapshots without the extra data of version 3")

    def judge_roles(self, *, header: bool) -> None:
        """See that no structure of the image has a cluster that its refcount says is free."""
        fields, disk, books = self._before.fields, self._disk, self._books
        features = fields.get("incompatible_features", 0)
        zeroed = Zeroed(disk, *self._staged.zeroed(), 0)
        touched = Touched(disk.cluster_bits, books, zeroed, set(), set(), self._new.rows())
        roles = Roles(disk, books, self._snapshots(), touched)
        state = State(
            (fields["l1_table_offset"], fields["l1_size"]),
            range(0),
            self._before.extensions,
            kept_bitmaps(self._before, self._after),
            extended=bool(features & INCOMPATIBLE_EXTENDED_L2),
            moves_refcounts=False,
            moves_snapshots=False,
        )
        try:
            roles.judge_refcounts(state)
            old = self._old  # which is set free, and nothing else may be there
            touched.add_old_refcounts(old.rows(), old.table, old.blocks.values())
            roles.judge_structures(state, header=header)
            active, others = roles.judge_l2_tables(state)
            if not features & INCOMPATIBLE_DATA_FILE:  # whose entries name that file's clusters
                roles.judge_data(active | others, None, None, extended=state.extended)
        except OutsideError as error:
            # The guest has no need to look at what stays as it is.
            raise ImageRejected((table_outside(error.offset),)) from error
