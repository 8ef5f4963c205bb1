"""Host side: the write contract for all that an amend changes besides the header.

Every staged sector must be one of the kinds that its phase allows, and the refcounts must end as
the change leads to. The host follows the image's pointers here as far as the change does: the
refcount table, the snapshot table, the L1 tables and those L2 tables that are written. Reads are
bounded; what does not fit is the guest's fault, but for clusters that the image itself uses twice.
"""

from __future__ import annotations

from instar.abi import (
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_MAPPING,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_RELEASE,
)
from instar.vmm.contract_data import judge_data
from instar.vmm.contract_disk import OFFSET_MASK, Disk, OutsideError
from instar.vmm.contract_mapping import Mapping, Zeroed
from instar.vmm.contract_refcounts import Ledger
from instar.vmm.contract_structures import Snapshots, bitmap_clusters
from instar.vmm.errors import GuestFault, ImageRejected
from instar.vmm.staging import SECTOR_SIZE
from instar.vmm.verdict import table_outside, too_few_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from instar.vmm.contract_disk import Reader
    from instar.vmm.errors import Refusal
    from instar.vmm.header_view import HeaderView

_ENTRIES = 64  # in a sector of an L2 table


def judge_tables(
    read: Reader,
    size: int,
    before: HeaderView,
    after: HeaderView,
    phases: list[dict[int, bytes]],
    zeroes: list[tuple[int, int]],
    bitmaps: bytes | None,
) -> None:
    """Judge what is staged besides the header, whose change is judged already.

    Args:
        read: reads the image file of `size` bytes as it is, shorter at its end.
        size: in bytes.
        before: the header as it is.
        after: the header as it will be; only the place of the refcount table and of the snapshot
            table are still open.
        phases: the sectors staged in each phase but those of the header cluster; used up.
        zeroes: the ranges to be zeroed, as (first sector, end).
        bitmaps: the bitmaps extension whose clusters are to be released, if any.

    Raises:
        GuestFault: something is missing, wrong, or has no place there.
        ImageRejected: a cluster that is free by its refcount belongs to a table of the image.
    """
    _Tables(read, size, before, after, phases, zeroes).judge(bitmaps)


def explain(read: Reader, size: int, before: HeaderView, sector: int) -> Refusal | None:
    """Say what is wrong with an image in which a cluster to be zeroed has another use too.

    None if by its refcount the cluster is free, and holds no refcounts: the guest is to blame.
    """
    fields = before.fields
    disk = Disk(read, size, fields["cluster_bits"])
    ledger = Ledger(disk, fields["refcount_table_offset"], fields["refcount_table_clusters"], 0)
    cluster = sector * SECTOR_SIZE >> disk.cluster_bits
    offset, refcount = cluster << disk.cluster_bits, ledger.old(cluster)
    if not refcount and offset not in (block for _, block in ledger.blocks()):
        return None
    return too_few_references(offset, refcount)


