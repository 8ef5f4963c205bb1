"""Host side: `instar check`: what is wrong with images, as `qemu-img check` counts it."""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.escape import escape
from ..base.supported import check_machine
from ..inspect import check_image
from ..inspect.looker import Looker
from ..request.keywords import check_format
from .commands import CHECK
from .look import confiner, look_at_all, read_arguments, read_timeout
from .report import Progress, check_told, show_debug, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from functools import partial
    from typing import Any

    from ..inspect.check import CheckResult
    from .children import Steps
    from .look import Confine
    from .report import Report

    Document = dict[str, Any]
    Look = Callable[[str], Document]
else:  # functools would import five others
    from _functools import partial

_WORST = (1, 2, 3, 0)
"""Exit statuses, the worst first: not checked, corrupt, leaks, sound."""


def run(arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out `instar check`; return the exit status."""
    read = read_arguments(arguments, CHECK, report)
    if read is None:
        return 0
    flags = read.flags
    timeout = read_timeout(flags)
    check_format(flags.get("format"), "checks")
    check_machine()
    confine = confiner(required="require-confinement" in flags)
    confined = read.jobs is not None or own_process or "repair" in flags
    shown = (
        read.jobs is None and not report.is_json and flags.keys().isdisjoint(("quiet", "repair"))
    )
    look: Look = partial(
        _look,
        flags=flags,
        timeout=timeout,
        confine=confine if confined else None,
        shows_progress=shown and "progress" in flags,
    )
    steps: Steps | None = None
    if "repair" in flags:
        from .mend import mend_each

        steps = mend_each(look, flags, timeout)
    elif named := flags.keys() & {"dry-run", "max-growth"}:
        raise UsageError(f"--{min(named)} needs -r: give -r leaks or -r all too")
    tell = partial(_tell, report=report, quiet="quiet" in flags)
    found = {0, *look_at_all(read, report, look, tell, timeout, "check", steps)}
    if report.is_json or "quiet" not in flags:
        check_told()
    return next(status for status in _WORST if status in found)


def _look(
    name: str,
    *,
    flags: dict[str, str],
    timeout: float,
    confine: Confine | None,
    shows_progress: bool,
) -> Document:
    progress = Progress() if shows_progress else None
    result: CheckResult | None = None
    try:
        with Looker("check") as looker:
            result = check_image(
                *(name, looker),
                force_share="force-share" in flags,
                timeout=timeout,
                progress=progress,
                debug=show_debug if "debug" in flags else None,
                before_read=confine,
            )
    finally:
        if progress is not None:
            progress.end(succeeded=result is not None)
    return {**result.to_dict(), "exit-status": result.exit_status}


def _tell(document: Document, *, report: Report, quiet: bool, named: bool) -> int:
    """Report one image; return its exit status."""
    report.document(document)
    if not report.is_json:
        about = f"'{escape(document['filename'])}': " if named else ""
        if "repair" in document:
            _show_findings(document["repair"]["findings"], about)
            if not quiet:
                write("stdout", _describe_repair(document))
        _show_findings(document["findings"], about)
        if not quiet:
            head = [f"image: {escape(document['filename'])}"] if named else []
            write("stdout", "".join(f"{line}\n" for line in (*head, *_lines(document))))
    return int(document["exit-status"])


def _show_findings(findings: list[Document], about: str) -> None:
    for finding in findings:
        word = "Leaked" if finding["counts_as"] == "leaks" else "ERROR"
        write("stderr", f"{word}: {about}{escape(str(finding['message']))}\n")


def _describe_repair(document: Document) -> str:
    """What people are told of a repair, in qemu-img's words."""
    repair = document["repair"]
    if repair["dry-run"]:
        return f"A repair would write {repair['bytes-written']} bytes.\n\n"
    leaks, corruptions = document.get("leaks-fixed", 0), document.get("corruptions-fixed", 0)
    if not leaks and not corruptions:
        # All else that a repair writes is counted. qemu-img clears the mark without a word.
        cleared = repair["action"] == "amended" and not document["dirty"]
        return "The image is no longer marked dirty.\n\n" if cleared else ""
    return (
        "The following inconsistencies were found and repaired:\n\n"
        f"    {leaks} leaked clusters\n"
        f"    {corruptions} corruptions\n\n"
        "Double checking the fixed image now...\n"
    )


def _lines(document: Document) -> Iterator[str]:
    """What people are told after the findings, in qemu-img's words."""
    corruptions, leaks = document.get("corruptions", 0), document.get("leaks", 0)
    errors, overlaps = document["check-errors"], document["overlaps"]
    if not (corruptions or leaks or errors or overlaps):
        yield "No errors were found on the image."
    if corruptions:
        yield f"{corruptions} errors were found on the image."
        yield "Data may be corrupted, or further writes to the image may corrupt it."
    if overlaps:
        # In qemu-img's words, which follow, one thing is several too.
        have = "1 cluster has" if overlaps == 1 else f"{overlaps} clusters have"
        yield f"{have} two uses that exclude each other."
    if leaks:
        yield f"{leaks} leaked clusters were found on the image."
        yield "This means waste of disk space, but no harm to data."
    if errors:
        yield f"{errors} internal errors have occurred during the check."
    total, allocated = document.get("total-clusters", 0), document.get("allocated-clusters", 0)
    if total and allocated:
        fragmented = document.get("fragmented-clusters", 0)
        compressed = document.get("compressed-clusters", 0)
        yield (
            f"{allocated}/{total} = {allocated * 100 / total:.2f}% allocated, "
            f"{fragmented * 100 / allocated:.2f}% fragmented, "
            f"{compressed * 100 / allocated:.2f}% compressed clusters"
        )
    if "image-end-offset" in document:
        yield f"Image end offset: {document['image-end-offset']}"
