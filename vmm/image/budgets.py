"""Host side: what an image may cost in work and in staged bytes, by what is stored of it."""

from __future__ import annotations

from instar.abi import AMEND_SECTOR_WORK, INSTAR_STAGED_MAX

from ..qcow2.header_view import HEADER_LIMIT
from .staging import SECTOR_SIZE

WORK_MIN = 1 << 29
"""What any amend may cost, in bytes that are read."""
WORK_FACTOR = 1024
"""What an amend may cost for each byte of the image that is stored, not a hole."""
_COUNT_MIN, _COUNT_FACTOR = 4 << 30, 112  # of count_budget()

_U64_MAX = (1 << 64) - 1


def work_max_of(stored: int) -> int:
    """The work budget of an image that stores so many bytes, in bytes read."""
    return min(WORK_MIN + WORK_FACTOR * stored, _U64_MAX)


def stored_by(work_max: int) -> int:
    """How many bytes an image stores that has this work budget."""
    return max((work_max - WORK_MIN) // WORK_FACTOR, 0)


def work_budget(work_max: int, tables: int) -> int:
    """The work budget, in bytes read, of an amend that needs `tables` bytes of new tables."""
    return min(work_max + tables // SECTOR_SIZE * AMEND_SECTOR_WORK, _U64_MAX)


def count_budget(stored: int) -> int:
    """What it may cost to count the references of an image that stores so many bytes.

    An amend may cost more. In bytes that are read it is a second of the worst image, and enough for
    a hundred snapshots of 64 GiB that share all tables.
    """
    return _COUNT_MIN + _COUNT_FACTOR * stored


def staging_budget(image_size: int, max_growth: int, tables: int = 0) -> int:
    """The bytes that a guest may stage for an image of this size, which may grow by so many.

    INSTAR_STAGED_MAX is the most for any image. `tables` are the bytes of new tables that the
    request itself explains, whatever the image holds.

    A sector of the image is written in two phases at most. Of what the file grows by, only tables
    are staged: a refcount takes two bytes, and a cluster no less than 512.
    """
    return min(INSTAR_STAGED_MAX, 2 * (HEADER_LIMIT + image_size) + max_growth // 128 + tables)
