"""Host side: the structures that an amend gives up or writes anew, as the write contract sees them.

The qcow2 specification, "Snapshots" and "Bitmaps extension". The bytes are hostile, but the guest
has accepted them: whatever cannot be such a structure is its fault.
"""

from __future__ import annotations

from struct import Struct

from instar.vmm.contract_disk import OFFSET_MASK
from instar.vmm.errors import GuestFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from instar.vmm.contract_disk import Disk

_SNAPSHOT = Struct(">QIHHIIQII")
_BITMAPS = Struct(">IIQQ")
_CRYPTO = 0x0537BE77  # header extension type
_POINTER = Struct(">QQ")
_BITMAP = Struct(">QIIBBHI")
_U64 = Struct(">Q")
_SNAPSHOTS_MAX = 1 << 16  # qemu takes no more
_DIRECTORY_MAX = 64 << 20
# The extra data of version 3: the size of the VM state, of the disk, the instruction count.
_EXTRA_REQUIRED, _EXTRA_KNOWN = 16, 24
_NO_ICOUNT = (1 << 64) - 1


class Snapshots:
    """The snapshot table as it is, and as version 3 needs it."""

    def __init__(self, disk: Disk, offset: int, count: int, disk_size: int) -> None:
        """Walk the table. `disk_size` is the one in the header."""
        if count > _SNAPSHOTS_MAX:
            raise GuestFault(f"the guest accepted {count} snapshots")
        self.l1_tables: list[tuple[int, int]] = []
        self.lacks_extra_data = False
        self._disk, self._offset, self._disk_size = disk, offset, disk_size
        at = offset
        for _ in range(count):
            l1_offset, l1_size, id_size, name_size, *_, extra = self._fixed(at)
            self.l1_tables.append((l1_offset, l1_size))
            self.lacks_extra_data |= extra < _EXTRA_REQUIRED
            at = self._behind(at, extra + id_size + name_size)
        self.clusters = disk.clusters(offset, at - offset)

    def _fixed(self, at: int) -> tuple[int, ...]:
        return _SNAPSHOT.unpack(self._disk.near(at, _SNAPSHOT.size))

    def _behind(self, at: int, rest: int) -> int:
        """Where the next entry is; the one at `at` has `rest` bytes of extra data and text."""
        end = at + _SNAPSHOT.size + rest
        return end + -(end - self._offset) % 8

    def upgraded(self) -> bytes:
        """The table with all of the extra data that is known, and else the same."""
        parts, at = [], self._offset
        for _ in self.l1_tables:
            _, _, id_size, name_size, *_, vm_state, extra = self._fixed(at)
            entry = self._disk.near(at, _SNAPSHOT.size + extra + id_size + name_size)
            fixed, rest = entry[: _SNAPSHOT.size], entry[_SNAPSHOT.size :]
            parts.append(self._upgrade(fixed, vm_state, rest[:extra], rest[extra:]))
            at = self._behind(at, len(rest))
        return b"".join(parts)

    def _upgrade(self, fixed: bytes, vm_state: int, extra: bytes, strings: bytes) -> bytes:
        if len(extra) < 8:
            extra = _U64.pack(vm_state)
        if len(extra) < _EXTRA_REQUIRED:
            extra = extra[:8] + _U64.pack(self._disk_size)
        if len(extra) < _EXTRA_KNOWN:
            extra = extra[:16] + _U64.pack(_NO_ICOUNT)
        entry = fixed[:-4] + len(extra).to_bytes(4, "big") + extra + strings
        return entry + bytes(-len(entry) % 8)


def crypto_header(disk: Disk, extensions: tuple[tuple[int, bytes], ...]) -> range:
    """The clusters of the LUKS header, as the last extension that has it says; or none."""
    pointers = [data for kind, data in extensions if kind == _CRYPTO]
    if not pointers:
        return range(0)
    if len(pointers[-1]) != _POINTER.size:
        raise GuestFault("the guest accepted a malformed LUKS header extension")
    return disk.clusters(*_POINTER.unpack(pointers[-1]))


def bitmap_clusters(disk: Disk, extension: bytes) -> Iterator[int]:
    """Yield each cluster of bitmaps, of their tables and of the directory, once for each use."""
    if len(extension) != _BITMAPS.size:
        raise GuestFault("the guest accepted a malformed bitmaps extension")
    count, _, size, offset = _BITMAPS.unpack(extension)
    if size > _DIRECTORY_MAX:
        raise GuestFault(f"the guest accepted a bitmap directory of {size} bytes")
    yield from disk.clusters(offset, size)
    at = 0
    for _ in range(count):
        if at + _BITMAP.size > size:
            raise GuestFault("the guest accepted a bitmap directory that is too short")
        entry = disk.near(offset + at, _BITMAP.size)
        table, entries, _, _, _, name_size, extra = _BITMAP.unpack(entry)
        at += _BITMAP.size + extra + name_size
        at += -at % 8
        for words in disk.words(table, entries):
            for word in words:
                if word & OFFSET_MASK:
                    yield from disk.clusters(word & OFFSET_MASK, 1)
        yield from disk.clusters(table, 8 * entries)
    if at != size:
        raise GuestFault("the guest accepted a bitmap directory of another size than it has")
