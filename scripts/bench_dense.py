"""Test side: `make bench`, downgrades that judge whole tables: dense disks with some zero clusters.

The images are sparse: their tables are stored, and none of the data that these name.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import subprocess
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from bench_common import print_table

import instar

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
                words = array("Q", [flag | start + n * cluster for n in range(count)])
                for at in zeros.get(number, ()):
                    words[at] = 1
                    counts[start // cluster + at] = 0
                _put(file.fileno(), start - cluster, words)
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
                _put(file.fileno(), place, array("Q", entries))
            file.seek(snapshot_table * cluster)
            file.write(named)
            _put(file.fileno(), l1 * cluster, array("Q", entries))
            places = [(first_block + n) * cluster for n in range(blocks)]
            _put(file.fileno(), refcounts * cluster, array("Q", places))
            _put(file.fileno(), first_block * cluster, counts)


def _put(descriptor: int, offset: int, numbers: array[int]) -> None:
    if sys.byteorder == "little":
        numbers.byteswap()
    os.pwrite(descriptor, numbers.tobytes(), offset)


CASES = {
    "1 TiB, 200 zero clusters": Dense(1 << 40, 16, 200),
    "256 GiB, 3000 scattered zero clusters": Dense(1 << 38, 16, 3000),
    "8 GiB of 4 KiB clusters, 300 zero clusters": Dense(1 << 33, 12, 300),
    "64 GiB, 100 snapshots, 300 zero clusters": Dense(1 << 36, 16, 300, 100),
}


def _processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare_dense(folder: Path, qemu_img: Path, rounds: int) -> dict[str, float]:
    """Downgrade each image by instar and by qemu-img in turn; returns the ratios of the best."""
    ratios, rows = {}, {}
    for name, dense in CASES.items():
        original, copy = folder / "dense.qcow2", folder / "copy.qcow2"
        dense.write(original)
        best = dict.fromkeys(("instar", "qemu-img"), float("inf"))
        work = dict(best)  # of the processor, which a busy machine changes less
        for _ in range(rounds):
            for tool in best:
                subprocess.run(["cp", "--sparse=always", str(original), str(copy)], check=True)
                start, used = time.perf_counter(), _processor_time()
                if tool == "instar":
                    instar.amend(copy, compat="0.10")
                else:
                    subprocess.run([qemu_img, "amend", "-o", "compat=0.10", copy], check=True)
                best[tool] = min(best[tool], time.perf_counter() - start)
                work[tool] = min(work[tool], _processor_time() - used)
        ratios[name] = best["instar"] / best["qemu-img"]
        rows[name] = (
            f"instar {best['instar'] * 1e3:7.1f} ms   qemu-img {best['qemu-img'] * 1e3:7.1f} ms"
            f"   {ratios[name]:5.2f} x   processor time {work['instar'] / work['qemu-img']:5.2f} x"
        )
        original.unlink()
        copy.unlink()
    print_table(f"A downgrade of a dense disk, best of {rounds}", rows)
    return ratios
