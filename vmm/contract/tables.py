"""Host side: judges all that a change stages besides the header.

Every staged sector must be one of the kinds that its phase allows, and the refcounts must end as
the change leads to. The host follows the image's pointers here: the refcount table, the snapshot
table, L1 tables, L2 tables, and what extensions name. What does not fit is the guest's fault; the
image's are clusters that it uses twice, and tables out of proportion.
"""

from __future__ import annotations

from instar.abi import INSTAR_PHASE_COUNT

from ..base.errors import GuestFault, ImageRejected
from ..base.refusals import table_outside, too_few_references
from ..image.staging import SECTOR_SIZE
from ..qcow2 import INCOMPATIBLE_EXTENDED_L2, REFCOUNT_ORDER_V2
from .books import Books
from .differences import (
    COPIED,
    FLAGS,
    LAYER,
    MAPPING,
    PREPARE,
    RELEASE,
    SWITCH,
    ZEROES,
)
from .growth import judge_growth
from .layer import Layer
from .mapping import ClusterMapping
from .moved import Moved
from .pending import Pending
from .reader.disk import PIECE, Disk
from .reader.limits import check_tables
from .reader.structures import (
    Snapshots,
    bitmap_clusters,
    judge_bitmaps_dropped,
    judge_bitmaps_fit,
    kept_bitmaps,
)
from .roles import Roles, State
from .spare import spare_of
from .terms import OutsideError, Spare
from .touched import Touched
from .version_2 import Version2
from .zeroed import Zeroed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..base.errors import Refusal
    from ..qcow2.header_view import HeaderView
    from .terms import Original, Transition

_ENTRIES = 64  # in a sector of an L2 table


def explain(original: Original, before: HeaderView, sector: int) -> Refusal | None:
    """Say what is wrong with an image in which a cluster to be zeroed has another use too.

    None if by its refcount the cluster is free, and holds no refcounts: the guest is to blame.
    OutsideError where there are no such tables.
    """
    disk = Disk(original, before.fields["cluster_bits"], 0)
    books = _books(disk, before, 0)
    cluster = sector * SECTOR_SIZE >> disk.cluster_bits
    offset, refcount = cluster << disk.cluster_bits, books.old(cluster)
    if not refcount and offset not in (block for _, block in books.blocks()):
        return None
    return too_few_references(offset, refcount)


def _books(disk: Disk, header: HeaderView, windows_max: int) -> Books:
    fields = header.fields
    place = fields["refcount_table_offset"], fields["refcount_table_clusters"]
    return Books(disk, *place, fields.get("refcount_order", REFCOUNT_ORDER_V2), windows_max)


def judge_tables(
    transition: Transition,
    dropped: bytes | None,
    *,
    header: bool,
    backing_size: int = 0,
) -> tuple[tuple[str, ...], int, Spare]:
    """Judge what is staged besides the header, whose change is judged already.

    Args:
        transition: the step; of the header as it will be, only the place of the refcount table
            and of the snapshot table are still open.
        dropped: the bitmaps extension whose clusters are to be released, if any.
        header: whether bytes of the header cluster change that other structures may own.
        backing_size: what the backing file has at most, in bytes, as AmendRequest has it.

    Returns:
        What the user should know, the work that it took, and what may be given back.

    Raises:
        GuestFault: something is missing, wrong, or has no place there.
        ImageRejected: a cluster that is free by its refcount, or has one user, is used by the
            image for something else, or it is too much to be judged.
        OutsideError: a table is not inside the image.
    """
    tables = _Tables(transition)
    layer = tables.layer(backing_size) if (SWITCH, LAYER) in transition.allowed else None
    tables.judge(dropped, layer, header=header)
    if layer is None:
        return (), tables.work, Spare((), None)
    return tuple(layer.warnings), tables.work, tables.spare()


