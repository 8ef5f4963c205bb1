"""Host side: the clusters that a change touches, and what it takes each of them for."""

from __future__ import annotations

from struct import unpack

import instar.abi as abi

from ..base.errors import GuestFault
from ..qcow2 import OFFSET_MASK
from .books import FREED, LEFT_TO_ONE, TAKEN
from .reader.disk import COMPRESSED, COPIED
from .watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from collections.abc import Set as AbstractSet

    from ..base.errors import ImageRejected
    from .books import Books
    from .zeroed import Zeroed


class Touched:
    """Clusters that are written, zeroed, taken or set free. Who else uses one is an overlap.

    The keep methods hold one use that the image makes of clusters against them; each raises
    ImageRejected: the image's refcounts are wrong, which the guest could not know.
    """

    def __init__(
        self,
        cluster_bits: int,
        books: Books,
        zeroed: Zeroed,
        l2_tables: set[int],
        refcount_table: set[int],
        new: Iterable[range] = (),
        new_use: int = abi.AMEND_USE_NEW,
        *,
        data: AbstractSet[int] = frozenset(),
    ) -> None:
        """Take the books when all is entered, and the clusters that are written as tables.

        `new` are rows of others, which the books do not know of, and `new_use` what they are for.
        `data` is written in place, as the clusters of tables are.
        """
        self._cluster_bits = cluster_bits
        self._books, self._zeroed = books, zeroed
        self.l2_tables = l2_tables
        """The clusters that are written as L2 tables."""
        self._refcount_table = refcount_table
        self._blocks = books.written_blocks()
        self._blocks_met: set[int] = set()
        self._header = False
        self._old_table: Container[int] = ()
        self._old_blocks: Container[int] = ()
        self._data = data
        zeroes, self._all = Watch(cluster_bits), Watch(cluster_bits)
        self._left = Watch(cluster_bits)  # to one of several users, whose entry has to say so
        for row in zeroed.rows():
            zeroes.add(row)
            self._all.add(row)
        for row, becomes in books.moved():
            if becomes != TAKEN:
                for cluster in zeroes.within(row):
                    raise books.overlap(cluster)
            if becomes in (TAKEN, FREED):
                self._all.add(row)
            elif becomes == LEFT_TO_ONE:
                self._left.add(row)
        self._new, self._new_use = list(new), new_use
        for row in self._new:
            self._all.add(row)
        self._moves = bool(self._all)
        self._add_written()

    def _add_written(self) -> None:
        """What is written stays what it is, and all of it: none of its users goes, and none comes.

        One that goes, of bitmaps that are dropped or of a table that moves, is read until the
        switch; most is written before. The header is always written.
        """
        written = (
            (range(1), abi.AMEND_USE_HEADER),
            (self.l2_tables, abi.AMEND_USE_L2_TABLE),
            (self._refcount_table, abi.AMEND_USE_REFCOUNT_TABLE),
            (self._blocks, abi.AMEND_USE_REFCOUNT_BLOCK),
            (self._data, abi.AMEND_USE_DATA),
        )
        for clusters, use in written:
            for cluster in clusters:
                if self._books.change(cluster):
                    raise self._books.overlap(cluster, use)
                if use != abi.AMEND_USE_HEADER:
                    self._all.add(range(cluster, cluster + 1))

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._all) or self._header

    def any_but_header(self) -> bool:
        """Whether there is one besides what add_header() added."""
        written = (self.l2_tables, self._refcount_table, self._blocks, self._data)
        return not self._header or self._moves or any(written)

    def add_header(self) -> None:
        """Bytes of the header cluster change that are not the header's."""
        self._header = True
        self._all.add(range(1))

    def add_old_refcounts(
        self, rows: Iterable[range], table: Container[int], blocks: Container[int]
    ) -> None:
        """Refcounts are left for new ones, which the books do not know of.

        The rows have all clusters of their table and their blocks.
        """
        self._old_table, self._old_blocks = table, blocks
        for row in rows:
            self._all.add(row)

    def keep(self, clusters: range, use: int, *, released: bool = False) -> None:
        """A structure lies in these clusters; `released` says that it gives them up."""
        for cluster in self._all.within(clusters):
            given_up = released and self._books.change(cluster) < 0
            kept = cluster not in self._zeroed and self._is_taken_for(cluster, None)
            if not (given_up and kept):
                raise self._overlap(cluster, use)

    def keep_refcount_table(self, clusters: range) -> None:
        """The refcount table lies in these, and may be written."""
        for cluster in self._all.within(clusters):
            self._keep_for(cluster, self._refcount_table, abi.AMEND_USE_REFCOUNT_TABLE)

    def keep_block(self, cluster: int) -> None:
        """A refcount block is this cluster. It may be written if it stands there once."""
        if cluster in self._all:
            if cluster in self._blocks_met:
                raise self._overlap(cluster, abi.AMEND_USE_REFCOUNT_BLOCK)
            self._keep_for(cluster, self._blocks, abi.AMEND_USE_REFCOUNT_BLOCK)
            self._blocks_met.add(cluster)

    def keep_l2_tables(self, clusters: AbstractSet[int]) -> None:
        """L2 tables are these clusters."""
        for cluster in clusters:
            if cluster in self._all:
                self._keep_for(cluster, self.l2_tables, abi.AMEND_USE_L2_TABLE)

    def keep_active_tables(self, clusters: AbstractSet[int]) -> None:
        """L2 tables of the active layer are these, whose L1 entries stay as they are."""
        self.keep_l2_tables(clusters)
        for cluster in clusters:
            if cluster in self._left:
                raise self._overlap(cluster, abi.AMEND_USE_L2_TABLE)

    def keep_data(self, tables: bytes) -> None:
        """The entries of these L2 tables, as they are, name their clusters."""
        found = self._all.search(tables)
        if found is not None:
            # Nothing but compressed data can begin within a cluster, and so lie in the header's.
            raise self._overlap(found, abi.AMEND_USE_DATA if found else abi.AMEND_USE_COMPRESSED)

    def leaves_any(self) -> bool:
        """Whether a cluster of data had several users, and has one now."""
        return bool(self._left)

    def judge_left(self, table: bytes) -> None:
        """GuestFault if an entry of the active layer, as it will be, lacks COPIED for such one.

        One that begins within a cluster names none: nothing can be written through it.
        """
        if self._left.search(table) is None:
            return
        within = (1 << self._cluster_bits) - 1 & OFFSET_MASK
        for word in unpack(f">{len(table) // 8}Q", table):
            cluster = (word & OFFSET_MASK) >> self._cluster_bits
            if not word & (COMPRESSED | COPIED | within) and cluster and cluster in self._left:
                raise GuestFault(f"the guest leaves the L2 entry {word:#x} of a cluster of its own")

    def _keep_for(self, cluster: int, purpose: set[int], use: int) -> None:
        zeroed = cluster in self._zeroed
        if cluster not in purpose or zeroed or not self._is_taken_for(cluster, purpose):
            raise self._overlap(cluster, use)

    def _is_taken_for(self, cluster: int, purpose: set[int] | None) -> bool:
        """Whether a cluster is not written for another purpose."""
        written = (self.l2_tables, self._refcount_table, self._blocks, self._data)
        return not any(cluster in other for other in written if other is not purpose)

    def _overlap(self, cluster: int, use: int) -> ImageRejected:
        """The error for a cluster that the change and the image take for different things."""
        purposes = (
            (self.l2_tables, abi.AMEND_USE_L2_TABLE),
            (self._refcount_table, abi.AMEND_USE_REFCOUNT_TABLE),
            (self._blocks, abi.AMEND_USE_REFCOUNT_BLOCK),
            (self._data, abi.AMEND_USE_DATA),
            (range(int(self._header)), abi.AMEND_USE_HEADER),
            (self._old_table, abi.AMEND_USE_REFCOUNT_TABLE),
            (self._old_blocks, abi.AMEND_USE_REFCOUNT_BLOCK),
        )
        known = [purpose for clusters, purpose in purposes if cluster in clusters]
        known.sort(key=use.__eq__)  # of two purposes the other one says more
        is_new = any(cluster in row for row in self._new)
        if not known and (is_new or self._books.change(cluster) > 0):
            known = [self._new_use if is_new else abi.AMEND_USE_NEW]
        return self._books.overlap(cluster, *known[:1], use)
