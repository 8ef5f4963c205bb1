"""Host side: the guest's writes, kept from the image until they have been judged.

What is staged is extents of sectors, a list for each phase. Nobody outside this file knows how they
are kept; docs/decisions/0018-staging-is-extents.md says why.
"""

from __future__ import annotations

from struct import Struct

from instar.abi import INSTAR_PHASE_COUNT, INSTAR_SEGMENTS_MAX, INSTAR_STAGED_MAX

from ..base.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Extent = tuple[int, memoryview]
    Numbers = memoryview[int]

SECTOR_SIZE = 512

_CHUNK_SHIFT = 11
_CHUNK = 1 << _CHUNK_SHIFT  # sectors: as many as one block request has
_BLOCK = 128  # sectors in a block of the store
_PIECE = 1 << 11  # sectors: what is written at a time, but for a block more
_EXTENT = Struct("=HHI")  # first sector and end, within the chunk; where in the store it begins
_RANGE = Struct("=QQ")


class ZeroedInUse(Exception):
    """A sector is to be zeroed, and to be zeroed again or written: never leaves the package."""

    def __init__(self, sector: int, what: str) -> None:
        """Take the sector, and what else is to happen to it."""
        super().__init__(f"sector {sector} is to be zeroed {what}")
        self.sector = sector


