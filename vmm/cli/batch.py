"""Host side: `instar amend` with many images: where their names come from, and what is reported.

A line for each image that failed, or with --output json for each image; how far it is on a
terminal or with --progress; a summary. Nothing here looks into an image.
"""

from __future__ import annotations

import gc
import os
import sys

from .files import check_files, check_many, names_of, read_jobs
from .report import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..amend.result import AmendOutcome
    from ..request import AmendRequest
    from .report import Report

_KINDS = ("amended", "as asked", "failed")
_IN_A_DRY_RUN = {"amended": "would be amended"}


def amend_files(
    files: list[str],
    make: Callable[[], AmendRequest],
    flags: dict[str, str],
    report: Report,
) -> int:
    """Amend `files`, and those that --files-from names; return the exit status.

    `make` makes the request. Raises UsageError, or HostError if this machine can run
    no workers or the list cannot be read.
    """
    jobs = read_jobs(flags)
    check_many(flags)
    check_files(files, flags)
    request = make()
    gc.enable()  # unlike for one image, where the process is soon at its end
    report.use_lines()
    total = None if "files-from" in flags else len(files)
    required = "require-confinement" in flags
    # Imported here because a usage error needs none of it.
    from ..fleet.batch import amend_batch

    outcomes = amend_batch(names_of(files, flags), request, jobs=jobs, required=required)
    bar = _make_bar(total, flags, report)
    return _report(outcomes, report, bar, quiet="quiet" in flags, dry_run=request.dry_run)


def _report(
    outcomes: Iterable[AmendOutcome], report: Report, bar: Any, *, quiet: bool, dry_run: bool
) -> int:
    counts = dict.fromkeys(_KINDS, 0)
    try:
        _tell_all(outcomes, report, bar, counts, quiet=quiet)
    except KeyboardInterrupt:  # of what was begun the outcomes were told before
        if not quiet:
            _tell_summary(counts, "; the rest is untouched", dry_run=dry_run)
        raise
    if not quiet:
        _tell_summary(counts, dry_run=dry_run)
    report.end(quiet=quiet, dry_run=dry_run)
    return 1 if counts["failed"] else 0


def _tell_all(
    outcomes: Iterable[AmendOutcome],
    report: Report,
    bar: Any,
    counts: dict[str, int],
    *,
    quiet: bool,
) -> None:
    """Report the outcomes as they come, and count them by their kinds."""
    try:
        for outcome in outcomes:
            if bar is not None:
                bar.clear()
            counts[_tell(outcome, report, quiet=quiet)] += 1
            if bar is not None:
                bar.update()
    finally:
        report.filename = None
        if bar is not None:
            bar.close()


def _tell_summary(counts: dict[str, int], end: str = "", *, dry_run: bool) -> None:
    words = _IN_A_DRY_RUN if dry_run else {}
    summary = ", ".join(f"{count} {words.get(kind, kind)}" for kind, count in counts.items())
    images = "1 image" if (total := sum(counts.values())) == 1 else f"{total} images"
    write("stderr", f"instar: {images}: {summary}{end}\n")


def _tell(outcome: AmendOutcome, report: Report, *, quiet: bool) -> str:
    """Report one outcome; return which of _KINDS it is."""
    report.filename = os.fsdecode(outcome.path)
    if outcome.error is not None:
        report.error(outcome.error)
        return "failed"
    assert outcome.result is not None  # noqa: S101 - one of the two is there
    report.result(outcome.result, quiet=quiet)
    return "amended" if outcome.result.action == "amended" else "as asked"


def _make_bar(total: int | None, flags: dict[str, str], report: Report) -> Any:
    """What shows how far the batch is, on a terminal or for --progress; None for nobody."""
    if "quiet" in flags:
        return None
    # Imported here, as most batches have nobody who looks on.
    from .counter import Counter

    if "progress" in flags and not report.is_json:
        return Counter(total, "stdout", stays=True)
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return Counter(total, "stderr", stays=False)
    tqdm.monitor_interval = 0  # its thread would be there when a worker is forked
    return tqdm(total=total, unit=" images", file=sys.stderr, leave=False)
