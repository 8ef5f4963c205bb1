"""Host side: the emulated serial port: frames by the transmit queue, text by the register."""

from __future__ import annotations

from struct import Struct
from zlib import crc32

from instar.abi import (
    FRAME_CHECK,
    FRAME_INFO,
    FRAME_MAGIC,
    FRAME_PAYLOAD_MAX,
    FRAME_RESULT,
    INSTAR_TRANSMIT_AVAIL_ADDR,
    INSTAR_TRANSMIT_DESC_ADDR,
    INSTAR_TRANSMIT_MAX,
    INSTAR_TRANSMIT_QUEUE_SIZE,
    INSTAR_TRANSMIT_USED_ADDR,
    FrameHeader_FORMAT,
)

from ..base.errors import GuestFault
from .virtqueue import Virtqueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .memory import GuestMemory

_HEADER = Struct(FrameHeader_FORMAT)
_LAST = (FRAME_RESULT, FRAME_INFO, FRAME_CHECK)

TEXT_BUDGET = 4096
"""Bytes of text that a guest may send by the register."""
FRAME_BUDGET = 1 << 20
"""Bytes that a guest may send by the transmit queue."""


class SerialPort:
    """Collects text, and hands each complete frame to `receive` as (type, payload).

    After the frame that ends a run every further byte of a frame is a GuestFault.
    """

    def __init__(self, memory: GuestMemory, receive: Callable[[int, bytes], None]) -> None:
        """Serve the transmit queue in `memory`."""
        self._memory = memory
        self._receive = receive
        self._queue = Virtqueue(
            memory,
            INSTAR_TRANSMIT_QUEUE_SIZE,
            INSTAR_TRANSMIT_DESC_ADDR,
            INSTAR_TRANSMIT_AVAIL_ADDR,
            INSTAR_TRANSMIT_USED_ADDR,
        )
        self._pending = b""
        self._frame_bytes = 0
        self.text = bytearray()
        self.finished = False

    def write_register(self, data: bytes) -> None:
        """Take bytes from the transmit register. GuestFault beyond the budget."""
        self.text += data
        if len(self.text) > TEXT_BUDGET:
            raise GuestFault(f"more than {TEXT_BUDGET} bytes of text")

    def notify(self) -> None:
        """Take all buffers that the guest made available. GuestFault if they are not frames."""
        for head, buffers in self._queue.pop():
            size = sum(part for _, part, _ in buffers)
            if size > INSTAR_TRANSMIT_MAX or any(writable for _, _, writable in buffers):
                raise GuestFault("transmit buffer too large or writable")
            self._frame_bytes += size
            if self._frame_bytes > FRAME_BUDGET:
                raise GuestFault(f"more than {FRAME_BUDGET} bytes of frames")
            for address, part, _ in buffers:
                self._pending += self._memory.read(address, part)
            self._take_frames()
            self._queue.push(head, 0)

    def check_ended(self) -> None:
        """GuestFault unless the guest sent its result, and nothing unfinished."""
        if not self.finished or self._pending:
            raise GuestFault("the guest ended without a result")

    def _take_frames(self) -> None:
        while self._pending:
            if self.finished:
                raise GuestFault("bytes after the result")
            if len(self._pending) < _HEADER.size:
                return
            magic, kind, length, crc = _HEADER.unpack_from(self._pending)
            if magic != FRAME_MAGIC or length > FRAME_PAYLOAD_MAX:
                raise GuestFault(f"frame with magic {magic:#x} and length {length}")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = self._pending[_HEADER.size : end]
            if crc32(self._pending[4:12] + payload) != crc:
                raise GuestFault("frame with a bad CRC")
            self._pending = self._pending[end:]
            self.finished = kind in _LAST
            self._receive(kind, payload)
