"""Test side: a block request that no correct driver makes is a guest fault, and stages nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.devices.block import BlockDevice
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.image.image_file import ImageFile
from instar.vmm.machine import boot
from tests.support.driver import (
    DATA,
    DMA,
    DMA_END,
    HEADER,
    IN,
    INDIRECT,
    NUMBERS,
    OUT,
    SCATTER,
    STATUS,
    WRITE,
    WRITE_ZEROES,
    Driver,
    block,
)

SECTORS = 5
FILE_SIZE = 4 * 512 + 40
READ, WRITTEN = (DATA, 512, WRITE), (DATA, 512, 0)
REQUEST_MAX = abi.INSTAR_BLOCK_REQUEST_MAX
SEGMENTS_MAX = abi.INSTAR_ZEROES_SEGMENTS_MAX

# Name: the arguments of tests.support.driver.block, and the message.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no data, in": (
        {"kind": IN},
        "block request without a buffer of the right direction",
    ),
    "no data, out": (
        {"kind": OUT},
        "block request without a buffer of the right direction",
    ),
    "a read into what the device may not write": (
        {"kind": IN, "data": WRITTEN},
        "block request without a buffer of the right direction",
    ),
    "a write from what the device may not read": (
        {"kind": OUT, "data": READ},
        "block request without a buffer of the right direction",
    ),
    "a header for the device to write": (
        {"kind": IN, "data": READ, "header": (HEADER, 16, WRITE)},
        "block request without a header",
    ),
    "a header that is too short": (
        {"kind": IN, "data": READ, "header": (HEADER, 15, 0)},
        "block request without a header",
    ),
    "a header that is too long": (
        {"kind": IN, "data": READ, "header": (HEADER, 17, 0)},
        "block request without a header",
    ),
    "a header with data behind it": (
        {"kind": OUT, "header": (HEADER, 528, 0)},
        "block request without a header",
    ),
    "a status that the device may not write": (
        {"kind": IN, "data": READ, "status": (STATUS, 1, 0)},
        "block request without a status byte",
    ),
    "a status of two bytes": (
        {"kind": IN, "data": READ, "status": (STATUS, 2, WRITE)},
        "block request without a status byte",
    ),
    "a status of a sector": (
        {"kind": IN, "status": (STATUS, 513, WRITE)},
        "block request without a status byte",
    ),
    "not a whole sector": (
        {"kind": IN, "data": (DATA, 511, WRITE)},
        "block request of 511 bytes",
    ),
    "a sector and a byte": (
        {"kind": OUT, "data": (DATA, 513, 0)},
        "block request of 513 bytes",
    ),
    "a sector more than the largest request": (
        {"kind": IN, "data": (DATA, REQUEST_MAX + 512, WRITE)},
        f"block request of {REQUEST_MAX + 512} bytes",
    ),
    "the first sector behind the end": (
        {"kind": IN, "sector": SECTORS, "data": READ},
        "block request for sector 5 of 5",
    ),
    "two sectors from the last on": (
        {"kind": IN, "sector": SECTORS - 1, "data": (DATA, 1024, WRITE)},
        "block request for sector 4 of 5",
    ),
    "a request larger than the file": (
        {"kind": OUT, "sector": 0, "data": (DATA, 512 * 6, 0)},
        "block request for sector 0 of 5",
    ),
    "a write behind the end": (
        {"kind": OUT, "sector": SECTORS, "data": WRITTEN},
        "block request for sector 5 of 5",
    ),
    "a sector whose byte wraps around 64 bits": (
        {"kind": IN, "sector": 1 << 55, "data": READ},
        f"block request for sector {1 << 55} of 5",
    ),
    "a sector whose end wraps around 64 bits": (
        {"kind": OUT, "sector": (1 << 64) - 1, "data": (DATA, 1024, 0)},
        f"block request for sector {(1 << 64) - 1} of 5",
    ),
    "a sector with the sign bit": (
        {"kind": OUT, "sector": 1 << 63, "data": WRITTEN},
        f"block request for sector {1 << 63} of 5",
    ),
    "a read before a phase that does not exist": (
        {"kind": IN, "data": READ, "phase": abi.INSTAR_PHASE_COUNT + 1},
        "block request to read before phase 7",
    ),
    "a write in a phase that does not exist": (
        {"kind": OUT, "data": WRITTEN, "phase": abi.INSTAR_PHASE_COUNT},
        "block request to write in phase 6",
    ),
    "a write in a phase of all ones": (
        {"kind": OUT, "data": WRITTEN, "phase": 0xFFFFFFFF},
        "block request to write in phase 4294967295",
    ),
    "zeroes in another phase": (
        {"kind": WRITE_ZEROES, "data": (DATA, 16, 0), "phase": 1},
        "block request to zero with sector 0 in phase 1",
    ),
    "zeroes with a sector in the header": (
        {"kind": WRITE_ZEROES, "data": (DATA, 16, 0), "sector": 1},
        "block request to zero with sector 1 in phase 0",
    ),
    "zeroes without segments": (
        {"kind": WRITE_ZEROES},
        "block request without a buffer of the right direction",
    ),
    "zeroes with segments for the device to write": (
        {"kind": WRITE_ZEROES, "data": READ},
        "block request without a buffer of the right direction",
    ),
    "zeroes with a part of a segment": (
        {"kind": WRITE_ZEROES, "data": (DATA, 24, 0)},
        "block request to zero with 24 bytes of segments",
    ),
    "zeroes with too many segments": (
        {"kind": WRITE_ZEROES, "data": (DATA, 16 * (SEGMENTS_MAX + 1), 0)},
        f"block request to zero with {16 * (SEGMENTS_MAX + 1)} bytes of segments",
    ),
    "scattered sectors without their numbers": (
        {"kind": SCATTER, "data": WRITTEN},
        "block request of 3 buffers",
    ),
    "scattered sectors without data": ({"kind": SCATTER}, "block request of 2 buffers"),
    "numbers of sectors for a write": (
        {"kind": OUT, "numbers": (NUMBERS, 8, 0), "data": WRITTEN},
        "block request of 4 buffers",
    ),
    "scattered sectors in a phase that does not exist": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": WRITTEN, "phase": 6},
        "block request to scatter with sector 0 in phase 6",
    ),
    "scattered sectors with a sector in the header": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": WRITTEN, "sector": 1},
        "block request to scatter with sector 1 in phase 0",
    ),
    "more numbers than scattered sectors": (
        {"kind": SCATTER, "numbers": (NUMBERS, 16, 0), "data": WRITTEN},
        "block request to scatter 1 sectors to 16 bytes",
    ),
    "less numbers than scattered sectors": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": (DATA, 1024, 0)},
        "block request to scatter 2 sectors to 8 bytes",
    ),
    "a part of a scattered sector": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": (DATA, 513, 0)},
        "block request of 513 bytes",
    ),
    "scattered sectors for the device to write": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": READ},
        "block request without a buffer of the right direction",
    ),
    "numbers for the device to write": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, WRITE), "data": WRITTEN},
        "block request without a buffer of the right direction",
    ),
    "too many scattered sectors": (
        {"kind": SCATTER, "numbers": (NUMBERS, 8, 0), "data": (DATA, REQUEST_MAX + 512, 0)},
        f"block request of {REQUEST_MAX + 512} bytes",
    ),
    "a flush": ({"kind": 4}, "block request of type 4"),
    "an unknown type without data": ({"kind": 2}, "block request of type 2"),
    "another without data": ({"kind": 5}, "block request of type 5"),
    "get id": ({"kind": 8, "data": (DATA, 20, WRITE)}, "block request of type 8"),
    "discard": ({"kind": 11, "data": WRITTEN}, "block request of type 11"),
    "a type of all ones": ({"kind": 0xFFFFFFFF, "data": READ}, "block request of type 4294967295"),
    "a header outside the window": (
        {"kind": IN, "data": READ, "header": (DMA - 8, 16, 0)},
        "is not in the DMA window",
    ),
    "data outside the window": (
        {"kind": IN, "data": (DMA_END - 256, 512, WRITE)},
        "is not in the DMA window",
    ),
    "data over the executor": (
        {"kind": IN, "data": (abi.INSTAR_CORE_ADDR, 512, WRITE)},
        "is not in the DMA window",
    ),
    "data over the page tables": (
        {"kind": IN, "data": (boot.tables_address(), 512, WRITE)},
        "is not in the DMA window",
    ),
    "a status outside the window": (
        {"kind": IN, "data": READ, "status": (abi.INSTAR_STACK_ADDR, 1, WRITE)},
        "is not in the DMA window",
    ),
    "indirect data": (
        {"kind": IN, "data": (DATA, 512, WRITE | INDIRECT)},
        "descriptor flags 0x7",
    ),
}


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    yield memory
    memory.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageFile]:
    path: Path = tmp_path_factory.mktemp("block") / "image"
    path.write_bytes(b"i" * FILE_SIZE)
    with ImageFile.open(str(path), writable=True) as image:
        yield image
    assert path.read_bytes() == b"i" * FILE_SIZE


@pytest.mark.parametrize(("arguments", "message"), FAULTS.values(), ids=FAULTS)
def test_a_request_that_breaks_the_rules_is_a_fault(
    memory: GuestMemory, image: ImageFile, arguments: dict[str, Any], message: str
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    driver.offer(block(driver, **arguments))
    with pytest.raises(GuestFault) as caught:
        device.notify()
    assert str(caught.value).endswith(message)
    assert device.staged.is_empty()
    assert driver.used_index() == 0


@pytest.mark.parametrize("number", [SECTORS, 1 << 55, (1 << 64) - 1])
def test_a_scattered_sector_behind_the_end_is_a_fault(
    memory: GuestMemory, image: ImageFile, number: int
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    memory.write(NUMBERS, struct.pack("<QQQ", 1, number, 2))
    driver.offer(block(driver, SCATTER, numbers=(NUMBERS, 24, 0), data=(DATA, 1536, 0)))
    with pytest.raises(GuestFault) as caught:
        device.notify()
    assert str(caught.value) == f"block request for sector {number} of {SECTORS}"
    assert device.staged.is_empty()
    assert driver.used_index() == 0


SEGMENT_FAULTS = {
    "no sectors": ((0, 0, 0), "to zero 0 sectors with flags 0x0"),
    "the flag to unmap": ((0, 1, 1), "to zero 1 sectors with flags 0x1"),
    "another flag": ((0, 1, 1 << 31), "to zero 1 sectors with flags 0x80000000"),
    "a sector behind the end": ((SECTORS, 1, 0), "for sector 5 of 5"),
    "an end behind the end": ((1, SECTORS, 0), "for sector 1 of 5"),
    "an end that wraps": (((1 << 64) - 1, 2, 0), f"for sector {(1 << 64) - 1} of 5"),
}


@pytest.mark.parametrize(("segment", "message"), SEGMENT_FAULTS.values(), ids=SEGMENT_FAULTS)
def test_a_segment_that_breaks_the_rules_is_a_fault(
    memory: GuestMemory, image: ImageFile, segment: tuple[int, ...], message: str
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    memory.write(DATA, struct.pack("<QIIQII", 0, 1, 0, *segment))
    driver.offer(block(driver, WRITE_ZEROES, data=(DATA, 32, 0)))
    with pytest.raises(GuestFault) as caught:
        device.notify()
    assert str(caught.value) == f"block request {message}"
    assert driver.used_index() == 0


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_a_request_of_too_few_or_too_many_buffers_is_a_fault(
    memory: GuestMemory, image: ImageFile, count: int
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    middle = [READ] * (count - 2)
    driver.offer(driver.chain((HEADER, 16, 0), *middle, *[(STATUS, 1, WRITE)] * (count > 1)))
    with pytest.raises(GuestFault, match=f"^block request of {count} buffers$"):
        device.notify()


def test_what_came_before_the_fault_has_been_carried_out(
    memory: GuestMemory, image: ImageFile
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    head = block(driver, OUT, 1, data=WRITTEN)
    driver.chain((HEADER, 16, 0), first=9)
    driver.offer(head, 9)
    with pytest.raises(GuestFault, match="of 1 buffers"):
        device.notify()
    assert driver.used_index() == 1


@pytest.mark.parametrize("parts", ["status in header", "data in header", "status in data"])
def test_parts_that_overlap_harm_nobody_but_the_guest(
    memory: GuestMemory, image: ImageFile, parts: str
) -> None:
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    status = {"status in header": HEADER, "status in data": DATA + 7}.get(parts, STATUS)
    data = HEADER if parts == "data in header" else DATA
    driver.offer(block(driver, IN, 0, data=(data, 512, WRITE), status=(status, 1, WRITE)))
    device.notify()
    assert memory.read(status, 1) == b"\0"


def put_hostile_ring(driver: Driver, chains: list[tuple[int, int, int, list[Any]]]) -> None:
    """Chains that are nearly right: a header's words, and what differs of the buffers."""
    slot = 0
    for number, (kind, reserved, sector, buffers) in enumerate(chains):
        at = DMA + 16 * number
        driver.memory.write(at, struct.pack("<IIQ", kind, reserved, sector))
        driver.offer(driver.chain((at, 16, 0), *buffers, first=slot))
        slot += 1 + len(buffers)


