"""Sees that a repair loses nothing, as every version of qemu reads an image. Test side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import instar
from tests.support.layers import Layers
from tests.support.observe import Seen
from tests.support.qemu import Qemu


def losses(before: Path, after: Path, versions: Sequence[Qemu]) -> list[str]:
    """What is wrong with a repaired image: it is not sound, or a layer reads otherwise.

    What could not be read before, as a crash took it, must fail in the same way.
    """
    found = []
    if Layers.open(before).bitmaps() != Layers.open(after).bitmaps():
        found.append("other bits in a bitmap")
    for qemu in versions:
        check = qemu.check(after)
        if not check.clean:
            found.append(f"{qemu}: {check.text}")
        snapshots = [line.split()[0] for line in _list_snapshots(qemu, before)]
        if _list_snapshots(qemu, before) != _list_snapshots(qemu, after):
            found.append(f"{qemu}: other snapshots")
        seen = Seen(qemu, before, tuple(snapshots))
        layers = seen.layers
        for name, contents in seen.of(after).layers.items():
            if contents != layers[name]:
                found.append(f"{qemu}: {name}: {contents}, not {layers[name]}")
        if qemu.info(before).get("bitmaps") != qemu.info(after).get("bitmaps"):
            found.append(f"{qemu}: other bitmaps")
    return found


def _list_snapshots(qemu: Qemu, image: Path) -> list[str]:
    return qemu.snapshot(image, "-l").splitlines()[2:]


def refusal_of(image: Path, act: Callable[[Path], object]) -> str:
    """The name of the first reason for which `act` refuses an image, which it does not touch."""
    before, mtime = image.read_bytes(), image.stat().st_mtime_ns
    try:
        act(image)
    except instar.ImageRejected as error:
        assert (image.read_bytes(), image.stat().st_mtime_ns) == (before, mtime)
        return error.refusals[0].name
    return ""
