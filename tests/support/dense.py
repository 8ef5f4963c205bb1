"""Forges dense disks: every cluster is in use, one after the other, but for zeros. Test side.

They are sparse: their tables are stored, and none of the data that these name.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path

COPIED = 1 << 63
SEED = 20250512


@dataclass(frozen=True)
class Dense:
    """A disk whose clusters are all in use, one after the other, but for scattered zeros."""

    size: int
    bits: int
    zeros: int
    snapshots: int = 0
    """Each shares all tables with the active layer."""
    kept: bool = False
    """Whether zeros keep their clusters, as of data that were overwritten with zeros."""

    def write(self, path: Path) -> None:
        """Write the image of version 3."""
        cluster, per_table = 1 << self.bits, 1 << self.bits - 3
        clusters = self.size >> self.bits
        tables = -(-clusters // per_table)
        l1_clusters = -(-tables * 8 // cluster)
        blocks = -(-(clusters + tables + (2 + self.snapshots) * l1_clusters) // (cluster // 2)) + 2
        table_clusters = -(-blocks * 8 // cluster)
        l1, refcounts = 1, 1 + l1_clusters
        first_block = refcounts + table_clusters
        snapshot_table = first_block + blocks
        layers = snapshot_table + (-(-self.snapshots * 80 // cluster) if self.snapshots else 0)
        first = layers + self.snapshots * l1_clusters
        flag = 0 if self.snapshots else COPIED
        generator = random.Random(SEED)  # noqa: S311 - the same in every run
        zeros: dict[int, list[int]] = {}
        for number in generator.sample(range(clusters), self.zeros):
            zeros.setdefault(number // per_table, []).append(number % per_table)
        counts = array("H", [1]) * first + array("H", [1 + self.snapshots]) * (clusters + tables)
        with path.open("wb") as file:
            file.truncate((first + clusters + tables) * cluster)
            entries = [(first + n * (per_table + 1)) * cluster | flag for n in range(tables)]
            for number, entry in enumerate(entries):
                start = (entry & ~COPIED) + cluster
                count = min(per_table, clusters - number * per_table)
                begin = flag | start  # no sum carries into the flag
                words = array("Q", range(begin, begin + count * cluster, cluster))
                for at in zeros.get(number, ()):
                    words[at] = words[at] | 1 if self.kept else 1
                    counts[start // cluster + at] *= self.kept
                put_words(file.fileno(), start - cluster, words)
            header = struct.pack(
                ">4sIQIIQIIQQIIQQQQII",
                *(b"QFI\xfb", 3, 0, 0, self.bits, self.size, 0, tables, l1 * cluster),
                *(refcounts * cluster, table_clusters, self.snapshots),
                *(snapshot_table * cluster if self.snapshots else 0, 0, 0, 0, 4, 104),
            )
            file.seek(0)
            file.write(header)
            named = b""
            for layer in range(self.snapshots):
                place = (layers + layer * l1_clusters) * cluster
                name = b"%03d" % layer
                named += struct.pack(">QIHHIIQII", place, tables, 3, 3, 0, 0, 0, 0, 24)
                named += struct.pack(">QQQ", 0, self.size, (1 << 64) - 1) + name + name + bytes(2)
                put_words(file.fileno(), place, array("Q", entries))
            file.seek(snapshot_table * cluster)
            file.write(named)
            put_words(file.fileno(), l1 * cluster, array("Q", entries))
            places = [(first_block + n) * cluster for n in range(blocks)]
            put_words(file.fileno(), refcounts * cluster, array("Q", places))
            put_words(file.fileno(), first_block * cluster, counts)


def put_words(descriptor: int, offset: int, numbers: array[int]) -> None:
    """Write numbers as qcow2 has them, big-endian; the array is not to be used afterwards."""
    if sys.byteorder == "little":
        numbers.byteswap()
    os.pwrite(descriptor, numbers.tobytes(), offset)
