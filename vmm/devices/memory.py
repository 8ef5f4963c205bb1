"""Host side: guest memory. The one way from a guest address to bytes, checked and copied."""

from __future__ import annotations

import mmap

from ..base.c import addressof, c_char
from ..base.errors import GuestFault

PAGE_SIZE = 4096
_ZEROS = bytes(PAGE_SIZE)
_MADV_POPULATE_WRITE = 23  # linux/mman.h
HUGE_PAGE_SIZE = 2 << 20
"""Memory after the first such page is what few runs have, and use whole: each page that is touched
costs an exit of the processor, of which huge ones spare 511 of 512."""


class GuestMemory:
    """The guest's RAM from guest-physical address 0 on, zeroed; host and guest both write it.

    The single vCPU is stopped while the host looks, and what is looked at is copied first, so
    nothing changes between a check and a use.
    """

    def __init__(self, size: int) -> None:
        """Map `size` bytes, a multiple of the page size."""
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.size = size
        if size > HUGE_PAGE_SIZE:
            try:  # noqa: SIM105 - contextlib is one more import
                self._map.madvise(mmap.MADV_HUGEPAGE, HUGE_PAGE_SIZE, size - HUGE_PAGE_SIZE)
            except OSError:
                pass  # a kernel without huge pages: it is a matter of speed

    @property
    def host_address(self) -> int:
        """Where the mapping starts in this process; valid until close()."""
        return addressof(c_char.from_buffer(self._map))

    def close(self) -> None:
        """Unmap. No VM may use the memory any more."""
        self._map.close()

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes at `address` out. GuestFault if they are not all guest memory."""
        data = self._map[address : address + size]
        if len(data) != size or not 0 <= address <= self.size:
            raise _outside(address, size)
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to `address`. GuestFault if that is not all guest memory."""
        size = len(data)
        if address < 0 or address + size > self.size:
            raise _outside(address, size)
        self._map[address : address + size] = data

    def populate(self, address: int, size: int) -> None:
        """Have the kernel provide whole pages before they are touched: a matter of speed.

        GuestFault if they are not all guest memory.
        """
        self._check(address, size)
        try:  # noqa: SIM105 - contextlib is one more import
            self._map.madvise(_MADV_POPULATE_WRITE, address, size)
        except OSError:
            pass  # Linux before 5.14 does not know it

    def discard(self, address: int, size: int) -> None:
        """Make whole pages zero by giving them back to the kernel (madvise(2), MADV_DONTNEED).

        Those that the process has locked (mlockall(2)) the kernel does not take: they are written.
        GuestFault if they are not all guest memory.
        """
        self._check(address, size)
        try:
            self._map.madvise(mmap.MADV_DONTNEED, address, size)
        except OSError:
            for at in range(address, address + size, PAGE_SIZE):
                self._map[at : at + PAGE_SIZE] = _ZEROS

    def view(self, address: int, size: int) -> memoryview:
        """Return a writable view for the kernel to read file data into.

        The caller must not judge anything through it, and must release it before close().
        GuestFault if it is not all guest memory.
        """
        self._check(address, size)
        return memoryview(self._map)[address : address + size]

    def _check(self, address: int, size: int) -> None:
        if address < 0 or size < 0 or address + size > self.size:
            raise _outside(address, size)


def _outside(address: int, size: int) -> GuestFault:
    return GuestFault(f"{size} bytes at {address:#x} are not guest memory")
