"""Test side: `make bench`, downgrades that judge whole tables: disks with some zero clusters."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path

from bench_common import print_table

import instar
from tests.support.dense import Dense

CASES = {
    "1 TiB, 200 zero clusters": Dense(1 << 40, 16, 200),
    "256 GiB, 3000 scattered zero clusters": Dense(1 << 38, 16, 3000),
    "256 GiB, 3000 scattered that keep clusters": Dense(1 << 38, 16, 3000, kept=True),
    "8 GiB of 4 KiB clusters, 300 zero clusters": Dense(1 << 33, 12, 300),
    "64 GiB, 100 snapshots, 300 zero clusters": Dense(1 << 36, 16, 300, 100),
    "256 GiB, half of it zero clusters": Dense(1 << 38, 16, 1 << 21),
    "8 GiB of 4 KiB clusters, half of it zero": Dense(1 << 33, 12, 1 << 20),
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