ADDRESSES = st.sampled_from([DMA, DATA, STATUS, DMA_END - 512, DMA_END - 1, 0, DMA - 1, 1 << 63])
BUFFERS = st.tuples(
    ADDRESSES, st.sampled_from([0, 1, 16, 511, 512, 1024, 4096]), st.sampled_from([0, WRITE, 4])
)
CHAINS = st.tuples(
    st.sampled_from([IN, OUT, SCATTER, WRITE_ZEROES]) | st.integers(0, (1 << 32) - 1),
    st.sampled_from([0, 0, 0, 1, 5, 6, 7]),
    st.integers(0, SECTORS + 1) | st.integers(0, (1 << 64) - 1),
    st.lists(BUFFERS, max_size=3).map(lambda buffers: [*buffers, (STATUS, 1, WRITE)]),
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(CHAINS, min_size=1, max_size=4))
def test_nearly_good_requests_are_carried_out_or_faults(
    image: ImageFile, chains: list[tuple[int, int, int, list[Any]]]
) -> None:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    device, driver = BlockDevice(memory, image), Driver.block(memory)
    put_hostile_ring(driver, chains)
    try:
        device.notify()
        assert driver.used_index() == len(chains)
    except GuestFault:
        assert driver.used_index() < len(chains)
    finally:
        outside = memory.read(0, abi.INSTAR_BLOCK_DESC_ADDR)
        behind = memory.read(DMA_END, abi.INSTAR_RAM_SIZE - DMA_END)
        memory.close()
    assert device.staged.end() <= SECTORS
    assert not (outside + behind).strip(b"\0")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=256), st.binary(max_size=16), st.binary(max_size=64))
def test_any_memory_is_carried_out_or_a_fault(
    image: ImageFile, descriptors: bytes, available: bytes, window: bytes
) -> None:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    memory.write(abi.INSTAR_BLOCK_DESC_ADDR, descriptors)
    memory.write(abi.INSTAR_BLOCK_AVAIL_ADDR, available)
    memory.write(DMA, window)
    try:
        BlockDevice(memory, image).notify()
    except GuestFault:
        pass
    finally:
        memory.close()
