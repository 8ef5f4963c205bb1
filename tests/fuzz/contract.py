"""Test side: plans of honest guests, mutated, through the judge; what it accepts is taken apart."""

from __future__ import annotations

import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract import recoded
from instar.vmm.contract.judge import judge
from instar.vmm.contract.terms import Judgement, Original
from instar.vmm.image.budgets import WORK_MIN
from tests.fuzz.alias import compare_refcounts
from tests.fuzz.contract_images import WINDOW
from tests.fuzz.contract_lies import lie
from tests.fuzz.contract_mutations import Rogue
from tests.fuzz.contract_plans import (
    ALLOWED,
    deaf_cases,
    honest_cases,
    lying_cases,
    plans,
    strange_cases,
)
from tests.fuzz.contract_states import (
    LAST,
    MISSING,
    SWITCH,
    FindingError,
    Meaning,
    backing_of,
    beyond_version_2,
    difference,
    errors,
    meaning,
    of_names,
    of_size,
    state,
    wanted,
    without,
)
from tests.fuzz.limits import Limits, limit_space
from tests.fuzz.other_readers import ByQemu, by_dissect, by_libqcow, first_difference
from tests.support.forge.model import Model
from tests.support.peak import forget_peak, peak
from tests.support.planner import ask
from tests.support.planning import Case, copy_of
from tests.support.project import load_planner
from tests.support.qemu import all_versions

MUTANTS = 200
"""Of each plan."""
MUTANTS_OF_LARGE, _LARGE = 5, 4 << 20
"""The same for an image of so many bytes, which each step copies."""
SECONDS_MAX = 5.0
"""Processor time that a verdict may take."""
MEMORY_MIN, MEMORY_FACTOR = 64 << 20, 2
"""What a verdict may take of memory, and so many times what is staged and stored."""
BY_OTHERS, BY_QEMU = 5, 100
"""Of so many results that are accepted one is looked at by readers of others, and by qemu-img."""
LIES = 1 / 200
"""How many of all executions show an image with a number that is far too large."""
READING_MAX = 5.0
"""Seconds that an image may take to be read."""
Source = Callable[[random.Random], Iterator[Case]]
_SOURCES, _SHARES = (honest_cases, strange_cases, deaf_cases, lying_cases), (4, 3, 1, 1)
"""Where plans come from, and how many from each."""
_STALE = 1 << 20  # bytes
_SPACE = 4 << 30  # bytes of address space that a job may take
_SPARE = 17  # clusters that a file may grow by without use


@dataclass
class Tally:
    """What a run came to."""

    executions: int = 0
    """Verdicts on plans of which no two of an image are equal, and on lies."""
    equal: int = 0
    """Plans that were made and not tried, as one like them had been."""
    endings: Counter[str] = field(default_factory=Counter)
    blames: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    accepted: int = 0
    by_others: int = 0
    by_qemu: int = 0


