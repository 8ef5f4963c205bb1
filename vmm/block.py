"""Host side: the block device (virtio 1.2, 5.2): reads of the image, and writes that are staged."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    INSTAR_BLOCK_AVAIL_ADDR,
    INSTAR_BLOCK_DESC_ADDR,
    INSTAR_BLOCK_QUEUE_SIZE,
    INSTAR_BLOCK_REQUEST_MAX,
    INSTAR_BLOCK_USED_ADDR,
)
from instar.vmm.errors import GuestFault
from instar.vmm.staging import SECTOR_SIZE, StagedWrites
from instar.vmm.virtqueue import Virtqueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.image_file import ImageFile
    from instar.vmm.memory import GuestMemory
    from instar.vmm.virtqueue import Buffer

_HEADER = Struct("<IIQ")
_T_IN, _T_OUT, _T_FLUSH = 0, 1, 4
_S_OK = b"\0"

READ_BUDGET_MIN = 1 << 30
"""Bytes that any guest may read; for large images it is READ_BUDGET_FACTOR times their size."""
READ_BUDGET_FACTOR = 4


class BlockDevice:
    """Reads come from the image file through what is staged; writes are staged, never passed on."""

    def __init__(self, memory: GuestMemory, image: ImageFile) -> None:
        """Serve the block queue in `memory` from an open image."""
        self._memory = memory
        self._image = image
        self._queue = Virtqueue(
            memory,
            INSTAR_BLOCK_QUEUE_SIZE,
            INSTAR_BLOCK_DESC_ADDR,
            INSTAR_BLOCK_AVAIL_ADDR,
            INSTAR_BLOCK_USED_ADDR,
        )
        self._capacity = -(-image.size // SECTOR_SIZE)
        self._budget = max(READ_BUDGET_MIN, READ_BUDGET_FACTOR * image.size)
        self.staged = StagedWrites()
        self.bytes_read = 0

    def notify(self) -> None:
        """Carry out all requests that the guest made available, in order.

        Raises GuestFault for a request that no correct driver makes, HostError if the file fails.
        """
        for head, buffers in self._queue.pop():
            header, data, status = _split(buffers)
            kind, reserved, sector = _HEADER.unpack(self._memory.read(header.address, _HEADER.size))
            if reserved:
                raise GuestFault("block request with reserved bits")
            written = 1
            if kind == _T_IN:
                self._read(sector, self._check(data, sector, writable=True))
                written += data.size if data else 0
            elif kind == _T_OUT:
                buffer = self._check(data, sector, writable=False)
                self.staged.write(sector, self._memory.read(buffer.address, buffer.size))
            elif kind == _T_FLUSH and data is None and sector == 0:
                self.staged.flush()
            else:
                raise GuestFault(f"block request of type {kind}")
            self._memory.write(status.address, _S_OK)
            self._queue.push(head, written)

    def _check(self, data: Buffer | None, sector: int, *, writable: bool) -> Buffer:
        if data is None or data.writable != writable:
            raise GuestFault("block request without a buffer of the right direction")
        if data.size % SECTOR_SIZE or data.size > INSTAR_BLOCK_REQUEST_MAX:
            raise GuestFault(f"block request of {data.size} bytes")
        if sector > self._capacity - data.size // SECTOR_SIZE:
            raise GuestFault(f"block request for sector {sector} of {self._capacity}")
        return data

    def _read(self, sector: int, buffer: Buffer) -> None:
        self.bytes_read += buffer.size
        if self.bytes_read > self._budget:
            raise GuestFault(f"more than {self._budget} bytes read")
        with self._memory.view(buffer.address, buffer.size) as view:
            self._image.read_into(sector * SECTOR_SIZE, view)
            for number, data in self.staged.sectors().items():
                at = (number - sector) * SECTOR_SIZE
                if 0 <= at < buffer.size:
                    view[at : at + SECTOR_SIZE] = data


def _split(buffers: list[Buffer]) -> tuple[Buffer, Buffer | None, Buffer]:
    """Take a chain apart: header, data if any, status."""
    header, status = buffers[0], buffers[-1]
    if not 2 <= len(buffers) <= 3:
        raise GuestFault(f"block request of {len(buffers)} buffers")
    if header.writable or header.size != _HEADER.size:
        raise GuestFault("block request without a header")
    if not status.writable or status.size != len(_S_OK):
        raise GuestFault("block request without a status byte")
    return header, buffers[1] if len(buffers) == 3 else None, status
