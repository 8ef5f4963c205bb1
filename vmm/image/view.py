"""Host side: an image as the steps before leave it, of which nothing is written yet."""

from __future__ import annotations

from bisect import bisect_right

from instar.abi import INSTAR_PHASE_COUNT, INSTAR_SEGMENTS_MAX, INSTAR_STAGED_MAX

from .budgets import WORK_FACTOR, staging_budget, work_budget
from .staging import SECTOR_SIZE, StagedWrites

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .image_file import ImageFile


class ImageView:
    """An image file, overlaid by what its steps stage; it is read and measured as an ImageFile is.

    What the steps may take in all is counted here: they share one budget each of bytes read, of
    growth, of sectors staged and of ranges zeroed.
    """

    def __init__(self, image: ImageFile) -> None:
        """Start with the file as it is."""
        self._image = image
        self._layers: list[StagedWrites] = []
        self._staged = self._ranges = 0
        self.name, self.is_device = image.name, image.is_device
        self.size = image.size
        """Of the file, in bytes, with what has been laid over it."""
        self.max_growth = image.max_growth
        """By how many bytes the file may still grow."""
        self.work_max = image.work_max
        """What is left of the image's budget of bytes read."""
        self.tables = 0
        """How many bytes of new tables the step at hand may take, whatever the image holds."""
        self.stored = image.stored
        """How many of its bytes are stored, at most."""
        self.work = 0
        """How many bytes a guest has read since the last layer."""

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file were read."""
        return self._image.bytes_read

    @property
    def budget(self) -> int:
        """What the step at hand may cost, in bytes that are read."""
        return work_budget(self.work_max, self.tables)

    def stage(self, max_growth: int) -> StagedWrites:
        """Make room for what a step stages: as much as for one step alone, within what is left."""
        image = self._image
        budget = staging_budget(image.size, max_growth, self.tables)
        left = INSTAR_STAGED_MAX - self._staged
        return StagedWrites(min(budget, left), INSTAR_SEGMENTS_MAX - self._ranges)

    def lay(self, staged: StagedWrites, work: int = 0) -> None:
        """Put a step over those before, which was judged with so much work; it stays as it is.

        A step has cost what its guest read, or what it took to judge it, whichever is more. The
        tables that were asked for are paid for as if they were stored already: what follows them
        costs the next step what it would cost an amend of its own.
        """
        size = size_after(self.size, staged)
        self.max_growth = max(self.max_growth - (size - self.size), 0)
        self.size = size
        left = max(self.budget - max(work, self.work), 0)
        paid = WORK_FACTOR * min(staged.size(), self.tables)
        self.work_max = min(self.work_max, left) + paid
        self.work = 0
        self._staged += staged.size()
        self._ranges += staged.range_count()
        self.stored += staged.size()
        self._layers.append(staged)

    def pass_over(self) -> None:
        """Have a step cost what its guest read, of which there is nothing to lay."""
        self.work_max = min(self.work_max, max(self.budget - self.work, 0))
        self.work = 0

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes, or less at the end."""
        if not self._layers:
            return self._image.read(offset, size)
        end = min(offset + size, self.size)
        first, last = offset // SECTOR_SIZE, -(-end // SECTOR_SIZE)
        if offset >= end:
            return b""
        data = bytearray((last - first) * SECTOR_SIZE)
        with memoryview(data) as view:
            self._read(first, view)
        start = offset - first * SECTOR_SIZE
        return bytes(data[start : start + end - offset])

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view`, whole sectors, for a guest; past the end come zeros."""
        self.work += len(view)
        self._read(offset // SECTOR_SIZE, view)

    def _read(self, sector: int, view: memoryview) -> None:
        self._image.read_into(sector * SECTOR_SIZE, view)
        for staged in self._layers:
            _clear(staged, sector, view)
            staged.overlay(sector, view, INSTAR_PHASE_COUNT)


def size_after(size: int, staged: StagedWrites) -> int:
    """The size of a file of this size after a commit.

    It grows by whole sectors, for what is written or zeroed after its last one; zeros within the
    last one, which may be cut, leave it as it is.
    """
    sectors, rest = divmod(size, SECTOR_SIZE)
    last = sectors + bool(rest)
    if staged.end() > last:
        return staged.end() * SECTOR_SIZE
    written = any(staged.sector(phase, sectors) for phase in range(INSTAR_PHASE_COUNT))
    return last * SECTOR_SIZE if rest and written else size


def _clear(staged: StagedWrites, sector: int, view: memoryview) -> None:
    """Put zeros where a step zeroes."""
    starts, ends = staged.zeroed()
    end = sector + len(view) // SECTOR_SIZE
    at = max(bisect_right(starts, sector) - 1, 0)
    while at < len(starts) and starts[at] < end:
        low, high = max(starts[at], sector) - sector, min(ends[at], end) - sector
        if low < high:
            view[low * SECTOR_SIZE : high * SECTOR_SIZE] = bytes((high - low) * SECTOR_SIZE)
        at += 1


if TYPE_CHECKING:
    AnyImage: TypeAlias = ImageFile | ImageView
    """What can be read and measured as an image."""
