"""Host side: refcounts of 1 to 64 bits, as a sector of a refcount block holds them.

The qcow2 specification, "Host cluster management": big-endian from 8 bits on; below that the least
significant bits of a byte belong to the lowest cluster.
"""

from __future__ import annotations

import sys

from ...base.arrays import array
from ...image.staging import SECTOR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Counts = array[int]

_SWAPS = sys.byteorder == "little"


class Width:
    """The form of refcounts of one width."""

    def __init__(self, order: int) -> None:
        """Take the header's refcount_order, 0 to 6."""
        self.bits = 1 << order
        self.most = (1 << self.bits) - 1
        """The largest refcount."""
        self.in_sector = SECTOR_SIZE * 8 >> order
        """Refcounts in a sector."""
        self._code = "BBBBHIQ"[order]
        self._in_byte = 8 // self.bits
        self._parts = [
            bytes(byte >> n * self.bits & self.most for byte in range(256))
            for n in range(self._in_byte)
        ]
        # What a refcount changes by has a sign.
        self._change_code = "hhhhiqq"[order]

    def zeros(self) -> Counts:
        """A sector's worth of changes, all of them 0."""
        return array(self._change_code, bytes(array(self._change_code).itemsize * self.in_sector))

    def unpack(self, data: bytes) -> Counts:
        """The refcounts in these bytes."""
        if self.bits < 8:
            return array("B", self._spread(data))
        found = array(self._code, data)
        if _SWAPS:
            found.byteswap()
        return found

    def pack(self, counts: Iterable[int]) -> bytes:
        """The bytes that hold these refcounts. OverflowError for one that is out of range."""
        found = array(self._code, counts)
        if self.bits < 8:
            return self._gather(found.tobytes())
        if _SWAPS:
            found.byteswap()
        return found.tobytes()

    def _spread(self, data: bytes) -> bytes:
        """A byte for each refcount of less than 8 bits."""
        each = self._in_byte
        counts = bytearray(len(data) * each)
        for n in range(each):
            counts[n::each] = data.translate(self._parts[n])
        return bytes(counts)

    def _gather(self, counts: bytes) -> bytes:
        """The reverse of it. OverflowError for a refcount that is out of range."""
        if counts.translate(None, bytes(range(self.most + 1))):
            raise OverflowError(f"a refcount of more than {self.bits} bits")
        each = self._in_byte
        parts = (int.from_bytes(counts[n::each], "big") << n * self.bits for n in range(each))
        return sum(parts).to_bytes(len(counts) // each, "big")

    def recode(self, data: bytes, to: Width) -> bytes:
        """The same refcounts in another width: no refcount is looked at alone.

        OverflowError for one that is out of range there.
        """
        if data == bytes(len(data)):  # most of what holes have
            return bytes(len(data) * to.bits // self.bits)
        if self.bits < 8:
            data = self._spread(data)
        size, new_size = max(self.bits // 8, 1), max(to.bits // 8, 1)
        count = len(data) // size
        # Of each refcount the same byte, counted from the last one.
        for place in range(new_size + 1, size + 1):
            if data[size - place :: size] != bytes(count):
                raise OverflowError(f"a refcount of more than {to.bits} bits")
        if new_size == size:
            found = bytes(data)
        else:
            wide = bytearray(count * new_size)
            for place in range(1, min(size, new_size) + 1):
                wide[new_size - place :: new_size] = data[size - place :: size]
            found = bytes(wide)
        return found if to.bits >= 8 else to._gather(found)

    def add(self, data: bytearray, index: int, by: int) -> bool:
        """Add 1 or -1 to a refcount. False if it is not 0, or is 0, before that.

        IndexError if it is none of these.
        """
        bits = self.bits
        if not 0 <= index < len(data) * 8 // bits:
            raise IndexError(f"there is no refcount {index}")
        part = slice(index * bits // 8, max((index + 1) * bits // 8, index * bits // 8 + 1))
        shift = index * bits % 8
        word = int.from_bytes(data[part], "big")
        refcount = word >> shift & self.most
        if (refcount == 0) != (by > 0):
            return False
        data[part] = (word + (by << shift)).to_bytes(part.stop - part.start, "big")
        return True

    def last(self, data: bytes) -> int:
        """The index of the last refcount that is not 0; -1 if there is none."""
        rest = data.rstrip(b"\0")
        if not rest:
            return -1
        bits = 8 * len(rest) - 8 + (rest[-1].bit_length() - 1 if self.bits < 8 else 0)
        return bits // self.bits
