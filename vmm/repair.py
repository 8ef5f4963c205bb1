"""Host side: what instar.check() does if it is asked to repair: checks, repairs, checks again.

A repair is an amend without options: planned by a guest, judged by the host, committed with
barriers. Image and lock are held throughout, but between children, each of which has its own.
"""

from __future__ import annotations

import os

from instar.abi import INSTAR_RAM_MAX

from .amend import carry_out, plan_steps, preload_steps
from .base.errors import HostError, InstarError, UsageError
from .image.image_file import ImageFile
from .image.view import size_after
from .inspect import check_image
from .inspect.check import CheckResult, check_open, ram_for
from .machine import Machine
from .machine.payload import load_payload
from .request import TIMEOUT, AmendRequest
from .request.keywords import PathLike, check_timeout
from .request.options import PERMITTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal

    from .inspect.looker import Looker

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


def read_extent(
    extent: object, max_growth: int | None, timeout: float, *, force_share: bool
) -> AmendRequest | None:
    """What a caller of check() asks to be repaired, or None. UsageError."""
    if extent is None:
        return None
    if force_share:
        raise UsageError("an image that another program may be writing to cannot be repaired")
    return make_repair(extent, max_growth=max_growth, timeout=timeout)


def repair_in_child(
    path: PathLike, looker: Looker, request: AmendRequest, how: dict[str, Any]
) -> CheckResult:
    """Check, repair if there is anything to be, and check again; each is a child's work.

    `how` is check_image()'s. Raises what instar.check() does.
    """
    from .fleet.isolation import amend_in_child

    before = check_image(path, looker, **how)
    if not wants_repair(before.to_dict()):
        return before
    amend_in_child(path, request)
    return _check_again(lambda: check_image(path, looker, **how), before)


def repair_image(
    path: PathLike, looker: Looker, request: AmendRequest, seen: dict[str, Any]
) -> CheckResult:
    """Check, repair if there is anything to be, and check again, in this process.

    `seen` are the callbacks of the checks. Raises what instar.check() does.
    """
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
