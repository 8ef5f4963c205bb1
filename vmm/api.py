"""Host side: what `import instar` offers as functions: one image amended, here or in a child."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .amend import amend_image
from .amend.result import AmendResult
from .machine.payload import Payload, choose_payload
from .request import TIMEOUT, AmendRequest
from .request.keywords import (
    Isolation,
    PathLike,
    check_callbacks,
    check_isolation,
    check_path,
    make_request,
)
from .request.options import Cache
from .request.resize import make_resize
from .request.signature import takes_keywords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .request.options import Keywords


@takes_keywords
def amend(
    path: PathLike,
    *,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
    payload: Payload | None = None,
    **keywords: Unpack[Keywords],
) -> AmendResult:
    """Change options of a qcow2 image in place; what is already as asked is left untouched.

    Args:
        path: the image, a regular file or a block device.
        {keywords}
        progress: called as progress(done, total) during a long scan.
        debug: called with the guest's debug text.
        isolation: None does the work in this process, which it leaves without limits; "process"
            does it in a child that confines itself, without progress, debug and payload.
        payload: what to run instead of the installed payload.

    Raises:
        UsageError: an argument is invalid (the caller's fault).
        HostError: this machine, the file or its disk failed; says whether the image may have
            changed, which only a failing commit can cause.
        ImageLocked: another process uses the image. Nothing was written.
        ImageRejected: the image cannot be amended so; holds all reasons. Nothing was written.
        GuestFault: the guest broke its contract or exceeded a budget. Nothing was written.
    """
    request = make_request(keywords)
    return _carry_out(path, request, progress, debug, isolation, payload)


def resize(
    path: PathLike,
    size: int | str,
    *,
    shrink: bool = False,
    backing_size: int | None = None,
    drop_bitmaps: bool = False,
    max_growth: int | None = None,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: Cache = "writeback",
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
    payload: Payload | None = None,
) -> AmendResult:
    """Give the disk of a qcow2 image another size, in place: an amend of the size alone.

    Args:
        path: the image, a regular file or a block device.
        size: the new size in bytes, or as text: "10G", or "+1G" and "-512M" for so much more or
            less. A multiple of 512.
        shrink: whether the disk may become smaller, and lose what it has past its new end.
        backing_size: how many bytes the backing file's disk has at most; None stands for any
            number.
        drop_bitmaps: whether persistent bitmaps that do not fit the size are removed; else they
            prevent it.
        max_growth: by how many bytes the file may grow; None stands for 1 GiB.
        format: as in amend().
        dry_run: as in amend().
        cache: as in amend().
        timeout: as in amend().
        progress: as in amend().
        debug: as in amend().
        isolation: as in amend().
        payload: as in amend().

    Raises:
        InstarError: what amend() raises.
    """
    permissions = {"shrink": shrink, "backing_size": backing_size, "drop_bitmaps": drop_bitmaps}
    conduct = {"format": format, "dry_run": dry_run, "cache": cache, "timeout": timeout}
    request = make_resize(size, {**permissions, "max_growth": max_growth, **conduct})
    return _carry_out(path, request, progress, debug, isolation, payload)


def _carry_out(
    path: PathLike,
    request: AmendRequest,
    progress: Callable[[int, int], None] | None,
    debug: Callable[[str], None] | None,
    isolation: str | None,
    payload: Payload | None,
) -> AmendResult:
    check_isolation(isolation, progress=progress, debug=debug, payload=payload)
    check_callbacks(progress=progress, debug=debug)
    check_path(path)

    def act() -> AmendResult:
        if isolation is None:
            return amend_image(path, request, progress=progress, debug=debug, payload=payload)
        from .fleet.isolation import amend_in_child

        return amend_in_child(path, request)

    if "logging" not in sys.modules:
        return act()
    from .amend.audit import logged

    return logged(path, request, choose_payload(payload).sha256, act)


def rebase_unsafe(
    path: PathLike,
    backing_file: str | bytes,
    backing_format: str | None = None,
    *,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: Cache = "writeback",
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
    payload: Payload | None = None,
) -> AmendResult:
    """Name another backing file in a qcow2 image, as `qemu-img rebase -u` does.

    Nothing but the name and the format changes, and neither backing file is looked at. "Unsafe" is
    that: what the disk reads changes wherever the two files differ.

    Args:
        path: the image, a regular file or a block device.
        backing_file: the new backing file's name, exactly as it is to stand in the image; "" for
            none. What was read from the old one then reads as zeros.
        backing_format: its format, such as "qcow2" or "raw"; not needed for none.
        format: None or "qcow2"; the image must be that in any case.
        dry_run: do everything but the commit.
        cache: as for amend().
        timeout: how long the guest may run, in seconds.
        progress: as for amend().
        debug: as for amend().
        isolation: as for amend().
        payload: as for amend().

    Raises:
        UsageError: an argument is invalid; so is a backing file without a format.
        HostError: as from amend(), as are the others.
        ImageLocked: another process uses the image. Nothing was written.
        ImageRejected: the image cannot be changed so; holds all reasons. Nothing was written.
        GuestFault: the guest broke its contract or exceeded a budget. Nothing was written.
    """
    from .request.rebase import rebase_keywords

    conduct = {"format": format, "dry_run": dry_run, "cache": cache, "timeout": timeout}
    request = make_request({**rebase_keywords(backing_file, backing_format), **conduct}, "rebase")
    return _carry_out(path, request, progress, debug, isolation, payload)
