"""Host side: refcounts of 1 to 64 bits, as a sector of a refcount block holds them.

The qcow2 specification, "Host cluster management": big-endian from 8 bits on; below that the least
significant bits of a byte belong to the lowest cluster.
"""

from __future__ import annotations

import sys
from array import array

from ..image.staging import SECTOR_SIZE

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
        # What a refcount changes by has a sign.
        self._change_code = "hhhhiqq"[order]

    def zeros(self) -> Counts:
        """A sector's worth of changes, all of them 0."""
        return array(self._change_code, bytes(array(self._change_code).itemsize * self.in_sector))

    def unpack(self, data: bytes) -> Counts:
        """The refcounts in these bytes."""
        if self.bits < 8:
            each = 8 // self.bits
            counts = bytearray(len(data) * each)
            for n in range(each):
                part = bytes(byte >> n * self.bits & self.most for byte in range(256))
                counts[n::each] = data.translate(part)
            return array("B", bytes(counts))
        found = array(self._code, data)
        if _SWAPS:
            found.byteswap()
        return found

    def pack(self, counts: Iterable[int]) -> bytes:
        """The bytes that hold these refcounts. OverflowError for one that is out of range."""
        found = array(self._code, counts)
        if self.bits < 8:
            if found and max(found) > self.most:
                raise OverflowError(f"a refcount of more than {self.bits} bits")
            raw, each = found.tobytes(), 8 // self.bits
            parts = (int.from_bytes(raw[n::each], "big") << n * self.bits for n in range(each))
            return sum(parts).to_bytes(len(raw) // each, "big")
        if _SWAPS:
            found.byteswap()
        return found.tobytes()
