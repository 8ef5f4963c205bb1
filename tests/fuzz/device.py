"""Test side: fuzz target for the host's device models and judges; any bytes from the guest.

`run_input(data)` turns bytes into hostile guest memory, frames, headers or staged sectors and hands
them to the host's own classes. Each either takes them or raises GuestFault (MalformedHeader in
view_header); anything else, and any access that the contract does not allow, is a finding.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from zlib import crc32

from instar import abi
from instar.vmm.amend.messages import Messages
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.devices.block import BlockDevice
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.devices.serial import SerialPort
from instar.vmm.devices.virtqueue import Buffer, Virtqueue
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.staging import SECTOR_SIZE
from tests.fuzz.judges import run_header, run_judge
from tests.fuzz.source import Source
from tests.support.staged import all_sectors

DMA, DMA_END = abi.INSTAR_DMA_ADDR, abi.INSTAR_RAM_SIZE
POOL = 0x4000
"""Bytes at the window's start and at its end where most buffers lie."""
CONTENTS = bytes(range(256)) * 18 + b"tail" * 10
OPERATIONS_MAX = 5000
"""Accesses to guest memory for one doorbell: a bound on time."""

_BLOCK = (
    *(abi.INSTAR_BLOCK_QUEUE_SIZE, abi.INSTAR_BLOCK_DESC_ADDR),
    *(abi.INSTAR_BLOCK_AVAIL_ADDR, abi.INSTAR_BLOCK_USED_ADDR),
)
_TRANSMIT = (
    *(abi.INSTAR_TRANSMIT_QUEUE_SIZE, abi.INSTAR_TRANSMIT_DESC_ADDR),
    *(abi.INSTAR_TRANSMIT_AVAIL_ADDR, abi.INSTAR_TRANSMIT_USED_ADDR),
)


class FindingError(Exception):
    """The host did something that no bytes from the guest should make it do."""


@dataclass
class Watch:
    """What one device may touch, and how often."""

    used: range = range(0)
    rings: range = range(0)
    operations: int = 0
    dirty: list[tuple[int, int]] = field(default_factory=list)


class WatchedMemory(GuestMemory):
    """Guest memory that knows where a device model may read and write, and tells if it does not."""

    def __init__(self) -> None:
        super().__init__(abi.INSTAR_RAM_SIZE)
        self.watch: Watch | None = None
        self.dirty: list[tuple[int, int]] = []

    def read(self, address: int, size: int) -> bytes:
        self._judge(address, size, *((self.watch.rings,) if self.watch else ()))
        return super().read(address, size)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        self._judge(address, len(data), *((self.watch.used,) if self.watch else ()))
        self.dirty.append((address, len(data)))
        super().write(address, data)

    def view(self, address: int, size: int) -> memoryview:
        self._judge(address, size)
        self.dirty.append((address, size))
        return super().view(address, size)

    def _judge(self, address: int, size: int, *allowed: range) -> None:
        if self.watch is None:
            return
        self.watch.operations += 1
        if self.watch.operations > OPERATIONS_MAX:
            raise FindingError("a doorbell takes too long")
        for part in (range(DMA, DMA_END), *allowed):
            if part.start <= address and address + size <= part.stop:
                return
        raise FindingError(f"the host touches {size} bytes at {address:#x}")

    def clear(self) -> None:
        """Zero what was written."""
        self.watch = None
        for address, size in self.dirty:
            if 0 <= address <= self.size - size:
                super().write(address, bytes(size))
        self.dirty.clear()


class _Image(ImageFile):
    """An image file that must not be written."""

    def write(self, offset: int, data: bytes) -> None:
        raise FindingError("the host writes to the image")

    def barrier(self) -> None:
        raise FindingError("the host flushes the image")


def _open_image() -> ImageFile:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        Path(file.name).write_bytes(CONTENTS)
        return _Image.open(file.name, writable=True)


_memory = WatchedMemory()
_image = _open_image()


def _buffer_address(source: Source) -> int:
    kind = source.below(8)
    if kind < 5:
        return DMA + source.below(POOL)
    if kind == 5:
        return DMA_END - source.below(POOL)
    return source.pick((0, DMA - 1, 0x28000, 0x1F0000, (1 << 64) - 512, source.number(8)))


