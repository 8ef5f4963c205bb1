"""The file under construction and its host clusters. Test side of the trust boundary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

PAGE = 4096


class SparseFile:
    """Bytes at offsets; what was never written is zero and takes no room, in memory or on disk."""

    def __init__(self, length: int = 0) -> None:
        self._pages: dict[int, bytearray] = {}
        self.length = length

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, over whatever is there, and extend the file if need be."""
        self.length = max(self.length, offset + len(data))
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, PAGE)
            piece = data[done : done + PAGE - start]
            if number in self._pages or piece != bytes(len(piece)):
                page = self._pages.setdefault(number, bytearray(PAGE))
                page[start : start + len(piece)] = piece
            done += len(piece)

    def extend(self, length: int) -> None:
        """Make the file at least `length` bytes long."""
        self.length = max(self.length, length)

    def bytes(self) -> bytes:
        """The whole file."""
        image = bytearray(self.length)
        for number, page in self._pages.items():
            start = number * PAGE
            image[start : start + PAGE] = page[: self.length - start]
        return bytes(image)

    def save(self, path: Path) -> None:
        """Write the file to `path`, with holes where nothing was written."""
        with path.open("wb") as stream:
            for number, page in sorted(self._pages.items()):
                stream.seek(number * PAGE)
                stream.write(page[: self.length - number * PAGE])
            stream.truncate(self.length)


class Space:
    """Gives out host clusters from the front of the file and counts the references to them.

    `holes` are numbers of host clusters that stay free. No more than `tenants` compressed clusters
    are put into one host cluster, so that its refcount can be written down.
    """

    def __init__(self, cluster_size: int, holes: Collection[int], tenants: int) -> None:
        self.cluster_size = cluster_size
        self.file = SparseFile()
        self.regions: dict[str, range] = {}
        self.refcounts: Counter[int] = Counter()
        self.next_cluster = 0
        self._holes = frozenset(holes)
        self._max_tenants = tenants
        self._tenants = 0
        self._packed = range(0)

    def clusters_for(self, length: int) -> int:
        """How many clusters `length` bytes take."""
        return -(-length // self.cluster_size)

    def allocate(self, name: str, length: int) -> int:
        """The offset of contiguous free clusters for `length` bytes; nothing refers to them yet."""
        offset = self._free(length)
        self.next_cluster = self.clusters_for(offset + length)
        self.regions[name] = range(offset, offset + length)
        self.file.extend(self.next_cluster * self.cluster_size)
        return offset

    def place(self, name: str, data: bytes) -> int:
        """Write `data` to new clusters to which one reference is counted."""
        offset = self.allocate(name, len(data))
        self.file.write(offset, data)
        self.refer(offset, len(data))
        return offset

    def pack(self, name: str, data: bytes) -> int:
        """Write compressed data behind those before, if need be across the end of a cluster."""
        room = self._packed if self._tenants < self._max_tenants else range(0)
        missing = len(data) - len(room)
        if missing > 0:
            adjoining = room and self._free(missing) == room.stop
            start = self.allocate(name, missing if adjoining else len(data))
            start = room.start if adjoining else start
            room = range(start, self.next_cluster * self.cluster_size)
            self._tenants = 0
        self.regions[name] = room[: len(data)]
        self.file.write(room.start, data)
        self._packed = room[len(data) :]
        self._tenants += 1
        return room.start

    def refer(self, offset: int, length: int) -> None:
        """Count one reference to each cluster that the range touches."""
        first, end = offset // self.cluster_size, self.clusters_for(offset + length)
        self.refcounts.update(range(first, end))

    def skip_holes(self) -> None:
        """Go on behind the last hole: from here on what is allocated is contiguous."""
        self.next_cluster = max(self.next_cluster, max(self._holes, default=-1) + 1)

    def _free(self, length: int) -> int:
        """Where the next allocation of `length` bytes will be."""
        first, count = self.next_cluster, self.clusters_for(length)
        while taken := self._holes.intersection(range(first, first + count)):
            first = max(taken) + 1
        return first * self.cluster_size
