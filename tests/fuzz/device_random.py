"""Test side: runs the device target without coverage: inputs kept so far, changed at random.

Faster than under atheris, reproducible from its seed, and needs nothing but Python.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.device import run_input

_LENGTHS = (24, 60, 200, 600)


def random_input(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """A new input, or one of the corpus with some bytes changed, moved or swapped for another's."""
    if not corpus or rng.random() < 0.1:
        return rng.randbytes(rng.choice(_LENGTHS))
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                other = rng.choice(corpus)
                data[at:] = other[at:]
            case _:
                data[at : at + 1] = bytes([rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF))])
    return bytes(data)


def run_random(
    folders: Sequence[Path], seed: int, runs: int, seconds: float, failed: Path
) -> collections.Counter[str]:
    """Run `runs` inputs, or as many as `seconds` allow; returns how they ended.

    An input that finds something is written to `failed`, and its exception goes on.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    corpus = [path.read_bytes() for folder in folders for path in sorted(folder.glob("*"))]
    endings: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    for number in range(runs):
        if number % 256 == 0 and time.monotonic() > end:
            break
        data = random_input(rng, corpus)
        try:
            endings[run_input(data)] += 1
        except Exception:
            failed.write_bytes(data)
            raise
    return endings