class _Tables:
    """One judgement: the books and what is known of the image."""

    def __init__(
        self,
        read: Reader,
        size: int,
        before: HeaderView,
        after: HeaderView,
        phases: list[dict[int, bytes]],
        zeroes: list[tuple[int, int]],
    ) -> None:
        self._phases = phases
        self._prepared = phases[INSTAR_PHASE_PREPARE]
        self._old, self._new = before.fields, after.fields
        self._backed = bool(before.name)  # an empty name is none to qemu too
        if self._old.get("refcount_order", 4) != 4:
            raise GuestFault("the guest changes refcounts that are not 16 bits wide")
        self._disk = Disk(read, size, self._old["cluster_bits"])
        self._ledger = Ledger(
            self._disk,
            self._old["refcount_table_offset"],
            self._old["refcount_table_clusters"],
            sum(map(len, phases)),
        )
        self._downgrades = self._new["version"] == 2
        mapped = len(phases[INSTAR_PHASE_MAPPING])
        self._zeroed = Zeroed(self._disk, zeroes, _ENTRIES * mapped)
        self._snapshots = self._read_snapshots()
        self._moves_refcounts = self._places("refcount_table_offset", "refcount_table_clusters")
        self._moves_snapshots = self._places("snapshots_offset")

    def _read_snapshots(self) -> Snapshots:
        fields = self._old
        count = fields["nb_snapshots"]
        return Snapshots(
            self._disk, fields["snapshots_offset"] if count else 0, count, fields["size"]
        )

    def _places(self, *names: str) -> bool:
        """Whether one of these fields changes."""
        return any(self._old[name] != self._new[name] for name in names)

    def judge(self, bitmaps: bytes | None) -> None:
        self._judge_refcount_table()
        if self._moves_snapshots:
            self._judge_snapshot_table()
        if bitmaps is not None:
            self._ledger.release(bitmap_clusters(self._disk, bitmaps))
        tables, active = self._judge_mapping()
        self._ledger.judge(self._prepared, self._phases[INSTAR_PHASE_RELEASE])
        for number in (INSTAR_PHASE_PREPARE, INSTAR_PHASE_REFCOUNT_TABLE, INSTAR_PHASE_RELEASE):
            for sector in self._phases[number]:
                raise GuestFault(f"the guest writes sector {sector} in phase {number} for nothing")
        if not self._zeroed.all_have_reasons():
            raise GuestFault("the guest zeroes clusters for nothing")
        self._judge_metadata(tables | active)
        try:
            self._judge_l1_tables(tables, active)
        except OutsideError as error:
            if self._downgrades:
                raise
            # The guest has no need to look at what an upgrade leaves as it is.
            raise ImageRejected((table_outside(error.offset),)) from error

    def _judge_mapping(self) -> tuple[set[int], set[int]]:
        """Return the clusters that must be L2 tables of any layer, and of the active one."""
        mapped, flagged = self._phases[INSTAR_PHASE_MAPPING], self._phases[INSTAR_PHASE_FLAGS]
        if not mapped and not flagged:
            return set(), set()
        if not self._downgrades:
            raise GuestFault("the guest changes L2 entries in an upgrade")
        encrypted = self._old["crypt_method"] != 0
        mapping = Mapping(
            self._disk, self._ledger, self._zeroed, backed=self._backed, encrypted=encrypted
        )
        tables = mapping.judge(mapped)
        return tables, mapping.judge_flags(flagged, mapped)

    def _judge_refcount_table(self) -> None:
        """New refcount blocks, named by the table as it is or by one in a new place."""
        staged = self._phases[INSTAR_PHASE_REFCOUNT_TABLE]
        ledger, disk = self._ledger, self._disk
        if self._moves_refcounts:
            clusters = self._new["refcount_table_clusters"]
            if clusters < len(ledger.table_clusters):
                raise GuestFault("the guest makes the refcount table smaller")
            if clusters * disk.cluster_size > len(self._prepared) * SECTOR_SIZE:
                raise GuestFault("the guest moves the refcount table and does not write it")
            place = disk.clusters(self._new["refcount_table_offset"], clusters * disk.cluster_size)
            table = bytearray(self._take_structure(place))
            ledger.release(ledger.table_clusters)
        else:
            table = bytearray(ledger.table)
            first = ledger.table_clusters.start << (disk.cluster_bits - 9)
            for sector in list(staged):
                at = (sector - first) * SECTOR_SIZE
                if 0 <= at < len(table):
                    table[at : at + SECTOR_SIZE] = staged.pop(sector)
        self._judge_table_entries(table)

    def _judge_table_entries(self, table: bytearray) -> None:
        old = self._ledger.table.ljust(len(table), b"\0")
        if table == old:
            return
        for at in range(0, len(table), SECTOR_SIZE):
            if table[at : at + SECTOR_SIZE] == old[at : at + SECTOR_SIZE]:
                continue
            for place in range(at, at + SECTOR_SIZE, 8):
                entry, was = (int.from_bytes(t[place : place + 8], "big") for t in (table, old))
                if entry == was:
                    continue
                if was:
                    raise GuestFault(f"the guest changes the refcount table's entry {was:#x}")
                self._ledger.add_block(place // 8, entry)

    def _judge_snapshot_table(self) -> None:
        """The new table is the old one with the extra data that version 3 requires."""
        snapshots = self._snapshots
        if self._downgrades or not snapshots.lacks_extra_data:
            raise GuestFault("the guest moves a snapshot table that need not change")
        place = self._disk.clusters(self._new["snapshots_offset"], len(snapshots.upgraded))
        table = self._take_structure(place, len(snapshots.upgraded))
        if table.rstrip(b"\0") != snapshots.upgraded.rstrip(b"\0"):
            raise GuestFault("the guest changes more of the snapshots than they lack")
        self._ledger.release(snapshots.clusters)

    def _take_structure(self, clusters: range, size: int | None = None) -> bytes:
        """The staged contents of new clusters, the first `size` bytes of which must be staged."""
        if not clusters.start:
            raise GuestFault("the guest puts a table into the header cluster")
        for cluster in clusters:
            self._ledger.take(cluster)
        shift = self._disk.cluster_bits - 9
        data = []
        for at, sector in enumerate(range(clusters.start << shift, clusters.stop << shift)):
            staged = self._prepared.pop(sector, None)
            if staged is None and (size is None or at * SECTOR_SIZE < size):
                raise GuestFault(f"the guest leaves sector {sector} of a new table unwritten")
            data.append(staged or bytes(SECTOR_SIZE))
        return b"".join(data)

    def _judge_metadata(self, mapped: set[int]) -> None:
        """Nothing of what the image's tables are in comes into use for something else.

        `mapped` are the clusters that are written as L2 tables.
        """
        ledger, fields, shift = self._ledger, self._old, self._disk.cluster_bits
        self._keep_apart((0,), mapped)
        l1_tables = [(fields["l1_table_offset"], fields["l1_size"]), *self._snapshots.l1_tables]
        for offset, entries in l1_tables:
            end = -(-(offset + 8 * entries) >> shift)
            self._keep_apart(range(offset >> shift, end) if entries else (), mapped)
        self._keep_apart([offset >> shift for _, offset in ledger.blocks()], mapped)
        self._keep_apart(ledger.table_clusters, mapped, released=self._moves_refcounts)
        self._keep_apart(self._snapshots.clusters, mapped, released=self._moves_snapshots)

    def _keep_apart(
        self, clusters: Collection[int], mapped: set[int], *, released: bool = False
    ) -> None:
        self._keep(clusters, released=released)
        for cluster in mapped.intersection(clusters):
            raise self._ledger.overlap(cluster)

    def _keep(self, clusters: Iterable[int], *, released: bool = False) -> None:
        """See that these clusters are neither taken, zeroed nor, unless they may be, set free.

        If one is, the image's refcounts are wrong, which the guest could not know.
        """
        ledger, zeroed = self._ledger, self._zeroed
        for cluster in clusters:
            change = ledger.change(cluster)
            freed = change < 0 and not released and ledger.old(cluster) + change == 0
            if change > 0 or freed or cluster in zeroed:
                raise ledger.overlap(cluster)

    def _judge_l1_tables(self, tables: set[int], active: set[int]) -> None:
        """What was written as an L2 table is one, and none comes into use for something else.

        Where no cluster does at all, the walk ends when the tables that were written are met.
        """
        missing = tables | active
        all_tables: set[int] = set()
        moves = self._ledger.has_changes() or self._zeroed.any()
        shift = self._disk.cluster_bits
        layers = [(self._old["l1_table_offset"], self._old["l1_size"])], self._snapshots.l1_tables
        for layer in layers:
            for offset, entries in _apart(layer):
                if not missing and not moves:
                    return
                for words in self._disk.distinct_words(offset, entries):
                    met = {(word & OFFSET_MASK) >> shift for word in words} - {0}
                    self._keep(met)
                    missing -= met
                    all_tables |= met
            if layer is layers[0] and missing & active:
                raise GuestFault("the guest sets flags outside the active layer's L2 tables")
        if missing:
            raise GuestFault("the guest writes L2 entries where no L2 table is")
        judge_data(self._disk, all_tables, self._zeroed, self._ledger)


def _apart(l1_tables: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Tables, as offset and number of entries, without what others have of them: read once."""
    done = 0
    for offset, entries in sorted(l1_tables):
        start, end = max(offset, done), offset + 8 * entries
        if start < end:
            yield start, (end - start) // 8
            done = end
