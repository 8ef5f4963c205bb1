"""Persistent bitmaps: directory, tables and data. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tests.support.forge.layout import BitmapDirectoryEntry, BitmapsExtension, BitmapTableEntry
from tests.support.forge.space import Space

IN_USE = 1 << 0
AUTO = 1 << 1
EXTRA_DATA_COMPATIBLE = 1 << 2
DIRTY_TRACKING = 1


@dataclass(frozen=True, kw_only=True)
class Bitmap:
    """A bitmap, all zeros but for the bits whose numbers are in `dirty`."""

    name: bytes
    dirty: Collection[int] = ()
    flags: int = AUTO
    type: int = DIRTY_TRACKING
    granularity_bits: int = 16
    extra_data: bytes = b""

    def place(self, region: str, space: Space, size: int) -> bytes:
        """Store table and data for a disk of `size` bytes; returns the directory entry."""
        bits = -(-size // (1 << self.granularity_bits))
        entries = space.clusters_for(-(-bits // 8))
        table = bytearray(8 * entries)
        for number, data in sorted(self._data(space.cluster_size).items()):
            offset = space.place(f"{region}.data[{number}]", bytes(data))
            entry = BitmapTableEntry.build({"host_cluster_offset": offset})
            table[8 * number : 8 * number + 8] = entry
        table_offset = space.place(f"{region}.table", bytes(table))
        return bytes(
            BitmapDirectoryEntry.build(
                {
                    "bitmap_table_offset": table_offset,
                    "bitmap_table_size": entries,
                    "flags": self.flags,
                    "type": self.type,
                    "granularity_bits": self.granularity_bits,
                    "extra_data": self.extra_data,
                    "name": self.name,
                }
            )
        )

    def _data(self, cluster_size: int) -> dict[int, bytearray]:
        """The clusters of bitmap data that are not all zeros, by bitmap table entry."""
        clusters: dict[int, bytearray] = {}
        for bit in self.dirty:
            number, inside = divmod(bit, 8 * cluster_size)
            clusters.setdefault(number, bytearray(cluster_size))[inside // 8] |= 1 << inside % 8
        return clusters


def place_bitmaps(bitmaps: Sequence[Bitmap], space: Space, size: int) -> bytes:
    """Store the bitmaps and their directory; returns the data of the bitmaps extension."""
    directory = b"".join(
        bitmap.place(f"bitmap[{n}]", space, size) for n, bitmap in enumerate(bitmaps)
    )
    return bytes(
        BitmapsExtension.build(
            {
                "nb_bitmaps": len(bitmaps),
                "bitmap_directory_size": len(directory),
                "bitmap_directory_offset": space.place("bitmap_directory", directory),
            }
        )
    )
