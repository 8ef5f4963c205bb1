"""Test side: the block device does what a correct driver asks, and stages what it writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, HostError
from instar.vmm.devices.block import BlockDevice
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.image import image_file as image_file_module
from instar.vmm.image.image_file import ImageFile
from tests.support.driver import (
    DATA,
    DMA,
    HEADER,
    IN,
    NUMBERS,
    OUT,
    SCATTER,
    STATUS,
    WRITE,
    WRITE_ZEROES,
    Driver,
    block,
)
from tests.support.staged import sectors

CONTENTS = bytes(range(256)) * 8 + b"tail" * 10
"""Four sectors, and forty bytes of a fifth."""


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    yield memory
    memory.close()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[ImageFile]:
    path = tmp_path / "image"
    path.write_bytes(CONTENTS)
    with ImageFile.open(str(path), writable=True) as image:
        yield image
    assert path.read_bytes() == CONTENTS


class Machine:
    """A device and its driver."""

    def __init__(self, memory: GuestMemory, image: ImageFile, max_growth: int = 0) -> None:
        self.memory = memory
        self.device = BlockDevice(memory, image, max_growth)
        self.driver = Driver.block(memory)

    def request(self, kind: int, sector: int = 0, size: int = 0, phase: int = 0) -> None:
        """Have one request carried out, whose data lie at DATA."""
        data = (DATA, size, WRITE if kind == IN else 0) if size else None
        self.memory.write(STATUS, b"\xff")
        self.driver.offer(block(self.driver, kind, sector, data=data, phase=phase))
        self.device.notify()
        assert self.memory.read(STATUS, 1) == b"\0"

    def read(self, sector: int, size: int, phase: int = abi.INSTAR_PHASE_COUNT) -> bytes:
        """By default, see what all phases make of it."""
        self.request(IN, sector, size, phase)
        return self.memory.read(DATA, size)

    def write(self, sector: int, data: bytes, phase: int = 0) -> None:
        self.memory.write(DATA, data)
        self.request(OUT, sector, len(data), phase)

    def scatter(self, numbers: tuple[int, ...], data: bytes, phase: int) -> None:
        self.memory.write(NUMBERS, struct.pack(f"<{len(numbers)}Q", *numbers))
        self.memory.write(DATA, data)
        buffers = (NUMBERS, 8 * len(numbers), 0), (DATA, len(data), 0)
        self.memory.write(STATUS, b"\xff")
        self.driver.offer(
            block(self.driver, SCATTER, numbers=buffers[0], data=buffers[1], phase=phase)
        )
        self.device.notify()
        assert self.memory.read(STATUS, 1) == b"\0"

    def zero(self, *segments: tuple[int, int]) -> None:
        packed = b"".join(struct.pack("<QII", *segment, 0) for segment in segments)
        self.memory.write(DATA, packed)
        self.request(WRITE_ZEROES, 0, len(packed))


@pytest.fixture
def machine(memory: GuestMemory, image: ImageFile) -> Machine:
    return Machine(memory, image)


def test_scattered_sectors_are_staged_each_where_it_belongs(machine: Machine) -> None:
    a, b, c = (bytes([letter]) * 512 for letter in b"abc")
    machine.scatter((4, 0, 2), a + b + c, 2)
    assert sectors(machine.device.staged, 2) == {0: b, 2: c, 4: a}
    assert machine.read(0, 2048, phase=3) == b + CONTENTS[512:1024] + c + CONTENTS[1536:2048]
    assert machine.read(0, 2048, phase=2) == CONTENTS[:2048]


PART = struct.Struct(abi.AheadPart_FORMAT)


def ahead(memory: GuestMemory) -> list[tuple[int, bytes]]:
    """What the guest is given before it starts: the parts' offsets, and what is in each."""
    table = memory.read(abi.INSTAR_AHEAD_ADDR, abi.INSTAR_AHEAD_PARTS * PART.size)
    parts = [PART.unpack_from(table, at) for at in range(0, len(table), PART.size)]
    return [(offset, memory.read(address, size)) for offset, size, address in parts if size]


