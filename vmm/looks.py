"""Host side: what `import instar` offers to look at images: info and check, of one and of many.

A look writes nothing, and its numbers are the guest's word; check() may be asked to repair too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .base.errors import InstarError, either, outcome_to_dict
from .base.record import record
from .inspect import check_image, inspect_image, let_be
from .inspect.check import CheckResult
from .inspect.looker import Looker
from .inspect.many import look_at_many, look_in_turn
from .inspect.result import ImageInfo
from .machine.payload import Payload
from .repair import Extent, read_extent, repair_image, repair_in_child
from .request import TIMEOUT
from .request.keywords import (
    Isolation,
    PathLike,
    check_callbacks,
    check_isolation,
    check_path,
    path_as_text,
)
from .request.kinds import take_flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import Any

    from .request import AmendRequest
else:  # its module imports logging
    Executor = object


@record
class InfoOutcome:
    """What became of one of many images: a result or an error."""

    path: PathLike
    """The path as it was given."""
    result: ImageInfo | None
    """What the image is, or None if that failed."""
    error: InstarError | None
    """What instar.info() would have raised, or None."""

    def unwrap(self) -> ImageInfo:
        """Return the result, or raise the error: what instar.info() would have done."""
        return either(self.result, self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document, a result's or an error's."""
        return outcome_to_dict(path_as_text(self.path), self.result, self.error)


