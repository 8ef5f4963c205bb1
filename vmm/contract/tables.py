"""Host side: the write contract for all that an amend changes besides the header.

Every staged sector must be one of the kinds that its phase allows, and the refcounts must end as
the change leads to. The host follows the image's pointers here: the refcount table, the snapshot
table, the L1 tables and, where clusters come into use or are set free, all L2 tables. What does not
fit is the guest's fault; the image's are clusters that it uses twice, and tables out of proportion.
"""

from __future__ import annotations

from bisect import bisect_left

from instar.abi import (
    AMEND_USE_BITMAP,
    AMEND_USE_COMPRESSED,
    AMEND_USE_HEADER,
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_MAPPING,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_RELEASE,
)
from instar.vmm.contract_data import Data, compressed_in_header
from instar.vmm.contract_disk import OFFSET_MASK, Disk, OutsideError
from instar.vmm.contract_mapping import Mapping, Zeroed
from instar.vmm.contract_refcounts import Ledger
from instar.vmm.contract_structures import Snapshots, bitmap_clusters, crypto_header
from instar.vmm.errors import GuestFault, ImageRejected
from instar.vmm.staging import SECTOR_SIZE
from instar.vmm.verdict import overlap, table_outside, too_few_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from instar.vmm.contract_terms import Original
    from instar.vmm.errors import Refusal
    from instar.vmm.header_view import HeaderView
    from instar.vmm.staging import Numbers

_ENTRIES = 64  # in a sector of an L2 table


def judge_tables(
    original: Original,
    before: HeaderView,
    after: HeaderView,
    phases: list[dict[int, bytes]],
    zeroes: tuple[Numbers, Numbers],
    bitmaps: bytes | None,
) -> None:
    """Judge what is staged besides the header, whose change is judged already.

    Args:
        original: the image file.
        before: the header as it is.
        after: the header as it will be; only the place of the refcount table and of the snapshot
            table are still open.
        phases: the sectors staged in each phase but those of the header cluster; used up.
        zeroes: the ranges to be zeroed, as StagedWrites.zeroed() gives them.
        bitmaps: the bitmaps extension whose clusters are to be released, if any.

    Raises:
        GuestFault: something is missing, wrong, or has no place there.
        ImageRejected: a cluster that is free by its refcount belongs to a table of the image, or
            the tables are too large to be judged.
    """
    _Tables(original, before, after, phases, zeroes).judge(bitmaps)


def judge_header_cluster(original: Original, before: HeaderView) -> None:
    """See that no compressed cluster of any layer has its data in the header's cluster.

    Raises ImageRejected if one has, and GuestFault for tables that the guest had to refuse.
    """
    fields = before.fields
    disk, count = Disk(original, fields["cluster_bits"]), fields["nb_snapshots"]
    snapshots = Snapshots(disk, fields["snapshots_offset"] if count else 0, count, fields["size"])
    seen: set[int] = set()
    layers = [(fields["l1_table_offset"], fields["l1_size"]), *snapshots.l1_tables]
    for offset, entries in _apart(layers):
        for words in disk.distinct_words(offset, entries):
            tables = {(word & OFFSET_MASK) >> disk.cluster_bits for word in words} - {0} - seen
            if compressed_in_header(disk, tables):
                raise ImageRejected((overlap(0, AMEND_USE_HEADER, AMEND_USE_COMPRESSED),))
            seen |= tables


