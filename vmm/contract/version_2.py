"""Host side: whether an image that becomes version 2 holds only what that version has.

The qcow2 specification, "Header", "Standard Cluster Descriptor" and "Snapshots": bit 0 of an L2
entry is reserved there, and compressed data are of zlib. A guest may have left some out.
"""

from __future__ import annotations

from ..base.errors import GuestFault
from ..qcow2 import INCOMPATIBLE_COMPRESSION
from .reader.disk import COMPRESSED, NOT_COMPRESSED, ZERO, Disk
from .reader.l1_tables import l2_tables
from .reader.structures import Snapshots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..qcow2.header_view import HeaderView
    from .terms import Original

_EVEN = bytes(range(0, 256, 2))


class Version2:
    """What version 2 has, held against the tables of an image that it has been."""

    def __init__(self, before: HeaderView) -> None:
        """Take the header as it is."""
        # "compression_type": it is not zlib if and only if the feature is there.
        self._zlib = not before.fields["incompatible_features"] & INCOMPATIBLE_COMPRESSION

    def judge_snapshots(self, snapshots: Snapshots) -> None:
        """GuestFault for a snapshot with a size that version 2 has no field for."""
        if not snapshots.fit_version_2():
            raise GuestFault("the guest leaves a snapshot that version 2 cannot say")

    def judge_tables(self, rows: list[tuple[int, bytes]], size: int) -> None:
        """The same as judge_table() for tables in rows, none of which is written, by their offsets.

        `size` is that of a cluster.
        """
        try:
            self.judge_table(b"".join([data for _, data in rows]), rows[0][0])
        except GuestFault:
            for offset, data in rows:
                for at in range(0, len(data), size):
                    self.judge_table(data[at : at + size], offset + at)

    def judge_table(self, table: bytes, offset: int, *, mapped: bool = False) -> None:
        """GuestFault for an entry that version 2 does not know, in a part of an L2 table as it is.

        `offset` is where the table begins. If it is `mapped`, mapping.py judges its zero clusters;
        a flag of COPIED leaves them as they are.
        """
        if not mapped:
            judge_zero_flags(table, offset)
        if not self._zlib and table[0::8].translate(None, NOT_COMPRESSED):
            raise GuestFault(f"the guest leaves what zlib cannot read in the table at {offset:#x}")


def judge_zero_flags(table: bytes | bytearray, offset: int) -> None:
    """GuestFault for a zero cluster in a part of an L2 table, which begins at `offset`."""
    if has_zero_flag(table):
        raise GuestFault(f"the guest leaves zero clusters in the L2 table at {offset:#x}")


def has_zero_flag(table: bytes | bytearray) -> bool:
    """Whether an L2 table has an entry that version 2 does not know."""
    flags = table[7::8]
    # Most tables have none at all, and to compare is many times as fast as to search.
    if flags == bytes(len(flags)) or not flags.translate(None, _EVEN):
        return False
    first = COMPRESSED >> 56
    return any(
        low & ZERO and not high & first for high, low in zip(table[0::8], flags, strict=True)
    )


def judge_untouched(original: Original, before: HeaderView) -> None:
    """Judge an image of which a downgrade changes the header alone.

    Raises GuestFault, ImageRejected and OutsideError.
    """
    fields, judgement = before.fields, Version2(before)
    disk = Disk(original, fields["cluster_bits"], 0)
    snapshots = Snapshots(disk, fields["snapshots_offset"], fields["nb_snapshots"], fields["size"])
    judgement.judge_snapshots(snapshots)
    layers = [(fields["l1_table_offset"], fields["l1_size"]), *snapshots.l1_tables]
    for row in disk.rows(l2_tables(disk, layers, set())):
        start = row.start << disk.cluster_bits
        for piece in disk.pieces(start, len(row) * disk.cluster_size):
            judgement.judge_tables([(start, piece)], disk.cluster_size)