def _fill_ring(source: Source, parts: tuple[int, int, int, int], index: int) -> int:
    """Lay out a ring, mostly as a driver would; returns the new avail index."""
    size, desc, avail, _ = parts
    for _ in range(source.below(7)):
        slot = source.below(size)
        length = source.pick((1, 16, 512, 1024, 4096, 0, 5, 1 << 20, source.number(4)))
        flags = source.pick((0, 1, 2, 3, 1, 3, source.number(2)))
        after = source.pick((slot + 1, source.below(size), source.number(2))) & 0xFFFF
        _memory.write(
            desc + 16 * slot, pack("<QIHH", _buffer_address(source), length, flags, after)
        )
    count = source.pick((1, 1, 1, 2, 3, source.below(size + 2), source.number(2)))
    for n in range(min(count, 4)):
        head = source.pick((0, source.below(size), source.number(2)))
        _memory.write(avail + 4 + 2 * ((index + n) % size), pack("<H", head & 0xFFFF))
    index = (index + count) & 0xFFFF
    _memory.write(avail, pack("<HH", source.pick((0, source.number(2))), index))
    return index


def _block_request(source: Source, number: int) -> None:
    """One request as a correct driver lays it out, but for what `source` makes of it."""
    kind = source.pick((0, 1, 4, 0, 1, source.number(4)))
    reserved = source.pick((0, 0, 0, source.number(4)))
    sector = source.pick((0, source.below(12), 9, 10, source.number(8)))
    size = source.pick((512, 512, 1024, 4608, 0, 513, 1 << 20, source.number(4)))
    header, data, status = DMA + 16 * number, DMA + 0x1000 + 512 * number, DMA + 0x800 + number
    _memory.write(header, pack("<IIQ", kind, reserved, sector))
    write = 2 if kind == 0 else 0
    write = source.pick((write, write, write, 2 - write))
    chain = [(header, 16, 0), (status, 1, 2)]
    if kind != 4 and size:
        chain.insert(1, (data, size, write))
    slot = 3 * number
    for at, (address, length, flags) in enumerate(chain, slot):
        more = int(at < slot + len(chain) - 1)
        raw = pack("<QIHH", address, length, flags | more, (at + 1) * more)
        _memory.write(abi.INSTAR_BLOCK_DESC_ADDR + 16 * at, raw)


def _good_requests(source: Source, index: int) -> int:
    count = 1 + source.below(4)
    for number in range(count):
        _block_request(source, number)
        slot = (index + number) % abi.INSTAR_BLOCK_QUEUE_SIZE
        _memory.write(abi.INSTAR_BLOCK_AVAIL_ADDR + 4 + 2 * slot, pack("<H", 3 * number))
    index = (index + count) & 0xFFFF
    _memory.write(abi.INSTAR_BLOCK_AVAIL_ADDR, pack("<HH", 0, index))
    return index


def _notify(notify: Callable[[], None], parts: tuple[int, int, int, int]) -> None:
    size, desc, avail, used = parts
    used_end = used + 4 + 8 * size
    _memory.watch = Watch(used=range(used, used_end), rings=range(desc, avail + 4 + 2 * size))
    notify()
    _memory.watch = None


def run_block(source: Source) -> None:
    """The block device: any ring, any request; staged or read, never written."""
    device = BlockDevice(_memory, _image)
    index = 0
    for _ in range(1 + source.below(4)):
        good = source.below(4)
        index = _good_requests(source, index) if good else _fill_ring(source, _BLOCK, index)
        if source.below(4) == 0:
            _memory.write(DMA + source.below(POOL), source.take(source.below(64)))
        _notify(device.notify, _BLOCK)
        staged = device.staged
        written = [data for phase in all_sectors(staged) for data in phase.values()]
        if staged.end() > 10 or any(len(data) != SECTOR_SIZE for data in written):
            raise FindingError("staged sectors outside the image")


def run_queue(source: Source) -> None:
    """The virtqueue alone: what it yields lies in the window."""
    parts = source.pick((_BLOCK, _TRANSMIT))
    queue = Virtqueue(_memory, *parts)
    index = 0

    def take() -> None:
        for head, buffers in queue.pop():
            _judge_chain(parts[0], head, buffers)
            queue.push(head, 1)

    for _ in range(1 + source.below(3)):
        index = _fill_ring(source, parts, index)
        _notify(take, parts)


