"""Host side: what a change of the size sets free, and the file system may have back."""

from __future__ import annotations

from ..image.staging import SECTOR_SIZE
from .books import FREED
from .terms import SPARE_MAX, Spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import StagedWrites
    from .books import Books
    from .reader.disk import Disk


def spare_of(disk: Disk, books: Books, staged: StagedWrites) -> Spare:
    """What a change of the size sets free, of which every use has been looked for.

    That other clusters count as free is the image's word alone, so that they stay.
    """
    joined = [0, 0]
    rows = sorted((row.start, row.stop) for row, becomes in books.moved() if becomes == FREED)
    found: list[range] = []
    for start, stop in rows:
        if start != joined[1]:
            found.append(range(*joined))
            joined[0] = start
        joined[1] = stop
    found = [
        range(row.start << disk.cluster_bits, row.stop << disk.cluster_bits)
        for row in (*found, range(*joined))
        if row
    ]
    end = None
    if found and found[-1].stop >= max(disk.size, staged.end() * SECTOR_SIZE):
        end = found.pop().start
    if end is not None and end >= disk.size:
        end = None  # nothing has been written there
    return Spare(tuple(found[:SPARE_MAX]), end)
