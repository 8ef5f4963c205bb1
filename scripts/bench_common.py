"""Test side: what the parts of scripts/benchmark share: interleaved timing, images, tables."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.forge import Data, Image
from tests.support.qemu import NONE_FETCHED, all_versions

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder for temporary files of our own
WARM_UP = 3  # rounds
COMMAND = Path(sys.executable).with_name("instar")
ROW = 10
ROW_OF_CALLS = f"the same, each of {ROW} in a row"
"""What surrounds a single call, new processes, has emptied the processor's caches for it."""

# A process as small as can be, which says how large the largest of its children grew, in KiB.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""

Contender = Callable[[int], object]
"""Does its work once; is told the number of the round, so that it can toggle."""


def newest_qemu_img() -> tuple[Path, str]:
    """The newest qemu-img at hand, and its version. SystemExit without one."""
    versions = all_versions()
    if not versions:
        raise SystemExit(NONE_FETCHED)
    return versions[-1].directory / "qemu-img", str(versions[-1])


def measure(contenders: Mapping[str, Contender], rounds: int) -> dict[str, float]:
    """The median time of each contender in seconds; each round times all, one after the other."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(WARM_UP + rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(number)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def lazy(number: int) -> str:
    """The option list of a toggle in this round."""
    return f"lazy_refcounts={'off' if number % 2 else 'on'}"


def amend_with(tool: Path, image: Path) -> Contender:
    """A toggle of `image` by a command, as a program would run it."""
    return lambda n: subprocess.run([tool, "amend", "-o", lazy(n), image], check=True)


def plain_image(path: Path) -> Path:
    """Write a small image of version 3."""
    Image(clusters={0: Data(b"\x05")}).write(path)
    return path


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print one table of the report."""
    print(f"\n{title}")
    for name, text in rows.items():
        print(f"  {name:44} {text}")
    sys.stdout.flush()
