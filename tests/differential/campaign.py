"""Runs many cases in several processes and prints what they came to. Test side."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.differential.generate import Case, case_of
from tests.differential.run import Tally, run_case
from tests.differential.shrink import script, shrink
from tests.support import qemu as oracle
from tests.support.scratch import scratch_of_run
from tests.support.stop import Stop

_BATCH = 32
_MOST = 10
"""How many findings are made small; many are often the same."""
_PROGRESS_SECONDS = 30.0


def names_of_all() -> tuple[str, ...]:
    """The versions at hand. QemuError if there is none."""
    oracle.newest()
    return tuple(qemu.version for qemu in oracle.all_versions())


def run_seed(seed: int, judges: tuple[str, ...] = (), within: Path | None = None) -> Tally:
    """Run the case of one seed, with one of `judges` or of all versions, within a folder."""
    judge = judges[seed % len(judges)] if judges else None
    return run_case(case_of(seed, names_of_all(), judge), within)


def run_and_print(seed: int, runs: int, jobs: int, judges: tuple[str, ...]) -> int:
    """Run cases from `seed` on until `runs` amends were compared.

    The result is 1 if something was found, 2 if that is not known of all of them. A total is
    printed now and then and at the end, also if SIGINT or SIGTERM is the end.
    """
    known = names_of_all()
    if unknown := set(judges) - set(known):
        print(f"no such version at hand: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    totals = _Totals(seed)
    with (
        scratch_of_run("differential") as run,
        Stop(signal.SIGINT, signal.SIGTERM) as stop,
        ProcessPoolExecutor(jobs, get_context("fork"), run.join) as pool,
    ):
        one = partial(run_seed, judges=judges, within=run.folder)
        for last, tally in _results(pool, seed, jobs, one):
            if stop.is_told:  # and what ran meanwhile may have been stopped as well
                break
            totals.add(last, tally)
            if tally.findings:
                case = case_of(last, known, judges[last % len(judges)] if judges else None)
                _print_finding(last, case, tally, run.folder if totals.found <= _MOST else None)
            if totals.tally.requests >= runs:
                break
        totals.print_all(stopped=stop.is_told)
        pool.shutdown(cancel_futures=True)
    return 1 if totals.found else 2 if stop.is_told else 0


class _Totals:
    """What all cases came to so far."""

    def __init__(self, seed: int) -> None:
        """Begin to count at the first seed."""
        self.tally, self.found = Tally(), 0
        self._seed = self._last = seed
        self._started = self._printed = time.monotonic()

    def add(self, seed: int, tally: Tally) -> None:
        """Count what became of one seed, and say now and then how far it is."""
        self.tally.update(tally)
        self.found += bool(tally.findings)
        self._last = seed
        if time.monotonic() - self._printed >= _PROGRESS_SECONDS:
            self._printed = time.monotonic()
            print(self._line(), flush=True)

    def print_all(self, *, stopped: bool) -> None:
        """Say what it came to."""
        if stopped:
            print("stopped before its end")
        print(self._line())
        if self.tally.set_aside:
            print(f"set aside, as qemu-img took too long: {self.tally.set_aside}")
        for title, counts in (
            ("instar / qemu-img", self.tally.verdicts),
            ("divergences", self.tally.divergences),
        ):
            print(f"{title}:")
            for name, count in counts.most_common():
                print(f"{count:8} {name}")
        sys.stdout.flush()

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        seeds = f"seeds {self._seed} to {self._last}"
        findings = f"{len(self.tally.findings)} findings"
        return f"{self.tally.requests} amends, {seeds}, in {seconds:.0f} s, {findings}"


def _results(
    pool: ProcessPoolExecutor, seed: int, jobs: int, one: Callable[[int], Tally]
) -> Iterator[tuple[int, Tally]]:
    """Seeds and what became of them, in order, without end."""
    for first in itertools.count(seed, _BATCH * jobs):
        seeds = range(first, first + _BATCH * jobs)
        yield from zip(seeds, pool.map(one, seeds), strict=True)


def _print_finding(seed: int, case: Case, tally: Tally, within: Path | None) -> None:
    """Print it; make it small as well if there is a folder for that."""
    print(f"seed {seed}, qemu {case.judge}:", flush=True)
    for request, finding in tally.findings:
        print(f"    {request}: {finding}")
    if within is not None:
        print(script(smallest(case, *tally.findings[0], within)), flush=True)


def smallest(case: Case, request: str, finding: str, within: Path | None = None) -> Case:
    """The smallest case in which the same request ends in the same kind of finding."""
    kind = finding.partition(" -- ")[0]

    def is_found(smaller: Case) -> bool:
        return any(
            text.partition(" -- ")[0] == kind for _, text in run_case(smaller, within).findings
        )

    return shrink(replace(case, requests=(request,)), is_found)
