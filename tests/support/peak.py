"""The most memory that processes have taken, since when one likes. Test side."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep


def forget_peak() -> int:
    """Start anew from the present size, in bytes, which is returned (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak(process: int | str = "self") -> int:
    """The largest size since then, in bytes; FileNotFoundError if the process is gone."""
    # A fuzzer asks thousands of times a second.
    descriptor = os.open(f"/proc/{process}/status", os.O_RDONLY)
    try:
        status = os.read(descriptor, 1 << 14)
    finally:
        os.close(descriptor)
    found = re.search(rb"VmHWM:\s+(\d+) kB", status)
    if not found:  # a zombie has no memory
        raise FileNotFoundError(process)
    return int(found[1]) << 10


def run_watched(command: Sequence[str | Path]) -> tuple[int, dict[int, int]]:
    """Run a command; its exit status, and the peak of each of its processes, in bytes.

    They are looked at every two milliseconds, so that one can miss what is taken in the last.
    """
    peaks: dict[int, int] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            for process in _family(run.pid):
                try:
                    peaks[process] = peak(process)
                except (FileNotFoundError, ProcessLookupError):
                    continue
            sleep(0.002)
    return run.returncode, peaks


def _family(process: int) -> Iterator[int]:
    """A process and its descendants, as far as they live."""
    yield process
    try:
        threads = list(Path(f"/proc/{process}/task").glob("*/children"))
        children = [child for thread in threads for child in thread.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield from _family(int(child))
