"""Host side: which structures of the image use the clusters that a change touches.

Refcounts say which clusters are free and which have one user, and they may be wrong; so may any
pointer. Before anything is written, zeroed, taken or set free, every pointer that the image can
hold is held against it: of the header, its extensions, the refcount table with its whole tail, the
snapshot table, L1 tables, L2 tables and the data, compressed or not.
"""

from __future__ import annotations

import instar.abi as abi

from ..base.record import record
from .reader.disk import is_all_stored, stored
from .reader.l1_tables import apart, l2_tables
from .reader.structures import kept_bitmap_clusters, luks_clusters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from .books import Books
    from .mapping import ClusterMapping
    from .reader.disk import Disk
    from .reader.structures import Snapshots
    from .touched import Touched
    from .version_2 import Version2


@record
class State:
    """What the header says of the image as it is, and what a change moves or drops of it."""

    l1_table: tuple[int, int]
    """Offset and number of entries of the active L1 table."""
    l1_given_up: range
    """The clusters of it that a change of the size gives up."""
    extensions: tuple[tuple[int, bytes], ...]
    """The header extensions, as HeaderView has them."""
    kept_bitmaps: bytes | None
    """The extension of bitmaps that are in force, and stay."""
    extended: bool
    """Whether L2 entries are extended."""
    moves_refcounts: bool
    """Whether the refcount table gives its clusters up."""
    moves_snapshots: bool
    """Whether the snapshot table does."""


# Bytes of L2 tables that are searched at once: where more data come together, fewer are in a row.
_BATCH = 1 << 16


class Roles:
    """Holds every pointer of an image against the clusters that a change touches."""

    def __init__(self, disk: Disk, books: Books, snapshots: Snapshots, touched: Touched) -> None:
        """Take the parts of the image that have been read already."""
        self._disk, self._books, self._touched = disk, books, touched
        self._snapshots = snapshots
        self._batch: list[bytes] = []
        self._unwritten: list[tuple[int, bytes]] = []
        self._batched = 0

    def judge_structures(self, state: State, *, header: bool) -> None:
        """Raise ImageRejected for a cluster that is touched, and that another structure is in.

        Refcounts, L2 tables and data are not among these. `header` says whether bytes of the header
        cluster change that are not the header's.
        """
        touched = self._touched
        touched.keep(range(1), abi.AMEND_USE_HEADER)
        if header:
            touched.add_header()
        for clusters in luks_clusters(self._disk, state.extensions):
            touched.keep(clusters, abi.AMEND_USE_CRYPTO_HEADER)
        if state.kept_bitmaps is not None:
            for cluster in kept_bitmap_clusters(self._disk, state.kept_bitmaps):
                touched.keep(range(cluster, cluster + 1), abi.AMEND_USE_BITMAP)
        moved = state.moves_snapshots
        touched.keep(self._snapshots.clusters, abi.AMEND_USE_SNAPSHOT_TABLE, released=moved)
        shift = self._disk.cluster_bits
        touched.keep(state.l1_given_up, abi.AMEND_USE_L1_TABLE, released=True)
        for use, tables in (
            (abi.AMEND_USE_L1_TABLE, [state.l1_table]),
            (abi.AMEND_USE_SNAPSHOT_L1_TABLE, self._snapshots.l1_tables),
        ):
            for offset, entries in apart(tables):
                last = offset + 8 * entries - 1
                clusters = range(offset >> shift, (last >> shift) + 1)
                if use == abi.AMEND_USE_L1_TABLE:
                    clusters = clusters[: len(clusters) - len(state.l1_given_up)]
                touched.keep(clusters, use)

    def judge_refcounts(self, state: State) -> None:
        """The same for the refcount table and its blocks."""
        touched = self._touched
        if state.moves_refcounts:
            table, use = self._books.table_clusters, abi.AMEND_USE_REFCOUNT_TABLE
            touched.keep(table, use, released=True)
        else:
            touched.keep_refcount_table(self._books.table_clusters)
        # None is in the header cluster: where that alone is touched, they may be what they are.
        for _, offset in self._books.blocks() if touched.any_but_header() else ():
            touched.keep_block(offset >> self._disk.cluster_bits)

    def judge_l2_tables(self, state: State) -> tuple[set[int], set[int]]:
        """The same for L2 tables. Returns all of the active layer's, and all others."""
        active = l2_tables(self._disk, [state.l1_table], set())
        others = l2_tables(self._disk, self._snapshots.l1_tables, active)
        self._touched.keep_active_tables(active)
        self._touched.keep_l2_tables(others)
        return active, others

    def judge_other_tables(self) -> set[int]:
        """The L2 tables of snapshots."""
        return l2_tables(self._disk, self._snapshots.l1_tables, set())

    def judge_data(
        self,
        tables: set[int],
        mapping: ClusterMapping | None,
        version_2: Version2 | None,
        *,
        mapped: AbstractSet[int] = frozenset(),
        extended: bool,
        plain: bool = False,
    ) -> None:
        """The same for the data that entries of these L2 tables name, as they are.

        `mapping` tells of the entries of those that are written, and judges the flags of zero
        clusters in the tables that are `mapped`; `version_2` does in all others, if the image gets
        that version. `plain` says that the former are not judged yet.
        """
        size = self._disk.cluster_size
        # What is written is looked at table by table, what is not in rows.
        for row in self._disk.rows(tables, alone=self._touched.l2_tables):
            table, start = row.start, row.start << self._disk.cluster_bits
            for at, data in enumerate(self._disk.pieces(start, len(row) * size)):
                written = table in self._touched.l2_tables
                piece = data
                if not written:
                    self._unwritten.append((start, data))
                elif version_2:
                    version_2.judge_table(data, start, mapped=table in mapped)
                if written and mapping:
                    if plain:
                        mapping.judge_plain(table, at, data)
                    piece = mapping.unchanged(table, at, data)
                if extended:
                    piece = _without_bitmaps(piece)
                if is_all_stored(piece):
                    self._batch.append(piece)
                else:
                    self._batch += [block for _, block in stored(piece)]
                self._batched += len(piece)
                if self._batched >= _BATCH:
                    self._flush(version_2)
        self._flush(version_2)

    def judge_layer_data(
        self, tables: set[int], kept: bytes, entries: Callable[[bytes], bytes]
    ) -> None:
        """The same for all layers as a change of the size leaves them.

        `kept` is what stays of the L2 table at the boundary, `entries` leaves the words of a table
        that name clusters.
        """
        size = self._disk.cluster_size
        if kept:
            self._touched.keep_data(entries(kept))
        for table in sorted(tables):
            for piece in self._disk.pieces(table << self._disk.cluster_bits, size):
                self._batch += [entries(block) for _, block in stored(piece)]
                self._batched += len(piece)
                if self._batched >= _BATCH:
                    self._flush()
        self._flush()

    def _flush(self, version_2: Version2 | None = None) -> None:
        if version_2 and self._unwritten:
            version_2.judge_tables(self._unwritten, self._disk.cluster_size)
        self._unwritten.clear()
        self._touched.keep_data(b"".join(self._batch))
        self._batch.clear()
        self._batched = 0


def _without_bitmaps(table: bytes) -> bytes:
    """The first halves of extended L2 entries; the second ones refer to nothing."""
    found = bytearray(len(table) // 2)
    for at in range(8):
        found[at::8] = table[at::16]
    return bytes(found)
