"""Host side: the flags of `instar rebase`, which are those of `qemu-img rebase -u`."""

from __future__ import annotations

from ..base.errors import UsageError
from ..request.keywords import check_cache
from ..request.rebase import rebase_keywords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def read_flags(flags: Mapping[str, str]) -> dict[str, Any]:
    """Return the keywords of make_request() that the flags ask for. UsageError.

    What qemu-img does and this does not is refused with the reason.
    """
    if "unsafe" not in flags:
        raise UsageError(
            "rebase without -u is not supported: it reads both backing files and copies what "
            "differs, and here no file is opened that an image names; use qemu-img rebase"
        )
    if "force-share" in flags:
        raise UsageError(
            "--force-share is not supported: the image is written to, and other programs are kept "
            "from it meanwhile"
        )
    if "backing" not in flags:
        # qemu-img then removes the backing file, which looks like a flag forgotten.
        raise UsageError(
            "Must specify the backing file: -b BACKING -F BACKING_FMT, or -b '' for none"
        )
    check_cache(flags.get("source-cache", "none"), "source cache")
    return rebase_keywords(flags["backing"], flags.get("backing-format"), flag="-F")
