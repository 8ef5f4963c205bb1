"""Rebuilds every file that a crash in the middle of a recorded command could leave. Test side.

The disk writes sectors of 512 bytes whole or not at all, in any order, until a barrier: what was
written before it is on the disk. Of a sector that was written twice between two barriers, either
contents may be there.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.crash.recorder import Barrier, Cut, Operation, Write

SECTOR = 512
LIMIT = 1 << 12
"""As many states between two barriers are enumerated; of more, SAMPLE are chosen."""
SAMPLE = 512
SEED = 20250512

Sectors = dict[int, bytes]
Event = tuple[int, bytes]
"""A sector, and what it holds from then on."""


@dataclass(frozen=True)
class State:
    """A file that a crash could leave, as its difference from the original."""

    sectors: Mapping[int, bytes]
    """What differs, by sector."""
    size: int
    label: str
    """Which crash this is, for people."""


@dataclass(frozen=True)
class Phase:
    """What is written between two barriers."""

    number: int
    events: tuple[Event, ...]
    size: int
    """Of the file before the phase, which a barrier has made sure of."""

    @property
    def count(self) -> int:
        """How many different states it can leave, the one before it included."""
        return math.prod(len(versions) + 1 for versions in self.versions().values())

    def versions(self) -> dict[int, list[bytes]]:
        """The contents that each sector takes in turn."""
        found: dict[int, list[bytes]] = {}
        for sector, data in self.events:
            found.setdefault(sector, []).append(data)
        return found


def crash_states(original: bytes, operations: Sequence[Operation]) -> Iterator[State]:
    """All states, each once; the first is the original, the last has all writes in it."""
    disk: Sectors = {}
    yield State({}, len(original), "nothing written")
    for phase in phases(original, operations):
        versions = phase.versions()
        for choice in _choices(phase, versions):
            written = {sector: versions[sector][n - 1] for sector, n in choice.items()}
            label = f"after barrier {phase.number}, of sectors {sorted(versions)}: {choice}"
            yield _state(phase.size, {**disk, **written}, label)
        disk.update(phase.events)
    for cut in operations:
        if isinstance(cut, Cut):
            kept = {number: data for number, data in disk.items() if number * SECTOR < cut.size}
            yield State(kept, cut.size, f"cut to {cut.size} bytes")


def _state(size: int, sectors: Sectors, label: str) -> State:
    ends = (number * SECTOR + len(data) for number, data in sectors.items())
    return State(sectors, max(size, *ends), label)


def phases(original: bytes, operations: Sequence[Operation]) -> list[Phase]:
    """The writes that change anything, sector by sector, from barrier to barrier."""
    current: Sectors = {}
    found: list[list[Event]] = [[]]
    sizes = [len(original)]
    size = len(original)
    for operation in operations:
        if isinstance(operation, Barrier):
            found.append([])
            sizes.append(size)
            continue
        if isinstance(operation, Cut):
            continue
        size = max(size, operation.offset + len(operation.data))
        for sector, data in _sectors(original, current, operation):
            current[sector] = data
            found[-1].append((sector, data))
    numbered = enumerate(zip(found, sizes, strict=True))
    return [Phase(n, tuple(events), before) for n, (events, before) in numbered if events]


def _sectors(original: bytes, current: Sectors, write: Write) -> Iterator[Event]:
    """The sectors that a write changes; the kernel holds them whole, as they were last written."""
    end = write.offset + len(write.data)
    for number in range(write.offset // SECTOR, -(-end // SECTOR)):
        start = number * SECTOR
        before = current.get(number, original[start : start + SECTOR])
        first, last = max(start, write.offset), min(start + SECTOR, end)
        after = bytearray(before.ljust(last - start, b"\0"))
        after[first - start : last - start] = write.data[first - write.offset : last - write.offset]
        if after != before:
            yield number, bytes(after)


def _choices(phase: Phase, versions: dict[int, list[bytes]]) -> Iterator[dict[int, int]]:
    """For each state but the one before the phase, which version of which sector was written."""
    if phase.count > LIMIT:
        yield from _sample(phase, versions)
        return
    ranges = (range(len(contents) + 1) for contents in versions.values())
    for numbers in itertools.product(*ranges):
        if any(numbers):
            yield {sector: n for sector, n in zip(versions, numbers, strict=True) if n}


def _sample(phase: Phase, versions: dict[int, list[bytes]]) -> Iterator[dict[int, int]]:
    """All prefixes, suffixes and single events, and random choices up to SAMPLE, each once."""
    number: dict[int, int] = {}
    events = []
    for sector, _ in phase.events:
        number[sector] = number.get(sector, 0) + 1
        events.append((sector, number[sector]))
    steps = range(len(events))
    chosen = [dict(events[: n + 1]) for n in steps] + [dict(events[n:]) for n in steps]
    chosen += [dict([event]) for event in events]
    generator = random.Random(SEED)  # noqa: S311 - not a secret, and the same in every run
    while len(chosen) < SAMPLE:
        drawn = {sector: generator.randint(0, len(versions[sector])) for sector in versions}
        chosen.append({sector: n for sector, n in drawn.items() if n})
    distinct = {tuple(sorted(choice.items())): choice for choice in chosen if choice}
    yield from distinct.values()
