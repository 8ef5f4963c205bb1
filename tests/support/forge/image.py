"""The forge: builds a qcow2 image as it is described. Test side of the trust boundary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.forge import layout
from tests.support.forge.bitmaps import place_bitmaps
from tests.support.forge.clusters import RawEntry
from tests.support.forge.description import Description
from tests.support.forge.header import all_extensions, write_header
from tests.support.forge.mapping import Layer, Mapper
from tests.support.forge.refcounts import place_refcounts
from tests.support.forge.space import Space, SparseFile


@dataclass(frozen=True, kw_only=True)
class Image(Description):
    """An image that can be built as it is described."""

    def build(self) -> bytes:
        """The image file."""
        return self._forge()[0].file.bytes()

    def build_data_file(self) -> bytes:
        """The external data file; empty if the image has none."""
        data_file = self._forge()[1]
        return data_file.bytes() if data_file else b""

    def write(self, path: Path) -> None:
        """Write the image, sparse, and next to it the data file if it has a name."""
        space, data_file = self._forge()
        space.file.save(path)
        if self.data_file and data_file:
            data_file.save(path.parent / self.data_file.decode())

    def regions(self) -> dict[str, range]:
        """Where the parts of the file are, by names such as `l2_table[0]` or `snapshot[1].data[7]`.

        A part that layers share has the name that the first of them, often the active one, gave it.
        """
        return self._forge()[0].regions

    def contents(self, snapshot: int | None = None, *, backing: bytes = b"") -> dict[int, bytes]:
        """What the guest reads from each cluster described, up to the end of the disk.

        `snapshot` is a number in `snapshots`; without it, the active layer. `backing` is the
        guest's view of the backing file, which is zero where it ends. Raw entries are left out.
        """
        clusters, disk_size, step = self.clusters, self.size, self.geometry.cluster_size
        if snapshot is not None:
            taken = self.snapshots[snapshot]
            clusters = self.clusters if taken.clusters is None else taken.clusters
            disk_size = self.size if taken.disk_size is None else taken.disk_size
        contents = {}
        for index, cluster in clusters.items():
            offset = index * step
            if offset < disk_size and not isinstance(cluster, RawEntry):
                below = backing[offset : offset + step].ljust(step, b"\0")
                contents[index] = cluster.visible(below)[: disk_size - offset]
        return contents

    def _forge(self) -> tuple[Space, SparseFile | None]:
        """Build everything, references counted as they arise; refcounts and header come last."""
        layers = 1 + len(self.snapshots)
        tenants = ((1 << (1 << self.refcount_order)) - 1) // layers
        space = Space(self.geometry.cluster_size, self.holes, tenants)
        data_file = None if self.data_file is None else SparseFile(self.size)
        space.place("header_cluster", bytes(space.cluster_size))
        crypto_header = self._place_crypto_header(space)
        active, snapshots_offset = self._place_layers(space, data_file)
        bitmaps = place_bitmaps(self.bitmaps, space, self.size) if self.bitmaps else None
        table_offset, table_clusters = place_refcounts(space, self.refcount_order, self.refcounts)
        places = {
            "l1_size": active.l1_size,
            "l1_table_offset": active.l1_table_offset,
            "refcount_table_offset": table_offset,
            "refcount_table_clusters": table_clusters,
            "snapshots_offset": snapshots_offset,
        }
        write_header(self, space, places, all_extensions(self, crypto_header, bitmaps))
        for patch in self.patches:
            start = patch[0] if len(patch) == 2 else space.regions[patch[0]].start + patch[1]
            space.file.write(start, patch[-1])
        return space, data_file

    def _place_crypto_header(self, space: Space) -> bytes | None:
        if self.crypto_header is None:
            return None
        offset = space.place("crypto_header", self.crypto_header)
        fields = {"offset": offset, "length": len(self.crypto_header)}
        return bytes(layout.CryptoHeaderExtension.build(fields))

    def _place_layers(self, space: Space, data_file: SparseFile | None) -> tuple[Layer, int]:
        """Store the active layer and the snapshots; returns the former and snapshots_offset."""
        mapper = Mapper(self.geometry, space, data_file)
        active = mapper.add("", self.clusters, self.size)
        entries = []
        for number, snapshot in enumerate(self.snapshots):
            size = self.size if snapshot.disk_size is None else snapshot.disk_size
            clusters = snapshot.layer_clusters(self.clusters, size, self.geometry)
            layer = mapper.add(f"snapshot[{number}].", clusters, size)
            entries.append(snapshot.table_entry(number + 1, size, layer))
        mapper.write()
        table = b"".join(entries)
        return active, space.place("snapshot_table", table) if table else 0
