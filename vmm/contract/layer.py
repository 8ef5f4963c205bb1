"""Host side: the active layer's tables as a change of the size must make them.

Nothing of what the guest staged is believed: the new L1 table, the L2 table that the end of the
smaller disk cuts, tables of zeros over a backing file, the last cluster's bytes and all that is
given up are computed from the image, and compared (docs/qcow2.md, "Size").
"""

from __future__ import annotations

from struct import unpack

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from ..qcow2 import INCOMPATIBLE_EXTENDED_L2, OFFSET_MASK, whole_sectors
from .reader.disk import COMPRESSED, COPIED, ZERO, is_same, is_zeros, stored
from .tail import ALL_SUBCLUSTERS, SUBCLUSTERS, Tail
from .watch import compressed_clusters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..qcow2.header_view import HeaderView
    from .books import Books
    from .pending import Pending
    from .reader.disk import Disk

COMPRESSED_TAIL = (
    "the disk ended within a compressed cluster: what it has past the old end now shows"
)
ENCRYPTED_TAIL = (
    "the disk ended within an encrypted cluster: what it has past the old end now shows"
)
_ENTRY_WORK = 256  # bytes: to give up what an entry names takes as long as reading so many


class Layer:
    """The active layer as it is, as it will be, and what lies between the two."""

    def __init__(
        self,
        disk: Disk,
        before: HeaderView,
        after: HeaderView,
        prepare: Pending,
        backing_size: int,
    ) -> None:
        """`prepare` is what the first phase writes, `backing_size` as AmendRequest has it."""
        self._disk, self._prepare = disk, prepare
        self._old, self._new = before.fields, after.fields
        extended = self._old.get("incompatible_features", 0) & INCOMPATIBLE_EXTENDED_L2
        self._step = 16 if extended else 8
        self._in_table = disk.cluster_size // self._step
        self._span = self._in_table * disk.cluster_size
        old, new = whole_sectors(self._old["size"]), self._new["size"]
        self._grows = new > old
        self._at = min(old, new)
        self._kept = -(-self._at // self._span)
        end = min(new, backing_size)
        self._backed = bool(before.name) and self._grows and end > old
        self._fill_end = -(-end // disk.cluster_size) if self._backed else 0
        self._first = -(-(self._at % self._span) // disk.cluster_size)
        self._books: Books
        self._l1 = self._table = b""  # as they are: the L1 table, the L2 table at the boundary
        self._new_l1: bytes | bytearray = b""
        self._new_table: bytes | bytearray = b""
        self._masked: int | None = None  # where in it an entry is not to be searched
        self._moves = self._old["l1_table_offset"] != self._new["l1_table_offset"]
        self.given_up = range(0)
        """The clusters of the old L1 table that it does not keep."""
        self.written: int | None = None
        """The cluster of data that is written in place."""
        self.warnings: list[str] = []

    def judge(self, books: Books) -> None:
        """Compare all that is staged, and enter what it takes and gives up.

        Raises GuestFault for what is not as it must be, and ImageRejected for what the image uses
        twice.
        """
        self._books = books
        self._read_l1_tables()
        filled = max(-(-self._fill_end // self._in_table) - self._kept, 0)
        cut = self._kept - 1 if self._at % self._span else None
        self._judge_l1(cut, filled)
        for n in range(filled):
            table = self._take_table(self._new_l1, self._kept + n)
            first = (self._kept + n) * self._in_table
            if table != self._wanted(first, self._in_table):
                raise GuestFault("the guest makes an L2 table of other entries than zeros")
        if cut is not None:
            self._judge_boundary(cut)
        self._release(cut)

    def _read_l1_tables(self) -> None:
        disk, old, new = self._disk, self._old, self._new
        needed = -(-new["size"] // self._span)
        start, size = old["l1_table_offset"], 8 * old["l1_size"]
        place, room = disk.clusters(start, size), -(-size // disk.cluster_size) * disk.cluster_size
        if self._moves:
            expected, self.given_up = needed, place
            clusters = disk.clusters(new["l1_table_offset"], 8 * needed)
            self._new_l1 = self._take(clusters) if needed == new["l1_size"] else b""
            self._l1 = disk.read(start, size)
        else:
            expected = max(needed, old["l1_size"]) if self._grows else needed
            kept = -(-8 * expected // disk.cluster_size)
            self.given_up = place[kept:]
            new_size = min(room, 8 * expected)
            table = disk.read(start, max(size, new_size))
            self._l1, self._new_l1 = table[:size], table[:new_size]
        if new["l1_size"] != expected or len(self._new_l1) < 8 * expected:
            raise GuestFault(f"the guest leaves an L1 table of {new['l1_size']} entries")

    def _judge_l1(self, cut: int | None, filled: int) -> None:
        """The new table has the old one's entries, and beyond the boundary none but new tables."""
        kept = 8 * (self._kept if cut is None else cut)
        rest = 8 * (self._kept + filled)
        same = is_same(self._new_l1, self._l1, kept)
        if not same or not is_zeros(self._new_l1, rest, len(self._new_l1)):
            raise GuestFault("the guest changes, keeps or adds an entry of the L1 table")

    def _take(self, clusters: range) -> bytes | bytearray:
        """What new clusters are filled with. GuestFault for a part that would hold anything.

        After the file's end come zeros, as far as the last sector has it reach.
        """
        self._books.take_structure(clusters)
        shift = self._disk.cluster_bits - 9
        start, end = clusters.start << shift, clusters.stop << shift
        old_end = min(max(-(-self._disk.size // SECTOR_SIZE), start), end)
        missing = self._prepare.has_row(start, old_end)
        if missing < old_end or self._prepare.has_row(end - 1, end) < end:
            raise GuestFault(f"the guest leaves sector {missing} of a new table unwritten")
        return self._prepare.take_row(start, end)

    def _take_table(self, l1: bytes | bytearray, index: int) -> bytes | bytearray:
        """The new L2 table that an entry of the new L1 table names."""
        entry = int.from_bytes(l1[8 * index : 8 * index + 8], "big")
        offset = entry & OFFSET_MASK
        if entry != offset | COPIED:
            raise GuestFault(f"the guest makes the L1 entry {entry:#x}")
        return self._take(self._disk.clusters(offset, 1))

    def _wanted(self, cluster: int, count: int) -> bytes:
        """The entries of clusters of the disk, from one on, that are beyond the boundary."""
        filled = min(max(self._fill_end - cluster, 0), count)
        if filled and self._new["version"] < 3:
            raise GuestFault("the guest shows in version 2 what the backing file has past the end")
        zero = ZERO if self._step == 8 else ALL_SUBCLUSTERS << SUBCLUSTERS
        return zero.to_bytes(self._step, "big") * filled + bytes(self._step * (count - filled))

    def _judge_boundary(self, cut: int) -> None:
        """The L2 table that maps both sides keeps what is before, and has nothing beyond."""
        disk, place = self._disk, slice(8 * cut, 8 * cut + 8)
        old, new = (int.from_bytes(l1[place], "big") for l1 in (self._l1, self._new_l1))
        if old & OFFSET_MASK:
            self._table = disk.read(self._cluster(old), disk.cluster_size)
        else:
            self._table = bytes(disk.cluster_size)
        if new == old:
            self._new_table = self._table
        else:
            self._new_table = bytes(disk.cluster_size)
            if new:
                self._new_table = self._take_table(self._new_l1, cut)
        within = self._grows and self._at % disk.cluster_size != 0
        same = self._step * (self._first - within)
        if new != old and self._new_table[:same] != self._table[:same]:
            raise GuestFault("the guest changes an L2 entry before the boundary")
        if within:
            self._judge_tail(same)
        base = cut * self._in_table
        count = self._in_table - self._first
        wanted = self._wanted(base + self._first, count)
        if self._new_table.startswith(wanted, self._step * self._first):  # a slice is a copy
            return
        for index in range(self._first, self._in_table):
            at = index * self._step
            if not self._is_wanted(base + index, self._new_table[at : at + self._step]):
                raise GuestFault("the guest leaves an L2 entry behind the boundary")

    def _cluster(self, entry: int) -> int:
        """The offset that an entry names."""
        offset = entry & OFFSET_MASK
        if offset % self._disk.cluster_size:
            raise GuestFault(f"the guest accepted the unaligned entry {entry:#x}")
        return offset

    def _is_wanted(self, cluster: int, entry: bytes | bytearray) -> bool:
        """Whether an entry beyond the boundary shows nothing, and owns nothing."""
        if entry == self._wanted(cluster, 1):
            return True
        word, rest = int.from_bytes(entry[:8], "big"), int.from_bytes(entry[8:], "big")
        if self._step == 8:
            return word == ZERO and self._old["version"] >= 3
        return not word and cluster >= self._fill_end and not rest & ALL_SUBCLUSTERS

    def _judge_tail(self, at: int) -> None:
        """The cluster that the old end is within shows nothing past it."""
        part = slice(at, at + self._step)
        tail = Tail(self._disk, self._prepare, self._at % self._disk.cluster_size)
        version, backed = self._old["version"], self._backed
        if self._step == 8:
            hidden, entry = tail.standard(self._table[part], backed=backed, zeros=version >= 3)
        else:
            hidden, entry = tail.extended(self._table[part], backed=backed)
        word = int.from_bytes(entry[:8], "big")
        if hidden and self._old["crypt_method"]:
            self.warnings.append(ENCRYPTED_TAIL)
            hidden = 0
        elif word & COMPRESSED:
            self.warnings.append(COMPRESSED_TAIL)
        new = self._new_table[part]
        if hidden and new != entry and new[8:] == entry[8:]:
            self._judge_copy(tail, word, int.from_bytes(new[:8], "big"), hidden)
            self._masked = at
        elif new != entry:
            raise GuestFault("the guest changes the L2 entry at the boundary")
        elif hidden and tail.is_cleared(self._cluster(word), hidden):
            cluster = self._cluster(word) >> self._disk.cluster_bits
            if self._books.old(cluster) != 1 or not word & COPIED:
                raise GuestFault("the guest writes to a cluster that has other users")
            self.written, self._masked = cluster, at

    def _judge_copy(self, tail: Tail, word: int, new: int, hidden: int) -> None:
        """A cluster that others use too gives way to a copy without what hides."""
        offset = self._cluster(word)
        if new != self._cluster(new) | COPIED:
            raise GuestFault(f"the guest makes the L2 entry {new:#x}")
        copy = self._take(self._disk.clusters(new & OFFSET_MASK, 1))
        if copy != tail.cleared(self._disk.read(offset, self._disk.cluster_size), hidden):
            raise GuestFault("the guest makes a copy of the last cluster with other bytes")
        self._give_up([offset >> self._disk.cluster_bits])

    def _give_up(self, clusters: list[int]) -> None:
        self._disk.spend(_ENTRY_WORK * len(clusters))
        self._books.release(clusters)

    def _release(self, cut: int | None) -> None:
        """All that only the dropped part of the layer names."""
        self._books.release(self.given_up)
        shift, size = self._disk.cluster_bits, self._disk.cluster_size
        if (
            cut is not None
            and self._new_l1[8 * cut : 8 * cut + 8] != self._l1[8 * cut : 8 * cut + 8]
        ):
            old = int.from_bytes(self._l1[8 * cut : 8 * cut + 8], "big")
            if old & OFFSET_MASK:
                self._release_entries(self._table[self._step * self._first :])
                self._give_up([self._cluster(old) >> shift])
        for _, block in stored(self._l1, 8 * self._kept):
            for entry in unpack(f">{len(block) // 8}Q", block):
                if entry & OFFSET_MASK:
                    offset = self._cluster(entry)
                    for piece in self._disk.pieces(offset, size):
                        self._release_entries(piece)
                    self._give_up([offset >> shift])

    def _release_entries(self, table: bytes) -> None:
        bits = self._disk.cluster_bits
        for _, block in stored(table):
            found: list[int] = []
            for word in unpack(f">{len(block) // 8}Q", block)[:: self._step // 8]:
                if word & COMPRESSED:
                    found += compressed_clusters(word, bits)
                elif word & OFFSET_MASK:
                    found.append(self._cluster(word) >> bits)
            self._give_up(found)

    def tables(self) -> set[int]:
        """The clusters of the L2 tables that stay, but for the one at the boundary."""
        end = self._kept - (self._at % self._span != 0)
        found: set[int] = set()
        for _, block in stored(self._new_l1, end=8 * end):
            found.update(unpack(f">{len(block) // 8}Q", block))
        return {(word & OFFSET_MASK) >> self._disk.cluster_bits for word in found} - {0}

    def boundary_table(self) -> tuple[int, bytes]:
        """The cluster of the L2 table at the boundary, if it stays, else 0; and what stays of it.

        The entry of a cluster that is written in place, or copied, is left out.
        """
        table = bytearray(self._new_table)
        if self._masked is not None:
            table[self._masked : self._masked + self._step] = bytes(self._step)
        cut = slice(8 * self._kept - 8, 8 * self._kept)
        stays = bool(table) and self._new_l1[cut] == self._l1[cut]
        word = int.from_bytes(self._l1[cut], "big") if stays else 0
        return (word & OFFSET_MASK) >> self._disk.cluster_bits, bytes(table)

    def entries(self, table: bytes) -> bytes:
        """The words of an L2 table that name clusters."""
        if self._step == 8:
            return table
        with memoryview(table) as view:
            return view.cast("Q")[::2].tobytes()
