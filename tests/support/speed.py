"""Test side: how fast this machine is now, for promises about processor time."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import instar
from tests.support.forge import Image, Snapshot

_USUAL = 0.031
"""Seconds of processor time that its check took where promises were measured: 400 exits, mostly."""
_NOISE = 2.0
"""How much longer all may take, as tests that run beside it come and go."""
_ROUNDS = 4


def takes_longer(seconds: float, promised: float) -> bool:
    """Whether something took more than was promised of it, on a machine as fast as this one is."""
    return seconds >= promised and seconds >= promised * _NOISE * _slowness()


def _slowness() -> float:
    """How many times as long as usual a guest and its exits take now; 1 at least."""
    with TemporaryDirectory(prefix="instar-speed-") as folder:
        path = Path(folder) / "image"
        Image(snapshots=[Snapshot(name=b"%d" % n, clusters={}) for n in range(400)]).write(path)
        instar.check(path)
        begin = process_time()
        for _ in range(_ROUNDS):
            instar.check(path)
        return max((process_time() - begin) / _ROUNDS / _USUAL, 1.0)
