"""A crash in an amend of several steps leaves each step whole, or what reads as before. Test side.

Writes and barriers are those of a real process. They are the ones of as many amends, one after the
other: so each state that a crash leaves is one of a single amend, on the image that those before it
leave.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.crash.alike import assert_reads_alike, chosen_states, damage, rebuilt, visible
from tests.crash.recorder import Operation, environment, instar, record, replay, trace
from tests.crash.states import SEED, crash_states
from tests.support import chain
from tests.support import qemu as oracle
from tests.support.forge import Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.reader import Reader

pytestmark = pytest.mark.kvm

ASKED_OF_QEMU = 4
KILLS = 30
BACKING = b"data" * 90 * 512
UP, DOWN, LAZY = "compat=1.1", "compat=0.10", "lazy_refcounts=on"
INCOMPLETE = Image(
    version=2,
    cluster_bits=9,
    size=1 << 14,
    clusters={0: Data(b"a")},
    snapshots=[Snapshot(name=b"n" * 60, extra_data_size=0), Snapshot(name=b"s")],
)
CHAINS: dict[str, tuple[Image, tuple[str, ...]]] = {
    "one sector each": (Image(version=2, clusters={0: Data(b"x")}), (UP, DOWN)),
    "slack": (
        Image(version=2, clusters={0: Data(b"x")}, backing_file=b"b.raw", backing_format=b"raw"),
        (UP, LAZY, f"{DOWN},lazy_refcounts=off"),
    ),
    "snapshots that are completed": (
        INCOMPLETE,
        (UP, DOWN),
    ),
    "snapshots that are completed, and a width": (
        INCOMPLETE,
        (UP, "refcount_bits=64"),
    ),
    "zero clusters that are filled": (
        Image(
            cluster_bits=9,
            size=90 << 9,
            backing_file=b"b.raw",
            clusters={**dict.fromkeys(range(80), Zero()), 5: ZeroAllocated(b"\x01")},
            snapshots=[Snapshot(name=b"n" * 60, clusters={0: Data(b"b")})],
        ),
        (DOWN, UP),
    ),
    "a width, and a downgrade that fills zero clusters": (
        Image(
            cluster_bits=9,
            size=90 << 9,
            refcount_order=3,
            backing_file=b"b.raw",
            clusters={**dict.fromkeys(range(20), Zero()), 5: ZeroAllocated(b"\x01")},
        ),
        ("refcount_bits=16", DOWN),
    ),
}


@dataclass
class Chain:
    """An image, the steps that it is to take, and what they leave it as."""

    path: Path
    steps: tuple[str, ...]
    after: list[bytes]
    """The image before the first step, and after each."""
    operations: list[list[Operation]]
    """What each step does, if it is an amend of its own."""

    def restore(self) -> None:
        self.path.write_bytes(self.after[0])

    @property
    def backing(self) -> bytes:
        return BACKING if Reader(self.after[0]).header.backing_file_offset else b""


@pytest.fixture(params=CHAINS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    image, steps = CHAINS[request.param]
    (tmp_path / "b.raw").write_bytes(BACKING)
    path = tmp_path / "t.qcow2"
    image.write(path)
    after, operations = [path.read_bytes()], []
    for step in steps:
        recording = record(instar("-o", step), path)
        assert recording.run.status == 0, recording.run.stderr
        operations.append(list(recording.operations))
        after.append(path.read_bytes())
    found = Chain(path, steps, after, operations)
    found.restore()
    return found


def joined(case: Chain) -> list[Operation]:
    return [operation for step in case.operations for operation in step]


def files(before: bytes, operations: Sequence[Operation]) -> set[bytes]:
    """The digests of all files that a crash may leave."""
    found = crash_states(before, operations)
    return {sha256(rebuilt(before, state)).digest() for state in found}


def files_of_single_amends(case: Chain) -> set[bytes]:
    """The same of the amends one after the other, which the other tests here are about."""
    return set().union(*map(files, case.after, case.operations))


def test_steps_write_and_flush_what_as_many_amends_do(case: Chain) -> None:
    recording = record(chain.command(*case.steps, confined=False), case.path)
    assert recording.run.status == 0, recording.run.stderr
    assert list(recording.operations) == joined(case)
    assert case.path.read_bytes() == case.after[-1]


def test_a_crash_leaves_what_a_crash_of_a_single_step_does(case: Chain) -> None:
    before = case.after[0]
    found = files(before, joined(case))
    assert found == files_of_single_amends(case)
    assert found >= {sha256(whole).digest() for whole in case.after}


@pytest.mark.parametrize("case", ["snapshots that are completed"], indirect=True)
def test_the_harness_sees_that_a_step_begins_too_early(case: Chain) -> None:
    operations = joined(case)
    last = len(case.operations[0]) - 1  # the barrier that ends the first step
    early = [*operations[:last], *operations[last + 1 :]]
    assert not files(case.after[0], early) <= files_of_single_amends(case)


def test_a_crash_leaves_what_reads_as_before(case: Chain, tmp_path: Path) -> None:
    before = case.after[0]
    contents = visible(before, case.backing)
    chosen = list(chosen_states(before, joined(case)))
    for data in chosen:
        assert visible(data, case.backing) == contents
        assert damage(data) == []
    original, state = tmp_path / "original.qcow2", tmp_path / "state.qcow2"
    original.write_bytes(before)
    for number in range(0, len(chosen), -(-len(chosen) // ASKED_OF_QEMU)):
        state.write_bytes(chosen[number])
        for qemu in (oracle.newest(), oracle.oldest()):
            assert_reads_alike(qemu, state, original, len(contents) - 1)


def test_a_kill_at_any_call_leaves_what_was_written_until_then(case: Chain) -> None:
    command = [*chain.command(*case.steps), str(case.path)]
    names = ("pwrite64", "fdatasync", "ftruncate")
    calls, _ = trace(command, case.path, names, "-s", "0")
    done = 0
    for call in calls:
        if call.name == "openat":
            continue
        case.restore()
        fault = f"inject={call.name}:signal=KILL:when={call.number}"
        _, ended = trace(command, case.path, names, "-s", "0", "-e", fault)
        assert ended.status == -signal.SIGKILL
        assert case.path.read_bytes() == replay(case.after[0], joined(case)[:done])
        done += 1
    assert done == len(joined(case))


def test_a_kill_at_any_moment_leaves_what_reads_as_before(case: Chain) -> None:
    command = [*chain.command(*case.steps), str(case.path)]
    draw = random.Random(SEED)  # noqa: S311 - the same in every run
    start = time.monotonic()
    assert subprocess.run(command, env=environment(), check=True).returncode == 0
    duration = time.monotonic() - start
    contents = visible(case.after[0], case.backing)
    allowed = [replay(case.after[0], joined(case)[:n]) for n in range(len(joined(case)) + 1)]
    for _ in range(KILLS):
        case.restore()
        process = subprocess.Popen(command, env=environment())
        time.sleep(draw.uniform(0.5, 1.1) * duration)
        process.kill()
        process.wait()
        data = case.path.read_bytes()
        assert data in allowed
        assert visible(data, case.backing) == contents
