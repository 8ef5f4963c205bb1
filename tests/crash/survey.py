"""Interrupts one change of one image at every moment, by instar or by qemu-img. Test side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.cases import Case
from tests.crash.recorder import Operation, Recording, instar, record, replay
from tests.crash.states import crash_states, phases
from tests.crash.verdict import Judge, Tally
from tests.support.qemu import Qemu

NO_ROOM = "the header cluster has"
"""Part of the one message with which instar refuses an image of these cases."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    refusal: str | None
    """Why there is nothing to interrupt."""
    atomic: bool
    """What instar says."""
    phases: int
    operations: tuple[Operation, ...]
    tally: Tally


class ReplayError(Exception):
    """The recording is not all that happened to the image."""


def record_whole(
    case: object, command: Sequence[str], image: Path
) -> tuple[bytes, Recording, bytes]:
    """Record a command; returns the image before and after it too. ReplayError for `case`."""
    before = image.read_bytes()
    recording = record(command, image)
    after = image.read_bytes()
    if replay(before, recording.operations) != after:
        raise ReplayError(str(case))
    return before, recording, after


def interrupt_instar(case: Case, folder: Path, versions: Sequence[Qemu]) -> Outcome:
    """Record `instar amend` on the case's image in `folder`, and judge all that a crash leaves."""
    command = instar("--output", "json", *case.transition.arguments)
    return _interrupt(case, folder, command, versions)


def interrupt_qemu(case: Case, folder: Path, versions: Sequence[Qemu], by: Qemu) -> Outcome:
    """The same for qemu-img amend, in one of its versions."""
    program = str(by.directory / "qemu-img")
    command = [program, "amend", "-f", "qcow2", "-o", case.transition.options]
    return _interrupt(case, folder, command, versions)


def _interrupt(
    case: Case, folder: Path, command: Sequence[str], versions: Sequence[Qemu]
) -> Outcome:
    image = case.write(folder)
    original = folder / "original.qcow2"
    shutil.copyfile(image, original)
    before, recording, after = record_whole(case, command, image)
    if recording.run.status:
        return Outcome(recording.run.stderr, True, 0, recording.operations, Tally())
    atomic = bool(json.loads(recording.run.stdout or "{}").get("atomic"))
    with Judge(original, after, versions) as judge:
        tally = judge.judge(crash_states(before, recording.operations))
    number = len(phases(before, recording.operations))
    return Outcome(None, atomic, number, recording.operations, tally)