class _Tables:
    """One judgement: the books and what is known of the image."""

    def __init__(self, transition: Transition) -> None:
        before, after, staged = transition.before, transition.after, transition.staged
        self._before, self._after, self._staged = before, after, staged
        self._old, self._new, self._allowed = before.fields, after.fields, transition.allowed
        for header in (before, after):
            check_tables(header.fields)
        disk = self._disk = Disk(transition.original, self._old["cluster_bits"], staged.size())
        self._pending = [
            Pending(staged, phase, disk.cluster_bits) for phase in range(INSTAR_PHASE_COUNT)
        ]
        windows = sum(pending.count for pending in self._pending)
        self._books = _books(disk, before, windows)
        entries = _ENTRIES * self._pending[MAPPING].count
        self._zeroed = Zeroed(disk, *transition.zeroes, entries)
        # An empty name is none to qemu too.
        self._backed = bool(before.name or after.name)
        self._mapping = ClusterMapping(
            *(disk, staged, self._books, self._zeroed),
            backed=self._backed,
            encrypted=self._old["crypt_method"] != 0,
        )
        self._plain = False
        # The clusters that must be L2 tables of any layer, and of the active one.
        self._mapped: set[int] = set()
        self._flagged: set[int] = set()
        self._snapshots = Snapshots(
            disk, self._old["snapshots_offset"], self._old["nb_snapshots"], self._old["size"]
        )
        self._entries_max = entries * (1 + self._old["nb_snapshots"])
        self._moved = Moved(disk, self._books, self._pending, self._old, self._new, self._allowed)
        downgrades = self._new["version"] < self._old["version"]
        self._version_2 = Version2(before) if downgrades else None

    @property
    def work(self) -> int:
        """What has been spent."""
        return self._disk.work

    def layer(self, backing_size: int) -> Layer:
        """What a change of the size must make of the active layer."""
        views = self._before, self._after
        return Layer(self._disk, *views, self._pending[PREPARE], backing_size)

    def spare(self) -> Spare:
        """What a change of the size sets free."""
        return spare_of(self._disk, self._books, self._staged)

    def judge(self, dropped: bytes | None, layer: Layer | None, *, header: bool) -> None:
        """See what enters the books, what becomes of L2 entries, and who uses what is touched.

        `layer` is the active layer as it will be, where the size changes.
        """
        self._enter(dropped, layer)
        self._judge_entries(alone=layer is None and dropped is None)
        self._judge_uses(layer, header=header)
        end = self._staged.end() * SECTOR_SIZE
        most = self._books.taken if layer else self._entries_max
        judge_growth(self._disk, self._books, self._new, end, most)

    def _enter(self, dropped: bytes | None, layer: Layer | None) -> None:
        """Judge what moves or goes as a whole, and enter in the books what it takes and frees."""
        self._moved.judge_refcount_table()
        self._moved.judge_snapshots(self._snapshots)
        if layer:
            layer.judge(self._books)
            sizes = self._old["size"], self._new["size"]
            bitmaps = kept_bitmaps(self._before, self._after)
            if bitmaps is not None:
                judge_bitmaps_fit(self._disk, bitmaps, *sizes)
            if dropped is not None:
                judge_bitmaps_dropped(self._disk, dropped, *sizes)
        if dropped is not None:
            self._books.release(bitmap_clusters(self._disk, dropped))

    def _judge_entries(self, *, alone: bool) -> None:
        """Judge the L2 entries that change; `alone` is whether no size and no bitmap does."""
        mapped, flagged = self._pending[MAPPING], self._pending[FLAGS]
        # No other L2 entry can change where nothing else is staged: each table is read once.
        self._plain = (
            alone
            and not (self._backed or any(True for _ in self._zeroed.rows()))
            and self._maps_only()
        )
        if (mapped.count and (MAPPING, ZEROES) not in self._allowed) or (
            flagged.count and (FLAGS, COPIED) not in self._allowed
        ):
            raise GuestFault("the guest changes L2 entries in an upgrade")
        if self._plain:
            self._mapped = self._mapping.tables(mapped)
            return
        if mapped.count:
            self._mapped = self._mapping.judge(mapped)
        if flagged.count:
            self._flagged = self._mapping.judge_flags(flagged)

    def _judge_uses(self, layer: Layer | None, *, header: bool) -> None:
        """See that nothing else uses what the change touches, and that all of it had a reason."""
        touched = Touched(
            *(self._disk.cluster_bits, self._books, self._zeroed),
            *(self._mapped | self._flagged, self._moved.written),
            data={layer.written} if layer and layer.written is not None else set(),
        )
        roles = Roles(self._disk, self._books, self._snapshots, touched)
        state = self._state(layer.given_up if layer else range(0))
        # What is staged for a block that is something else too, or that is named twice, need not
        # add up: so this comes first.
        if header or touched.any() or not layer:
            roles.judge_structures(state, header=header)
            roles.judge_refcounts(state)
        self._finish()
        if layer:
            # One step of a request changes either of them.
            if self._mapped or self._flagged or self._version_2:
                raise GuestFault("the guest changes the size and L2 entries at once")
            if touched.any():
                self._judge_layer(roles, layer, touched)
        elif touched.any() or self._version_2:
            self._judge_layers(roles, state, touched)

    def _finish(self) -> None:
        """See that all that is staged has been judged, and that what is zeroed had to be."""
        self._books.judge(self._pending[PREPARE], self._pending[RELEASE])
        for pending in self._pending:
            pending.finish()
        if not self._zeroed.all_have_reasons():
            raise GuestFault("the guest zeroes clusters for nothing")
        if self._version_2:
            self._version_2.judge_snapshots(self._snapshots)

    def _maps_only(self) -> bool:
        """Whether nothing but L2 entries is staged besides the header."""
        others = (
            pending.count for pending in self._pending if pending is not self._pending[MAPPING]
        )
        return self._pending[MAPPING].count > 0 and not any(others)

    def _state(self, given_up: range) -> State:
        return State(
            (self._old["l1_table_offset"], self._old["l1_size"]),
            given_up,
            self._before.extensions,
            kept_bitmaps(self._before, self._after),
            bool(self._old.get("incompatible_features", 0) & INCOMPATIBLE_EXTENDED_L2),
            self._moved.moves_refcounts,
            self._moved.moves_snapshots,
        )

    def _judge_layers(self, roles: Roles, state: State, touched: Touched) -> None:
        try:
            active, others = roles.judge_l2_tables(state)
            if self._flagged - active:
                raise GuestFault("the guest sets flags outside the active layer's L2 tables")
            if self._mapped - active - others:
                raise GuestFault("the guest writes L2 entries where no L2 table is")
            everything = active | others, self._mapping, self._version_2
            roles.judge_data(
                *everything, mapped=self._mapped, extended=state.extended, plain=self._plain
            )
            if touched.leaves_any():
                self._judge_left(touched, active, bytes)
        except OutsideError as error:
            if (MAPPING, ZEROES) in self._allowed:
                raise
            # The guest has no need to look at what an upgrade leaves as it is.
            raise ImageRejected((table_outside(error.offset),)) from error

    def _judge_left(
        self, touched: Touched, active: set[int], entries: Callable[[bytes], bytes]
    ) -> None:
        """See that what the change leaves to the active layer alone says so.

        `entries` leaves the words of a table that name clusters.
        """
        bits = self._disk.cluster_bits
        for table in sorted(active):
            for number, piece in enumerate(self._disk.pieces(table << bits, 1 << bits)):
                final = bytearray(piece)
                with memoryview(final) as view:
                    first = (table << bits - 9) + number * (PIECE // SECTOR_SIZE)
                    self._staged.overlay(first, view, INSTAR_PHASE_COUNT)
                touched.judge_left(entries(bytes(final)))

    def _judge_layer(self, roles: Roles, layer: Layer, touched: Touched) -> None:
        """Who names the clusters that a change of the size touches, in all layers as they will be.

        At least a refcount block is written where it is, if anything but the header changes
        (docs/decisions/0036-sizes-switch-with-the-l1-table.md).
        """
        try:
            boundary, kept = layer.boundary_table()
            snapshots = roles.judge_other_tables()
            tables = layer.tables()
            touched.keep_active_tables(tables | ({boundary} if boundary else set()))
            touched.keep_l2_tables(snapshots)
            # The boundary's table too, if another entry names it: all of it stays for that.
            roles.judge_layer_data(tables | snapshots, kept, layer.entries)
            if touched.leaves_any():  # a change of the size sets no flags
                touched.judge_left(layer.entries(kept))
                self._judge_left(touched, tables, layer.entries)
        except OutsideError as error:
            raise ImageRejected((table_outside(error.offset),)) from error
