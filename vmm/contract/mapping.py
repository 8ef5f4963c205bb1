"""Host side: the write contract's rules for L2 entries, and for clusters filled with zeros.

The qcow2 specification, "Cluster mapping": a downgrade may turn an entry that reads as zeros into
one that version 2 knows, and touch no other. docs/abi.md lists the ways.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct

from instar.vmm.contract_disk import COMPRESSED, COPIED, OFFSET_MASK, ZERO
from instar.vmm.errors import GuestFault, ImageRejected
from instar.vmm.staging import SECTOR_SIZE
from instar.vmm.verdict import too_few_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.contract_disk import Disk
    from instar.vmm.contract_refcounts import Ledger
    from instar.vmm.staging import Numbers

_ENTRIES = Struct(">64Q")  # a sector of an L2 table
_PLAIN, _UNALLOCATED = (ZERO,) * 64, (0,) * 64
_EVEN = bytes(range(0, 256, 2))
_U64 = Struct("=Q")
_NEW, _OWN = 1, 2


class Zeroed:
    """The clusters that are filled with zeros, each of which must have its reason."""

    def __init__(self, disk: Disk, starts: Numbers, ends: Numbers, clusters_max: int) -> None:
        """Take ranges of sectors as StagedWrites has them. GuestFault if they are not clusters.

        The image's last cluster counts as whole where the file ends.
        `clusters_max` bounds how many clusters there may be: no more than entries are staged.
        """
        self._shift = disk.cluster_bits - 9
        self._starts, self._ends = starts, ends
        before = bytearray()  # how many clusters the ranges before each one have
        total, part = 0, (1 << self._shift) - 1
        file_end = -(-disk.size // SECTOR_SIZE)
        for start, end in zip(starts, ends, strict=True):
            if start & part or (end & part and end != file_end):
                raise GuestFault(f"the guest zeroes a part of a cluster, from sector {start} on")
            before += _U64.pack(total)
            total += -(-(end - start) >> self._shift)
        if total > clusters_max:
            raise GuestFault("the guest zeroes more clusters than it changes entries")
        self._before = memoryview(before).cast("Q")
        self._reasons = bytearray(total)

    def __contains__(self, cluster: int) -> bool:
        return self._index(cluster) is not None

    def give(self, cluster: int, reason: int) -> bool:
        """Give a cluster a reason to be zeroed. False if it is not zeroed, or for another one."""
        index = self._index(cluster)
        if index is None or self._reasons[index] not in (0, reason):
            return False
        self._reasons[index] = reason
        return True

    def give_run(self, first: int, count: int, reason: int) -> bool:
        """The same for clusters in a row; False, and nothing given, unless it holds for all."""
        start, last = self._index(first), self._index(first + count - 1)
        if start is None or last is None or last - start != count - 1:
            return False
        run = slice(start, last + 1)
        if self._reasons[run].strip(bytes((0, reason))):
            return False
        self._reasons[run] = bytes((reason,)) * count
        return True

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._reasons)

    def all_have_reasons(self) -> bool:
        """Whether no cluster is zeroed that no entry refers to."""
        return 0 not in self._reasons

    def first_of(self, clusters: range) -> int | None:
        """The first one of clusters in a row that is zeroed."""
        start, stop = clusters.start << self._shift, clusters.stop << self._shift
        at = bisect_right(self._ends, start)
        if at == len(self._ends) or self._starts[at] >= stop:
            return None
        return max(self._starts[at], start) >> self._shift

    def _index(self, cluster: int) -> int | None:
        sector = cluster << self._shift
        at = bisect_right(self._starts, sector) - 1
        if at < 0 or sector >= self._ends[at]:
            return None
        return self._before[at] + ((sector - self._starts[at]) >> self._shift)


class Mapping:
    """Judges the L2 tables' sectors that a downgrade stages."""

    def __init__(
        self, disk: Disk, ledger: Ledger, zeroed: Zeroed, *, backed: bool, encrypted: bool
    ) -> None:
        """`backed` says whether there is a backing file, `encrypted` whether data are encrypted."""
        self._disk = disk
        self._ledger = ledger
        self._zeroed = zeroed
        self._backed = backed
        self._encrypted = encrypted

    def judge(self, sectors: dict[int, bytes]) -> set[int]:
        """Judge the phase of the mapping; return the clusters that must be L2 tables.

        The ledger learns what each change takes and releases. Raises GuestFault, and ImageRejected
        for refcounts of the image that are wrong.
        """
        tables: dict[int, list[int]] = {}
        for sector in sorted(sectors):
            tables.setdefault(sector >> (self._disk.cluster_bits - 9), []).append(sector)
        for table, numbers in tables.items():
            self._judge_table(table, {number: sectors[number] for number in numbers})
        return set(tables)

    def _judge_table(self, table: int, sectors: dict[int, bytes]) -> None:
        references = self._ledger.old(table)
        start = table << self._disk.cluster_bits
        data = bytearray(self._disk.read(start, self._disk.cluster_size))
        if not references:
            raise ImageRejected((too_few_references(start, 0),))
        for number, staged in sectors.items():
            at = number * SECTOR_SIZE - start
            if data[at : at + SECTOR_SIZE] != staged:
                olds, news = _ENTRIES.unpack_from(data, at), _ENTRIES.unpack(staged)
                if not self._judge_run(olds, news, references):
                    self._judge_sector(olds, news, references)
                data[at : at + SECTOR_SIZE] = staged
        if _has_zero_flag(data):
            raise GuestFault(f"the guest leaves zero clusters in the L2 table at {start:#x}")

    def _judge_run(self, olds: tuple[int, ...], news: tuple[int, ...], references: int) -> bool:
        """Judge a sector whose entries all change alike, to clusters in a row, all at once.

        An image may have millions of them. False: it is no such sector, or not lawful as one.
        """
        count, shift = len(olds), self._disk.cluster_bits
        if olds == _PLAIN and news == _UNALLOCATED and not self._backed:
            return True
        # Compressed clusters, which stay what they are, begin anywhere.
        if (olds[0] | news[0]) & OFFSET_MASK & (self._disk.cluster_size - 1):
            return False
        if news == _UNALLOCATED and not self._backed and self._is_run(olds):
            first = self._cluster(olds[0])
            lawful = bool(first) and bool(olds[0] & ZERO) and not olds[0] & COMPRESSED
            return lawful and self._ledger.release_run(first, count, references)
        first = self._cluster(news[0])
        if self._encrypted or not first or not self._is_run(news):
            return False
        if olds == tuple(word | ZERO for word in news):
            lawful = not (olds[0] & COMPRESSED or news[0] & ZERO)
            lawful = lawful and self._ledger.all_have(first, count, references)
            return lawful and self._zeroed.give_run(first, count, _OWN)
        expected = first << shift | (COPIED if references == 1 else 0)
        if olds != _PLAIN or news[0] != expected:
            return False
        if not self._zeroed.give_run(first, count, _NEW):
            return False
        self._ledger.take_run(first, count, references)
        return True

    def _is_run(self, words: tuple[int, ...]) -> bool:
        """Whether entries differ in their offsets only, which follow each other."""
        step = self._disk.cluster_size
        same_flags = not (words[0] ^ words[-1]) & ~OFFSET_MASK
        return same_flags and words == tuple(range(words[0], words[0] + len(words) * step, step))

    def _judge_sector(self, olds: tuple[int, ...], news: tuple[int, ...], references: int) -> None:
        # An image may have millions of zero clusters: those that are just dropped go in bulk.
        dropped = []
        shift, within = self._disk.cluster_bits, self._disk.cluster_size - 1
        for old, new in zip(olds, news, strict=True):
            if old == new:
                continue
            host = old & OFFSET_MASK
            if new or self._backed or old & COMPRESSED or not old & ZERO or host & within:
                self._judge_entry(old, new, references)
            elif host:
                dropped.append(host >> shift)
        if dropped:
            self._ledger.release(dropped, references)

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
                self._ledger.release((host,), references)
        if not lawful:
            raise GuestFault(f"the guest changes the L2 entry {old:#x} to {new:#x}")

    def _fills_own(self, host: int, references: int) -> bool:
        return (
            not self._encrypted
            and self._zeroed.give(host, _OWN)
            and self._ledger.old(host) == references
        )

    def _fills_new(self, new: int, references: int) -> bool:
        host = self._cluster(new)
        expected = host << self._disk.cluster_bits | (COPIED if references == 1 else 0)
        if self._encrypted or not host or new != expected or not self._zeroed.give(host, _NEW):
            return False
        self._ledger.take(host, references)
        return True

    def _cluster(self, entry: int) -> int:
        """The cluster that an entry refers to, 0 for none. GuestFault if it is within one."""
        offset = entry & OFFSET_MASK
        if offset % self._disk.cluster_size:
            raise GuestFault(f"the guest accepted or made the unaligned L2 entry {entry:#x}")
        return offset >> self._disk.cluster_bits

    def judge_flags(self, sectors: dict[int, bytes], mapped: dict[int, bytes]) -> set[int]:
        """Judge the last phase; return the clusters that must be L2 tables of the active layer.

        `mapped` is what the phase of the mapping makes of the tables. Raises GuestFault.
        """
        for number, staged in sectors.items():
            current = mapped.get(number) or self._disk.read(number * SECTOR_SIZE, SECTOR_SIZE)
            entries = zip(_ENTRIES.unpack(current), _ENTRIES.unpack(staged), strict=True)
            for old, new in entries:
                if old != new and not self._is_exclusive_now(old, new):
                    raise GuestFault(f"the guest changes the L2 entry {old:#x} to {new:#x}")
        return {number >> (self._disk.cluster_bits - 9) for number in sectors}

    def _is_exclusive_now(self, old: int, new: int) -> bool:
        """Whether `new` is `old` for a cluster that the release has left to one user."""
        host = self._cluster(old) if not old & (COPIED | COMPRESSED | ZERO) else 0
        change = self._ledger.change(host)
        return (
            bool(host)
            and new == old | COPIED
            and change < 0
            and self._ledger.old(host) + change == 1
        )


def _has_zero_flag(table: bytearray) -> bool:
    """Whether an L2 table has an entry that version 2 does not know."""
    if not table[7::8].translate(None, _EVEN):
        return False
    return any(
        word & ZERO and not word & COMPRESSED
        for at in range(0, len(table), SECTOR_SIZE)
        for word in _ENTRIES.unpack_from(table, at)
    )
