"""Test side: guest memory is reached by checked copies only, and never beyond its end."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.base.errors import GuestFault
from instar.vmm.devices import memory as memory_module
from instar.vmm.devices.memory import PAGE_SIZE, GuestMemory

SIZE = 4 * PAGE_SIZE

OUTSIDE = {
    "the byte behind the end": (SIZE, 1),
    "one byte too many": (SIZE - 1, 2),
    "all and one byte more": (0, SIZE + 1),
    "an address far behind the end": (1 << 40, 1),
    "an address at the end of 64 bits": ((1 << 64) - 1, 2),
    "a range that wraps around 64 bits": ((1 << 64) - 8, 16),
    "a negative address": (-1, 1),
    "a negative address of an inner byte": (-SIZE, 1),
    "a negative size": (8, -1),
    "a size of 64 bits": (0, (1 << 64) - 1),
}


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(SIZE)
    yield memory
    memory.close()


def test_populated_memory_is_there_and_zero_where_the_kernel_can(memory: GuestMemory) -> None:
    memory.write(PAGE_SIZE, b"kept")
    memory.populate(0, 2 * PAGE_SIZE)
    assert memory.read(0, SIZE) == bytes(PAGE_SIZE) + b"kept".ljust(SIZE - PAGE_SIZE, b"\0")


def test_discarded_memory_is_zero(memory: GuestMemory) -> None:
    memory.write(0, b"x" * SIZE)
    memory.discard(PAGE_SIZE, 2 * PAGE_SIZE)
    assert memory.read(0, SIZE) == b"x" * PAGE_SIZE + bytes(2 * PAGE_SIZE) + b"x" * PAGE_SIZE


def test_memory_that_the_process_has_locked_is_discarded_too(memory: GuestMemory) -> None:
    memory.write(0, b"x" * SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    where = ctypes.c_void_p(memory.host_address), ctypes.c_size_t(SIZE)
    assert libc.mlock(*where) == 0, "a process may lock some pages"
    memory.discard(PAGE_SIZE, 2 * PAGE_SIZE)
    assert memory.read(0, SIZE) == b"x" * PAGE_SIZE + bytes(2 * PAGE_SIZE) + b"x" * PAGE_SIZE


def test_a_kernel_that_populates_nothing_is_no_error(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_MADV_POPULATE_WRITE", 9999)
    memory.populate(0, PAGE_SIZE)


def test_fresh_memory_is_zero(memory: GuestMemory) -> None:
    assert memory.read(0, SIZE) == bytes(SIZE)


def test_what_was_written_is_read(memory: GuestMemory) -> None:
    memory.write(PAGE_SIZE - 2, b"abcd")
    assert memory.read(PAGE_SIZE - 3, 6) == b"\0abcd\0"


def test_the_first_and_the_last_byte_are_memory(memory: GuestMemory) -> None:
    memory.write(0, b"a")
    memory.write(SIZE - 1, bytearray(b"z"))
    assert (memory.read(0, 1), memory.read(SIZE - 1, 1)) == (b"a", b"z")


def test_nothing_can_be_read_at_the_very_end(memory: GuestMemory) -> None:
    assert memory.read(SIZE, 0) == b""
    memory.write(SIZE, b"")


@pytest.mark.parametrize(("address", "size"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_read_outside_is_the_guests_fault(memory: GuestMemory, address: int, size: int) -> None:
    with pytest.raises(GuestFault, match=f"{size} bytes at .* are not guest memory"):
        memory.read(address, size)


@pytest.mark.parametrize(("address", "size"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_view_outside_is_the_guests_fault(memory: GuestMemory, address: int, size: int) -> None:
    with pytest.raises(GuestFault, match="are not guest memory"):
        memory.view(address, size)


@pytest.mark.parametrize("address", [SIZE - 3, SIZE, 1 << 64, -1, -SIZE])
def test_a_write_outside_changes_nothing(memory: GuestMemory, address: int) -> None:
    with pytest.raises(GuestFault, match=r"4 bytes at .* are not guest memory"):
        memory.write(address, b"abcd")
    assert memory.read(0, SIZE) == bytes(SIZE)


def test_what_was_read_does_not_change_with_the_memory(memory: GuestMemory) -> None:
    copy = memory.read(0, 4)
    memory.write(0, b"abcd")
    assert copy == bytes(4)


def test_a_view_writes_the_memory_and_nothing_next_to_it(memory: GuestMemory) -> None:
    with memory.view(8, 4) as view:
        assert len(view) == 4
        view[:] = b"abcd"
    assert memory.read(7, 6) == b"\0abcd\0"


def test_memory_in_use_is_not_unmapped(memory: GuestMemory) -> None:
    with memory.view(0, 1), pytest.raises(BufferError):
        memory.close()


def test_the_host_address_is_where_the_guest_writes(memory: GuestMemory) -> None:
    ctypes.memmove(memory.host_address + 100, b"guest", 5)
    assert memory.read(100, 5) == b"guest"


@given(st.integers(-(1 << 65), 1 << 65), st.integers(-(1 << 33), 1 << 65))
def test_any_range_is_read_whole_or_is_a_fault(address: int, size: int) -> None:
    memory = GuestMemory(PAGE_SIZE)
    try:
        assert memory.read(address, size) == bytes(size)
        assert 0 <= address <= address + size <= PAGE_SIZE
    except GuestFault:
        assert not 0 <= address <= address + size <= PAGE_SIZE or size < 0
    finally:
        memory.close()


@pytest.mark.parametrize(("address", "size"), OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_outside_is_populated(memory: GuestMemory, address: int, size: int) -> None:
    with pytest.raises(GuestFault):
        memory.populate(address, size)