class Trial:
    """One plan of an honest guest, and what of it must hold for all that the judge accepts."""

    def __init__(self, case: Case, tally: Tally, source: Source) -> None:
        """Take the plan. FindingError if it is accepted, and is not sound itself.

        Or if it is not, though its source has honest guests; an image may be rejected unless that
        source has none with faults. Where refcounts lie, only those stay true that are.
        """
        self._source = source
        self._lying = source is lying_cases
        self._backing = backing_of(case)
        self.before = meaning(case.data, below=self._backing)
        name = case.request.backing_file
        self._below = self.before if name is None else meaning(case.data, backed=bool(name))
        self._version = self.before.fields["version"]
        self.honest, self.tally = case, tally
        self._tried: set[int] = set()
        self._tail = False
        final = state(case, LAST)
        self.growth = max(len(final) - len(case.data), 0)
        self.is_new(case)
        judgement = self._judge(case)
        self._leaks = errors(final if judgement else case.data)[1]
        if judgement:
            self.check(random.Random(0), case, judgement)  # noqa: S311 - reproducible, not secret

    def _judge(self, case: Case) -> Judgement | None:
        """What the judge says of the plan itself; None if that is not accepted, and need not be."""
        try:
            judgement = verdict(case)
        except ImageRejected as error:
            if self._source is honest_cases:
                raise FindingError("an image without faults is rejected") from error
            self.tally.endings[f"an image is rejected: {error.refusals[0].name}"] += 1
            return None
        if judgement is None and self._source in (honest_cases, strange_cases):
            raise FindingError("an honest plan is not accepted")
        return judgement

    def is_new(self, case: Case) -> bool:
        """Whether no plan like this one has been tried."""
        claim = case.claim.amended, case.claim.atomic, tuple(case.claim.fields.items())
        known = hash((tuple(map(_frozen, case.phases)), tuple(case.zeroes), claim))
        if known in self._tried:
            return False
        self._tried.add(known)
        return True

    def check(self, rng: random.Random, case: Case, judgement: Judgement) -> None:
        """Take apart what was accepted. FindingError."""
        self._tail = bool(judgement.warnings)  # which a change of the size has only for that
        if not case.claim.amended:
            if self._differs(case, self.before, switched=True):
                raise FindingError("a no-op, and the image is not as asked")
            return
        # What the file holds before the first phase was looked at, and so was each state that a
        # phase does not change, but for what holds at the end and after the switch alone.
        last, final = case.data, state(case, LAST)
        for phase in range(-1, LAST + 1):
            image = final if phase == LAST else state(case, phase)
            if image != last or phase in (SWITCH, LAST):
                self._check_state(case, phase, image)
                last = image
            following = case.phases[phase + 1] if phase < LAST else {}
            if len(following) > 1 and phase + 1 != SWITCH:
                some = {n for n in following if rng.random() < 0.5}
                self._check_state(case, phase, state(case, phase, some))
        if judgement.spare.ranges or judgement.spare.end is not None:
            final = without(final, judgement.spare)
            self._check_state(case, LAST, final)
        self._check_result(case, final)
        self._check_by_others(case, final)

    def _differs(self, case: Case, found: Meaning, *, switched: bool) -> str:
        """In what a state is not as before the switch, or as asked after it."""
        expected = self.before
        if switched:
            expected = wanted(self._below, case.request, tail=self._tail)
        if case.request.backing_file is not None:
            return difference(of_names(expected), of_names(found))
        if case.request.size is None:
            return difference(expected, found)
        hidden = case.claim.amended and switched
        if switched and case.request.drop_bitmaps and not found.bitmaps:
            expected = replace(expected, bitmaps=())  # which do not fit a disk of that size
        return difference(of_size(expected, switched=False), of_size(found, switched=hidden))

    def _check_state(self, case: Case, phase: int, image: bytes) -> None:
        after = phase >= SWITCH
        try:
            found = meaning(image, below=self._backing)
            differs = self._differs(case, found, switched=after)
        except FindingError:
            raise
        except Exception as error:
            raise FindingError(f"after phase {phase}: unreadable, {error!r}") from error
        if differs:
            raise FindingError(f"after phase {phase}: {differs}")
        beyond = beyond_version_2(image) if (case.request.compat or 3) < self._version else ""
        if after and beyond:
            raise FindingError(f"after phase {phase}: version 2, and {beyond}")
        faults = {text for text in errors(image)[0] if phase == LAST or MISSING not in text}
        if faults and not self._lying:
            raise FindingError(f"after phase {phase}: {sorted(faults)[:3]}")

    def _check_result(self, case: Case, image: bytes) -> None:
        if self._lying:
            if case.request.refcount_bits is None:
                compare_refcounts(Model(case.data), Model(image), sound=False)
            return
        found, leaks = errors(image)
        if found or leaks > self._leaks:
            raise FindingError(f"at the end: {leaks} leaks, {sorted(found)[:3]}")
        spare = _SPARE << case.data[23]
        if len(image) - len(case.data) > 2 * self.growth + (3 if self.growth else 1) * spare:
            raise FindingError(f"the file grows from {len(case.data)} to {len(image)}")
        again = ask(load_planner(), image, case.request)
        if not again.planned or again.amended:
            raise FindingError(f"asked again: {again.refusals}, amended {again.amended}")

    def _check_by_others(self, case: Case, image: bytes) -> None:
        self.tally.accepted += 1
        number = self.tally.accepted
        if self._lying or case.request.size is not None or case.request.backing_file is not None:
            return  # which compare disks of one size, over one backing file
        readers: list[Any] = [by_dissect, by_libqcow] if number % BY_OTHERS == 0 else []
        if number % BY_QEMU == 0 and (newest := next(reversed(all_versions()), None)):
            readers.append(ByQemu(newest))
            self.tally.by_qemu += 1
        if readers:
            self.tally.by_others += 1
            if differs := first_difference(case.data, image, readers):
                raise FindingError(differs)


class _TooLongError(Exception):
    """Tables of a mutated image are too long to be read here."""


