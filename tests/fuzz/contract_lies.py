"""Test side: images that no honest guest accepts, and of which the judge may not take much.

Each is a file that is mostly a hole. What the judge says of it does not count, but time and memory.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from instar import abi
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Image, Snapshot
from tests.support.planner import ask
from tests.support.planning import Case, case_of
from tests.support.project import load_planner

_BIG = (1 << 16, 1 << 20, 1 << 28, 400 << 20, (1 << 32) - 1)
WINDOWS = 1 / 40
"""How many lies are such that take the judge long."""
_WINDOWS, _WINDOWS_UNPAID = 160_000, 400_000
_SECTOR = 512


@dataclass
class Lie:
    """A plan for another image than it was made for, and how long the file is."""

    case: Case
    size: int


def lie(rng: random.Random) -> Lie:
    """An image with a number that is far too large, or with a table of a great many windows."""
    kinds: tuple[Callable[[random.Random], Lie], ...] = (_snapshot, _snapshot, _header, _bitmap)
    # Half a second of the judge's time: one plan in some thousand.
    return _windows(rng) if rng.random() < WINDOWS else rng.choice(kinds)(rng)


def _planned(image: Image, request: AmendRequest) -> Case:
    data = image.build()
    return case_of(data, request, ask(load_planner(), data, request))


def _changed(rng: random.Random, case: Case, offset: int, width: int) -> Lie:
    """Another number there, in the image, and in what is staged of the header."""
    number = rng.choice(_BIG) & (1 << 8 * width) - 1
    raw = number.to_bytes(width, "big")
    case.data = case.data[:offset] + raw + case.data[offset + width :]
    if offset < _SECTOR:
        for phase in case.phases:
            if 0 in phase:
                phase[0] = phase[0][:offset] + raw + phase[0][offset + width :]
    return Lie(case, rng.choice((len(case.data), 700 << 20, 1 << 33)))


def _snapshot(rng: random.Random) -> Lie:
    snapshots = (Snapshot(name=b"a", extra_data_size=0), Snapshot(name=b"b"))
    image = Image(version=2, size=1 << 20, snapshots=snapshots)
    start = image.regions()["snapshot_table"].start + rng.choice((0, 48))
    at, width = rng.choice(((36, 4), (36, 4), (8, 4), (12, 2), (14, 2), (0, 8)))
    request = AmendRequest.of(compat=3, max_growth=1 << 26)
    return _changed(rng, _planned(image, request), start + at, width)


def _header(rng: random.Random) -> Lie:
    request = AmendRequest.of(compat=rng.choice((2, 3)), max_growth=1 << 26)
    snapshots = (Snapshot(name=b"a", extra_data_size=0),)
    image = Image(version=5 - (request.compat or 2), size=1 << 20, snapshots=snapshots)
    at, width = rng.choice(((24, 8), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8)))
    return _changed(rng, _planned(image, request), at, width)


def _bitmap(rng: random.Random) -> Lie:
    image = Image(size=1 << 20, bitmaps=[Bitmap(name=b"b", dirty=(0,))])
    start = image.regions()["bitmap_directory"].start
    offsets = ((start, 8), (start + 8, 4), (start + 18, 2), (start + 20, 4), (128, 8), (136, 8))
    request = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=1 << 26)
    return _changed(rng, _planned(image, request), *rng.choice(offsets))


def _windows(rng: random.Random) -> Lie:
    """A bitmap whose clusters have their refcounts each in another sector.

    As much is staged as such refcounts take, or nothing, and then there are more of them.
    """
    count = rng.choice((_WINDOWS, _WINDOWS_UNPAID))
    image = Image(size=1 << 20, bitmaps=[Bitmap(name=b"b")])
    case = _planned(image, AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=1 << 26))
    directory, table = image.regions()["bitmap_directory"].start, 1 << 20
    data = bytearray(case.data.ljust(table, b"\0"))
    data[directory : directory + 12] = struct.pack(">QI", table, count)
    step = rng.choice((24, 24, 31))
    data += struct.pack(f">{count}Q", *(n << step for n in range(1, count + 1)))
    case.data = bytes(data)
    if count == _WINDOWS:
        junk = dict.fromkeys(range(32 << 11, (32 << 11) + _WINDOWS), bytes(_SECTOR))
        case.phases[abi.INSTAR_PHASE_RELEASE] = junk
    return Lie(case, 200 << 20)
