"""Host side: what a phase writes outside the header, until each sector has its reason.

What of the header cluster is none of the header counts as outside.
"""

from __future__ import annotations

from ..base.arrays import array
from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from ..qcow2.header_view import header_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..image.staging import StagedWrites


class Pending:
    """The sectors of one phase, and which of them were asked for."""

    def __init__(self, staged: StagedWrites, phase: int, cluster_bits: int) -> None:
        """Take all sectors of a phase but those that HeaderStates judges."""
        self._staged, self._phase = staged, phase
        self._first = header_end(cluster_bits) // SECTOR_SIZE
        self.count = staged.count(phase) - sum(end - start for start, end in self._header())
        """How many there are."""
        self._all = False  # whether all were asked for
        self._taken = array("Q")  # first sector and end of each row that was asked for

    def _header(self) -> Iterator[tuple[int, int]]:
        for start, data in self._staged.extents(self._phase, 0, self._first):
            yield start, start + len(data) // SECTOR_SIZE

    def take_all(self, sectors: int) -> set[int]:
        """Take all of them; return the clusters, of so many sectors, that they lie in."""
        self._all = True
        return self._staged.clusters(self._phase, sectors, self._first)

    def _take(self, start: int, end: int) -> None:
        if self._taken and self._taken[-1] == start:
            self._taken[-1] = end
        else:
            self._taken.extend((start, end))

    def take(self, sector: int) -> bytes | None:
        """A sector's data, for which there is a reason now; None if it is not staged."""
        data = self._staged.sector(self._phase, sector) if sector >= self._first else None
        if data is not None:
            self._take(sector, sector + 1)
        return data

    def take_row(self, start: int, end: int) -> bytearray:
        """The same for sectors in a row; zeros come where nothing is staged."""
        data = bytearray((end - start) * SECTOR_SIZE)
        for first, part in self._staged.extents(self._phase, max(start, self._first), end):
            at = (first - start) * SECTOR_SIZE
            data[at : at + len(part)] = part
            self._take(first, first + len(part) // SECTOR_SIZE)
        return data

    def matches(self, start: int, data: bytes, *, whole: bool) -> bool:
        """Take sectors in a row; whether they are these.

        What is not staged counts as zeros, or with `whole` as wrong.
        """
        at, end = 0, start + len(data) // SECTOR_SIZE
        for first, part in self._staged.extents(self._phase, max(start, self._first), end):
            place = (first - start) * SECTOR_SIZE
            if data[at:place] != bytes(place - at) or (whole and at != place):
                return False
            at = place + len(part)
            if data[place:at] != bytes(part):  # of views each byte would be compared alone
                return False
            self._take(first, first + len(part) // SECTOR_SIZE)
        return data[at:] == bytes(len(data) - at) and not (whole and at != len(data))

    def has_row(self, start: int, end: int) -> int:
        """The first sector in a row that is not staged; `end` if all are."""
        for first, part in self._staged.extents(self._phase, start, end):
            if first != start:
                break
            start += len(part) // SECTOR_SIZE
        return start

    def rows(self, sectors: int) -> Iterator[tuple[int, bytes]]:
        """Take all of them, ascending: first sectors of rows, and data. None crosses a border.

        Borders are at multiples of this many sectors.
        """
        for first, data in self._staged.extents(self._phase, self._first):
            self._take(first, first + len(data) // SECTOR_SIZE)
            at = 0
            while at < len(data):
                start = first + at // SECTOR_SIZE
                end = at + (sectors - start % sectors) * SECTOR_SIZE
                yield start, bytes(data[at:end])
                at = end

    def sectors(self) -> Iterator[tuple[int, bytes]]:
        """Take all of them, ascending."""
        for first, data in self._staged.extents(self._phase, self._first):
            self._take(first, first + len(data) // SECTOR_SIZE)
            for at in range(0, len(data), SECTOR_SIZE):
                yield first + at // SECTOR_SIZE, bytes(data[at : at + SECTOR_SIZE])

    def finish(self) -> None:
        """GuestFault if there is one that nobody has asked for."""
        taken = self._taken
        if self._all or self.count == self._count_taken():
            return
        asked = {n for at in range(0, len(taken), 2) for n in range(taken[at], taken[at + 1])}
        for start, end in self._staged.runs(self._phase):
            for sector in range(max(start, self._first), end):
                if sector not in asked:
                    raise GuestFault(
                        f"the guest writes sector {sector} in phase {self._phase} for nothing"
                    )

    def _count_taken(self) -> int:
        """How many sectors were asked for; one that two have asked for is one."""
        starts, ends = self._taken[0::2], self._taken[1::2]
        if all(map(int.__le__, ends, starts[1:])):  # as in most phases
            return sum(ends) - sum(starts)
        count = last = 0
        for start, end in sorted(zip(starts, ends, strict=True)):
            count += max(end - max(start, last), 0)
            last = max(last, end)
        return count
