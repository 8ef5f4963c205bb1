"""Test side: fuzzes the reader of LUKS1 headers: one is read, or refused by name, and nothing else.

Time and memory are bounded, what is accepted is what docs/keys.md says is supported, and what is
told of a refusal is one short line.
"""

from __future__ import annotations

import random
import signal
import sys
import time
import tracemalloc
from collections import Counter
from contextlib import suppress
from pathlib import Path

from instar.vmm.base.errors import ImageRejected
from instar.vmm.luks import header as reader
from tests.fuzz.limits import limit_space
from tests.fuzz.luks_headers import draw, may_be_read

NAMES = {"luks_truncated", "luks_magic", "luks_version", "luks_cipher", "luks_header"}
"""What a header may be refused for."""
BATCH = 10_000
_SLOW = 0.05  # seconds of the processor's time for one header, a thousand times too many
_HANGS = 30.0  # seconds of it for a batch
_TRACED = 1000  # of so many headers, one has its memory traced
_PEAK = 64 << 10  # bytes for one header
_SPACE = 64 << 20  # bytes of address space that the process may take more than it had
_BLOCKS = 2000  # of Python's memory, which may be kept of all batches but the first
_LINE = 800  # characters of a message


class Finding(Exception):
    """A header came to something else."""


def check_one(raw: bytes, length: int) -> str:
    """Read a header; what it came to, "" where it was accepted. Finding."""
    start = time.perf_counter()
    try:
        reader.read_header(raw, length)
        name = ""
    except ImageRejected as error:
        name = _check_refusal(error)
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}") from error
    if time.perf_counter() - start > _SLOW and _time(raw, length) > _SLOW:
        raise Finding("it takes too long")
    if (not name) != may_be_read(raw, length):
        raise Finding(f"{name or 'accepted'}, which is not what the header is")
    return name


def _check_refusal(error: ImageRejected) -> str:
    (refusal,) = error.refusals
    text = str(error)
    if refusal.name not in NAMES or refusal.code != "ENCRYPTION":
        raise Finding(f"refused as {refusal.name}")
    if len(text) > _LINE or not text.isprintable():
        raise Finding(f"told by {text!r}")
    return refusal.name


def _time(raw: bytes, length: int) -> float:
    """How long it takes the processor, which others may have used in the meantime."""
    start = time.thread_time()
    with suppress(ImageRejected):
        reader.read_header(raw, length)
    return time.thread_time() - start


def _check_memory(raw: bytes, length: int) -> None:
    """The same once more, in a few pages of memory."""
    tracemalloc.start()
    try:
        check_one(raw, length)
        if tracemalloc.get_traced_memory()[1] > _PEAK:
            raise Finding("it takes too much memory")
    finally:
        tracemalloc.stop()


def run_batch(seed: str, count: int = BATCH) -> Counter[str]:
    """Read `count` headers of a seed; how often each came to what. Finding, with all of it."""
    rng = random.Random(seed)  # noqa: S311 - headers, and no secret
    endings: Counter[str] = Counter()
    raw, length = b"", 0
    old = signal.signal(signal.SIGVTALRM, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, _HANGS)
    try:
        for number in range(count):
            raw, length = draw(rng)
            endings[check_one(raw, length)] += 1
            if number % _TRACED == 0:
                _check_memory(raw, length)
    except Finding as error:
        raise Finding(f"seed {seed}: {error}; length {length}, header {raw.hex()}") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
    return endings


def _interrupt(_number: int, _frame: object) -> None:
    raise Finding("it does not come to an end")


def run_and_print(seed: int, runs: int, seconds: float, keep: Path) -> int:
    """Run one job for scripts/fuzz and print what it came to; returns the number of findings."""
    endings: Counter[str] = Counter()
    end, batch, blocks = time.monotonic() + seconds, 0, 0
    limit_space(_SPACE)
    while endings.total() < runs and time.monotonic() < end:
        try:
            endings += run_batch(f"{seed}/{batch}", min(BATCH, runs - endings.total()))
            _check_growth(blocks)
        except Finding as error:
            keep.write_text(f"{error}\n")
            print(f"{error}\nafter {endings.total()} headers", flush=True)
            return 1
        batch, blocks = batch + 1, blocks or sys.getallocatedblocks()
    told = ", ".join(f"{count} {name or 'accepted'}" for name, count in endings.most_common())
    print(f"seed {seed}: {endings.total()} headers: {told}", flush=True)
    return 0


def _check_growth(before: int) -> None:
    kept = sys.getallocatedblocks() - before
    if before and kept > _BLOCKS:
        raise Finding(f"{kept} blocks of memory are kept")
