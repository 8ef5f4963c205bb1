"""Host side: the structures of an image that its header and its extensions name, for the judge.

The qcow2 specification, "Snapshots", "Bitmaps extension" and "Full disk encryption header pointer".
The bytes are hostile, but the guest has accepted them: whatever cannot be such a structure is its
fault.
"""

from __future__ import annotations

from struct import Struct

from ...base.errors import GuestFault, ImageRejected
from ...base.record import record
from ...base.refusals import SNAPSHOTS_MAX, bad_bitmaps
from ...qcow2 import (
    AUTOCLEAR_BITMAPS,
    EXTENSION_BITMAPS,
    EXTENSION_LUKS,
    NO_ICOUNT,
    OFFSET_MASK,
    whole_sectors,
)
from ..terms import OutsideError
from .limits import (
    BITMAP_DIRECTORY_MAX,
    BITMAP_NAME_MAX,
    BITMAPS_MAX,
    SNAPSHOT_EXTRA_MAX,
    SNAPSHOT_TABLE_MAX,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...qcow2.header_view import HeaderView
    from .disk import Disk

_SNAPSHOT = Struct(">QIHHIIQII")
_BITMAPS = Struct(">IIQQ")
_BITMAP = Struct(">QIIBBHI")
_LUKS = Struct(">QQ")
_U64 = Struct(">Q")
# The extra data of version 3: the size of the VM state, of the disk, the instruction count.
_EXTRA_REQUIRED, _EXTRA_KNOWN = 16, 24
_IN_USE = 1  # of a bitmap: it was not closed
_CLUSTER_WORK = 2048  # bytes: to look a cluster's refcount up takes as long as reading so many
_SNAPSHOT_MEMORY = 160  # bytes


class Snapshots:
    """The snapshot table as it is, and as version 3 needs it."""

    def __init__(self, disk: Disk, offset: int, count: int, disk_size: int) -> None:
        """Walk the table. `disk_size` is the one in the header."""
        if count > SNAPSHOTS_MAX:
            raise GuestFault(f"the guest accepted {count} snapshots")
        disk.hold(count * _SNAPSHOT_MEMORY)
        self.l1_tables: list[tuple[int, int]] = []
        self.lacks_extra_data = False
        self._disk, self._offset, self._disk_size = disk, offset, disk_size
        at = offset
        for _ in range(count):
            l1_offset, l1_size, id_size, name_size, *_, extra = self._fixed(at)
            if extra > SNAPSHOT_EXTRA_MAX:
                raise GuestFault(f"the guest accepted a snapshot with {extra} bytes of extra data")
            self.l1_tables.append((l1_offset, l1_size))
            self.lacks_extra_data |= extra < _EXTRA_REQUIRED
            at = self._next(at, extra + id_size + name_size)
            if at - offset > SNAPSHOT_TABLE_MAX:
                raise GuestFault(f"the guest accepted a snapshot table of {at - offset} bytes")
        self.clusters = disk.clusters(offset, at - offset)

    def _fixed(self, at: int) -> tuple[int, ...]:
        return _SNAPSHOT.unpack(self._disk.near(at, _SNAPSHOT.size))

    def _next(self, at: int, rest: int) -> int:
        """Where the next entry is; the one at `at` has `rest` bytes of extra data and text."""
        end = at + _SNAPSHOT.size + rest
        return end + -(end - self._offset) % 8

    def fit_version_2(self) -> bool:
        """Whether each has the disk's size, as in version 2, and a VM state whose size has 32 bits.

        A size that is not one of whole sectors is rounded down by some versions of qemu.
        """
        sizes = self._disk_size, whole_sectors(self._disk_size)
        at = self._offset
        for _ in self.l1_tables:
            _, _, id_size, name_size, *_, extra = self._fixed(at)
            known = self._disk.near(at + _SNAPSHOT.size, min(extra, _EXTRA_REQUIRED))
            state, size = int.from_bytes(known[:8], "big"), int.from_bytes(known[8:], "big")
            if (extra >= 8 and state >> 32) or (extra >= _EXTRA_REQUIRED and size not in sizes):
                return False
            at = self._next(at, extra + id_size + name_size)
        return True

    def upgraded(self) -> Iterator[bytes]:
        """The table with all of the extra data that is known, and else the same, entry by entry."""
        at = self._offset
        for _ in self.l1_tables:
            _, _, id_size, name_size, *_, vm_state, extra = self._fixed(at)
            entry = self._disk.near(at, _SNAPSHOT.size + extra + id_size + name_size)
            fixed, rest = entry[: _SNAPSHOT.size], entry[_SNAPSHOT.size :]
            yield self._upgrade(fixed, vm_state, rest[:extra], rest[extra:])
            at = self._next(at, len(rest))

    def _upgrade(self, fixed: bytes, vm_state: int, extra: bytes, strings: bytes) -> bytes:
        if len(extra) < 8:
            extra = _U64.pack(vm_state)
        if len(extra) < _EXTRA_REQUIRED:
            # A snapshot of a size that is none of whole sectors could not be applied.
            extra = extra[:8] + _U64.pack(whole_sectors(self._disk_size))
        if len(extra) < _EXTRA_KNOWN:
            extra = extra[:16] + _U64.pack(NO_ICOUNT)
        entry = fixed[:-4] + len(extra).to_bytes(4, "big") + extra + strings
        return entry + bytes(-len(entry) % 8)


@record
class _BitmapEntry:
    """An entry of the bitmap directory."""

    table: int
    entries: int
    flags: int
    granularity_bits: int


def kept_bitmaps(before: HeaderView, after: HeaderView) -> bytes | None:
    """The extension of bitmaps that are in force, and stay; of several, as qemu does, the last."""
    if not before.fields.get("autoclear_features", 0) & AUTOCLEAR_BITMAPS:
        return None
    kept = [data for kind, data in after.extensions if kind == EXTENSION_BITMAPS]
    return kept[-1] if kept else None


def bitmap_clusters(disk: Disk, extension: bytes) -> Iterator[int]:
    """Yield each cluster of bitmaps, of their tables and of the directory, once for each use."""
    _, size, offset = _directory(extension)
    disk.spend(_CLUSTER_WORK * (size >> disk.cluster_bits))
    yield from disk.clusters(offset, size)
    for bitmap in _bitmaps(disk, extension):
        for words in disk.words(bitmap.table, bitmap.entries):
            found = [word & OFFSET_MASK for word in words if word & OFFSET_MASK]
            disk.spend(_CLUSTER_WORK * len(found))
            for place in found:
                yield from disk.clusters(place, 1)
        clusters = disk.clusters(bitmap.table, 8 * bitmap.entries)
        disk.spend(_CLUSTER_WORK * len(clusters))
        yield from clusters


def kept_bitmap_clusters(disk: Disk, extension: bytes) -> Iterator[int]:
    """The same of bitmaps that stay, which the guest has no need to look at: ImageRejected."""
    try:
        yield from bitmap_clusters(disk, extension)
    except (GuestFault, OutsideError) as error:
        count, _, _, offset = _BITMAPS.unpack(
            extension.ljust(_BITMAPS.size, b"\0")[: _BITMAPS.size]
        )
        raise ImageRejected((bad_bitmaps(offset, count),)) from error


def judge_bitmaps_fit(disk: Disk, extension: bytes, old: int, new: int) -> None:
    """See that bitmaps stay valid where the disk's size becomes another one. GuestFault."""
    if fault := _find_misfit(disk, extension, old, new):
        raise GuestFault(f"the guest resizes an image with {fault}")


def judge_bitmaps_dropped(disk: Disk, extension: bytes, old: int, new: int) -> None:
    """See that there was a reason to drop bitmaps. GuestFault."""
    if not _find_misfit(disk, extension, old, new):
        raise GuestFault("the guest drops bitmaps that fit the disk's new size")


def _find_misfit(disk: Disk, extension: bytes, old: int, new: int) -> str:
    """Which bitmaps need another table, lose flags, or cannot be told to be valid; "" for none."""
    fault = ""
    for bitmap in _bitmaps(disk, extension):
        granularity = 1 << min(bitmap.granularity_bits, 63)
        counts = [-(-whole_sectors(size) // granularity) for size in (old, new)]
        tables = {-(-count // (8 * disk.cluster_size)) for count in counts}
        if new < old or tables != {bitmap.entries}:
            fault = fault or "bitmaps that do not fit"
        if bitmap.flags & _IN_USE:
            fault = fault or "an inconsistent bitmap"
    return fault


def _directory(extension: bytes) -> tuple[int, int, int]:
    """How many bitmaps there are, how many bytes their directory has, and where it is."""
    if len(extension) != _BITMAPS.size:
        raise GuestFault("the guest accepted a malformed bitmaps extension")
    count, _, size, offset = _BITMAPS.unpack(extension)
    if size > BITMAP_DIRECTORY_MAX:
        raise GuestFault(f"the guest accepted a bitmap directory of {size} bytes")
    if count > BITMAPS_MAX:
        raise GuestFault(f"the guest accepted {count} bitmaps")
    return count, size, offset


def _bitmaps(disk: Disk, extension: bytes) -> Iterator[_BitmapEntry]:
    count, size, offset = _directory(extension)
    at = 0
    for _ in range(count):
        if at + _BITMAP.size > size:
            raise GuestFault("the guest accepted a bitmap directory that is too short")
        entry = disk.near(offset + at, _BITMAP.size)
        table, entries, flags, _, granularity, name_size, extra = _BITMAP.unpack(entry)
        if extra or name_size > BITMAP_NAME_MAX:
            raise GuestFault("the guest accepted a bitmap with extra data, or a long name")
        at += _BITMAP.size + extra + name_size
        at += -at % 8
        yield _BitmapEntry(table, entries, flags, granularity)
    if at != size:
        raise GuestFault("the guest accepted a bitmap directory of another size than it has")


def luks_clusters(disk: Disk, extensions: tuple[tuple[int, bytes], ...]) -> Iterator[range]:
    """The clusters of the LUKS header and its key slots, which an extension names.

    Of several the last one counts, as in qemu.
    """
    named = [data for kind, data in extensions if kind == EXTENSION_LUKS]
    if any(len(data) != _LUKS.size for data in named):
        raise GuestFault("the guest accepted a malformed LUKS header extension")
    for data in named[-1:]:
        yield disk.clusters(*_LUKS.unpack(data))
