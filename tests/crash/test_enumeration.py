"""A crash at any moment of the commit leaves the old image or the new one. Test side.

Writes and barriers are those of the real command, recorded by strace; the disk may do between two
barriers what it likes with them, sector by sector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.cases import (
    CLUSTER_BITS,
    DOWNGRADE,
    DOWNGRADE_LAZY,
    LAZY_OFF,
    LAZY_ON,
    REBASES,
    SHAPES,
    UPGRADE,
    UPGRADE_LAZY,
    Case,
    cases,
)
from tests.crash.recorder import Barrier, Operation, Recording, Write, instar, record, replay
from tests.crash.states import SECTOR, crash_states
from tests.crash.survey import NO_ROOM, interrupt_instar, interrupt_qemu
from tests.crash.verdict import Judge, Tally, Verdict
from tests.support import qemu as oracle

pytestmark = pytest.mark.kvm

TWO_PHASES = Case(UPGRADE, "extensions and long name", 16)
ONE_PHASE = Case(DOWNGRADE, "overlay", 16)


def selection() -> Iterator[Case]:
    """Enough to see each layout in each direction; scripts/crash_survey has all combinations."""
    random = [shape for shape in SHAPES if shape.startswith("random")]
    named = [shape for shape in SHAPES if shape not in (*random, "no slack, large")]
    yield from cases((UPGRADE, UPGRADE_LAZY, DOWNGRADE, DOWNGRADE_LAZY), named, (16,))
    yield from cases((UPGRADE, DOWNGRADE), ("extensions and long name", "overlay"), CLUSTER_BITS)
    yield from cases((UPGRADE, DOWNGRADE), random[::2], CLUSTER_BITS)
    yield from cases((UPGRADE, DOWNGRADE), ("little slack", "no slack", "some slack"), (10, 11))
    overlays = [shape for shape in named if shape not in ("bare", "extensions")]
    yield from cases(REBASES, overlays, (16,))
    yield from cases(REBASES, ("overlay", "long name", "some slack", "little slack"), (10, 11, 12))
    yield from cases((LAZY_ON, LAZY_OFF), ("overlay", "long name at the end"), (9, 12, 21))


@pytest.fixture(scope="module")
def versions() -> tuple[oracle.Qemu, ...]:
    """The newest and the oldest version: both look at each state."""
    return oracle.newest(), oracle.oldest()


Interrupted = Callable[[Callable[[list[Operation]], list[Operation]]], Tally]


@pytest.fixture
def interrupted(tmp_path: Path, versions: tuple[oracle.Qemu, ...]) -> Interrupted:
    """Judges what a crash would leave if the operations of TWO_PHASES were others."""

    def judge(change: Callable[[list[Operation]], list[Operation]]) -> Tally:
        original, recording = record_case(TWO_PHASES, tmp_path)
        before, operations = original.read_bytes(), list(recording.operations)
        slack, barrier, switch, last = operations
        assert isinstance(slack, Write)
        assert isinstance(switch, Write)
        assert (slack.offset > 0, switch.offset, len(switch.data)) == (True, 0, SECTOR)
        assert barrier == last == Barrier()
        with Judge(original, replay(before, operations), versions) as judge:
            return judge.judge(crash_states(before, change(operations)))

    return judge


def record_case(case: Case, folder: Path, *flags: str) -> tuple[Path, Recording]:
    """Amend the case's image; returns a copy of what it was, and what was done to it."""
    image = case.write(folder)
    original = folder / "original.qcow2"
    original.write_bytes(image.read_bytes())
    recording = record(instar(*flags, *case.transition.arguments), image)
    assert recording.run.status == 0, recording.run.stderr
    return original, recording


@pytest.mark.parametrize("case", dict.fromkeys(selection()), ids=str)
def test_a_crash_leaves_the_old_or_the_new_image(
    case: Case, tmp_path: Path, versions: tuple[oracle.Qemu, ...]
) -> None:
    outcome = interrupt_instar(case, tmp_path, versions)
    if outcome.refusal is not None:
        assert NO_ROOM in outcome.refusal
        assert not outcome.operations
        return
    assert outcome.operations[-1] == Barrier()  # what is reported done is on the disk
    assert outcome.tally.states[Verdict.OLD] > 0
    assert outcome.tally.states[Verdict.NEW] > 0
    if outcome.atomic:
        assert outcome.tally.violations == {}
    else:
        assert outcome.phases == 1


def test_what_a_crash_left_can_be_amended_again(
    tmp_path: Path, versions: tuple[oracle.Qemu, ...]
) -> None:
    original, recording = record_case(TWO_PHASES, tmp_path)
    before, after = original.read_bytes(), replay(original.read_bytes(), recording.operations)
    slack_written = replay(before, recording.operations[:1])
    assert slack_written != before
    original.write_bytes(slack_written)
    image = tmp_path / "image.qcow2"
    image.write_bytes(slack_written)
    again = record(instar("-o", TWO_PHASES.transition.options), image)
    assert again.run.status == 0
    assert image.read_bytes() == after
    with Judge(original, after, versions) as judge:
        assert judge.judge(crash_states(slack_written, again.operations)).violations == {}


@pytest.mark.parametrize("mode", ["none", "writethrough", "directsync"])
def test_all_cache_modes_but_unsafe_write_and_flush_alike(mode: str, tmp_path: Path) -> None:
    recordings = []
    for flags in ((), ("-t", mode)):
        recordings.append(record_case(TWO_PHASES, tmp_path, *flags)[1].operations)
    assert recordings[0] == recordings[1]


def test_cache_mode_unsafe_leaves_out_the_barriers_and_nothing_else(tmp_path: Path) -> None:
    safe, unsafe = (
        record_case(TWO_PHASES, tmp_path, "-t", mode)[1].operations
        for mode in ("writeback", "unsafe")
    )
    assert list(unsafe) == [operation for operation in safe if isinstance(operation, Write)]


@pytest.mark.parametrize("case", [TWO_PHASES, ONE_PHASE], ids=str)
def test_a_dry_run_and_a_noop_write_and_flush_nothing(case: Case, tmp_path: Path) -> None:
    assert record_case(case, tmp_path, "--dry-run")[1].operations == ()
    already = replace(
        case.transition, options="compat=" + "0.10 1.1".split()[case.transition.version == 3]
    )
    assert record_case(replace(case, transition=already), tmp_path)[1].operations == ()


def test_the_harness_sees_that_a_barrier_is_missing(interrupted: Interrupted) -> None:
    tally = interrupted(lambda done: [step for step in done if isinstance(step, Write)])
    assert tally.broken > 0


def test_the_harness_sees_that_the_switch_comes_first(interrupted: Interrupted) -> None:
    tally = interrupted(lambda done: [done[2], done[1], done[0], done[3]])
    assert tally.broken > 0


def test_the_harness_sees_that_the_switch_is_more_than_a_sector(interrupted: Interrupted) -> None:
    def tear(done: list[Operation]) -> list[Operation]:
        return [done[0], done[2]]

    assert interrupted(lambda done: [*done[:2], done[2]]).violations == {}
    assert interrupted(tear).broken > 0


def test_the_harness_finds_what_a_crash_of_qemu_img_breaks(
    tmp_path: Path, versions: tuple[oracle.Qemu, ...]
) -> None:
    outcome = interrupt_qemu(Case(UPGRADE, "overlay", 16), tmp_path, versions, versions[0])
    assert outcome.tally.states[Verdict.CONTENTS] == 1
    assert outcome.tally.total == 4
