"""Runs many cases in several processes and prints what they came to. Test side."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from tests.differential.generate import Case, case_of
from tests.differential.run import Tally, run_case
from tests.differential.shrink import script, shrink
from tests.support import qemu as oracle

_BATCH = 32
_MOST = 10
"""How many findings are made small; many are often the same."""


def names_of_all() -> tuple[str, ...]:
    """The versions at hand. QemuError if there is none."""
    oracle.newest()
    return tuple(qemu.version for qemu in oracle.all_versions())


def run_seed(seed: int, judges: tuple[str, ...] = ()) -> Tally:
    """Run the case of one seed, with one of `judges` or of all versions."""
    judge = judges[seed % len(judges)] if judges else None
    return run_case(case_of(seed, names_of_all(), judge))


def run_and_print(seed: int, runs: int, jobs: int, judges: tuple[str, ...]) -> int:
    """Run cases from `seed` on until `runs` amends were compared; 1 if something was found."""
    known = names_of_all()
    if unknown := set(judges) - set(known):
        print(f"no such version at hand: {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    started = time.monotonic()
    total, found, last = Tally(), 0, seed
    with ProcessPoolExecutor(jobs) as pool:
        for last, tally in _results(pool, seed, jobs, judges):
            if tally.findings:
                found += 1
                case = case_of(last, known, judges[last % len(judges)] if judges else None)
                _print_finding(last, case, tally, small=found <= _MOST)
            total.update(tally)
            if total.requests >= runs:
                break
        pool.shutdown(cancel_futures=True)
    _print_total(total, f"seeds {seed} to {last}", time.monotonic() - started)
    return 1 if found else 0


def _results(
    pool: ProcessPoolExecutor, seed: int, jobs: int, judges: tuple[str, ...]
) -> Iterator[tuple[int, Tally]]:
    """Seeds and what became of them, in order, without end."""
    for first in itertools.count(seed, _BATCH * jobs):
        seeds = range(first, first + _BATCH * jobs)
        yield from zip(seeds, pool.map(partial(run_seed, judges=judges), seeds), strict=True)


def _print_finding(seed: int, case: Case, tally: Tally, *, small: bool) -> None:
    print(f"seed {seed}, qemu {case.judge}:", flush=True)
    for request, finding in tally.findings:
        print(f"    {request}: {finding}")
    if small:
        print(script(smallest(case, *tally.findings[0])), flush=True)


def smallest(case: Case, request: str, finding: str) -> Case:
    """The smallest case in which the same request ends in the same kind of finding."""
    kind = finding.partition(" -- ")[0]

    def is_found(smaller: Case) -> bool:
        return any(text.partition(" -- ")[0] == kind for _, text in run_case(smaller).findings)

    return shrink(replace(case, requests=(request,)), is_found)


def _print_total(total: Tally, seeds: str, seconds: float) -> None:
    print(f"{total.requests} amends, {seeds}, in {seconds:.0f} s, {len(total.findings)} findings")
    for title, counts in (
        ("instar / qemu-img", total.verdicts),
        ("divergences", total.divergences),
    ):
        print(f"{title}:")
        for name, count in counts.most_common():
            print(f"{count:8} {name}")