def explain(original: Original, before: HeaderView, sector: int) -> Refusal | None:
    """Say what is wrong with an image in which a cluster to be zeroed has another use too.

    None if by its refcount the cluster is free, and holds no refcounts: the guest is to blame.
    """
    fields = before.fields
    disk = Disk(original, fields["cluster_bits"])
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
        original: Original,
        before: HeaderView,
        after: HeaderView,
        phases: list[dict[int, bytes]],
        zeroes: tuple[Numbers, Numbers],
    ) -> None:
        self._phases = phases
        self._prepared = phases[INSTAR_PHASE_PREPARE]
        self._old, self._new = before.fields, after.fields
        self._backed = bool(before.name)  # an empty name is none to qemu too
        if self._old.get("refcount_order", 4) != 4:
            raise GuestFault("the guest changes refcounts that are not 16 bits wide")
        self._disk = Disk(original, self._old["cluster_bits"])
        self._ledger = Ledger(
            self._disk,
            self._old["refcount_table_offset"],
            self._old["refcount_table_clusters"],
            sum(map(len, phases)),
        )
        self._downgrades = self._new["version"] == 2
        mapped = len(phases[INSTAR_PHASE_MAPPING])
        self._zeroed = Zeroed(self._disk, *zeroes, _ENTRIES * mapped)
        self._crypto_header = crypto_header(self._disk, before.extensions)
        self._written_table: set[int] = set()
        """The clusters of the refcount table that are written, where it stays in its place."""
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
        # What is staged for a block that is something else too need not add up.
        blocks = self._ledger.written_blocks()
        self._judge_metadata(tables | active, blocks)
        if bitmaps is not None:
            written = tables | active | blocks | self._written_table
            for cluster in bitmap_clusters(self._disk, bitmaps) if written else ():
                if cluster in written:
                    raise self._ledger.overlap(cluster, AMEND_USE_BITMAP)
        self._ledger.judge(self._prepared, self._phases[INSTAR_PHASE_RELEASE])
        for number in (INSTAR_PHASE_PREPARE, INSTAR_PHASE_REFCOUNT_TABLE, INSTAR_PHASE_RELEASE):
            for sector in self._phases[number]:
                raise GuestFault(f"the guest writes sector {sector} in phase {number} for nothing")
        if not self._zeroed.all_have_reasons():
            raise GuestFault("the guest zeroes clusters for nothing")
        try:
            self._judge_l1_tables(tables, active, blocks)
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
                    self._written_table.add(sector >> (disk.cluster_bits - 9))
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
        upgraded = snapshots.upgraded()
        place = self._disk.clusters(self._new["snapshots_offset"], len(upgraded))
        table = self._take_structure(place, len(upgraded))
        if table.rstrip(b"\0") != upgraded.rstrip(b"\0"):
            raise GuestFault("the guest changes more of the snapshots than they lack")
        self._ledger.release(snapshots.clusters)

    def _take_structure(self, clusters: range, size: int | None = None) -> bytes:
        """The staged contents of new clusters, the first `size` bytes of which must be staged."""
        if not clusters.start:
            raise GuestFault("the guest puts a table into the header cluster")
        # Its contents would be refcounts too, so that they need not be what they should.
        for _, offset in self._ledger.blocks():
            if offset >> self._disk.cluster_bits in clusters:
                raise self._ledger.overlap(offset >> self._disk.cluster_bits)
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

    def _judge_metadata(self, mapped: set[int], blocks: set[int]) -> None:
        """Nothing of what the image's tables are in comes into use for something else.

        `mapped` are the clusters that are written as L2 tables, `blocks` as refcount blocks.
        """
        ledger, shift = self._ledger, self._disk.cluster_bits
        others = sorted(mapped | blocks)
        written = sorted(mapped | blocks | self._written_table)
        self._keep_apart(range(1), written)
        self._keep_apart(self._crypto_header, written)
        for offset, entries in _apart(self._l1_tables()):
            self._keep_apart(
                range(offset >> shift, (offset + 8 * entries - 1 >> shift) + 1), written
            )
        self._judge_blocks(mapped, blocks)
        self._keep_apart(ledger.table_clusters, others, released=self._moves_refcounts)
        self._keep_apart(self._snapshots.clusters, written, released=self._moves_snapshots)

    def _judge_blocks(self, mapped: set[int], blocks: set[int]) -> None:
        """The same for refcount blocks, up to a million; one that is written stands there once."""
        ledger, zeroed, shift = self._ledger, self._zeroed, self._disk.cluster_bits
        met: set[int] = set()
        others = mapped | self._written_table
        for _, offset in ledger.blocks():
            cluster = offset >> shift
            if cluster in others or cluster in zeroed or (cluster in blocks and cluster in met):
                raise ledger.overlap(cluster)
            if ledger.change(cluster) and cluster not in met:
                self._keep(cluster)
            if cluster in blocks or ledger.change(cluster):
                met.add(cluster)

    def _l1_tables(self) -> list[tuple[int, int]]:
        """Offset and number of entries of each L1 table, the active one first."""
        fields = self._old
        return [(fields["l1_table_offset"], fields["l1_size"]), *self._snapshots.l1_tables]

    def _keep_apart(self, clusters: range, written: list[int], *, released: bool = False) -> None:
        for cluster in self._ledger.changed(clusters):
            self._keep(cluster, released=released)
        zeroed = self._zeroed.first_of(clusters)
        if zeroed is not None:
            raise self._ledger.overlap(zeroed)
        at = bisect_left(written, clusters.start)
        if at < len(written) and written[at] in clusters:
            raise self._ledger.overlap(written[at])

    def _keep(self, cluster: int, *, released: bool = False) -> None:
        """See that a cluster is neither taken, zeroed nor, unless it may be, set free.

        If it is, the image's refcounts are wrong, which the guest could not know.
        """
        allowed = released and self._ledger.change(cluster) < 0
        if cluster in self._zeroed or (not allowed and self._ledger.moves(cluster)):
            raise self._ledger.overlap(cluster)

    def _judge_l1_tables(self, tables: set[int], active: set[int], blocks: set[int]) -> None:
        """What was written as an L2 table is one, and none comes into use for something else.

        Where no cluster does at all, the walk ends when the tables that were written are met.
        """
        missing = tables | active
        blocks = blocks | self._written_table
        data = Data(self._disk, self._zeroed, self._ledger, tables | active | blocks)
        moves = self._ledger.has_changes() or self._zeroed.any()
        shift = self._disk.cluster_bits
        l1_tables = self._l1_tables()
        for is_active, layer in ((True, l1_tables[:1]), (False, l1_tables[1:])):
            for offset, entries in _apart(layer):
                if not missing and not moves:
                    return
                for words in self._disk.distinct_words(offset, entries):
                    met = {(word & OFFSET_MASK) >> shift for word in words} - {0}
                    for table in met:
                        self._keep(table)
                    for table in met & blocks:
                        raise self._ledger.overlap(table)
                    missing -= met
                    data.judge(met)
            if is_active and missing & active:
                raise GuestFault("the guest sets flags outside the active layer's L2 tables")
        if missing:
            raise GuestFault("the guest writes L2 entries where no L2 table is")


def _apart(l1_tables: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Tables, as offset and number of entries, without what others have of them: read once."""
    done = 0
    for offset, entries in sorted(l1_tables):
        start, end = max(offset, done), offset + 8 * entries
        if start < end:
            yield start, (end - start) // 8
            done = end
