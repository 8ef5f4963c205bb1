"""Host side: the block device (virtio 1.2, 5.2): reads of the image, and writes that are staged."""

from __future__ import annotations

from struct import Struct, unpack

from instar.abi import (
    INSTAR_AHEAD_ADDR,
    INSTAR_AHEAD_DATA_ADDR,
    INSTAR_AHEAD_HEAD_SIZE,
    INSTAR_AHEAD_TABLE_ADDR,
    INSTAR_AHEAD_TABLE_MAX,
    INSTAR_BLOCK_AVAIL_ADDR,
    INSTAR_BLOCK_DESC_ADDR,
    INSTAR_BLOCK_QUEUE_SIZE,
    INSTAR_BLOCK_REQUEST_MAX,
    INSTAR_BLOCK_SCATTER,
    INSTAR_BLOCK_USED_ADDR,
    INSTAR_PHASE_COUNT,
    INSTAR_PHASE_PREPARE,
    INSTAR_ZEROES_SEGMENTS_MAX,
    AheadPart_FORMAT,
)

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from .virtqueue import Virtqueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..image.view import AnyImage
    from .memory import GuestMemory
    from .virtqueue import Buffer

_HEADER = Struct("<IIQ")
_SEGMENT = Struct("<QII")  # sector, sectors, flags
_PART = Struct(AheadPart_FORMAT)
_T_IN, _T_OUT, _T_WRITE_ZEROES = 0, 1, 13
_S_OK = b"\0"
_NO_DATA = (0, 0, False)  # no buffer that a chain has is empty
_NUMBER_SIZE = 8  # of a sector, in a request to scatter


