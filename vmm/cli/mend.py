"""Host side: `instar check -r`: checks an image, repairs it, and checks it again.

Each of the three is done by a confined child of its own, which locks the image itself: a confined
process can make no second machine. What happens to the image in between is seen by the next one.
"""

from __future__ import annotations

from ..amend import amend_image
from ..base.errors import UsageError
from ..confine import confine_to
from ..fleet.document import describe_unsure
from ..repair import NOT_CHECKED, make_repair, wants_repair
from .arguments import read_size
from .children import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from functools import partial
    from typing import Any

    from ..request import AmendRequest
    from .children import Steps

    Document = dict[str, Any]
    Look = Callable[[str], Document]
else:  # as in check.py
    from _functools import partial

_CONTRADICTIONS = {
    "force-share": "--force-share is for images that are only looked at; -r writes",
    "debug": "--debug shows the text of one sandbox, and -r takes three",
}
_FIXED = ("leaks", "corruptions")


def mend_each(look: Look, flags: dict[str, str], timeout: float) -> Steps:
    """What is to be done with each image, of which `look` is a check. UsageError."""
    for flag, fault in _CONTRADICTIONS.items():
        if flag in flags:
            raise UsageError(fault)
    growth = flags.get("max-growth")
    request = make_repair(
        flags["repair"],
        max_growth=None if growth is None else read_size("max-growth", growth),
        dry_run="dry-run" in flags,
        timeout=timeout,
    )
    required = "require-confinement" in flags

    def repair(name: str) -> Document:
        return _amend(name, request, required=required)

    check = Step(look, "check")
    mend = Step(repair, "repair", "" if request.dry_run else describe_unsure(request))

    def steps(_name: str) -> Generator[Step, Document, Document]:
        before = yield check
        if "error" in before or not wants_repair(before):
            return before
        done = yield mend
        if "error" in done:
            return done
        told = {**done, "findings": before["findings"]}
        if request.dry_run:
            return {**before, "findings": [], "repair": told}
        after = yield check
        if "error" in after:
            return {"error": _of_repaired(after["error"], told["action"]), "repair": told}
        fixed = {f"{key}-fixed": before.get(key, 0) - after.get(key, 0) for key in _FIXED}
        return {**after, **{key: n for key, n in fixed.items() if n > 0}, "repair": told}

    return steps


def _of_repaired(error: Document, action: str) -> Document:
    """An error of the last check, which takes nothing back of what was repaired."""
    if action != "amended":
        return error
    return {**error, "message": f"{NOT_CHECKED}{error['message']}"}


def _amend(name: str, request: AmendRequest, *, required: bool) -> Document:
    """Repair an image in this process, which is confined for that; what was done."""
    result = amend_image(name, request, before_read=partial(confine_to, required=required))
    return {
        "extent": request.mends,
        "action": result.action,
        "atomic": result.atomic,
        "bytes-written": result.bytes_written,
        "dry-run": request.dry_run,
    }
