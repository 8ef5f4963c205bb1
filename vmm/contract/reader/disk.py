"""Host side: bounded reads of the image's tables, for the judge alone.

The bytes are hostile, but the guest has accepted them: whatever cannot be a table is its fault.
"""

from __future__ import annotations

from struct import unpack

from instar.abi import INSTAR_SEGMENTS_MAX, INSTAR_STAGED_MAX

from ...base.errors import GuestFault, ImageRejected
from ...base.refusals import change_limit, work_limit
from ..terms import OutsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from ..terms import Original

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
"""The flags in an entry of an L1 or L2 table."""
NOT_COMPRESSED = bytes(byte for byte in range(256) if not byte & COMPRESSED >> 56)
"""What the first byte of an entry can be that does not name compressed data."""

PIECE = 1 << 20
"""What is read of a table at a time, in bytes."""
MEMORY_MIN, MEMORY_FACTOR = 64 << 20, 8
"""Memory the judge may use, in bytes: a base, and a multiple of what is staged and stored."""

_READ_WORK = 1 << 14  # bytes: to judge anything takes as long as reading so many more
_NEAR = 1 << 16
_BLOCK = 4096  # bytes: what file systems store at least
_EMPTY = bytes(_BLOCK)


def stored(
    data: bytes | bytearray, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """The blocks of data that are not all zeros, as of holes, with their places in it.

    `start` and `end` are those of a part of it. To unpack zeros takes ten times as long as to read
    them.
    """
    end = len(data) if end is None else end
    for at in range(start, end, _BLOCK):
        block = bytes(data[at : min(at + _BLOCK, end)])
        if block != _EMPTY[: len(block)]:
            yield at, block


def is_same(one: bytes | bytearray, other: bytes | bytearray, end: int) -> bool:
    """Whether two begin with the same bytes up to an end; whole copies of tables are large."""
    parts = (slice(at, min(at + _BLOCK, end)) for at in range(0, end, _BLOCK))
    return all(one[part] == other[part] for part in parts)


def is_zeros(data: bytes | bytearray, start: int, end: int) -> bool:
    """Whether data has only zeros from one place to another; large copies cost more than it."""
    return all(
        data[at : min(at + _BLOCK, end)] == _EMPTY[: min(_BLOCK, end - at)]
        for at in range(start, end, _BLOCK)
    )


def is_all_stored(data: bytes) -> bool:
    """Whether it can be seen at a glance that no such block is left out."""
    return 0 not in data[::_BLOCK]


class Disk:
    """The image file as it is, in clusters, and the budgets for following its pointers."""

    def __init__(self, original: Original, cluster_bits: int, staged: int) -> None:
        """Take the image file, whose work_max is spent as it is read, and the bytes staged."""
        self._original = original
        self._left = original.work_max
        self._memory = MEMORY_MIN + MEMORY_FACTOR * (staged + original.stored)
        self._near, self._near_offset = b"", 0
        self.size = original.size
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits
        # The last cluster counts as whole: qemu leaves it short.
        self._end = -(-self.size // self.cluster_size) * self.cluster_size

    @property
    def work(self) -> int:
        """What has been spent."""
        return self._original.work_max - self._left

    def spend(self, work: int) -> None:
        """Count what takes as long as reading this many bytes. ImageRejected if it is too much."""
        self._left -= work
        if self._left < 0:
            raise ImageRejected((work_limit(self._original.work_max),))

    def hold(self, size: int) -> None:
        """Count memory that is kept to the end, in bytes. ImageRejected if it is too much."""
        self._memory -= size
        if self._memory < 0:
            raise ImageRejected((change_limit(INSTAR_STAGED_MAX, INSTAR_SEGMENTS_MAX),))

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes of the file's clusters; zeros come where it ends.

        Raises OutsideError for bytes that are not there, ImageRejected if too much is read in all.
        """
        if not size:
            return b""
        self.spend(size + _READ_WORK)
        if offset < 0 or offset + size > self._end:
            raise OutsideError(offset)
        return self._original.read(offset, size).ljust(size, b"\0")

    def near(self, offset: int, size: int) -> bytes:
        """Do what read() does, for small reads that follow each other."""
        start = offset - self._near_offset
        if start < 0 or start + size > len(self._near):
            self._near = self.read(offset, max(size, min(_NEAR, self._end - offset)))
            self._near_offset, start = offset, 0
        return self._near[start : start + size]

    def words(self, offset: int, count: int) -> Iterator[tuple[int, ...]]:
        """Read `count` big-endian 64-bit numbers, in pieces; many zeros are left out."""
        for data in self.pieces(offset, 8 * count):
            for _, block in stored(data):
                yield unpack(f">{len(block) // 8}Q", block)

    def distinct_words(self, offset: int, count: int) -> Iterator[set[int]]:
        """The same as sets; a piece that repeats the one before is left out."""
        last = b""
        for data in self.pieces(offset, 8 * count):
            if data != last:
                words: set[int] = set()
                for _, block in stored(data):
                    words.update(unpack(f">{len(block) // 8}Q", block))
                if words:
                    yield words
            last = data

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """Read `size` bytes as read() does, a MiB at a time."""
        for at in range(offset, offset + size, PIECE):
            yield self.read(at, min(PIECE, offset + size - at))

    def rows(self, clusters: Iterable[int], alone: Container[int] = ()) -> Iterator[range]:
        """Clusters in any order as ascending rows, each worth one read; some come alone."""
        most, end = max(_NEAR >> self.cluster_bits, 1), self._end >> self.cluster_bits
        first = stop = -1
        for cluster in sorted(clusters):
            if cluster != stop or stop - first == most or cluster == end or cluster in alone:
                if first < stop:
                    yield range(first, stop)
                first = cluster
            stop = cluster + 1
            if cluster in alone:
                yield range(first, stop)
                first = stop = -1
        if first < stop:
            yield range(first, stop)

    def clusters(self, offset: int, size: int) -> range:
        """The numbers of the clusters of a structure. GuestFault if it does not begin one."""
        if offset % self.cluster_size:
            raise GuestFault(f"the guest accepted a structure at {offset:#x}, within a cluster")
        first = offset >> self.cluster_bits
        return range(first, first + (-(-size // self.cluster_size) if size else 0))