def _judge_chain(size: int, head: int, buffers: list[Buffer]) -> None:
    if not 0 <= head < size or not 0 < len(buffers) <= size:
        raise FindingError("a chain of no or too many buffers")
    if any(not (part and DMA <= at <= DMA_END - part) for at, part, _ in buffers):
        raise FindingError("a buffer outside the window")


def _frame(source: Source) -> bytes:
    kinds = (abi.FRAME_RESULT, abi.FRAME_REFUSALS, abi.FRAME_PROGRESS, abi.FRAME_OPTIONS)
    kind = source.pick((*kinds, source.number(4)))
    sizes = {abi.FRAME_RESULT: 64, abi.FRAME_REFUSALS: 32 * source.below(4), abi.FRAME_PROGRESS: 16}
    size = source.pick((sizes.get(kind, 8), sizes.get(kind, 8), source.below(2100)))
    payload = source.take(size).ljust(size, b"\0")
    if kind == abi.FRAME_OPTIONS and source.below(8):
        values = (source.pick((2, 3, source.number(4))), source.pick((0, 1, source.number(4))))
        payload = pack("<2HIQ2HIQ", 1, 2, 8, values[0], 2, source.pick((1, 1, 2, 3)), 8, values[1])
    if kind == abi.FRAME_RESULT and source.below(8):
        words = [source.pick((0, 1, source.number(4))) for _ in range(6)]
        count = source.pick((0, words[1], source.below(4), source.number(4)))
        features = [source.pick((0, 1, source.number(8))) for _ in range(3)]
        head = (abi.AMEND_RESULT_MAGIC, abi.AMEND_FORMAT_QCOW2, *words[:5], count)
        payload = pack("<8I4Q", *head, *features, source.pick((0, 0, source.number(8))))
    middle = pack("<II", kind, source.pick((len(payload), len(payload), source.number(4))))
    crc = crc32(middle + payload) if source.below(16) else source.number(4)
    return (
        pack("<I", abi.FRAME_MAGIC if source.below(16) else 0) + middle + pack("<I", crc) + payload
    )


def run_serial(source: Source) -> None:
    """The serial port and the messages: any bytes, in any buffers."""
    progress: list[tuple[int, int]] = []
    messages = Messages(lambda done, total: progress.append((done, total)))
    port = SerialPort(_memory, messages.receive)
    stream = b"".join(_frame(source) for _ in range(source.below(5))) + source.take(source.below(9))
    index = 0
    while stream:
        size = source.pick((len(stream), len(stream), 1 + source.below(64)))
        piece, stream = stream[: min(size, 4096)], stream[min(size, 4096) :]
        _memory.write(DMA, piece)
        _memory.write(abi.INSTAR_TRANSMIT_DESC_ADDR, pack("<QIHH", DMA, len(piece), 0, 0))
        _memory.write(abi.INSTAR_TRANSMIT_AVAIL_ADDR + 4 + 2 * (index % 4), bytes(2))
        index += 1
        _memory.write(abi.INSTAR_TRANSMIT_AVAIL_ADDR, pack("<HH", 0, index))
        _notify(port.notify, _TRANSMIT)
    port.write_register(source.take(source.below(32)))
    port.check_ended()
    refusals, claim = messages.complete()
    if any(not 0 <= done <= total for done, total in progress):
        raise FindingError("progress beyond its total")
    if len(refusals) > abi.REFUSAL_MAX or claim.fields["compatible_features"] >> 64:
        raise FindingError("a result that contradicts itself")


TARGETS: tuple[Callable[[Source], None], ...] = (
    *(run_block, run_queue, run_serial, run_judge, run_header),
)


def run_input(data: bytes) -> str:
    """Run one input; returns the target's name and how it ended. FindingError, or any other."""
    source = Source(data)
    target = TARGETS[source.below(len(TARGETS))]
    try:
        target(source)
        ending = "accepted"
    except (GuestFault, ImageRejected):  # the contract rejects images at odds with themselves
        ending = "refused"
    finally:
        _memory.clear()
    if _image.bytes_written or os.fstat(_image.fd).st_size != len(CONTENTS):
        raise FindingError("the image changed")
    return f"{target.__name__[4:]} {ending}"
