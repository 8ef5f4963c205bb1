"""Tells of a file that a crash may leave whether it reads as before, layer by layer. Test side."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crash.recorder import Operation
from tests.crash.states import SEED, State, crash_states
from tests.support.forge.audit import counted_refcounts, faults, stored_refcounts
from tests.support.forge.reader import Reader
from tests.support.qemu import Qemu

STATES_MAX = 100
"""Of more, so many are chosen with a fixed seed, the first and the last among them."""


def visible(data: bytes, backing: bytes) -> list[list[bytes]]:
    """What the guest reads, cluster by cluster, of the active layer and of each snapshot."""
    reader = Reader(data, backing=backing)
    clusters = range(-(-reader.header.size // reader.cluster_size))
    return [[reader.read(n, layer) for n in clusters] for layer in reader.layers]


def damage(data: bytes) -> list[str]:
    """What is worse than a leak, and than a flag that is not set yet."""
    reader = Reader(data)
    stored, counted = stored_refcounts(reader), counted_refcounts(reader)
    missing = [n for n, count in counted.items() if stored.get(n, 0) < count]
    copied = [fault for fault in faults(reader) if "COPIED is True" in fault]
    return [*(f"host cluster {n} is not counted" for n in missing), *copied]


def chosen_states(before: bytes, operations: Sequence[Operation]) -> Iterator[bytes]:
    """The files that a crash may leave, or STATES_MAX of them."""
    states = list(crash_states(before, operations))
    if len(states) > STATES_MAX:
        generator = random.Random(SEED)  # noqa: S311 - the same in every run
        middle = sorted(generator.sample(range(1, len(states) - 1), STATES_MAX - 2))
        states = [states[0], *(states[n] for n in middle), states[-1]]
    for state in states:
        yield rebuilt(before, state)


def rebuilt(before: bytes, state: State) -> bytes:
    """The file that this state is."""
    image = bytearray(before.ljust(state.size, b"\0"))
    for number, data in state.sectors.items():
        image[number * 512 : number * 512 + len(data)] = data
    return bytes(image[: state.size])


def assert_reads_alike(qemu: Qemu, image: Path, original: Path, snapshots: int) -> None:
    """By qemu: nothing worse than a leak, and the same contents in each layer."""
    check = qemu.check(image)
    assert not check.errors
    assert not check.corruptions or "refcount=1" in check.text
    assert qemu.compare(image, original)
    names = [line.split()[1] for line in qemu.snapshot(original, "-l").splitlines()[2:]]
    assert len(names) == snapshots
    assert all(qemu.compare_snapshot(image, original, name) for name in names)
