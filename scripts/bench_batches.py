"""Test side: `make bench`, many images: the command's workers, executors, and loops of qemu-img."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench_common import COMMAND, PEAK, lazy, plain_image, print_table

import instar

LOOP = 'for image in "$0"/*; do "$1" amend -o "$2" "$image" || exit; done'
XARGS = 'printf "%s\\0" "$0"/* | xargs -0 -n1 -P2 "$1" amend -o "$2"'
BATCH = 'printf "%s\\0" "$0"/* | "$1" amend -q -o "$2" --jobs "$3" --files-from - --null'


def make_images(folder: Path, count: int) -> Path:
    """A folder with so many small images, which do not share any bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = plain_image(folder.with_name("model")).read_bytes()
    for number in range(count):
        (folder / f"{number:06}").write_bytes(model)
    return folder


def shell(script: str, *arguments: object) -> None:
    """Run a line of shell with arguments from $0 on."""
    subprocess.run(["sh", "-c", script, *map(str, arguments)], check=True)


def by_processes(folder: Path, number: int) -> None:
    """The library with a pool of two processes."""
    images = sorted(folder.iterdir())
    with ProcessPoolExecutor(2) as executor:
        outcomes = instar.amend_many(
            images, lazy_refcounts=number % 2 == 0, executor=executor, chunk_size=64
        )
        assert all(outcome.result for outcome in outcomes)  # noqa: S101 - a benchmark's check


def compare_batches(folder: Path, qemu_img: Path, count: int, rounds: int) -> dict[str, float]:
    """Toggle `count` images in every way; returns the best time of each in seconds an image."""
    images = make_images(folder / "images", count)
    cpus = os.cpu_count() or 1
    contenders: dict[str, Callable[[int], None]] = {
        "sh loop of qemu-img amend": lambda n: shell(LOOP, images, qemu_img, lazy(n)),
        "xargs -P2 qemu-img amend": lambda n: shell(XARGS, images, qemu_img, lazy(n)),
        "instar amend --jobs 1": lambda n: shell(BATCH, images, COMMAND, lazy(n), 1),
        "instar amend --jobs 2": lambda n: shell(BATCH, images, COMMAND, lazy(n), 2),
        "amend_many, 2 processes": lambda n: by_processes(images, n),
    }
    if cpus > 2:
        contenders[f"instar amend --jobs {cpus}"] = lambda n: shell(
            BATCH, images, COMMAND, lazy(n), cpus
        )
    best = dict.fromkeys(contenders, float("inf"))
    number = 0
    for _ in range(rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(number)
            best[name] = min(best[name], (time.perf_counter() - start) / count)
            number += 1
    loop, xargs = best["sh loop of qemu-img amend"], best["xargs -P2 qemu-img amend"]
    rows = {
        name: f"{1 / each:7.0f} images/s {each * 1e6:7.0f} us each"
        f" {loop / each:6.1f} x loop {xargs / each:6.1f} x xargs"
        for name, each in best.items()
    }
    print_table(f"{count} images, best of {rounds} interleaved rounds", rows)
    return best


def check_growth(folder: Path, counts: tuple[int, ...]) -> dict[int, float]:
    """Time and memory of a batch against the number of images."""
    rows: dict[str, str] = {}
    found: dict[int, float] = {}
    for number, count in enumerate(counts):
        images = make_images(folder / "images", count)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "sh", "-c", BATCH, images, COMMAND, lazy(number), "2"],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        found[count] = seconds
        rows[f"{count} images"] = (
            f"{seconds:6.2f} s {seconds / count * 1e6:6.0f} us each"
            f" {int(done.stdout) / 1024:6.1f} MiB in the largest process"
        )
    first, last = min(counts), max(counts)
    slope = (found[last] - found[first]) / (last - first)
    rows["each further image"] = f"{slope * 1e6:.0f} us"
    print_table("instar amend --jobs 2 against the number of images", rows)
    return found
