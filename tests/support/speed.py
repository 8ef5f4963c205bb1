"""Test side: how fast this machine is now, for promises about processor time."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

from instar.vmm.inspect import inspect_image
from instar.vmm.inspect.looker import Looker
from tests.support.forge import Data, Image

_USUAL = 0.38e-3
"""Seconds of processor time that an info with a kept machine took where promises were measured."""
_NOISE = 1.5
"""How much longer all may take, as tests that run beside it come and go."""
_INFOS = 300


def takes_longer(seconds: float, promised: float) -> bool:
    """Whether something took more than was promised of it, on a machine as fast as this one is."""
    return seconds >= promised and seconds >= promised * _NOISE * _slowness()


def _slowness() -> float:
    """How many times as long as usual a guest and its exits take now; 1 at least."""
    with TemporaryDirectory(prefix="instar-speed-") as folder, Looker("info") as looker:
        path = Path(folder) / "image"
        Image(clusters={0: Data(b"\x05")}).write(path)
        inspect_image(path, looker)
        begin = process_time()
        for _ in range(_INFOS):
            inspect_image(path, looker)
        return max((process_time() - begin) / _INFOS / _USUAL, 1.0)