def test_the_head_of_a_short_image_is_read_ahead_with_zeros_behind_its_end(
    machine: Machine,
) -> None:
    machine.device.read_ahead()
    assert ahead(machine.memory) == [(0, CONTENTS.ljust(5 * 512, b"\0"))]
    assert machine.device.bytes_read == 5 * 512


@pytest.mark.parametrize(
    ("along", "found"),
    [
        ((0, 0), []),
        ((8192, 0), [8192]),
        ((0, 8704), [8704]),
        ((8192, 8704), [8192, 8704]),
        ((512, 512), [512, 512]),
        ((9216, 1 << 63), [9216]),
        ((9728, 8192), [8192]),
        (((1 << 64) - 512, 0), []),
    ],
)
def test_sectors_are_read_ahead_along_with_the_head_if_the_image_has_them(
    memory: GuestMemory, tmp_path: Path, along: tuple[int, int], found: list[int]
) -> None:
    path = tmp_path / "image"
    contents = b"".join(n.to_bytes(8, "big") for n in range((9216 + 40) // 8))
    path.write_bytes(contents)
    with ImageFile.open(str(path), writable=False) as image:
        BlockDevice(memory, image).read_ahead(along)
    padded = contents.ljust(9728, b"\0")
    parts = [(0, padded[:4096]), *((at, padded[at : at + 512]) for at in found)]
    assert ahead(memory) == parts
    # No byte more than those: the executor's own part of the memory follows.
    end = abi.INSTAR_AHEAD_DATA_ADDR + sum(len(data) for _, data in parts)
    assert end <= abi.INSTAR_AHEAD_END
    assert not any(memory.read(end, 8192))


TABLE_MAX = abi.INSTAR_AHEAD_TABLE_MAX


@pytest.mark.parametrize(
    ("table", "size"),
    [
        ((0x2000, 0x200), 0x200),
        ((0x2200, 0x1E00), 0x1E00),
        ((0x2000, TABLE_MAX), TABLE_MAX),
        ((0x2000, TABLE_MAX + 0x200), TABLE_MAX),
        ((0x2000, 1 << 62), TABLE_MAX),
        ((0x18000, TABLE_MAX), 0x2400),
        ((0x1A400, 0x200), 0),
        (((1 << 56) - 512, 0x200), 0),
        ((0, 0x200), 0),
    ],
)
def test_a_part_of_a_table_is_read_ahead_where_nothing_else_is(
    memory: GuestMemory, tmp_path: Path, table: tuple[int, int], size: int
) -> None:
    path = tmp_path / "image"
    contents = b"".join(n.to_bytes(8, "big") for n in range((0x1A200 + 40) // 8))
    path.write_bytes(contents)
    with ImageFile.open(str(path), writable=False) as image:
        device = BlockDevice(memory, image)
        device.read_ahead((0x4000, 0), table)
    padded = contents.ljust(0x1A400, b"\0")
    parts = [(0, padded[:4096]), (0x4000, padded[0x4000:0x4200])]
    parts += [(table[0], padded[table[0] : table[0] + size])] if size else []
    assert ahead(memory) == parts
    end = abi.INSTAR_AHEAD_TABLE_ADDR + size
    assert not any(memory.read(end, abi.INSTAR_AHEAD_ADDR - end))
    assert not any(memory.read(abi.INSTAR_AHEAD_END, 1 << 16))
    assert device.bytes_read == 4096 + 512 + size


def test_an_empty_image_has_nothing_to_read_ahead(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"")
    with ImageFile.open(str(path), writable=False) as image:
        BlockDevice(memory, image).read_ahead((512, 1024))
    assert ahead(memory) == []


@pytest.mark.parametrize(
    ("budget", "found"),
    [(0, []), (512, []), (2559, []), (2560, [0]), (3071, [0]), (3072, [0, 512])],
)
def test_no_more_is_read_ahead_than_the_budget_allows(
    memory: GuestMemory, image: ImageFile, budget: int, found: list[int]
) -> None:
    image.work_max = budget
    device = BlockDevice(memory, image)
    device.read_ahead((512, 1024))
    assert [offset for offset, _ in ahead(memory)] == found
    assert device.bytes_read == sum(len(data) for _, data in ahead(memory)) <= budget


def test_a_read_gives_the_files_bytes(machine: Machine) -> None:
    assert machine.read(1, 1024) == CONTENTS[512:1536]


def test_a_read_writes_its_buffer_and_its_status_and_nothing_else(machine: Machine) -> None:
    before = machine.memory.read(DMA, 0x4000)
    machine.read(0, 512)
    assert machine.driver.used(0) == (0, 513)
    after = machine.memory.read(DMA, 0x4000)
    touched = {number for number in range(0x4000) if before[number] != after[number]}
    data = range(DATA - DMA, DATA - DMA + 512)
    assert touched <= {*range(HEADER - DMA, HEADER - DMA + 16), STATUS - DMA, *data}


def test_what_lies_behind_the_end_of_the_file_reads_as_zeros(machine: Machine) -> None:
    machine.memory.write(DATA, b"\xff" * 1024)
    assert machine.read(3, 1024) == (CONTENTS[1536:]).ljust(1024, b"\0")


def test_an_empty_file_has_no_sector(memory: GuestMemory, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with ImageFile.open(str(tmp_path / "empty"), writable=False) as image:
        machine = Machine(memory, image)
        with pytest.raises(GuestFault, match=r"^block request for sector 0 of 0$"):
            machine.read(0, 512)


def test_the_largest_request_is_carried_out(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * abi.INSTAR_BLOCK_REQUEST_MAX)
    with ImageFile.open(str(path), writable=False) as image:
        machine = Machine(memory, image)
        assert machine.read(0, abi.INSTAR_BLOCK_REQUEST_MAX) == path.read_bytes()


def test_a_write_is_staged_and_not_passed_on(machine: Machine, image: ImageFile) -> None:
    machine.write(2, b"w" * 512)
    assert sectors(machine.device.staged, 0) == {2: b"w" * 512}
    assert machine.driver.used(0) == (0, 1)
    assert image.bytes_written == 0
    assert image.read(1024, 512) == CONTENTS[1024:1536]


def test_a_write_may_reach_into_the_last_sector(machine: Machine) -> None:
    machine.write(4, b"w" * 512)
    assert sectors(machine.device.staged, 0) == {4: b"w" * 512}


def test_the_guest_reads_what_it_wrote(machine: Machine) -> None:
    machine.write(1, b"a" * 1024)
    machine.write(2, b"b" * 512, phase=3)
    assert machine.read(1, 1536) == b"a" * 512 + b"b" * 512 + CONTENTS[1536:2048]
    assert machine.read(2, 512) == b"b" * 512
    assert machine.read(0, 512) == CONTENTS[:512]


def test_the_guest_reads_what_it_wrote_behind_the_end(machine: Machine) -> None:
    machine.write(4, b"w" * 512)
    assert machine.read(3, 1024) == CONTENTS[1536:2048] + b"w" * 512


def test_what_is_staged_does_not_change_with_the_guests_memory(machine: Machine) -> None:
    machine.write(0, b"a" * 512)
    machine.memory.write(DATA, b"b" * 512)
    assert sectors(machine.device.staged, 0) == {0: b"a" * 512}


def test_a_read_sees_what_comes_before_its_phase(machine: Machine) -> None:
    for phase in (4, 0, 2):
        machine.write(1, bytes([phase]) * 512, phase)
    seen = [machine.read(1, 512, phase)[0] for phase in range(abi.INSTAR_PHASE_COUNT + 1)]
    assert seen == [CONTENTS[512], 0, 0, 2, 2, 4, 4]
    assert [machine.device.staged.count(phase) for phase in range(6)] == [1, 0, 1, 0, 1, 0]


def test_zeroes_are_staged_and_not_seen(machine: Machine) -> None:
    machine.zero((3, 1), (0, 1), (4, 1))
    assert machine.driver.used(0) == (0, 1)
    assert machine.read(0, 512) == CONTENTS[:512]
    assert list(zip(*machine.device.staged.zeroed(), strict=True)) == [(0, 1), (3, 5)]


class TestGrowth:
    def test_writes_and_zeroes_may_reach_so_far(
        self, memory: GuestMemory, image: ImageFile
    ) -> None:
        machine = Machine(memory, image, max_growth=1024)
        machine.write(5, b"w" * 512)
        machine.zero((6, 1))
        assert machine.device.staged.end() == 7
        with pytest.raises(GuestFault, match=r"^block request for sector 6 of 7$"):
            machine.write(6, b"w" * 1024)
        with pytest.raises(GuestFault, match=r"^block request for sector 7 of 7$"):
            machine.zero((7, 1))

    def test_what_is_written_there_can_be_read_back(
        self, memory: GuestMemory, image: ImageFile
    ) -> None:
        machine = Machine(memory, image, max_growth=1024)
        machine.write(6, b"w" * 512)
        assert machine.read(4, 1536) == CONTENTS[2048:].ljust(1024, b"\0") + b"w" * 512
        with pytest.raises(GuestFault, match=r"^block request for sector 7 of 7$"):
            machine.read(7, 512)


def test_requests_of_one_doorbell_are_carried_out_in_order(machine: Machine) -> None:
    driver, memory = machine.driver, machine.memory
    memory.write(DATA, b"w" * 512)
    chains = [
        (OUT, (DATA, 512, 0)),
        (IN, (DATA + 512, 512, WRITE)),
        (OUT, (DATA + 512, 512, 0)),
    ]
    for number, (kind, data) in enumerate(chains):
        header = (HEADER + 16 * number, 16, 0)
        memory.write(header[0], struct.pack("<IIQ", kind, number, 0))
        driver.chain(header, data, (STATUS + number, 1, WRITE), first=3 * number)
    driver.offer(0, 3, 6)
    machine.device.notify()
    assert memory.read(DATA + 512, 512) == b"w" * 512
    assert [driver.used(number) for number in range(3)] == [(0, 1), (3, 513), (6, 1)]
    assert sectors(machine.device.staged, 2) == {0: b"w" * 512}


def test_the_time_is_looked_at_before_each_request(machine: Machine) -> None:
    asked = []

    def check_time() -> None:
        asked.append(machine.device.bytes_read)
        if len(asked) == 3:
            raise GuestFault("late")

    for sector in range(4):
        machine.driver.offer(block(machine.driver, IN, sector, data=(DATA, 512, WRITE)))
    with pytest.raises(GuestFault, match=r"^late$"):
        machine.device.notify(check_time)
    assert asked == [0, 512, 1024]


def test_bytes_read_are_counted(machine: Machine) -> None:
    machine.read(0, 512)
    machine.read(3, 1024)
    assert machine.device.bytes_read == 1536


class TestBudgets:
    def test_reads_end_at_the_budget(self, memory: GuestMemory, image: ImageFile) -> None:
        image.work_max = 1 << 14
        machine = Machine(memory, image)
        for _ in range(8):
            machine.read(0, 2048)
        with pytest.raises(GuestFault, match=r"^more than 16384 bytes read$"):
            machine.read(0, 512)

    def test_writes_end_at_the_budget(
        self, memory: GuestMemory, image: ImageFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            image_file_module, "staging_budget", lambda size, growth, _tables: size - growth
        )
        machine = Machine(memory, image, max_growth=1024)
        machine.write(0, bytes(1024))
        with pytest.raises(GuestFault, match=r"^more sectors written than any amend"):
            machine.write(2, bytes(512))


def test_a_file_that_fails_is_the_hosts_fault(machine: Machine, image: ImageFile) -> None:
    good = image.fd
    image.fd = -1
    try:
        with pytest.raises(HostError, match=r"could not read '.*image': Bad file descriptor"):
            machine.read(0, 512)
    finally:
        image.fd = good


def test_a_file_that_shrinks_reads_as_zeros(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"x" * 2048)
    with ImageFile.open(str(path), writable=False) as image:
        machine = Machine(memory, image)
        path.write_bytes(b"x" * 100)
        assert machine.read(0, 2048) == b"x" * 100 + bytes(1948)
