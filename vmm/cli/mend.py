"""Host side: `instar check -r`: checks an image, repairs it, and checks it again.

Each of the three is done by a confined child of its own, which locks the image itself: a confined
process can make no second machine. What happens to the image in between is seen by the next one.
"""

from __future__ import annotations

from ..amend import amend_image
from ..base.errors import UsageError
from ..confine import Descriptors, confine
from ..repair import EXTENTS, make_repair, wants_repair
from .arguments import read_size
from .look import look_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..image.image_file import ImageFile
    from ..request import AmendRequest

    Document = dict[str, Any]
    Look = Callable[[str], Document]

RUNS = 3
"""How often a guest runs for an image."""

_CONTRADICTIONS = {
    "force-share": "--force-share is for images that are only looked at; -r writes",
    "debug": "--debug shows the text of one sandbox, and -r takes three",
}
_FIXED = ("leaks", "corruptions")


def mend_each(look: Look, flags: dict[str, str], timeout: float) -> Look:
    """What is to be done with each image, of which `look` is a check. UsageError."""
    for flag, fault in _CONTRADICTIONS.items():
        if flag in flags:
            raise UsageError(fault)
    if flags["repair"] not in EXTENTS:
        raise UsageError(f"Invalid option value: -r {flags['repair']}; use leaks or all")
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

    def mend(name: str) -> Document:
        before = look_in_child(name, look, timeout, "check")
        if "error" in before or not wants_repair(before):
            return before
        done = look_in_child(name, repair, timeout, "repair")
        if "error" in done:
            return done
        del done["filename"]  # the check has it
        told = {**done, "findings": before["findings"]}
        if request.dry_run:
            return {**before, "findings": [], "repair": told}
        after = look_in_child(name, look, timeout, "check")
        if "error" in after:
            return after
        fixed = {f"{key}-fixed": before.get(key, 0) - after.get(key, 0) for key in _FIXED}
        return {**after, **{key: n for key, n in fixed.items() if n > 0}, "repair": told}

    return mend


def _amend(name: str, request: AmendRequest, *, required: bool) -> Document:
    """Repair an image in this process, which is confined for that; what was done."""

    def confine_process(image: ImageFile, vcpu: int, runs: int) -> None:
        used = Descriptors(image.fd, image.size, vcpu, image.max_growth, image.tables, runs=runs)
        confine(used, required=required)

    result = amend_image(name, request, before_read=confine_process)
    return {
        "extent": request.mends,
        "action": result.action,
        "atomic": result.atomic,
        "bytes-written": result.bytes_written,
        "dry-run": request.dry_run,
    }
