"""Host side: what a caller asks of one amend, or alike of many; checked once."""

from __future__ import annotations

import os
import sys

from instar.abi import INSTAR_RAM_SIZE

from ..base.errors import UsageError
from ..base.record import record
from . import AmendRequest
from .options import CACHE_MODES, COMPAT_LEVELS, check_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Compat: TypeAlias = Literal["0.10", "v2", "1.1", "v3"]
    Cache: TypeAlias = Literal["none", "off", "writeback", "writethrough", "directsync", "unsafe"]
    Isolation: TypeAlias = Literal["process"]
else:  # typing would cost the command more than its amend
    Compat = Cache = Isolation = str

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

TIMEOUT = 30.0
"""How long a guest may run by default, in seconds."""
MAX_GROWTH = 1 << 30
"""By how many bytes an amend may let the file grow by default."""


@record
class Order:
    """What is to be done, whichever image it is."""

    request: AmendRequest
    """The options to change."""
    dry_run: bool
    """Whether the commit is left out."""
    flush: bool
    """Whether the commit is on the disk when the amend returns."""
    timeout: float
    """How long the guest may run, in seconds."""
    ram_size: int = INSTAR_RAM_SIZE
    """What the guest needs, in bytes: a multiple of INSTAR_RAM_SIZE up to INSTAR_RAM_MAX."""


def path_as_text(path: PathLike) -> str:
    """Return a path as documents have it; bytes that are not UTF-8 are surrogate escapes."""
    return os.fsdecode(path)


def announce(path: PathLike, order: Order) -> None:
    """Raise the audit event of an amend (PEP 578), before the image is opened; a hook may object.

    "instar.amend" with the path, the header version and lazy refcounts asked for (None leaves
    them), and whether the commit is left out.
    """
    request = order.request
    sys.audit("instar.amend", path, request.version, request.lazy_refcounts, order.dry_run)


def make_order(
    compat: str | None,
    lazy_refcounts: bool | None,
    format: str | None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool,
    cache: str,
    timeout: float,
    drop_bitmaps: bool = False,
    max_growth: int | None = None,
) -> Order:
    """Check the arguments of instar.amend(), which documents them.

    Raises UsageError, and ImageRejected for a format that cannot be amended.
    """
    for name, value in (("format", format), ("cache", cache), ("compat", compat)):
        if type(value) not in (str, type(None)):
            example = ", such as '1.1'," if name == "compat" else ","
            raise UsageError(f"{name} is a str{example} not {value!r:.60}")
    check_format(format)
    if cache not in CACHE_MODES:
        raise UsageError(f"Invalid cache option: {cache}")
    if compat is not None and compat not in COMPAT_LEVELS:
        raise UsageError(f"Unknown compatibility level {compat!r}: use 0.10 (v2) or 1.1 (v3)")
    if lazy_refcounts not in (None, True, False):
        raise UsageError(f"lazy_refcounts is None, True or False, not {lazy_refcounts!r}")
    if type(timeout) not in (int, float) or not 0 < timeout < 1e9:
        raise UsageError(f"timeout is a number of seconds above 0 and below 1e9, not {timeout!r}")
    if drop_bitmaps not in (True, False):
        raise UsageError(f"drop_bitmaps is True or False, not {drop_bitmaps!r}")
    growth = MAX_GROWTH if max_growth is None else max_growth
    if type(growth) is not int or not 0 <= growth < 1 << 63:
        raise UsageError(f"max_growth is a number of bytes, not {max_growth!r}")
    version = None if compat is None else COMPAT_LEVELS[compat]
    # Only a change of the version can make the file grow.
    growth = growth if version else 0
    request = AmendRequest(version, lazy_refcounts, bool(drop_bitmaps), growth)
    return Order(request, dry_run, CACHE_MODES[cache], timeout)
