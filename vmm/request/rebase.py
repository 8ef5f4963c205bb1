"""Host side: what qemu-img does by rebase -u: a request for another backing file, and no more."""

from __future__ import annotations

from ..base.errors import UsageError
from .keywords import check_backing_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def rebase_keywords(
    backing_file: object, backing_format: object, *, flag: str = "backing_format"
) -> dict[str, Any]:
    """Return the keywords of make_request() for a rebase; an empty name is for no backing file.

    As in qemu-img, what has no backing file has no format, whatever is given. `flag` is what the
    caller gives the format with. UsageError.
    """
    if not isinstance(backing_file, str | bytes):
        raise UsageError(f"backing_file is a str or bytes, '' for none, not {backing_file!r:.60}")
    if not isinstance(backing_format, str | None):
        raise UsageError(f"backing_format is a str, not {backing_format!r:.60}")
    check_backing_format(backing_format)
    if backing_file and not backing_format:
        raise UsageError(
            "a backing file needs its format, which a guest could choose if programs had to guess "
            f"it; give it with {flag}"
        )
    given = {"backing_fmt": backing_format} if backing_file else {}
    return {"backing_file": backing_file, **given, "change_backing": True}