@contextmanager
def _alarms() -> Iterator[None]:
    """An alarm is a _TooLongError, wherever it comes."""

    def end(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


class _Limited:
    """Raises _TooLongError after some time."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, READING_MAX)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _frozen(phase: dict[int, bytes]) -> frozenset[tuple[int, bytes]]:
    return frozenset(phase.items())


def verdict(case: Case, size: int = 0) -> Judgement | None:
    """What the judge says, None for a fault. ImageRejected, and FindingError.

    `size` is that of the file, if it is longer than what it stores.
    """
    data, stored = case.data, len(case.data)
    size = max(size, stored)

    def read(offset: int, count: int) -> bytes:
        end = min(offset + count, size)
        return data[offset:end].ljust(max(end - offset, 0), b"\0")

    staged = case.staged()
    most = _PEAK.reset()
    start = time.process_time()
    original = Original(read, size, WORK_MIN, stored)
    try:
        return judge(original, case.request, staged, case.claim)
    except GuestFault:
        return None
    finally:
        took, grown = time.process_time() - start, peak() - most
        if took > SECONDS_MAX:
            raise FindingError(f"the judge takes {took:.1f} s")
        if grown > MEMORY_MIN + MEMORY_FACTOR * (staged.size() + stored):
            raise FindingError(f"the judge takes {grown >> 20} MiB")


class _Peak:
    """The kernel's record of the most memory in use, which is made what is in use now."""

    def __init__(self) -> None:
        """Start with no record."""
        self._at_reset = 0

    def reset(self) -> int:
        """Return the record, which is at most _STALE above what was in use when it was made.

        To make it takes as long as a short verdict, and most do not change it.
        """
        if peak() > self._at_reset + _STALE or not self._at_reset:
            self._at_reset = forget_peak()
        return peak()


_PEAK = _Peak()


def run(seed: int, limits: Limits, keep: Path | None = None, most: int = 1) -> Tally:
    """Mutate plans until the limits are met; ends at the finding numbered `most`."""
    tally, number = Tally(), 0
    while len(tally.findings) < most and not limits.are_met(tally.executions):
        name = f"{seed}/{number}"
        kind = random.Random(f"{name}/source").choices(_SOURCES, _SHARES)[0]  # noqa: S311
        with _alarms():
            _run_image(name, tally, limits, keep, kind)
        number += 1
    return tally


def _run_image(name: str, tally: Tally, limits: Limits, keep: Path | None, source: Source) -> None:
    # Each image has a generator of its own: it is found again without those before it.
    rng = random.Random(name)  # noqa: S311 - reproducible, not secret
    # Where the judge looks at fewer clusters at once, small images have several windows.
    small = patch.object(recoded, "_WINDOW", WINDOW)
    with nullcontext() if source is honest_cases else small:
        _run_plans(rng, name, tally, limits, keep, source)


def _run_plans(
    rng: random.Random, name: str, tally: Tally, limits: Limits, keep: Path | None, source: Source
) -> None:
    case = next(source(rng))
    changed, what = case, source.__name__
    try:
        trial = Trial(case, tally, source)
        others = list(plans(rng, load_planner(), case.data))
        for _ in range(MUTANTS if len(case.data) < _LARGE else MUTANTS_OF_LARGE):
            if limits.are_met(tally.executions):
                return
            changed = copy_of(case)
            if rng.random() < LIES:
                _tell(rng, tally)
            rogue = Rogue(rng, changed, others)
            with suppress(_TooLongError), _Limited():
                rogue.mutate()
            what = " ".join((source.__name__, *rogue.done))
            if not trial.is_new(changed):
                tally.equal += 1
                continue
            tally.executions += 1
            tally.endings[_execute(rng, trial, changed, what, tally)] += 1
    except FindingError as error:
        tally.findings.append(f"{name}: {what}: {error}")
        if keep is not None:
            keep.with_name(f"{keep.name}-{len(tally.findings)}").write_bytes(_pickled(changed))


def _tell(rng: random.Random, tally: Tally) -> None:
    """Let the judge see an image that is not what a guest says it is. FindingError."""
    told = lie(rng)
    tally.executions += 1
    try:
        verdict(told.case, told.size)
    except ImageRejected as error:
        tally.endings[f"a lie, {error.refusals[0].name}"] += 1
    else:
        tally.endings["a lie"] += 1


def _execute(rng: random.Random, trial: Trial, case: Case, what: str, tally: Tally) -> str:
    try:
        judgement = verdict(case)
    except ImageRejected as error:
        tally.blames[f"{error.refusals[0].name} {dict(error.refusals[0].detail)}"] += 1
        return f"rejected: {error.refusals[0].name}"
    except FindingError:
        raise
    except Exception as error:
        raise FindingError(f"the judge raises {error!r}") from error
    if judgement is None:
        return "a fault"
    try:
        with _Limited():
            trial.check(rng, case, judgement)
            return "accepted"
    except _TooLongError as error:
        raise FindingError("what is accepted takes too long to be read") from error


def _pickled(case: Case) -> bytes:
    fields: dict[str, Any] = dict(vars(case))
    claim, request = fields.pop("claim"), fields.pop("request")
    fields["claim"] = (claim.amended, claim.atomic, dict(claim.fields))
    allowed = {key: getattr(request, key) for key in ALLOWED}
    fields["request"] = {**request.options, **allowed}
    return pickle.dumps(fields)


def run_and_print(seed: int, runs: int, seconds: float, keep: Path) -> int:
    """Run one job for scripts/fuzz and print what it came to; returns the number of findings."""
    limit_space(_SPACE)  # what an image or a plan names may be as long as a field says
    with Limits(runs, seconds, f"seed {seed}") as limits:
        tally = run(seed, limits, keep)
    endings = ", ".join(f"{count} {ending}" for ending, count in sorted(tally.endings.items()))
    print(f"seed {seed}: {tally.executions} plans: {endings}; {tally.equal} equal ones left out")
    print(
        f"{tally.accepted} states of the end taken apart, {tally.by_others} by two readers of "
        f"others, {tally.by_qemu} by qemu-img too; {limits.took:.0f} s, "
        f"{time.process_time():.0f} s of processor time",
        flush=True,
    )
    for finding in tally.findings:
        print(f"seed {seed}: {finding}", flush=True)
    return len(tally.findings)
