"""Hostile images laid out by hand: parts behind each other, and holes between them. Test side."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.hostile.bulk import regions_end
from tests.hostile.case import BACKING_FILE, Case, Regions, fields, u32, u64
from tests.support.forge import Extension, Image, layout
from tests.support.forge.description import Patch

MIB = 1 << 20
DIFFERS = {
    "": "",
    "growth": "growth_limited",
    "overlap": "metadata_kept",
    "refcount": "metadata_kept",
    "refcount_table": "metadata_kept",
    "snapshot_table": "file_must_be_whole",
    "work_limit": "work_is_bounded",
}
"""Why instar refuses for a reason where qemu-img does not."""


def words(numbers: Iterable[int]) -> bytes:
    """Very many numbers as they stand in tables."""
    table = array("Q", numbers)
    table.byteswap()
    return table.tobytes()


def snapshots(tables: Iterable[tuple[int, int]], size: int, *, extra: int = 16) -> bytes:
    """A snapshot table, from the place of each L1 table and the number of its entries."""
    data = u64(0, size, 0)[:extra]
    tail = bytes(24) + u32(extra) + data
    return b"".join([u64(offset) + u32(entries) + tail for offset, entries in tables])


@dataclass
class Plot:
    """The parts of an image file; what is not a part is a hole."""

    image: Image
    """What they are added to."""
    patches: list[Patch] = field(default_factory=list)
    length: int = 0
    """Of the file; it is as long as its parts at least."""

    def __post_init__(self) -> None:
        self.bits, self.step = self.image.cluster_bits, self.image.geometry.cluster_size
        self.end = regions_end(self.image)

    def put(self, data: bytes) -> int:
        """Append a part; returns its offset."""
        place = self.hole(len(data))
        self.patches.append((place, data))
        return place

    def hole(self, size: int) -> int:
        """Append room for a part, up to the end of its last cluster; returns its offset."""
        place = self.end
        self.end += -(-size // self.step) * self.step
        return place

    def align(self, size: int) -> int:
        """Go on at a multiple of `size`; returns it."""
        self.end = -(-self.end // size) * size
        return self.end

    def l1(self, tables: Iterable[int]) -> int:
        """Append the active L1 table, from the offsets of L2 tables."""
        data = words(tables)
        place = self.put(data)
        self.patches += fields(l1_table_offset=place, l1_size=len(data) // 8)
        return place

    def l1_hole(self, entries: int) -> int:
        """Append an active L1 table without an entry."""
        place = self.hole(8 * entries)
        self.patches += fields(l1_table_offset=place, l1_size=entries)
        return place

    def block(self, refcount: int) -> int:
        """Append a refcount block that says the same of all clusters."""
        return self.put(refcount.to_bytes(2, "big") * (self.step // 2))

    def refcounts(self, blocks: Iterable[int]) -> int:
        """Append the refcount table, from the offsets of its blocks."""
        data = words(blocks)
        place = self.put(data)
        clusters = -(-len(data) // self.step)
        self.patches += fields(refcount_table_offset=place, refcount_table_clusters=clusters)
        return place

    def all_count(self, refcount: int, reach: int) -> None:
        """Let one block say of all clusters up to `reach` bytes that they have this refcount."""
        self.refcounts([self.block(refcount)] * self._blocks(reach))

    def count_each(self, refcount: int, reach: int) -> None:
        """The same by blocks of their own, in which refcounts can change."""
        count = self._blocks(reach)
        start = self.put(refcount.to_bytes(2, "big") * (self.step // 2 * count))
        self.refcounts(range(start, self.end, self.step))

    def count_near(self, near: int, room: int) -> None:
        """Count all clusters once, those below `near` by blocks of their own; `room` bytes follow.

        The latter are free.
        """
        own, free = self._blocks(near), self._blocks(room)
        ones = b"\0\1" * (self.step // 2)
        first, other = self.put(ones * own), self.put(ones)
        empty = self.hole(free * self.step)
        used = self._blocks(self.end + MIB) - own
        between = [other] * used
        nearest = range(first, first + own * self.step, self.step)
        self.refcounts([*nearest, *between, *range(empty, empty + free * self.step, self.step)])
        self.length = (own + used + free) * (self.step // 2 * self.step)

    def _blocks(self, reach: int) -> int:
        covered = self.step // 2 * self.step
        return reach // covered + 1

    def snapshots(self, tables: Iterable[tuple[int, int]], *, extra: int = 16) -> int:
        """Append the snapshot table; returns its offset."""
        data = snapshots(tables, self.image.size, extra=extra)
        place = self.put(data)
        self.snapshots_at(place, len(data) // (40 + extra))
        return place

    def snapshots_at(self, place: int, count: int) -> None:
        """Say where the snapshot table is."""
        self.patches += fields(nb_snapshots=count, snapshots_offset=place)

    def bitmaps(self, directory: bytes, count: int) -> None:
        """Append a bitmap directory of `count` entries, which the first extension names."""
        place = self.put(directory)
        data = u32(count, 0) + u64(len(directory), place)
        self.patches.append((layout.HEADER_LENGTH + 8, data))

    def finished(self) -> list[Patch]:
        """What makes the image."""
        return [*self.patches, (max(self.length, self.end), b"")]


def drawn(
    name: str,
    draw: Callable[[Plot], None],
    bits: int = 16,
    *,
    version: int = 3,
    backed: bool = False,
    crypt_method: int = 0,
    reason: str = "",
    differs: str | None = None,
    mib: int = 1,
    **more: Any,
) -> Case:
    """A case whose image `draw` makes of a plot with clusters of 2^bits, when it is written.

    `differs` follows from `reason` if it is not given, and `mib` is how much may be read of the
    image; the other arguments are those of Case.
    """
    maps = [Extension(layout.EXTENSION_BITMAPS, bytes(24))] if more.get("drop_bitmaps") else []
    image = Image(
        version=version,
        cluster_bits=bits,
        size=8 << bits,
        backing_file=BACKING_FILE if backed else None,
        backing_format=b"raw" if backed else None,
        crypt_method=crypt_method,
        first_extensions=maps,
        autoclear_features=layout.AUTOCLEAR_BITMAPS if maps else 0,
    )

    def patches(_regions: Regions) -> list[Patch]:
        plot = Plot(image)
        draw(plot)
        return plot.finished()

    if differs is None:
        differs = DIFFERS[reason]
    return Case(name, image, patches, reason=reason, differs=differs, bytes_read=mib * MIB, **more)


def bitmap(table: int, entries: int, name: bytes = b"") -> bytes:
    """An entry of a bitmap directory: a dirty tracking bitmap of clusters of 64 KiB."""
    head = u64(table) + u32(entries, 0) + bytes([1, 16]) + len(name).to_bytes(2, "big") + u32(0)
    return head + name + bytes(-len(name) % 8)
