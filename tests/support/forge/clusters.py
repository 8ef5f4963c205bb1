"""What a guest cluster can be: data, zeros, compressed and so on. Test side of the trust boundary.

A cluster knows the bytes that its host cluster holds (`stored`) and those that the guest sees
(`visible`). A pattern is repeated to fill its place: `Data(b"\\x05")` is a cluster full of fives,
as qemu-io's `write -P 5` makes it, and `Data(b"")` a cluster of stored zeros.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.forge.layout import ALL_SUBCLUSTERS, SUBCLUSTERS


def fill(pattern: bytes, size: int) -> bytes:
    """`pattern` again and again, `size` bytes in all; zeros if the pattern is empty."""
    return (pattern * (size // len(pattern) + 1))[:size] if pattern else bytes(size)


class StandardCluster:
    """A cluster described by a standard cluster descriptor, with or without a host cluster."""

    def stored(self, size: int) -> bytes | None:
        """The contents of the host cluster; None if the descriptor names none."""
        raise NotImplementedError

    def visible(self, backing: bytes) -> bytes:
        """What the guest reads, given what it would read from the backing file (as many bytes)."""
        raise NotImplementedError

    def subclusters(self) -> tuple[int, int]:
        """Bitmaps of the subclusters that are allocated, and of those that read as zeros."""
        raise NotImplementedError


@dataclass(frozen=True)
class Data(StandardCluster):
    """Guest data in a host cluster of its own (shared between layers that agree on it)."""

    pattern: bytes

    def stored(self, size: int) -> bytes | None:
        return fill(self.pattern, size)

    def visible(self, backing: bytes) -> bytes:
        return fill(self.pattern, len(backing))

    def subclusters(self) -> tuple[int, int]:
        return ALL_SUBCLUSTERS, 0


@dataclass(frozen=True)
class Zero(StandardCluster):
    """Reads as zeros and has no host cluster."""

    def stored(self, size: int) -> bytes | None:
        return None

    def visible(self, backing: bytes) -> bytes:
        return bytes(len(backing))

    def subclusters(self) -> tuple[int, int]:
        return 0, ALL_SUBCLUSTERS


@dataclass(frozen=True)
class ZeroAllocated(StandardCluster):
    """Reads as zeros, and keeps a host cluster in which `stale` still stands.

    With the pattern of another layer's `Data` at the same place, the two share the host cluster.
    """

    stale: bytes = b""

    def stored(self, size: int) -> bytes | None:
        return fill(self.stale, size)

    def visible(self, backing: bytes) -> bytes:
        return bytes(len(backing))

    def subclusters(self) -> tuple[int, int]:
        return 0, ALL_SUBCLUSTERS


@dataclass(frozen=True)
class Unallocated(StandardCluster):
    """Reads from the backing file; to write it down means only that the L2 table exists."""

    def stored(self, size: int) -> bytes | None:
        return None

    def visible(self, backing: bytes) -> bytes:
        return backing

    def subclusters(self) -> tuple[int, int]:
        return 0, 0


@dataclass(frozen=True)
class Subclusters(StandardCluster):
    """A host cluster of which each subcluster is data, zeros or unallocated (extended L2 only)."""

    parts: Mapping[int, Data | Zero] = field(default_factory=dict)

    def stored(self, size: int) -> bytes | None:
        return self._join([bytes(size // SUBCLUSTERS)] * SUBCLUSTERS)

    def visible(self, backing: bytes) -> bytes:
        step = len(backing) // SUBCLUSTERS
        return self._join([backing[n * step : (n + 1) * step] for n in range(SUBCLUSTERS)])

    def subclusters(self) -> tuple[int, int]:
        allocated = sum(1 << n for n, part in self.parts.items() if isinstance(part, Data))
        zeros = sum(1 << n for n, part in self.parts.items() if isinstance(part, Zero))
        return allocated, zeros

    def _join(self, below: list[bytes]) -> bytes:
        parts = (self.parts.get(n, Unallocated()) for n in range(SUBCLUSTERS))
        return b"".join(part.visible(under) for part, under in zip(parts, below, strict=True))


@dataclass(frozen=True)
class Compressed:
    """Guest data that are stored compressed; `stored` replaces what deflate would make of them."""

    pattern: bytes
    stored: bytes | None = None

    def deflated(self, size: int) -> bytes:
        """The bytes in the file: a raw deflate stream whose window has 12 bits, or `stored`."""
        if self.stored is not None:
            return self.stored
        # 4 KiB is the window that qemu's decompressor is set up for.
        stream = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -12)
        return stream.compress(fill(self.pattern, size)) + stream.flush()

    def visible(self, backing: bytes) -> bytes:
        """What the guest reads."""
        return fill(self.pattern, len(backing))


@dataclass(frozen=True)
class RawEntry:
    """An L2 entry as it stands, valid or not; nothing it names is counted or read."""

    entry: int
    subcluster_bitmap: int = 0


Cluster = StandardCluster | Compressed | RawEntry
