"""Host side: the guest's writes, kept from the image until they have been judged."""

from __future__ import annotations

from struct import Struct

from instar.abi import INSTAR_PHASE_COUNT, INSTAR_SEGMENTS_MAX, INSTAR_STAGED_MAX
from instar.vmm.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Numbers = memoryview[int]

SECTOR_SIZE = 512

_HEADERS = 128 << 10  # twice what a header takes
_CHUNK_BITS = 11  # sectors in a chunk: as many as one block request has
_PIECE = 1 << 20
_RANGE = Struct("=QQ")


def staging_budget(image_size: int, max_growth: int) -> int:
    """The bytes that a guest may stage for an image of this size, which may grow by so many.

    INSTAR_STAGED_MAX is the most for any image.

    A sector of the image is written in two phases at most. Of what the file grows by, only tables
    are staged: a refcount takes two bytes, and a cluster no less than 512.
    """
    return min(INSTAR_STAGED_MAX, _HEADERS + 2 * image_size + max_growth // 128)


class ZeroedInUse(GuestFault):
    """A sector is to be zeroed, and to be zeroed again or written."""

    def __init__(self, sector: int, what: str) -> None:
        """Take the sector, and what else is to happen to it."""
        super().__init__(f"sector {sector} is to be zeroed {what}")
        self.sector = sector


class StagedWrites:
    """An overlay of sectors for each phase, and ranges that are to be zeroed in the first.

    `phases` maps, for each phase, a sector number to its 512 bytes.
    """

    def __init__(self, budget: int = INSTAR_STAGED_MAX) -> None:
        """Start with nothing; `budget` is in bytes."""
        self.phases: list[dict[int, bytes]] = [{} for _ in range(INSTAR_PHASE_COUNT)]
        self._chunks: list[set[int]] = [set() for _ in range(INSTAR_PHASE_COUNT)]
        # There may be a million ranges: packed they take a tenth of the memory.
        self._ranges = bytearray()
        self._last = (0, 0)
        self._zeroed: tuple[Numbers, Numbers] | None = None
        self._budget = budget

    def write(self, sector: int, data: bytes, phase: int) -> None:
        """Stage whole sectors; the last write of one counts. GuestFault beyond the budget.

        A sector that is written again in the same phase takes nothing of the budget.
        """
        sectors, chunks = self.phases[phase], self._chunks[phase]
        size = len(sectors)
        numbers = range(sector, sector + len(data) // SECTOR_SIZE)
        for at, number in enumerate(numbers):
            sectors[number] = data[at * SECTOR_SIZE : (at + 1) * SECTOR_SIZE]
        chunks.update(range(sector >> _CHUNK_BITS, (numbers.stop - 1 >> _CHUNK_BITS) + 1))
        self._zeroed = None
        self._budget -= (len(sectors) - size) * SECTOR_SIZE
        if self._budget < 0:
            raise GuestFault("more sectors written than any amend of this image needs")

    def zero(self, sector: int, count: int) -> None:
        """Stage zeros for `count` sectors, at least one. GuestFault for too many ranges.

        Those that follow each other in the file and in time count as one.
        """
        ranges, (last, length) = self._ranges, self._last
        joined = bool(ranges) and last + length == sector
        if joined:
            sector, count = last, length + count
            del ranges[-_RANGE.size :]
        elif len(ranges) >= INSTAR_SEGMENTS_MAX * _RANGE.size:
            raise GuestFault(f"more than {INSTAR_SEGMENTS_MAX} ranges to be zeroed")
        self._last = sector, count
        ranges += _RANGE.pack(sector, count)
        self._zeroed = None

    def overlay(self, sector: int, view: memoryview, phase: int) -> None:
        """Put the staged sectors of all phases below `phase` over those from `sector` on."""
        numbers = range(sector, sector + len(view) // SECTOR_SIZE)
        wanted = range(sector >> _CHUNK_BITS, (numbers.stop - 1 >> _CHUNK_BITS) + 1)
        for sectors, chunks in zip(self.phases[:phase], self._chunks, strict=False):
            if not sectors or chunks.isdisjoint(wanted):
                continue
            few = len(sectors) < len(numbers)
            for number in list(sectors) if few else numbers:
                data = sectors.get(number)
                if data is not None and number in numbers:
                    at = (number - sector) * SECTOR_SIZE
                    view[at : at + SECTOR_SIZE] = data

    def zeroed(self) -> tuple[Numbers, Numbers]:
        """The ranges to be zeroed: first sectors, ascending, and ends; none is next to another.

        Raises ZeroedInUse if one overlaps another, or a sector that is written.
        """
        if self._zeroed is None:
            self._zeroed = self._join()
        return self._zeroed

    def _join(self) -> tuple[Numbers, Numbers]:
        joined, start, end = bytearray(), -1, -1
        # As tuples they would take thrice the memory.
        keys = sorted(first << 64 | count for first, count in _RANGE.iter_unpack(self._ranges))
        for first, count in (divmod(key, 1 << 64) for key in keys):
            if first < end:
                raise ZeroedInUse(first, "twice")
            if first == end:
                end += count
                continue
            if end >= 0:
                joined += _RANGE.pack(start, end)
            start, end = first, first + count
        if end >= 0:
            joined += _RANGE.pack(start, end)
        numbers = memoryview(joined).cast("Q")
        starts, ends = numbers[::2], numbers[1::2]
        self._keep_apart(starts, ends)
        return starts, ends

    def _keep_apart(self, starts: Numbers, ends: Numbers) -> None:
        if not len(starts):
            return
        at = 0
        for number in sorted({number for sectors in self.phases for number in sectors}):
            while at < len(ends) and ends[at] <= number:
                at += 1
            if at < len(ends) and starts[at] <= number:
                raise ZeroedInUse(number, "and written")

    def end(self) -> int:
        """The sector behind the last one that is written or zeroed; 0 if nothing is."""
        last = max((number for sectors in self.phases for number in sectors), default=-1)
        ends = self.zeroed()[1]
        return max(last + 1, ends[-1] if len(ends) else 0)

    def is_empty(self) -> bool:
        """Whether nothing is written or zeroed."""
        return not self._ranges and not any(self.phases)


def runs(phase: dict[int, bytes]) -> Iterator[tuple[int, int]]:
    """Join a phase's sectors into (first sector, end), ascending, one for each contiguous run."""
    start = end = -1
    for sector in sorted(phase):
        if sector != end:
            if start >= 0:
                yield start, end
            start = sector
        end = sector + 1
    if start >= 0:
        yield start, end


def pieces(phase: dict[int, bytes], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Take a run apart into (byte offset, data) of at most a MiB."""
    step = _PIECE // SECTOR_SIZE
    for first in range(start, end, step):
        numbers = range(first, min(first + step, end))
        yield first * SECTOR_SIZE, b"".join([phase[number] for number in numbers])
