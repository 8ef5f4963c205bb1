"""Judges what a crash left: the old image, the new one, or a broken one. Test side.

The forge's parser reads every state. States of which it finds that the same bytes are referred to
are one to qemu as well, so qemu-img looks at two of them, the first and the last (in which the most
bytes are that nothing refers to), in each version.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType

from tests.crash.reading import Meaning, read
from tests.crash.states import SECTOR, State
from tests.support.qemu import Qemu, QemuError


class Verdict(Enum):
    """What a state is, from the best to the worst."""

    OLD = "the old image"
    NEW = "the new image"
    BETWEEN = "some fields old, some new, and nothing lost"
    LEAK = "clusters are leaked"
    DAMAGED = "an extension or the name of the backing file is lost"
    CORRUPT = "qemu-img check finds errors"
    CONTENTS = "reads otherwise than before"
    UNOPENABLE = "cannot be opened"

    @property
    def broken(self) -> bool:
        """Whether somebody has lost something."""
        return not self.whole and self not in (Verdict.BETWEEN, Verdict.LEAK)

    @property
    def whole(self) -> bool:
        """Whether it is the old image or the new one."""
        return self in (Verdict.OLD, Verdict.NEW)


@dataclass
class Tally:
    """The verdicts on all crash states of one run."""

    states: Counter[Verdict] = field(default_factory=Counter)
    distinct: int = 0
    """How many different images qemu can see in them."""
    examples: dict[Verdict, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.states.total()

    @property
    def broken(self) -> int:
        return sum(count for verdict, count in self.states.items() if verdict.broken)

    @property
    def violations(self) -> dict[str, str]:
        """An example of each verdict that breaks the promise."""
        return {v.value: text for v, text in self.examples.items() if not v.whole}

    def add(self, verdict: Verdict, count: int, example: str) -> None:
        """Count states that look alike."""
        self.states[verdict] += count
        self.distinct += 1
        self.examples.setdefault(verdict, example)

    def update(self, other: Tally) -> None:
        """Add the figures of another run."""
        self.states += other.states
        self.distinct += other.distinct
        for verdict, example in other.examples.items():
            self.examples.setdefault(verdict, example)


@dataclass
class _Group:
    """States in which the same bytes are referred to."""

    first: State
    last: State
    plain: Verdict
    count: int = 0


class Judge:
    """Judges states of the image at `original`, in its folder; a context manager.

    amended: the bytes of the image that the command has made of it.
    versions: of qemu-img, all of which are asked.
    """

    def __init__(self, original: Path, amended: bytes, versions: Sequence[Qemu]) -> None:
        self._original = original
        self._before = original.read_bytes()
        self._after = amended
        self._versions = versions
        self._head = min(len(self._before), 1 << self._cluster_bits())
        self._old = read(self._before[: self._head]).meaning
        self._new = read(amended[: self._head]).meaning
        self._path = original.with_name(f"state-of-{original.name}")
        shutil.copyfile(original, self._path)
        self._dirty: set[int] = set()
        self._known: dict[bytes, Verdict] = {}

    def __enter__(self) -> Judge:
        """Remove the rebuilt file at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the rebuilt file."""
        self._path.unlink()

    def judge(self, states: Iterable[State]) -> Tally:
        """The verdicts on all states."""
        groups: dict[object, _Group] = {}
        for state in states:
            head = self._head_of(state)
            reading = read(head)
            elsewhere = {n: d for n, d in state.sectors.items() if n * SECTOR >= self._head}
            key = (reading.referenced, tuple(sorted(elsewhere.items())), state.size)
            plain = self._compare(reading.meaning, elsewhere)
            group = groups.setdefault(key, _Group(state, state, plain))
            group.last = state
            group.count += 1
        tally = Tally()
        for group in groups.values():
            verdict, example = self._examine(group)
            tally.add(verdict, group.count, example.label)
        return tally

    def identify(self, path: Path) -> Verdict:
        """What the file at `path` is."""
        data = path.read_bytes()
        if data not in self._known:
            steps = range(0, len(data), SECTOR)
            parts = {at // SECTOR: data[at : at + SECTOR] for at in steps}
            sectors = {
                number: part
                for number, part in parts.items()
                if part != self._before[number * SECTOR : (number + 1) * SECTOR]
            }
            tally = self.judge([State(sectors, len(data), str(path))])
            self._known[data] = next(iter(tally.states))
        return self._known[data]

    def _examine(self, group: _Group) -> tuple[Verdict, State]:
        """The worst verdict on a group, and the state that it is about."""
        for state in [group.first] + ([group.last] if group.last is not group.first else []):
            self._rebuild(state)
            for qemu in self._versions:
                found = ask(qemu, self._path, self._original)
                if found is not None and not (found is Verdict.LEAK and group.plain.broken):
                    return found, state
        return group.plain, group.first

    def _compare(self, meaning: Meaning, elsewhere: dict[int, bytes]) -> Verdict:
        """Whether the header is the old or the new one, and all else with it."""
        for verdict, header, image in (
            (Verdict.OLD, self._old, self._before),
            (Verdict.NEW, self._new, self._after),
        ):
            alike = all(image[n * SECTOR : n * SECTOR + len(d)] == d for n, d in elsewhere.items())
            if meaning == header and alike:
                return verdict
        kept = any(_kept(meaning, header) for header in (self._old, self._new))
        return Verdict.BETWEEN if kept else Verdict.DAMAGED

    def _head_of(self, state: State) -> bytes:
        head = bytearray(self._before[: self._head])
        for number, data in state.sectors.items():
            if number * SECTOR < self._head:
                head[number * SECTOR : number * SECTOR + len(data)] = data
        return bytes(head)

    def _rebuild(self, state: State) -> None:
        """Make the file at `_path` the state."""
        with self._path.open("r+b") as file:
            for number in self._dirty - state.sectors.keys():
                file.seek(number * SECTOR)
                file.write(self._before[number * SECTOR : (number + 1) * SECTOR])
            for number, data in state.sectors.items():
                file.seek(number * SECTOR)
                file.write(data)
            file.truncate(state.size)
        self._dirty = set(state.sectors)

    def _cluster_bits(self) -> int:
        return int.from_bytes(self._before[20:24], "big")


def _kept(meaning: Meaning, other: Meaning) -> bool:
    """Whether two headers have the same name and extensions, these in any order."""
    both = (sorted((e.type, e.data) for e in m.extensions) for m in (meaning, other))
    return meaning.name == other.name and next(both) == next(both)


def ask(qemu: Qemu, path: Path, original: Path) -> Verdict | None:
    """What is wrong with an image that should read as `original` does; None if nothing is."""
    try:
        check = qemu.check(path)
    except QemuError:
        return Verdict.UNOPENABLE
    if check.corruptions or check.errors:
        return Verdict.CORRUPT
    try:
        same = qemu.compare(path, original)
    except QemuError:
        same = False
    if not same:
        return Verdict.CONTENTS
    return None if check.clean else Verdict.LEAK
