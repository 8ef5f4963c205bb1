"""Test side: the same image and request, through the payload in KVM and through the host library.

Both must give the same plan, byte for byte, or the same refusals with the same details; and the
host must find that a plan keeps the write contract.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from instar.vmm.amend.messages import Messages, pack_config
from instar.vmm.base.errors import ImageRejected, InstarError
from instar.vmm.contract.judge import judge
from instar.vmm.contract.terms import Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.staging import StagedWrites, ZeroedInUse
from instar.vmm.machine import Machine
from instar.vmm.machine.payload import Payload, load_payload
from instar.vmm.qcow2.probe import PROBE_SIZE, parse_fixed_header
from tests.fuzz.images import Case, random_cases
from tests.support.project import load_planner
from tests.support.staged import all_sectors

TIMEOUT = 60.0


@dataclass(frozen=True)
class Plan:
    """What one side said. Two of them are equal if they agree."""

    refusals: tuple[tuple[int, ...], ...]
    result: tuple[int, ...] = ()
    """Whether amended and atomic, the version and the three feature words."""
    phases: tuple[tuple[tuple[int, bytes], ...], ...] = ()
    """The sectors in order of their numbers, by phase."""
    zeroes: tuple[tuple[int, int], ...] = ()
    """The sectors that are to be zeroed: (first, end)."""


class DifferenceError(AssertionError):
    """The two sides disagree."""


class Differential:
    """Runs cases on both sides; a context manager."""

    def __init__(self, planner: Any, payload: Payload | None = None) -> None:
        """Take the module `_planner`."""
        self._planner = planner
        self._payload = payload or load_payload()
        self._folder = TemporaryDirectory(prefix="instar-fuzz-", dir="/dev/shm")
        self._path = Path(self._folder.name, "image")
        self.exits = 0

    def __enter__(self) -> Differential:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def compare(self, case: Case) -> Plan:
        """Run the case on both sides. DifferenceError if they disagree."""
        seen = parse_fixed_header(case.seen[:PROBE_SIZE])
        if seen is None:
            return Plan(())
        size = len(case.image)
        config = pack_config(seen, case.request, size, WORK_MIN, progress=False, debug=False)
        host = self._run_host(case.image, config)
        guest = self._run_guest(case, config)
        if host != guest:
            raise DifferenceError(f"{case.name}: host {host}, guest {guest}")
        return host

    def _run_host(self, image: bytes, config: bytes) -> Plan:
        ffi, lib = self._planner.ffi, self._planner.lib
        outcome = ffi.new("struct host_outcome *")
        lib.host_plan(config, ffi.from_buffer(image), len(image), 0, outcome)
        result = outcome.result
        if outcome.misuse:
            raise DifferenceError("the planner broke the rules of a callback")
        if result.refusal_count:
            found = outcome.refusals[0 : result.refusal_count]
            return Plan(tuple((r.reason, r.error, *r.detail) for r in found))
        staged = StagedWrites()
        for write in outcome.writes[0 : outcome.write_count]:
            if write.zeroes:
                staged.zero(write.offset // 512, write.length // 512)
            else:
                data = bytes(ffi.buffer(write.data, write.length))
                staged.write(write.offset // 512, data, write.phase)
        words = (
            *(result.action, result.atomic, result.resulting_version),
            *(result.resulting_incompatible_features, result.resulting_compatible_features),
            result.resulting_autoclear_features,
        )
        return Plan((), words, *_comparable(staged))

    def _run_guest(self, case: Case, config: bytes) -> Plan:
        self._path.write_bytes(case.image)
        with (
            ImageFile.open(str(self._path), writable=False) as file,
            Machine(self._payload) as machine,
        ):
            messages = Messages()
            staged = machine.run(file, config, TIMEOUT, messages.receive)
            self.exits += machine.vm_exits
            refusals, claim = messages.complete()
            if refusals:
                return Plan(refusals)
            # An image may be at odds with itself in a way that only the host can notice.
            with suppress(ImageRejected):
                original = Original(file.read, file.size, file.work_max)
                judge(original, case.request, staged, claim)
        fields = claim.fields
        names = ("incompatible_features", "compatible_features", "autoclear_features")
        words = (int(claim.amended), int(claim.atomic), fields["version"])
        result = (*words, *(fields[name] for name in names))
        return Plan((), result, *_comparable(staged))


def _comparable(
    staged: StagedWrites,
) -> tuple[tuple[tuple[tuple[int, bytes], ...], ...], tuple[tuple[int, int], ...]]:
    """What was staged: sectors by phase, and ranges to be zeroed as far as these are sound."""
    phases = tuple(tuple(sorted(phase.items())) for phase in all_sectors(staged))
    try:
        return phases, tuple(zip(*staged.zeroed(), strict=True))
    except ZeroedInUse:
        return phases, ()


@dataclass(frozen=True)
class Tally:
    """What a run came to."""

    cases: int
    amended: int
    noop: int
    refused: int
    reasons: frozenset[int]
    exits: int


def run(planner: Any, seed: int, runs: int, seconds: float, keep: Path | None = None) -> Tally:
    """Compare `runs` cases of this seed, or as many as `seconds` allow.

    A case on which the sides disagree is written to `keep`, and the error goes on.
    """
    counts = {"amended": 0, "noop": 0, "refused": 0}
    reasons: set[int] = set()
    end = time.monotonic() + seconds
    done = 0
    with Differential(planner) as differential:
        for case in _until(end, runs, random_cases(seed)):
            try:
                plan = differential.compare(case)
            except Exception:
                if keep is not None:
                    keep.write_bytes(case.image)
                raise
            done += 1
            kind = "refused" if plan.refusals or not plan.result else "noop"
            counts["amended" if plan.result[:1] == (1,) else kind] += 1
            reasons.update(refusal[0] for refusal in plan.refusals)
        return Tally(done, **counts, reasons=frozenset(reasons), exits=differential.exits)


def _until(end: float, runs: int, cases: Iterator[Case]) -> Iterator[Case]:
    for _, case in zip(range(runs), cases, strict=False):
        yield case
        if time.monotonic() > end:
            return


def run_and_print(seed: int, runs: int, seconds: float, keep: Path) -> int:
    """Run one job for scripts/fuzz and print what it came to; returns the number of findings."""
    try:
        tally = run(load_planner(), seed, runs, seconds, keep)
    except (DifferenceError, InstarError) as error:
        print(f"seed {seed}: {error!r}", flush=True)
        return 1
    print(
        f"seed {seed}: {tally.cases} cases, {tally.amended} amended, {tally.noop} as asked, "
        f"{tally.refused} refused for {len(tally.reasons)} reasons, {tally.exits} exits",
        flush=True,
    )
    return 0