class BlockDevice:
    """Reads come from the image file through what is staged; writes are staged, never passed on."""

    def __init__(
        self,
        memory: GuestMemory,
        image: AnyImage,
        max_growth: int = 0,
        *,
        read_only: bool = False,
    ) -> None:
        """Serve the block queue in `memory` from an open image, which may grow by so many bytes.

        `read_only` is for an operation that only looks: a request to write is a fault of the guest.
        """
        self.read_only = read_only
        """Whether a request to write is a fault."""
        self._memory = memory
        self._image = image
        self._queue = Virtqueue(
            memory,
            INSTAR_BLOCK_QUEUE_SIZE,
            INSTAR_BLOCK_DESC_ADDR,
            INSTAR_BLOCK_AVAIL_ADDR,
            INSTAR_BLOCK_USED_ADDR,
        )
        # What has been staged past the end of the file can be read back.
        self._sectors = -(-image.size // SECTOR_SIZE)
        self._capacity = self._sectors + max_growth // SECTOR_SIZE
        self.budget = image.budget
        self.staged = image.stage(max_growth)
        self.bytes_read = 0
        self.filled_to = 0
        """The guest address after the last byte that was read into the guest's memory."""

    def read_ahead(self, along: Iterable[int] = (), table: tuple[int, int] = (0, 0)) -> None:
        """Give the guest what it would ask for first: the image's head, and what follows from it.

        `along` has the offsets of up to two sectors, in bytes, and `table` that of a part of a
        table, and its size; 0 is none. What exceeds the budget, and all after it, is left for the
        guest to refuse, which knows the budget. HostError if the file fails.
        """
        wanted = [(0, INSTAR_AHEAD_HEAD_SIZE, 0), *((at, SECTOR_SIZE, 0) for at in along if at)]
        if table[0]:
            most = min(table[1], INSTAR_AHEAD_TABLE_MAX)
            wanted.append((table[0], most, INSTAR_AHEAD_TABLE_ADDR))
        parts, next_to, end = b"", INSTAR_AHEAD_DATA_ADDR, self._sectors * SECTOR_SIZE
        for offset, most, place in wanted:
            size, address = min(most, end - offset), place or next_to
            if size > self.budget - self.bytes_read:
                break
            if size > 0:
                self._fill(offset // SECTOR_SIZE, address, size, 0)
                parts += _PART.pack(offset, size, address)
                next_to += size
        self._memory.write(INSTAR_AHEAD_ADDR, parts)

    def notify(self, check_time: Callable[[], None] | None = None) -> None:
        """Carry out all requests that the guest made available, in order.

        Raises GuestFault for a request that no correct driver makes, HostError if the file fails,
        and before each request what `check_time` raises.
        """
        for head, buffers in self._queue.pop():
            if check_time:
                check_time()
            header, numbers, data, status = _split(buffers)
            kind, phase, sector = _HEADER.unpack(self._memory.read(header, _HEADER.size))
            written = 1
            if (kind == INSTAR_BLOCK_SCATTER) != (numbers is not _NO_DATA):
                raise GuestFault(f"block request of {len(buffers)} buffers")
            if kind == _T_IN:
                written += self._read(sector, data, phase)
            elif self.read_only:
                raise GuestFault(f"block request of type {kind} from a guest that may only read")
            elif kind == _T_OUT:
                self._write(sector, data, phase)
            elif kind == INSTAR_BLOCK_SCATTER:
                self._scatter(sector, numbers, data, phase)
            elif kind == _T_WRITE_ZEROES:
                self._zero(sector, data, phase)
            else:
                raise GuestFault(f"block request of type {kind}")
            self._memory.write(status, _S_OK)
            self._queue.push(head, written)

    def _check(self, size: int, sector: int, *, right: bool) -> None:
        if not right:
            raise GuestFault("block request without a buffer of the right direction")
        if size % SECTOR_SIZE or size > INSTAR_BLOCK_REQUEST_MAX:
            raise GuestFault(f"block request of {size} bytes")
        if sector > self._capacity - size // SECTOR_SIZE:
            raise GuestFault(f"block request for sector {sector} of {self._capacity}")

    def _read(self, sector: int, data: Buffer, phase: int) -> int:
        """Returns how many bytes were read."""
        address, size, writable = data
        self._check(size, sector, right=writable)
        if phase > INSTAR_PHASE_COUNT:
            raise GuestFault(f"block request to read before phase {phase}")
        self._fill(sector, address, size, phase)
        return size

    def _fill(self, sector: int, address: int, size: int, phase: int) -> None:
        self.bytes_read += size
        if self.bytes_read > self.budget:
            raise GuestFault(f"more than {self.budget} bytes read")
        self.filled_to = max(self.filled_to, address + size)
        with self._memory.view(address, size) as view:
            self._image.read_into(sector * SECTOR_SIZE, view)
            if phase:
                self.staged.overlay(sector, view, phase)

    def _write(self, sector: int, data: Buffer, phase: int) -> None:
        address, size, writable = data
        self._check(size, sector, right=size > 0 and not writable)
        if phase >= INSTAR_PHASE_COUNT:
            raise GuestFault(f"block request to write in phase {phase}")
        self.staged.write(sector, self._memory.read(address, size), phase)

    def _scatter(self, sector: int, numbers: Buffer, data: Buffer, phase: int) -> None:
        address, size, writable = data
        place, length, numbers_writable = numbers
        self._check(size, 0, right=not writable and not numbers_writable)
        if sector or phase >= INSTAR_PHASE_COUNT:
            raise GuestFault(f"block request to scatter with sector {sector} in phase {phase}")
        count = size // SECTOR_SIZE
        if length != count * _NUMBER_SIZE:
            raise GuestFault(f"block request to scatter {count} sectors to {length} bytes")
        sectors = unpack(f"<{count}Q", self._memory.read(place, length))
        if max(sectors) >= self._capacity:
            raise GuestFault(f"block request for sector {max(sectors)} of {self._capacity}")
        self.staged.scatter(sectors, self._memory.read(address, size), phase)

    def _zero(self, sector: int, data: Buffer, phase: int) -> None:
        address, size, writable = data
        if not size or writable:
            raise GuestFault("block request without a buffer of the right direction")
        count, rest = divmod(size, _SEGMENT.size)
        if rest or count > INSTAR_ZEROES_SEGMENTS_MAX:
            raise GuestFault(f"block request to zero with {size} bytes of segments")
        if sector or phase != INSTAR_PHASE_PREPARE:
            raise GuestFault(f"block request to zero with sector {sector} in phase {phase}")
        segments = self._memory.read(address, size)
        for first, sectors, flags in _SEGMENT.iter_unpack(segments):
            if flags or not sectors:
                raise GuestFault(f"block request to zero {sectors} sectors with flags {flags:#x}")
            if first > self._capacity - sectors:
                raise GuestFault(f"block request for sector {first} of {self._capacity}")
            self.staged.zero(first, sectors)


def _split(buffers: list[Buffer]) -> tuple[int, Buffer, Buffer, int]:
    """Take a chain apart: the header's address, numbers, data, the status byte's address."""
    if not 2 <= len(buffers) <= 4:
        raise GuestFault(f"block request of {len(buffers)} buffers")
    header, header_size, header_writable = buffers[0]
    status, status_size, status_writable = buffers[-1]
    if header_writable or header_size != _HEADER.size:
        raise GuestFault("block request without a header")
    if not status_writable or status_size != len(_S_OK):
        raise GuestFault("block request without a status byte")
    numbers = buffers[1] if len(buffers) == 4 else _NO_DATA
    return header, numbers, buffers[-2] if len(buffers) > 2 else _NO_DATA, status