@record
class CheckOutcome:
    """What became of the check of one of many images: a result or an error."""

    path: PathLike
    """The path as it was given."""
    result: CheckResult | None
    """What is wrong with the image, or None if that failed."""
    error: InstarError | None
    """What instar.check() would have raised, or None."""

    def unwrap(self) -> CheckResult:
        """Return the result, or raise the error: what instar.check() would have done."""
        return either(self.result, self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document, a result's or an error's."""
        return outcome_to_dict(path_as_text(self.path), self.result, self.error)


def info(
    path: PathLike,
    *,
    format: str | None = None,  # noqa: A002 - qemu's word
    force_share: bool = False,
    timeout: float = TIMEOUT,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
    payload: Payload | None = None,
) -> ImageInfo:
    """Say what a file is, and what an image says of itself; nothing that it names is opened.

    A qcow2 image is read in the sandbox. Any other file is recognised by its signature and not
    looked into. instar.Policy says whether what was found may be taken.

    Args:
        path: the image, a regular file or a block device, which is opened read-only.
        format: the format that it must have, in qemu's names; None takes what is there.
        force_share: whether to look at an image although another program may be writing to it.
        timeout: how long the guest may run, in seconds.
        debug: called with the guest's debug text.
        isolation: None runs the guest in this process, which it leaves without limits; "process"
            does it in a child that confines itself, without debug and payload. The header's fixed
            fields and the signatures are read in this process in either case.
        payload: what to run instead of the installed payload.

    Raises:
        UsageError: an argument is invalid (the caller's fault).
        HostError: this machine or the file failed.
        ImageLocked: another process writes to the image.
        ImageRejected: the file is not of that format, or its header is none; holds all reasons.
        GuestFault: the guest broke its contract or exceeded a budget.
    """
    check_isolation(isolation, debug=debug, payload=payload)
    check_callbacks(debug=debug)
    force_share = take_flag("force_share", force_share)
    with make_looker("info", isolation, payload) as looker:
        return inspect_image(
            *(path, looker),
            format=format,
            force_share=force_share,
            timeout=timeout,
            debug=debug,
            before_read=let_be,
        )


def check(
    path: PathLike,
    *,
    repair: Extent | None = None,
    max_growth: int | None = None,
    force_share: bool = False,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
    payload: Payload | None = None,
) -> CheckResult:
    """Compare a qcow2 image's refcounts and flags with its tables; write nothing but a repair.

    All references are counted in the sandbox. The numbers are the guest's word; a repair the host
    judges by counting for itself, and afterwards the image is checked again.

    Args:
        path: the image, a regular file or a block device, which is opened read-only, unless it is
            to be repaired.
        repair: "leaks" lets go of clusters that nothing refers to; "all" also raises refcounts and
            mends flags, and an image that is marked dirty becomes clean. None repairs nothing.
        max_growth: by how many bytes the file may grow in a repair; None stands for 1 GiB.
        force_share: whether to check an image although another program may be writing to it.
        timeout: how long the guest may run, in seconds, each time.
        progress: called as progress(done, total) while references are counted; the check that
            follows a repair starts anew.
        debug: called with the guest's debug text.
        isolation: None runs the guest in this process, which it leaves without limits; "process"
            does it, and a repair, in children that confine themselves, without debug and payload.
            Between these the image is not locked.
        payload: what to run instead of the installed payload of a check.

    Raises:
        UsageError: an argument is invalid (the caller's fault).
        HostError: this machine or the file failed; also for whatever kept a repaired image from
            being checked again, which the message says.
        ImageLocked: another process writes to the image, or for a repair uses it.
        ImageRejected: the file is no qcow2 image, its header leaves nothing to check, or only a
            guess could repair it; then it has not been touched.
        GuestFault: the guest broke its contract or exceeded a budget.
    """
    check_isolation(isolation, debug=debug, payload=payload)
    check_callbacks(progress=progress, debug=debug)
    force_share = take_flag("force_share", force_share)
    request = read_extent(repair, max_growth, timeout, force_share=force_share)
    with make_looker("check", isolation, payload) as looker:
        return check_with(
            *(path, looker, request),
            force_share=force_share,
            timeout=timeout,
            progress=progress,
            debug=debug,
            isolation=isolation,
        )


def info_many(
    paths: Iterable[PathLike],
    *,
    format: str | None = None,  # noqa: A002 - qemu's word
    force_share: bool = False,
    timeout: float = TIMEOUT,
    isolation: Isolation | None = None,
    executor: Executor | None = None,
    chunk_size: int = 16,
) -> Iterator[InfoOutcome]:
    """Do what instar.info() does for all images, and yield what became of each, in order.

    An image that fails is an outcome like the others. Images share a virtual machine, which goes
    back to its first state after each. Paths are taken as they are needed.

    Args:
        paths: the images. What follows holds for each of them.
        format: as of instar.info().
        force_share: as of instar.info().
        timeout: as of instar.info().
        isolation: as of instar.info(); each image is looked at by a child of its own.
        executor: who does the work, any concurrent.futures.Executor; None is this thread.
        chunk_size: how many images an executor is given in one piece.

    Raises:
        UsageError: an argument other than a path is invalid.
    """
    check_isolation(isolation)
    force_share = take_flag("force_share", force_share)
    keywords = {"format": format, "force_share": force_share, "timeout": timeout}
    maker = partial(make_looker, "info", isolation)
    look = partial(look_in_turn, maker, inspect_image, InfoOutcome)
    return look_at_many(look, paths, keywords, executor, chunk_size)


def check_many(
    paths: Iterable[PathLike],
    *,
    repair: Extent | None = None,
    max_growth: int | None = None,
    force_share: bool = False,
    timeout: float = TIMEOUT,
    isolation: Isolation | None = None,
    executor: Executor | None = None,
    chunk_size: int = 4,
) -> Iterator[CheckOutcome]:
    """Do what instar.check() does for all images, and yield what became of each, in order.

    An image that is listed twice is checked twice; to repair one twice at a time is to find it
    locked.

    Args:
        paths: the images. What follows holds for each of them.
        repair: as of instar.check().
        max_growth: as of instar.check().
        force_share: as of instar.check().
        timeout: as of instar.check().
        isolation: as of instar.check(); each image is looked at by children of its own.
        executor: who does the work, any concurrent.futures.Executor; None is this thread.
        chunk_size: how many images an executor is given in one piece.

    Raises:
        UsageError: an argument other than a path is invalid.
    """
    check_isolation(isolation)
    force_share = take_flag("force_share", force_share)
    keywords = {
        "request": read_extent(repair, max_growth, timeout, force_share=force_share),
        "force_share": force_share,
        "timeout": timeout,
        "isolation": isolation,
    }
    maker = partial(make_looker, "check", isolation)
    look = partial(look_in_turn, maker, check_with, CheckOutcome)
    return look_at_many(look, paths, keywords, executor, chunk_size)


def check_with(
    path: PathLike,
    looker: Looker,
    request: AmendRequest | None,
    *,
    isolation: Isolation | None = None,
    **how: Any,
) -> CheckResult:
    """Do what check() says with this looker; `request` is the repair, `how` is check_image()'s."""
    if request is None:
        return check_image(path, looker, **how)
    if isolation is not None:
        return repair_in_child(path, looker, request, how)
    check_path(path)
    sys.audit("instar.check", path)
    seen = {"progress": how.get("progress"), "debug": how.get("debug")}
    return repair_image(path, looker, request, seen)


def make_looker(
    operation: str, isolation: str | None = None, payload: Payload | None = None
) -> Looker:
    """Who looks at images in this way. HostError without a payload for the operation."""
    if isolation is None:
        return Looker(operation, payload=payload)
    from .fleet.look import ChildLooker

    return ChildLooker(operation)
