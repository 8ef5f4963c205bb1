"""Host side: judges the flags that a repair sets in the active L1 and L2 tables.

An entry says whether its cluster has no other user, so all follow from what has been counted. No
table is anything else too (reference_counts.py): to write one changes nothing that is read.
"""

from __future__ import annotations

from itertools import compress

from instar.abi import INSTAR_PHASE_MAPPING

from ...base.errors import GuestFault
from ...image.staging import SECTOR_SIZE
from ...qcow2 import OFFSET_MASK
from ..pending import Pending
from ..reader.disk import COMPRESSED, COPIED, stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...image.staging import StagedWrites
    from ..reader.disk import Disk
    from ..reader.reference_counts import ReferenceCounts


def take_sectors(phase: Pending, place: int, old: bytes, new: bytes) -> None:
    """See that those sectors are staged that differ, and that they are these. GuestFault."""
    for at in range(0, len(old), SECTOR_SIZE):
        sector = new[at : at + SECTOR_SIZE]
        number = (place + at) // SECTOR_SIZE
        if sector != old[at : at + SECTOR_SIZE] and phase.take(number) != sector:
            raise GuestFault(f"sector {number} does not become what the references make of it")


def judge_flags(
    references: ReferenceCounts, disk: Disk, fields: Mapping[str, int], staged: StagedWrites
) -> None:
    """See that all flags will be right, and that nothing else is staged with them. GuestFault."""
    _Flags(references, disk, fields, staged).judge()


def judge_no_flags(disk: Disk, staged: StagedWrites) -> None:
    """See that none is written. GuestFault."""
    Pending(staged, INSTAR_PHASE_MAPPING, disk.cluster_bits).finish()


class _Flags:
    def __init__(
        self,
        references: ReferenceCounts,
        disk: Disk,
        fields: Mapping[str, int],
        staged: StagedWrites,
    ) -> None:
        self._references, self._disk, self._fields = references, disk, fields
        self._mapping = Pending(staged, INSTAR_PHASE_MAPPING, disk.cluster_bits)

    def judge(self) -> None:
        self._judge_l1_table()
        for table in self._references.active:
            self._judge_l2_table(table)
        self._mapping.finish()

    def _judge_l1_table(self) -> None:
        fields = self._fields
        place, size = fields["l1_table_offset"], 8 * fields["l1_size"]
        for piece in self._disk.pieces(place, -(-size // SECTOR_SIZE) * SECTOR_SIZE):
            new = bytearray(piece)
            for at, block in stored(piece):
                for word_at in range(at, min(at + len(block), size), 8):
                    word = int.from_bytes(piece[word_at : word_at + 8], "big")
                    if word & OFFSET_MASK:
                        new[word_at : word_at + 8] = self._flagged(word).to_bytes(8, "big")
            take_sectors(self._mapping, place, piece, bytes(new))
            place, size = place + len(piece), size - len(piece)

    def _flagged(self, word: int) -> int:
        """An entry of an L1 or L2 table with the flag that it must have."""
        cluster = (word & OFFSET_MASK) >> self._disk.cluster_bits
        return word | COPIED if self._references.counts[cluster] == 1 else word & ~COPIED

    def _judge_l2_table(self, table: int) -> None:
        for place, words in self._references.entries_at(table):
            if self._is_plain(words):
                continue
            changes = {
                at: new
                for at in compress(range(len(words)), words)  # most of many are 0
                if (new := self._flagged_l2(words[at])) != words[at]
            }
            if changes:
                self._take_block(place, changes, len(words))

    def _take_block(self, place: int, changes: dict[int, int], count: int) -> None:
        """Take a block of an L2 table, of so many entries, of which some change."""
        size = min(4096, self._disk.cluster_size)
        old = self._disk.read(place, size)
        step = size // count
        new = bytearray(old)
        for at, word in changes.items():
            new[at * step : at * step + 8] = word.to_bytes(8, "big")
        take_sectors(self._mapping, place, old, bytes(new))

    def _is_plain(self, words: tuple[int, ...]) -> bool:
        """Whether a block of entries names clusters in a row, each with one user, as it says."""
        if not words[0] & COPIED or not self._references.is_run(words):
            return False
        first = (words[0] & OFFSET_MASK) >> self._disk.cluster_bits
        row = self._references.counts[first : first + len(words)]
        return row.count(1) == len(words)

    def _flagged_l2(self, word: int) -> int:
        if word & COMPRESSED or not word & OFFSET_MASK:
            return word
        # Of the clusters of a data file none is shared.
        return word | COPIED if self._references.has_data_file else self._flagged(word)
