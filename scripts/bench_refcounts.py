"""Test side: `make bench`, refcounts of another width: of small images, and of one of 1 TiB."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench_common import print_table

import instar
from tests.support.dense import Dense

SIZES = ("64k", "128k", "512k")
"""Of clusters; with the largest ones qemu-img takes more than a minute, and does it once."""
BITS = 64


def compare_refcounts(folder: Path, qemu_img: Path, rounds: int) -> dict[str, float]:
    """Change the width from 16 to 64 bits in empty images of 64 MiB; ratios of the best."""
    ratios, rows = {}, {}
    original, copy = folder / "original.qcow2", folder / "copy.qcow2"
    for size in SIZES:
        create = ["create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}"]
        subprocess.run([qemu_img, *create, original, "64M"], check=True)
        ours = min(_amend(original, copy, None) for _ in range(4 * rounds))
        times = 1 if size == SIZES[-1] else rounds
        theirs = min(_amend(original, copy, qemu_img) for _ in range(times))
        ratios[size] = ours / theirs
        rows[f"64 MiB, clusters of {size}"] = (
            f"instar {ours * 1e3:7.1f} ms   qemu-img {theirs * 1e3:7.1f} ms"
            f"   {theirs / ours:5.0f} x as fast"
        )
    Dense(1 << 40, 16, 0).write(original)
    start = time.perf_counter()
    instar.amend(original, refcount_bits=BITS)
    rows["1 TiB, all in use, clusters of 64k"] = (
        f"instar {(time.perf_counter() - start) * 1e3:7.1f} ms"
    )
    original.unlink()
    copy.unlink()
    print_table("Refcounts of 16 bits become such of 64", rows)
    return ratios


def _amend(original: Path, copy: Path, qemu_img: Path | None) -> float:
    copy.write_bytes(original.read_bytes())
    start = time.perf_counter()
    if qemu_img is None:
        instar.amend(copy, refcount_bits=BITS)
    else:
        subprocess.run([qemu_img, "amend", "-o", f"refcount_bits={BITS}", copy], check=True)
    return time.perf_counter() - start
