"""Test side: what readers that others wrote make of an image.

They are dissect.hypervisor, libqcow and qemu-img. Each gives the bytes of the layers that it reads,
or None for an image that it does not read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyqcow
from dissect.hypervisor.disk.qcow2 import QCow2

from tests.support.forge import parse_snapshots
from tests.support.forge.model import COMPRESSED, Model
from tests.support.qemu import Qemu

SIZE_MAX = 4 << 20
"""Of a disk, in bytes: whatever is larger is read by no one here."""
_BELOW = b"\xbb"
_SOUND = b"sound"
_KNOWN_EXTRA = 24  # bytes of a snapshot's extra data that the specification has


def _is_backed(data: bytes) -> bool:
    """Whether the header names a backing file. A name of 0 bytes is none, wherever it is."""
    offset, size = struct.unpack(">QI", data[8:20])
    return bool(offset and size)


def _is_short(model: Model, entries: int) -> bool:
    """Whether an L1 table of so many entries is for less than the disk: the rest is unallocated."""
    per = model.cluster_size // (16 if model.extended else 8)
    return bool(entries * per * model.cluster_size < model.size)


def _has_odd_compressed(model: Model) -> bool:
    """Whether compressed data of the active layer begin at an odd offset."""
    l1_table = model.words(model.l1_table_offset, model.l1_size)
    step = 2 if model.extended else 1
    entries = (entry for place in l1_table for entry in model.l2_table(place)[::step])
    return any(entry & COMPRESSED and entry & 1 for entry in entries)


def by_dissect(data: bytes) -> list[bytes] | None:
    """The active layer and all snapshots, by dissect.hypervisor."""
    model = Model(data)
    if model.crypt_method or model.has_data_file:
        return None
    if model.extended:
        return None  # some extended L2 entries are no run of clusters to it, at which it stays
    if model.version == 2 and any(data[72:104]):
        return None  # it takes the fields of version 3 from there all the same
    if any(entry.extra_data_size > _KNOWN_EXTRA for entry in parse_snapshots(data)):
        return None  # it passes over unknown extra data twice, and so into the name
    if any(_is_short(model, entries) for _, entries in model.l1_tables):
        return None  # it fails at what no L1 entry is for
    below = None
    if model.backing_file_offset:  # it wants one for an empty name too
        below = BytesIO((_BELOW if _is_backed(data) else b"\0") * model.size)
    image = QCow2(BytesIO(data), backing_file=below)
    layers = [image.open(), *(snapshot.open() for snapshot in image.snapshots)]
    return [layer.read(model.size) for layer in layers]


def by_libqcow(data: bytes) -> list[bytes] | None:
    """The active layer, by libqcow; it has no word for what a backing file holds."""
    model = Model(data)
    if model.crypt_method or model.has_data_file or _is_backed(data):
        return None
    if model.version > 2 and _has_odd_compressed(model):
        return None  # it takes the lowest bit of where the data are for "reads as zeros"
    image = pyqcow.file()
    image.open_file_object(BytesIO(data))
    try:
        return [image.read_buffer_at_offset(model.size, 0)]
    finally:
        image.close()


class ByQemu:
    """qemu-img, of one version."""

    def __init__(self, qemu: Qemu) -> None:
        self._qemu = qemu

    def __call__(self, data: bytes) -> list[bytes] | None:
        """The active layer, and whether `qemu-img check` finds more than leaks."""
        model = Model(data)
        if model.crypt_method or model.has_data_file:
            return None
        with TemporaryDirectory(prefix="instar-readers-", dir="/dev/shm") as name:
            folder = Path(name)
            (folder / "image").write_bytes(data)
            image: dict[str, Any] = {"driver": "qcow2", "file.filename": str(folder / "image")}
            if _is_backed(data):
                (folder / "below").write_bytes(_BELOW * model.size)
                image |= {"backing.driver": "raw", "backing.file.driver": "file"}
                image["backing.file.filename"] = str(folder / "below")
            described = f"json:{json.dumps(image)}"
            found = self._run("check", described)
            if self._run("convert", "-O", "raw", described, str(folder / "raw")):
                raise ValueError("qemu-img does not read it")
            return [(folder / "raw").read_bytes(), _SOUND if found in (0, 3) else b"damaged"]

    def _run(self, *arguments: str) -> int:
        return self._qemu.img(*arguments, accept=range(256)).status


def first_difference(
    before: bytes, after: bytes, readers: list[Callable[[bytes], list[bytes] | None]]
) -> str:
    """Who reads an amended image otherwise than the image; empty for none."""
    if Model(before).size > SIZE_MAX:
        return ""
    for reader in readers:
        name = getattr(reader, "__name__", type(reader).__name__)
        try:
            was = reader(before)
        except Exception:  # noqa: S112 - it does not read such images
            continue
        try:
            now = reader(after)
        except Exception as error:
            return f"{name} cannot read it any more: {error!r}"
        if was is None or now is None or now == was:
            continue
        # Snapshots that lack what version 3 requires are what version 2 has.
        if now != [*was[:-1], _SOUND]:
            return f"{name} reads something else"
    return ""
