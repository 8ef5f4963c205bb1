"""Host side: bounded reads of the image's tables, for the write contract alone.

The bytes are hostile, but the guest has accepted them: whatever cannot be a table is its fault.
"""

from __future__ import annotations

from struct import unpack

from instar.vmm.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Reader = Callable[[int, int], bytes]

OFFSET_MASK = 0x00FFFFFFFFFFFE00
"""The host offset in an entry of an L1, L2 or bitmap table."""
COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
"""The flags in an entry of an L1 or L2 table."""
READ_MAX = 1 << 30
"""Bytes that are read to judge one amend; qemu keeps the L2 tables of 8 TiB in as many."""

_PIECE = 1 << 20


class OutsideError(GuestFault):
    """A table is not inside the image, though the guest had to see to that."""

    def __init__(self, offset: int) -> None:
        """Take the table's offset."""
        super().__init__(f"the guest accepted a table at {offset:#x}, outside the image")
        self.offset = offset


class Disk:
    """The image file as it is, in clusters."""

    def __init__(self, read: Reader, size: int, cluster_bits: int) -> None:
        """Take `read(offset, size)`, shorter at the end of the file, and the file's size."""
        self._read = read
        self._left = READ_MAX
        self.size = size
        self.cluster_bits = cluster_bits
        self.cluster_size = 1 << cluster_bits

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes that begin inside the file; zeros come where it ends.

        Raises OutsideError for bytes that are not there, GuestFault if too much is read in all.
        """
        if not size:
            return b""
        self._left -= size
        if self._left < 0:
            raise GuestFault(f"more than {READ_MAX} bytes to be read to judge the change")
        if not 0 <= offset < max(self.size, 1) or size > self.size - offset + self.cluster_size:
            raise OutsideError(offset)
        return self._read(offset, size).ljust(size, b"\0")

    def words(self, offset: int, count: int) -> Iterator[tuple[int, ...]]:
        """Read `count` big-endian 64-bit numbers, in pieces; nothing if there are none."""
        for data in self.pieces(offset, 8 * count):
            yield unpack(f">{len(data) // 8}Q", data)

    def distinct_words(self, offset: int, count: int) -> Iterator[set[int]]:
        """The same as sets; a piece that repeats the one before, such as zeros, is left out."""
        last = b""
        for data in self.pieces(offset, 8 * count):
            if data != last:
                yield set(unpack(f">{len(data) // 8}Q", data))
            last = data

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """Read `size` bytes as read() does, a MiB at a time."""
        for at in range(offset, offset + size, _PIECE):
            yield self.read(at, min(_PIECE, offset + size - at))

    def clusters(self, offset: int, size: int) -> range:
        """The numbers of the clusters of a structure. GuestFault if it does not begin one."""
        if offset % self.cluster_size:
            raise GuestFault(f"the guest accepted a structure at {offset:#x}, within a cluster")
        first = offset >> self.cluster_bits
        return range(first, first + (-(-size // self.cluster_size) if size else 0))
