"""Host side: how L2 entries may change.

The qcow2 specification, "Cluster mapping": a downgrade may turn an entry that reads as zeros into
one that version 2 knows, and touch no other. docs/abi.md lists the ways.
"""

from __future__ import annotations

from struct import Struct, unpack

from instar.abi import INSTAR_PHASE_FLAGS, INSTAR_PHASE_MAPPING

from ..base.errors import GuestFault, ImageRejected
from ..base.refusals import too_few_references
from ..image.staging import SECTOR_SIZE
from ..qcow2 import OFFSET_MASK
from .reader.disk import COMPRESSED, COPIED, PIECE, ZERO
from .version_2 import judge_zero_flags
from .watch import byte_ones, nonzero_bytes
from .zeroed import NEW, OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import StagedWrites
    from .books import Books
    from .pending import Pending
    from .reader.disk import Disk
    from .zeroed import Zeroed

_ENTRIES = Struct(">64Q")  # a sector of an L2 table
_PLAIN, _UNALLOCATED = (ZERO,) * 64, (0,) * 64
_PLAIN_ENTRY = ZERO.to_bytes(8, "big")
_DROPPED = ZERO, 0  # a plain zero cluster, before and after
_NOTHING = bytes(8)
_FEW = 8  # entries of a sector that differ: more of them are quicker to unpack
_LONG = 4 * SECTOR_SIZE
_PLAIN_AT_ONCE = 512  # bytes for each plain zero cluster: with more of them, one by one is slower


