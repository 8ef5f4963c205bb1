"""Internal snapshots and the table that lists them. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.forge.clusters import Cluster, Data
from tests.support.forge.layout import SnapshotExtraData, SnapshotTableEntry
from tests.support.forge.mapping import Geometry, Layer

UNKNOWN_EXTRA_DATA = b"\xee"
"""Fills the extra data behind the fields that are defined, so that their loss can be seen."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot; without `clusters` it shares all clusters of the active layer, as if just taken.

    id: by default the number of the snapshot in the table, from 1.
    disk_size: by default that of the image.
    vm_state: the bytes stored behind the disk.
    vm_state_size: how many they are said to be, by default the truth.
    extra_data_size: 24 bytes are defined; less cuts them short, more adds unknown ones.
    """

    name: bytes
    clusters: Mapping[int, Cluster] | None = None
    id: bytes | None = None
    disk_size: int | None = None
    vm_state: bytes = b""
    vm_state_size: int | None = None
    extra_data_size: int = 24
    date_sec: int = 0
    date_nsec: int = 0
    vm_clock_nsec: int = 0
    icount: int = -1

    def layer_clusters(
        self, active: Mapping[int, Cluster], size: int, geometry: Geometry
    ) -> dict[int, Cluster]:
        """All clusters that the L1 table of this snapshot describes, the VM state included."""
        clusters = dict(active if self.clusters is None else self.clusters)
        first = geometry.l1_entries(size) * geometry.l2_entries
        step = geometry.cluster_size
        for n in range(-(-len(self.vm_state) // step)):
            chunk = self.vm_state[n * step : (n + 1) * step]
            clusters[first + n] = Data(chunk.ljust(step, b"\0"))
        return clusters

    def table_entry(self, number: int, size: int, layer: Layer) -> bytes:
        """The snapshot table entry, padding included."""
        vm_state_size = len(self.vm_state) if self.vm_state_size is None else self.vm_state_size
        extra_data = SnapshotExtraData.build(
            {
                "vm_state_size": vm_state_size,
                "disk_size": size,
                "icount": self.icount,
                "unknown": b"",
            }
        )
        fields = {
            "l1_table_offset": layer.l1_table_offset,
            "l1_size": layer.l1_size,
            "date_sec": self.date_sec,
            "date_nsec": self.date_nsec,
            "vm_clock_nsec": self.vm_clock_nsec,
            # The extra data say what 32 bits cannot.
            "vm_state_size": 0 if vm_state_size >> 32 else vm_state_size,
            "extra_data": extra_data.ljust(self.extra_data_size, UNKNOWN_EXTRA_DATA)[
                : self.extra_data_size
            ],
            "id": b"%d" % number if self.id is None else self.id,
            "name": self.name,
        }
        return bytes(SnapshotTableEntry.build(fields))