class StagedWrites:
    """An overlay of extents for each phase, and ranges that are to be zeroed in the first."""

    def __init__(
        self, budget: int = INSTAR_STAGED_MAX, ranges_max: int = INSTAR_SEGMENTS_MAX
    ) -> None:
        """Start with nothing; `budget` is in bytes, `ranges_max` how many ranges may be zeroed."""
        # For each phase, and in it for each chunk of the image: its extents, packed, ascending.
        # As objects they would take as much memory as a sector, of which each may be one.
        self._extents: tuple[dict[int, bytes], ...] = tuple({} for _ in range(INSTAR_PHASE_COUNT))
        self._counts = [0] * INSTAR_PHASE_COUNT
        self._store: list[memoryview] = []
        self._used = 0  # sectors of the store
        # There may be a million ranges: packed they take a tenth of the memory.
        self._ranges = bytearray()
        self._last = (0, 0)
        self._ascending = True
        self._end = 0
        self._zeroed: tuple[Numbers, Numbers] | None = None
        self._budget = budget // SECTOR_SIZE
        self._ranges_max = ranges_max

    def write(self, sector: int, data: bytes, phase: int) -> None:
        """Stage whole sectors; the last write of one counts. GuestFault beyond the budget.

        A sector that is written again in the same phase takes nothing of the budget.
        """
        self._zeroed = None
        end = sector + len(data) // SECTOR_SIZE
        if end > self._end and data:
            self._end = end
        first_chunk = sector & -_CHUNK if data else end
        with memoryview(data) as view:
            if end <= first_chunk + _CHUNK:
                if data:
                    self._write_chunk(phase, sector >> _CHUNK_SHIFT, sector - first_chunk, view)
                return
            for first in range(first_chunk, end, _CHUNK):
                start, stop = max(first, sector), min(first + _CHUNK, end)
                part = view[(start - sector) * SECTOR_SIZE : (stop - sector) * SECTOR_SIZE]
                self._write_chunk(phase, first >> _CHUNK_SHIFT, start - first, part)

    def scatter(self, sectors: Sequence[int], data: bytes, phase: int) -> None:
        """Stage sectors from anywhere; `data` has one after the other. As write() does it."""
        with memoryview(data) as view:
            if not self._scatter_after(sectors, view, phase):
                self._scatter_among(sectors, view, phase)

    def _scatter_after(self, sectors: Sequence[int], data: memoryview, phase: int) -> bool:
        """The same at once, if they ascend and lie after all that is staged of their chunks."""
        chunks, found = self._extents[phase], {}
        chunk, end, first, begin, extents = -1, 0, 0, 0, bytearray()
        for at, sector in enumerate(sectors, self._used):
            within = sector & (_CHUNK - 1)
            if sector < end:
                return False
            if sector >> _CHUNK_SHIFT != chunk:
                chunk = sector >> _CHUNK_SHIFT
                extents = found[chunk] = bytearray(chunks.get(chunk, b""))
                if extents and within < _EXTENT.unpack(extents[-_EXTENT.size :])[1]:
                    return False
            elif sector == end:
                extents[-_EXTENT.size :] = _EXTENT.pack(first, within + 1, begin)
                end += 1
                continue
            extents += _EXTENT.pack(within, within + 1, at)
            first, begin, end = within, at, sector + 1
        self._append(phase, data)
        self._zeroed, self._end = None, max(self._end, end)
        chunks.update((number, bytes(packed)) for number, packed in found.items())
        return True

    def _scatter_among(self, sectors: Sequence[int], data: memoryview, phase: int) -> None:
        """The same in any order, wherever: once for each chunk, however many of its sectors."""
        chunks = self._extents[phase]
        wanted: dict[int, dict[int, int]] = {}  # by chunks, the place of each sector's last data
        for at, sector in enumerate(sectors):
            wanted.setdefault(sector >> _CHUNK_SHIFT, {})[sector & (_CHUNK - 1)] = at
        for chunk, found in wanted.items():
            places: dict[int, int] = {}  # where each sector is in the store
            for first, stop, at in _EXTENT.iter_unpack(chunks.get(chunk, b"")):
                places.update(zip(range(first, stop), range(at, at + stop - first), strict=True))
            for sector in sorted(found):
                part = data[found[sector] * SECTOR_SIZE : (found[sector] + 1) * SECTOR_SIZE]
                if sector in places:
                    self._fill(places[sector], part, 1)
                else:
                    places[sector] = self._append(phase, part)
            chunks[chunk] = _pack_places(places)
        self._zeroed = None
        self._end = max(self._end, max(sectors, default=-1) + 1)

    def _write_chunk(self, phase: int, chunk: int, start: int, data: memoryview) -> None:
        """Stage sectors of one chunk, from the one numbered `start` in it on."""
        extents = self._extents[phase].get(chunk, b"")
        end = start + len(data) // SECTOR_SIZE
        last, last_end, at = _EXTENT.unpack(extents[-_EXTENT.size :]) if extents else (0, 0, 0)
        if start < last_end:
            extents = self._write_among(phase, extents, start, data)
        elif extents and last_end == start and at + last_end - last == self._used:
            self._append(phase, data)
            extents = extents[: -_EXTENT.size] + _EXTENT.pack(last, end, at)
        else:
            extents += _EXTENT.pack(start, end, self._append(phase, data))
        self._extents[phase][chunk] = extents

    def _write_among(self, phase: int, extents: bytes, start: int, data: memoryview) -> bytes:
        """The same where some of the sectors, or others that follow, are staged already."""
        end, place = start + len(data) // SECTOR_SIZE, start
        merged = []
        for first, stop, at in (*_EXTENT.iter_unpack(extents), (end, end, 0)):
            low, high = max(first, start), min(stop, end)
            if place < low <= end:
                gap = data[(place - start) * SECTOR_SIZE : (low - start) * SECTOR_SIZE]
                merged.append((place, low, self._append(phase, gap)))
                place = low
            if first < stop:
                merged.append((first, stop, at))
            if low < high:
                self._fill(at + low - first, data[(low - start) * SECTOR_SIZE :], high - low)
                place = high
        return b"".join(_EXTENT.pack(*extent) for extent in sorted(merged))

    def _append(self, phase: int, data: memoryview) -> int:
        """Put new sectors after all others in the store; return where. GuestFault if too many."""
        count, at = len(data) // SECTOR_SIZE, self._used
        self._budget -= count
        if self._budget < 0:
            raise GuestFault("more sectors written than any amend of this image needs")
        self._counts[phase] += count
        self._used += count
        while len(self._store) * _BLOCK < self._used:
            self._store.append(memoryview(bytearray(_BLOCK * SECTOR_SIZE)))
        self._fill(at, data, count)
        return at

    def _fill(self, at: int, data: memoryview, count: int) -> None:
        done = 0
        for block, start, end in _parts(at, count):
            size = end - start
            self._store[block][start:end] = data[done : done + size]
            done += size

    def zero(self, sector: int, count: int) -> None:
        """Stage zeros for `count` sectors, at least one. GuestFault for too many ranges.

        Those that follow each other in the file and in time count as one.
        """
        ranges, (last, length) = self._ranges, self._last
        joined = bool(ranges) and last + length == sector
        self._ascending &= sector >= last + length
        if joined:
            sector, count = last, length + count
            del ranges[-_RANGE.size :]
        elif len(ranges) >= self._ranges_max * _RANGE.size:
            raise GuestFault(f"more than {self._ranges_max} ranges to be zeroed")
        self._last = sector, count
        self._end = max(self._end, sector + count)
        ranges += _RANGE.pack(sector, count)
        self._zeroed = None

    def overlay(self, sector: int, view: memoryview, phase: int) -> None:
        """Put the staged sectors of all phases below `phase` over those from `sector` on."""
        end = sector + len(view) // SECTOR_SIZE
        for number in range(phase):
            for first, data in self.extents(number, sector, end):
                at = (first - sector) * SECTOR_SIZE
                view[at : at + len(data)] = data

    def extents(self, phase: int, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """What a phase writes from one sector up to another: (first sector, data), ascending.

        The data are not copied: write() may change them.
        """
        chunks = self._extents[phase]
        if not chunks:
            return
        last = max(chunks) if end is None else end - 1 >> _CHUNK_SHIFT
        numbers = range(start >> _CHUNK_SHIFT, last + 1)
        if len(numbers) < len(chunks):
            met = [number for number in numbers if number in chunks]
        else:
            met = sorted(filter(numbers.__contains__, chunks))
        limit = (last + 1) << _CHUNK_SHIFT if end is None else end
        for chunk in met:
            base = chunk << _CHUNK_SHIFT
            extents = chunks[chunk]
            skipped = _count_before(extents, start - base) * _EXTENT.size if start > base else 0
            for first, stop, place in _EXTENT.iter_unpack(extents[skipped:]):
                # There may be a million: this is as long as it is for the sake of time.
                low, high, at = base + first, base + stop, place
                if low < start:
                    at += start - low
                    low = start
                if high > limit:
                    high = limit
                    if low >= limit:
                        return
                block, begin = at // _BLOCK, at % _BLOCK
                if low < high and begin + high - low <= _BLOCK:
                    end_of = (begin + high - low) * SECTOR_SIZE
                    yield low, self._store[block][begin * SECTOR_SIZE : end_of].toreadonly()
                elif low < high:
                    for block, begin, until in _many_parts(at, high - low):
                        yield low, self._store[block][begin:until].toreadonly()
                        low += (until - begin) // SECTOR_SIZE

    def pieces(
        self, phase: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """The same as bytes, joined where one follows the other, up to a MiB."""
        parts: list[memoryview] = []
        first = count = 0
        for sector, data in self.extents(phase, start, end):
            if sector != first + count or count >= _PIECE:
                if parts:
                    yield first, b"".join(parts)
                first, parts, count = sector, [], 0
            parts.append(data)
            count += len(data) // SECTOR_SIZE
        if parts:
            yield first, b"".join(parts)

    def clusters(self, phase: int, sectors: int, start: int) -> set[int]:
        """The clusters, of so many sectors, that a phase writes to from one sector on."""
        shift, found = sectors.bit_length() - 1, set()
        for chunk, extents in self._extents[phase].items():
            base = chunk << _CHUNK_SHIFT
            for first, stop, _ in _EXTENT.iter_unpack(extents):
                if base + stop <= start:
                    continue
                number = max(base + first, start) >> shift
                found.add(number)
                if base + stop - 1 >> shift != number:
                    found.update(range(number, (base + stop - 1 >> shift) + 1))
        return found

    def runs(self, phase: int) -> Iterator[tuple[int, int]]:
        """What a phase writes, as (first sector, end), ascending, one for each contiguous run."""
        chunks, start, end = self._extents[phase], -1, -1
        for chunk in sorted(chunks):
            base = chunk << _CHUNK_SHIFT
            for first, stop, _ in _EXTENT.iter_unpack(chunks[chunk]):
                if base + first != end:
                    if start >= 0:
                        yield start, end
                    start = base + first
                end = base + stop
        if start >= 0:
            yield start, end

    def sector(self, phase: int, number: int) -> bytes | None:
        """What a phase writes to one sector; None if it does not."""
        for _, data in self.extents(phase, number, number + 1):
            return bytes(data)
        return None

    def phases(self) -> list[int]:
        """The phases that write anything, ascending."""
        return [phase for phase, count in enumerate(self._counts) if count]

    def count(self, phase: int) -> int:
        """How many sectors a phase writes."""
        return self._counts[phase]

    def size(self) -> int:
        """How many bytes are written in all phases, without what is zeroed."""
        return sum(self._counts) * SECTOR_SIZE

    def range_count(self) -> int:
        """How many ranges are to be zeroed."""
        return len(self._ranges) // _RANGE.size

    def zeroed(self) -> tuple[Numbers, Numbers]:
        """The ranges to be zeroed: first sectors, ascending, and ends; none is next to another.

        Raises ZeroedInUse if one overlaps another, or a sector that is written.
        """
        if self._zeroed is None:
            self._zeroed = self._join()
        return self._zeroed

    def _join(self) -> tuple[Numbers, Numbers]:
        joined, start, end = bytearray(), -1, -1
        for first, count in self._sorted_ranges():
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

    def _sorted_ranges(self) -> Iterator[tuple[int, int]]:
        if self._ascending:
            return _RANGE.iter_unpack(self._ranges)
        # As tuples they would take three times the memory.
        keys = sorted(first << 64 | count for first, count in _RANGE.iter_unpack(self._ranges))
        return (divmod(key, 1 << 64) for key in keys)

    def _keep_apart(self, starts: Numbers, ends: Numbers) -> None:
        for phase in range(INSTAR_PHASE_COUNT if len(starts) else 0):
            at = 0
            for start, end in self.runs(phase):
                while at < len(ends) and ends[at] <= start:
                    at += 1
                if at < len(ends) and starts[at] < end:
                    raise ZeroedInUse(max(starts[at], start), "and written")

    def end(self) -> int:
        """The sector after the last one that is written or zeroed; 0 if nothing is."""
        return self._end

    def is_empty(self) -> bool:
        """Whether nothing is written or zeroed."""
        return not self._ranges and not self._used


def _count_before(extents: bytes, sector: int) -> int:
    """How many of a chunk's extents end at a sector of it or before."""
    low, high = 0, len(extents) // _EXTENT.size
    while low < high:
        middle = (low + high) // 2
        if _EXTENT.unpack_from(extents, middle * _EXTENT.size)[1] <= sector:
            low = middle + 1
        else:
            high = middle
    return low


def _pack_places(places: dict[int, int]) -> bytes:
    """The extents of a chunk's sectors, of which each has its place in the store."""
    packed = bytearray()
    first = stop = begin = 0
    for sector, at in sorted(places.items()):
        if sector != stop or at != begin + stop - first:
            if stop > first:
                packed += _EXTENT.pack(first, stop, begin)
            first, begin = sector, at
        stop = sector + 1
    packed += _EXTENT.pack(first, stop, begin)
    return bytes(packed)


def _parts(at: int, count: int) -> Iterable[tuple[int, int, int]]:
    """Sectors of the store as its blocks, and the bytes in each of them from and to."""
    block, start = at // _BLOCK, at % _BLOCK
    if start + count <= _BLOCK:
        return ((block, start * SECTOR_SIZE, (start + count) * SECTOR_SIZE),)
    return _many_parts(at, count)


def _many_parts(at: int, count: int) -> Iterator[tuple[int, int, int]]:
    end = at + count
    while at < end:
        block, start = divmod(at, _BLOCK)
        stop = min(start + end - at, _BLOCK)
        yield block, start * SECTOR_SIZE, stop * SECTOR_SIZE
        at += stop - start