class ClusterMapping:
    """Judges the L2 tables' sectors that a downgrade stages."""

    def __init__(
        self,
        disk: Disk,
        staged: StagedWrites,
        books: Books,
        zeroed: Zeroed,
        *,
        backed: bool,
        encrypted: bool,
    ) -> None:
        """`backed` says whether there is a backing file, `encrypted` whether data are encrypted."""
        self._disk = disk
        self._staged = staged
        self._books = books
        self._zeroed = zeroed
        self._backed = backed
        self._encrypted = encrypted
        self._mixed: set[int] = set()  # tables of which others than plain zero clusters change

    def tables(self, phase: Pending) -> set[int]:
        """The clusters that must be L2 tables, where entries do nothing but drop plain zeros.

        So it is where nothing else is staged: judge_plain() sees to it, table by table. Takes all
        of the phase. Raises ImageRejected.
        """
        tables = phase.take_all(self._disk.cluster_size // SECTOR_SIZE)
        for table in sorted(tables):
            self._references(table)
        return tables

    def judge_plain(self, table: int, number: int, piece: bytes) -> None:
        """Judge what is staged of a piece of an L2 table, as unchanged() has it. GuestFault."""
        first = (table << (self._disk.cluster_bits - 9)) + number * (PIECE // SECTOR_SIZE)
        end = first + len(piece) // SECTOR_SIZE
        # Copies of a few sectors, and of the column of flags, cost less than one of all.
        flags, parts = bytearray(piece[7::8]), []
        for sector, extent in self._staged.extents(INSTAR_PHASE_MAPPING, first, end):
            at, staged = (sector - first) * SECTOR_SIZE, bytes(extent)
            parts.append((at, staged))
            flags[at // 8 : (at + len(staged)) // 8] = staged[7::8]
        old = b"".join([piece[at : at + len(staged)] for at, staged in parts])
        new = b"".join([staged for _, staged in parts])
        plain = without_plain(old) == new
        if not plain:
            self._judge_row(table, old, new, 1)
        if flags != bytes(len(flags)):
            whole = bytearray(piece)
            for at, staged in parts:
                whole[at : at + len(staged)] = staged
            judge_zero_flags(whole, table << self._disk.cluster_bits)
        if not plain and _moves_clusters(old, new):
            raise GuestFault("the guest changes an L2 entry, and stages no refcounts or zeros")

    def judge(self, phase: Pending) -> set[int]:
        """Judge the phase of the mapping; return the clusters that must be L2 tables.

        The books learn what each change takes and releases. Raises GuestFault, and ImageRejected
        for refcounts of the image that are wrong.
        """
        tables: set[int] = set()
        current, references, data = -1, 0, bytearray()
        for first, staged in phase.rows(self._disk.cluster_size // SECTOR_SIZE):
            table = first >> (self._disk.cluster_bits - 9)
            if table != current:
                self._finish_table(current, data)
                current = table
                references, data = self._begin_table(table)
                tables.add(table)
            at = (first * SECTOR_SIZE) & (self._disk.cluster_size - 1)
            old = bytes(data[at : at + len(staged)])
            if old != staged:
                self._judge_row(table, old, staged, references)
                data[at : at + len(staged)] = staged
        self._finish_table(current, data)
        return tables

    def _judge_row(self, table: int, old: bytes, new: bytes, references: int) -> None:
        """Judge sectors in a row of an L2 table, as they are and as they are staged."""
        if not self._backed and len(old) > _LONG and without_plain(old) == new:
            return
        for at in range(0, len(old), SECTOR_SIZE):
            was, now = old[at : at + SECTOR_SIZE], new[at : at + SECTOR_SIZE]
            if was != now:
                self._judge_sector(table, was, now, references)

    def _judge_sector(self, table: int, old: bytes, new: bytes, references: int) -> None:
        places = differing(old, new)
        if places is None:
            if not self._backed and without_plain(old) == new:
                return
            olds, news = _ENTRIES.unpack(old), _ENTRIES.unpack(new)
            changes = [(o, n) for o, n in zip(olds, news, strict=True) if o != n]
            self._mixed.add(table)
            if len(changes) == len(olds) and self._judge_run(olds, news, references):
                return
        else:
            changes = [(_word(old, at), _word(new, at)) for at in places]
            if not self._backed and all(change == _DROPPED for change in changes):
                return
            self._mixed.add(table)
        self._judge_entries(changes, references)

    def _begin_table(self, table: int) -> tuple[int, bytearray]:
        """How many references an L2 table has, and its bytes."""
        start = table << self._disk.cluster_bits
        data = bytearray(self._disk.read(start, self._disk.cluster_size))
        return self._references(table), data

    def _references(self, table: int) -> int:
        references = self._books.old(table)
        if not references:
            offset = table << self._disk.cluster_bits
            raise ImageRejected((too_few_references(offset, 0),))
        return references

    def _finish_table(self, table: int, data: bytearray) -> None:
        judge_zero_flags(data, table << self._disk.cluster_bits)

    def unchanged(self, table: int, number: int, piece: bytes) -> bytes:
        """A piece of an L2 table as it is, with zeros for the entries that change.

        `number` counts the pieces, as Disk.pieces() has them. Plain zero clusters stay: they name
        nothing.
        """
        if table not in self._mixed:
            return piece
        first = (table << (self._disk.cluster_bits - 9)) + number * (PIECE // SECTOR_SIZE)
        end = first + len(piece) // SECTOR_SIZE
        found = bytearray(piece)
        for sector, extent in self._staged.extents(INSTAR_PHASE_MAPPING, first, end):
            for part in range(0, len(extent), SECTOR_SIZE):
                at = (sector - first) * SECTOR_SIZE + part
                old, new = piece[at : at + SECTOR_SIZE], bytes(extent[part : part + SECTOR_SIZE])
                places = differing(old, new) if old != new else []
                if places is None:
                    words = zip(_ENTRIES.unpack(old), _ENTRIES.unpack(new), strict=True)
                    _ENTRIES.pack_into(found, at, *(o if o == n else 0 for o, n in words))
                    continue
                for entry in places:
                    start = at + 8 * entry
                    found[start : start + 8] = _NOTHING
        return bytes(found)

    def _judge_run(self, olds: tuple[int, ...], news: tuple[int, ...], references: int) -> bool:
        """Judge a sector whose entries all change alike, to clusters in a row, all at once.

        An image may have millions of them. False: it is no such sector, or not lawful as one.
        """
        count, shift = len(olds), self._disk.cluster_bits
        # Compressed clusters, which stay what they are, begin anywhere.
        if (olds[0] | news[0]) & OFFSET_MASK & (self._disk.cluster_size - 1):
            return False
        if news == _UNALLOCATED and not self._backed and self._is_run(olds):
            first = self._cluster(olds[0])
            lawful = bool(first) and bool(olds[0] & ZERO) and not olds[0] & COMPRESSED
            return lawful and self._books.release_run(first, count, references)
        first = self._cluster(news[0])
        if self._encrypted or not first or not self._is_run(news):
            return False
        if olds == tuple(word | ZERO for word in news):
            lawful = not (olds[0] & COMPRESSED or news[0] & ZERO)
            lawful = lawful and self._books.all_have(first, count, references)
            return lawful and self._zeroed.give_run(first, count, OWN)
        expected = first << shift | (COPIED if references == 1 else 0)
        if olds != _PLAIN or news[0] != expected:
            return False
        if not self._zeroed.give_run(first, count, NEW):
            return False
        self._books.take_run(first, count, references)
        return True

    def _is_run(self, words: tuple[int, ...]) -> bool:
        """Whether entries differ in their offsets only, which follow each other."""
        step = self._disk.cluster_size
        same_flags = not (words[0] ^ words[-1]) & ~OFFSET_MASK
        return same_flags and words == tuple(range(words[0], words[0] + len(words) * step, step))

    def _judge_entries(self, changes: list[tuple[int, int]], references: int) -> None:
        # An image may have millions of zero clusters: those that are just dropped go in bulk.
        dropped = []
        shift, within = self._disk.cluster_bits, self._disk.cluster_size - 1
        for old, new in changes:
            host = old & OFFSET_MASK
            if new or self._backed or old & COMPRESSED or not old & ZERO or host & within:
                self._judge_entry(old, new, references)
            elif host:
                dropped.append(host >> shift)
        if dropped:
            self._books.release(dropped, references)

    def _judge_entry(self, old: int, new: int, references: int) -> None:
        if old & COMPRESSED or not old & ZERO:
            raise GuestFault(
                f"the guest changes the L2 entry {old:#x}, no zero cluster, to {new:#x}"
            )
        host = self._cluster(old)
        if host and new == old & ~ZERO:
            lawful = self._fills_own(host, references)
        else:
            lawful = self._fills_new(new, references)
            if host:
                self._books.release((host,), references)
        if not lawful:
            raise GuestFault(f"the guest changes the L2 entry {old:#x} to {new:#x}")

    def _fills_own(self, host: int, references: int) -> bool:
        if self._zeroed.has_reason(host, OWN):  # two entries have one cluster, not only two layers
            raise self._books.overlap(host)
        return (
            not self._encrypted
            and self._zeroed.give(host, OWN)
            and self._books.old(host) == references
        )

    def _fills_new(self, new: int, references: int) -> bool:
        host = self._cluster(new)
        expected = host << self._disk.cluster_bits | (COPIED if references == 1 else 0)
        if self._encrypted or not host or new != expected or not self._zeroed.give(host, NEW):
            return False
        self._books.take(host, references)
        return True

    def _cluster(self, entry: int) -> int:
        """The cluster that an entry refers to, 0 for none. GuestFault if it is within one."""
        offset = entry & OFFSET_MASK
        if offset % self._disk.cluster_size:
            raise GuestFault(f"the guest accepted or made the unaligned L2 entry {entry:#x}")
        return offset >> self._disk.cluster_bits

    def judge_flags(self, phase: Pending) -> set[int]:
        """Judge the last phase; return the clusters that must be L2 tables of the active layer.

        Raises GuestFault.
        """
        tables = set()
        for number, staged in phase.sectors():
            current = bytearray(self._disk.read(number * SECTOR_SIZE, SECTOR_SIZE))
            with memoryview(current) as view:
                self._staged.overlay(number, view, INSTAR_PHASE_FLAGS)
            entries = zip(_ENTRIES.unpack(current), _ENTRIES.unpack(staged), strict=True)
            for old, new in entries:
                if old != new and not self._is_exclusive_now(old, new):
                    raise GuestFault(f"the guest changes the L2 entry {old:#x} to {new:#x}")
            tables.add(number >> (self._disk.cluster_bits - 9))
        return tables

    def _is_exclusive_now(self, old: int, new: int) -> bool:
        """Whether `new` is `old` for a cluster that the release has left to one user."""
        host = self._cluster(old) if not old & (COPIED | COMPRESSED | ZERO) else 0
        change = self._books.change(host)
        return (
            bool(host)
            and new == old | COPIED
            and change < 0
            and self._books.old(host) + change == 1
        )


def differing(old: bytes, new: bytes) -> list[int] | None:
    """The numbers of the entries in which two sectors of an L2 table differ; None for many."""
    # Each lawful change is one of the flags, whose bytes tell at a glance how many there are.
    flags = int.from_bytes(old[7::8], "little") ^ int.from_bytes(new[7::8], "little")
    if flags.bit_count() > _FEW:
        return None
    # One number for all: of few that differ this takes a third of the time of looking at each.
    left = int.from_bytes(old, "little") ^ int.from_bytes(new, "little")
    places: list[int] = []
    skipped = 0
    while left:
        if len(places) == _FEW:
            return None
        at = (left & -left).bit_length() - 1 >> 6
        places.append(skipped + at)
        left >>= at + 1 << 6
        skipped += at + 1
    return places


def _word(sector: bytes, entry: int) -> int:
    return int.from_bytes(sector[8 * entry : 8 * entry + 8], "big")


def _moves_clusters(old: bytes, new: bytes) -> bool:
    """Whether an entry changes that names a cluster, or comes to name one; flags do not count."""
    olds, news = (unpack(f">{len(words) // 8}Q", words) for words in (old, new))
    return any(o != n and (o | n) & OFFSET_MASK for o, n in zip(olds, news, strict=True))


def without_plain(table: bytes) -> bytearray:
    """Sectors of an L2 table with plain zero clusters, which have no host cluster, unallocated."""
    flags, left = table[7::8], bytearray(table)
    at, most = flags.find(ZERO), len(table) // _PLAIN_AT_ONCE
    while at >= 0:
        if not most:
            return _drop_at_once(table)
        most -= 1
        if table[8 * at : 8 * at + 8] == _PLAIN_ENTRY:
            left[8 * at + 7] = 0
        at = flags.find(ZERO, at + 1)
    return left


def _drop_at_once(table: bytes) -> bytearray:
    """The same for many: each byte of all entries is one number, and no operation is a loop."""
    count = len(table) // 8
    ones = byte_ones(count)
    flags, others = int.from_bytes(table[7::8], "little"), 0
    for at in range(7):
        others |= int.from_bytes(table[at::8], "little")
    plain = flags & ones & ~nonzero_bytes(others | flags & ~ones, ones)
    left = bytearray(table)
    left[7::8] = (flags ^ plain).to_bytes(count, "little")
    return left
