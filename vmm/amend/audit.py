"""Host side: what an amend leaves in the application's log, and in the command's with --verbose.

Imported only where there is a log: a program that has not imported logging keeps none. The event
of sys.audit() is raised without this.
"""

from __future__ import annotations

import logging

from ..base.errors import ImageRejected, InstarError, documented
from ..request.keywords import path_as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..request import AmendRequest
    from ..request.keywords import PathLike
    from .result import AmendResult

_LOGGER = logging.getLogger("instar")
_LOGGER.addHandler(logging.NullHandler())  # else logging prints warnings that nobody asked for


def logged(
    path: PathLike, request: AmendRequest, payload_sha256: str, act: Callable[[], AmendResult]
) -> AmendResult:
    """Do `act` and leave one record: INFO for a result, WARNING for an error, which goes on."""
    try:
        result = act()
    except Exception as error:
        _record(logging.WARNING, path, request, payload_sha256, _name(error), 0)
        raise
    written = 0 if request.dry_run else result.bytes_written
    _record(logging.INFO, path, request, payload_sha256, result.action, written)
    return result


def _record(
    level: int,
    path: PathLike,
    request: AmendRequest,
    payload_sha256: str,
    verdict: str,
    written: int,
) -> None:
    verdict = f"dry run, {verdict}" if request.dry_run else verdict
    facts: dict[str, object] = {
        "image": path_as_text(path),
        "request": request.spell(),
        "verdict": verdict,
        "bytes_written": written,
        "payload_sha256": payload_sha256,
    }
    _LOGGER.log(
        level,
        "amend %(image)r, %(request)s: %(verdict)s, %(bytes_written)d bytes written, "
        "payload %(payload_sha256)s",
        facts,
        extra=facts,
    )


def _name(error: Exception) -> str:
    """The kind of an error, with the names of all reasons to refuse."""
    if isinstance(error, ImageRejected):
        return f"ImageRejected ({', '.join(refusal.name for refusal in error.refusals)})"
    kind = documented(type(error)) if isinstance(error, InstarError) else type(error)
    return kind.__name__
