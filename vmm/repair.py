"""Host side: instar.check(), which looks at an image, and repairs it if it is asked to.

A look writes nothing, and its numbers are the guest's word. A repair is an amend without options:
planned by a guest, judged by the host, committed with barriers. Image and lock are held throughout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from instar.abi import INSTAR_RAM_MAX

from .amend import carry_out, plan_steps, preload_steps
from .base.errors import HostError, InstarError, UsageError
from .image.image_file import ImageFile
from .image.view import size_after
from .inspect import check_image
from .inspect.check import CheckResult, check_open, ram_for
from .inspect.looker import Looker
from .machine import Machine
from .machine.payload import Payload, load_payload
from .request import TIMEOUT, AmendRequest
from .request.keywords import (
    Isolation,
    PathLike,
    check_isolation,
    check_path,
    check_timeout,
)
from .request.options import PERMITTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    Extent = Literal["leaks", "all"]
else:  # typing would cost the command more than its look
    Extent = str

EXTENTS = ("leaks", "all")
"""What a repair may be asked to mend."""
NOT_CHECKED = "repaired, but not checked again: "
"""What an error of the last check begins with."""
_WRONG = ("leaks", "corruptions", "overlaps", "check-errors", "dirty", "corrupt")


def make_repair(
    extent: object,
    *,
    max_growth: int | None = None,
    dry_run: bool = False,
    timeout: float = TIMEOUT,
) -> AmendRequest:
    """What `instar check -r` asks of an image. UsageError."""
    if extent not in EXTENTS:
        raise UsageError(f"a repair is of 'leaks' or of 'all', not of {extent!r:.60}")
    check_timeout(timeout)
    growth = PERMITTED["max_growth"].take(max_growth)
    fields = {"timeout": timeout, "dry_run": dry_run, "ram_size": INSTAR_RAM_MAX}
    return AmendRequest.of(mends=extent, max_growth=growth, **fields)


def wants_repair(document: Mapping[str, Any]) -> bool:
    """Whether there is anything to be mended in an image, by the document of its check.

    There is in one that is marked corrupt, whatever was found: it must not be passed for repaired.
    """
    return any(document.get(key) for key in _WRONG)


def make_looker(
    operation: str, isolation: str | None = None, payload: Payload | None = None
) -> Looker:
    """Who looks at images in this way. HostError without a payload for the operation."""
    if isolation is None:
        return Looker(operation, payload=payload)
    from .fleet.look import ChildLooker

    return ChildLooker(operation)


def read_extent(
    extent: object, max_growth: int | None, timeout: float, *, force_share: bool
) -> AmendRequest | None:
    """What a caller of check() asks to be repaired, or None. UsageError."""
    if extent is None:
        return None
    if force_share:
        raise UsageError("an image that another program may be writing to cannot be repaired")
    return make_repair(extent, max_growth=max_growth, timeout=timeout)


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
        return _repair_in_child(path, looker, request, how)
    check_path(path)
    sys.audit("instar.check", path)
    seen = {"progress": how.get("progress"), "debug": how.get("debug")}
    return _repair(path, looker, request, seen)


def _repair_in_child(
    path: PathLike, looker: Looker, request: AmendRequest, how: dict[str, Any]
) -> CheckResult:
    """Check, repair if there is anything to be, and check again; each is a child's work."""
    from .fleet.isolation import amend_in_child

    before = check_image(path, looker, **how)
    if not wants_repair(before.to_dict()):
        return before
    amend_in_child(path, request)
    return _check_again(lambda: check_image(path, looker, **how), before)


def _repair(
    path: PathLike, looker: Looker, request: AmendRequest, seen: dict[str, Any]
) -> CheckResult:
    """Check, repair if there is anything to be, and check again."""
    with ImageFile.open(os.fspath(path), writable=True, max_growth=request.max_growth) as image:
        image.lock()
        looker.provide(ram_for(image))
        before = check_open(looker, image, timeout=request.timeout, **seen)
        if not wants_repair(before.to_dict()):
            return before
        looker.close()  # each machine has as much RAM as the image asks for
        _mend(image, request, seen["debug"])
        looker.provide(ram_for(image))
        return _check_again(
            lambda: check_open(looker, image, timeout=request.timeout, **seen), before
        )


def _check_again(check: Callable[[], CheckResult], before: CheckResult) -> CheckResult:
    """Check a repaired image; an error says that it was repaired, which nothing takes back."""
    try:
        return check().repaired_from(before)
    except InstarError as error:
        raise HostError(f"{NOT_CHECKED}{error}") from error


def _mend(image: ImageFile, request: AmendRequest, debug: Callable[[str], None] | None) -> None:
    """Repair an image that is open and locked."""
    payload = load_payload()
    preload_steps((request,))
    with Machine(payload, request.ram_size) as machine:
        plans = plan_steps(machine, image, (request,), None, debug)
    carry_out(image, request, plans, payload.sha256, None)
    image.size = size_after(image.size, plans[0].outcome.staged)
