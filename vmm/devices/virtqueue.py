"""Host side: the device's view of a split virtqueue (virtio 1.2, 2.7), in guest memory, hostile.

Each index, address and length is copied out once and checked before it is used. Whatever breaks
the rules is a GuestFault, not an error that the guest gets to see.
"""

from __future__ import annotations

from struct import Struct

from instar.abi import INSTAR_DMA_ADDR

from ..base.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .memory import GuestMemory

_DESCRIPTOR = Struct("<QIHH")
_AVAIL_HEADER = Struct("<HH")
_U16 = Struct("<H")
_USED_ELEMENT = Struct("<II")
_F_NEXT, _F_WRITE = 1, 2


Buffer = tuple[int, int, bool]
"""One descriptor's buffer, inside the DMA window: its guest address, its size in bytes, and whether
the device may write it, and not read it."""


class Virtqueue:
    """One queue. `pop` gives what the driver made available, `push` gives it back."""

    def __init__(self, memory: GuestMemory, size: int, desc: int, avail: int, used: int) -> None:
        """Take the queue's size in descriptors and the guest addresses of its three parts."""
        self._memory = memory
        self._size = size
        self._desc, self._avail, self._used = desc, avail, used
        self._next = 0  # the avail index up to which chains were taken

    def pop(self) -> Iterator[tuple[int, list[Buffer]]]:
        """Yield each new chain as (head, buffers). GuestFault if the ring is malformed."""
        # Copied whole: no buffer lies in the queue's pages, so nothing changes from chain to chain.
        ring = self._memory.read(self._avail, _AVAIL_HEADER.size + self._size * _U16.size)
        table = self._memory.read(self._desc, self._size * _DESCRIPTOR.size)
        _, index = _AVAIL_HEADER.unpack_from(ring)
        count = (index - self._next) & 0xFFFF
        if not 0 < count <= self._size:
            raise GuestFault(f"doorbell with {count} new chains in a queue of {self._size}")
        for _ in range(count):
            slot = _AVAIL_HEADER.size + self._next % self._size * _U16.size
            (head,) = _U16.unpack_from(ring, slot)
            self._next = (self._next + 1) & 0xFFFF
            yield head, self._chain(table, head)

    def push(self, head: int, written: int) -> None:
        """Return the chain that pop() just gave, with the number of bytes written to it."""
        done = (self._next - 1) & 0xFFFF
        slot = self._used + _AVAIL_HEADER.size + done % self._size * _USED_ELEMENT.size
        self._memory.write(slot, _USED_ELEMENT.pack(head, written))
        self._memory.write(self._used, _AVAIL_HEADER.pack(0, self._next))

    def _chain(self, table: bytes, head: int) -> list[Buffer]:
        """The buffers of a chain in the descriptor table."""
        buffers: list[Buffer] = []
        index, end = head, self._memory.size
        for _ in range(self._size):
            if index >= self._size:
                raise GuestFault(f"descriptor index {index} in a queue of {self._size}")
            address, size, flags, index = _DESCRIPTOR.unpack_from(table, index * _DESCRIPTOR.size)
            if flags & ~(_F_NEXT | _F_WRITE):
                raise GuestFault(f"descriptor flags {flags:#x}")
            if size == 0 or address < INSTAR_DMA_ADDR or address > end - size:
                raise GuestFault(f"buffer of {size} bytes at {address:#x} is not in the DMA window")
            buffers.append((address, size, flags & _F_WRITE != 0))
            if not flags & _F_NEXT:
                return buffers
        raise GuestFault("descriptor chain loops")
