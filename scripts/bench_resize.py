"""Test side: `make bench`, disks of other sizes: one image, many, and the largest ones."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench_batches import make_images, shell
from bench_common import COMMAND, amend_with, plain_image, print_table

XARGS = 'printf "%s\\0" "$0"/* | xargs -0 -I{} -P2 "$1" resize -q --shrink {} "$2"'
BATCH = 'printf "%s\\0" "$0"/* | "$1" resize -q --shrink --jobs 2 --files-from - --null "$2"'


def resize_with(tool: Path, image: Path, size: str) -> None:
    """Give one image a size by a command."""
    subprocess.run([tool, "resize", "-q", "--shrink", image, size], check=True)


def compare_resizes(folder: Path, qemu_img: Path, rounds: int) -> dict[str, float]:
    """The best time of each in seconds, on a fresh copy of the image each time."""
    small, large = folder / "small.qcow2", folder / "large.qcow2"
    for path, size in ((small, "1G"), (large, "4T")):
        subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", path, size], check=True)
    image = folder / "resized.qcow2"
    toggled = plain_image(folder / "toggled.qcow2")
    contenders: dict[str, tuple[Path, Callable[[int], object]]] = {
        "instar amend, a lazy toggle": (small, amend_with(COMMAND, toggled)),
        "instar resize 1G to 10G": (small, lambda _: resize_with(COMMAND, image, "10G")),
        "instar resize 1G to 64T": (small, lambda _: resize_with(COMMAND, image, "64T")),
        "qemu-img resize 1G to 64T": (small, lambda _: resize_with(qemu_img, image, "64T")),
        "instar resize 4T to 1M, empty": (large, lambda _: resize_with(COMMAND, image, "1M")),
        "qemu-img resize 4T to 1M, empty": (large, lambda _: resize_with(qemu_img, image, "1M")),
    }
    best = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds):
        for name, (model, contender) in contenders.items():
            if number and best[name] > 1:
                continue  # once is enough of what takes that long
            shutil.copyfile(model, image)
            start = time.perf_counter()
            contender(number)
            best[name] = min(best[name], time.perf_counter() - start)
    toggle = best["instar amend, a lazy toggle"]
    rows = {n: f"{each * 1e3:9.1f} ms {each / toggle:7.2f} x toggle" for n, each in best.items()}
    print_table(f"sizes, best of {rounds} interleaved rounds", rows)
    return best


def compare_resize_batches(folder: Path, qemu_img: Path, count: int, rounds: int) -> float:
    """Grow `count` images and shrink them again; returns how many times as fast instar is."""
    images = make_images(folder / "images", count)
    ways = {"xargs -P2 qemu-img resize": (XARGS, qemu_img), "instar resize -j2": (BATCH, COMMAND)}
    sizes = {"64M to 10G": "10G", "10G to 64M": "64M"}
    best = dict.fromkeys([(change, name) for change in sizes for name in ways], float("inf"))
    for _ in range(rounds):
        for name, (script, tool) in ways.items():
            for change, size in sizes.items():
                start = time.perf_counter()
                shell(script, images, tool, size)
                each = (time.perf_counter() - start) / count
                best[change, name] = min(best[change, name], each)
    rows = {}
    qemu, instar = ways
    for change in sizes:
        for name in ways:
            each = best[change, name]
            rows[f"{change}, {name}"] = f"{1 / each:7.0f} images/s {each * 1e6:7.0f} us each"
        rows[f"{change}, {instar}"] += f" {best[change, qemu] / best[change, instar]:6.1f} x"
    both = {name: sum(best[change, name] for change in sizes) for name in ways}
    ratio = both[qemu] / both[instar]
    rows["there and back"] = f"{ratio:7.1f} x"
    print_table(f"sizes of {count} images, best of {rounds} rounds", rows)
    return ratio
