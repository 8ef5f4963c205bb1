"""Test side: the driver's end of the queues: lays out rings in guest memory, good or bad.

It checks nothing, so that it can do all that a hostile guest can.
"""

from __future__ import annotations

import struct
import zlib

from instar import abi
from instar.vmm.devices.memory import GuestMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
"""Virtio 1.2, 2.7.5: the flags of a descriptor."""

IN, OUT, WRITE_ZEROES = 0, 1, 13
"""Virtio 1.2, 5.2.6: types of block requests."""
SCATTER = abi.INSTAR_BLOCK_SCATTER
"""The type of our own."""

DMA = abi.INSTAR_DMA_ADDR
DMA_END = abi.INSTAR_RAM_SIZE
HEADER, DATA, STATUS, NUMBERS = DMA, DMA + 0x1000, DMA + 0x800, DMA + 0x400
"""Where block() puts the parts of a request."""

Buffer = tuple[int, int, int]
"""Address, size, flags."""


class Driver:
    """The driver's end of one queue."""

    def __init__(self, memory: GuestMemory, size: int, desc: int, avail: int, used: int) -> None:
        """Take what Virtqueue takes."""
        self.memory = memory
        self.size = size
        self.index = 0
        self._desc, self._avail, self._used = desc, avail, used

    @classmethod
    def block(cls, memory: GuestMemory) -> Driver:
        return cls(
            memory,
            abi.INSTAR_BLOCK_QUEUE_SIZE,
            abi.INSTAR_BLOCK_DESC_ADDR,
            abi.INSTAR_BLOCK_AVAIL_ADDR,
            abi.INSTAR_BLOCK_USED_ADDR,
        )

    @classmethod
    def transmit(cls, memory: GuestMemory) -> Driver:
        return cls(
            memory,
            abi.INSTAR_TRANSMIT_QUEUE_SIZE,
            abi.INSTAR_TRANSMIT_DESC_ADDR,
            abi.INSTAR_TRANSMIT_AVAIL_ADDR,
            abi.INSTAR_TRANSMIT_USED_ADDR,
        )

    def describe(self, slot: int, address: int, size: int, flags: int = 0, after: int = 0) -> None:
        """Write one descriptor."""
        raw = struct.pack("<QIHH", address, size, flags, after)
        self.memory.write(self._desc + 16 * slot, raw)

    def chain(self, *buffers: Buffer, first: int = 0) -> int:
        """Write one descriptor after the other from slot `first` on, linked; returns `first`."""
        for slot, (address, size, flags) in enumerate(buffers, first):
            more = NEXT if slot < first + len(buffers) - 1 else 0
            self.describe(slot, address, size, flags | more, slot + 1 if more else 0)
        return first

    def offer(self, *heads: int) -> None:
        """Make chains available."""
        for head in heads:
            slot = self._avail + 4 + 2 * (self.index % self.size)
            self.memory.write(slot, struct.pack("<H", head))
            self.index = (self.index + 1) & 0xFFFF
        self.set_index(self.index)

    def set_index(self, index: int) -> None:
        """Write the avail index, whatever was made available."""
        self.memory.write(self._avail, struct.pack("<HH", 0, index & 0xFFFF))

    def used_index(self) -> int:
        """How many chains the device has returned, modulo 2^16."""
        index: int = struct.unpack("<HH", self.memory.read(self._used, 4))[1]
        return index

    def used(self, number: int) -> tuple[int, int]:
        """The chain returned as `number`, from 0 on: its head, and the bytes written to it."""
        slot = self._used + 4 + 8 * (number % self.size)
        head, written = struct.unpack("<II", self.memory.read(slot, 8))
        return head, written


def block(
    driver: Driver,
    kind: int,
    sector: int = 0,
    *,
    numbers: Buffer | None = None,
    data: Buffer | None = None,
    header: Buffer = (HEADER, 16, 0),
    status: Buffer = (STATUS, 1, WRITE),
    phase: int = 0,
) -> int:
    """Lay out one block request from slot 0 on, and return its head."""
    driver.memory.write(HEADER, struct.pack("<IIQ", kind, phase, sector))
    return driver.chain(header, *filter(None, (numbers, data)), status)


def frame(
    kind: int,
    payload: bytes,
    *,
    magic: int = abi.FRAME_MAGIC,
    length: int | None = None,
    crc: int | None = None,
) -> bytes:
    """A frame as the serial port expects it, but for what is given otherwise."""
    middle = struct.pack("<II", kind, len(payload) if length is None else length)
    crc = zlib.crc32(middle + payload) if crc is None else crc
    return struct.pack("<I", magic) + middle + struct.pack("<I", crc) + payload
