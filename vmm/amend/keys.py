"""Host side: the step of an amend that changes keyslots, of a qcow2 image or of a LUKS file.

The guest says whether the image is sound; it stages nothing and hears of no secret. What it says
can only end the amend: the host finds the region of the LUKS header itself, and sees that nothing
else is in it.
Imported only where keys are to change.
"""

from __future__ import annotations

from time import monotonic

from ..base.errors import HostError
from ..base.record import FrozenDict
from ..contract.luks_region import judge_luks_region
from ..contract.terms import Change, Claim, Judgement, Original
from ..luks.library import explain_import
from .messages import GuestRun, Plan

# Said where a change of keys is begun: by then it is known that the image has some.
_lack = ""
try:
    from ..luks.change import change_keys
    from ..luks.crypto import warm_up
except (KeyboardInterrupt, MemoryError):
    raise
except BaseException as error:  # a panic of the package is no Exception
    if (getattr(error, "name", None) or "").startswith("instar"):
        raise
    _lack = explain_import(error)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..image.image_file import ImageFile
    from ..image.view import AnyImage
    from ..luks.change import Changed
    from ..request import AmendRequest

    Progress = Callable[[int, int], None]


def preload_keys() -> None:
    """Load what is needed, for a process that can open no file afterwards."""
    if not _lack:
        warm_up()


def plan_keys(image: AnyImage, found: Plan, spent: float, progress: Progress | None) -> Plan:
    """Add to what the guest found of a qcow2 image the change of its keys; `spent` is in seconds.

    Raises ImageRejected, and GuestFault if the guest should have refused.
    """
    begin = monotonic()
    place, work = judge_luks_region(Original(image.read, image.size, image.budget, image.stored))
    spent += monotonic() - begin
    changed = _change(image, place, found.request, spent, progress)
    outcome = GuestRun(**{**vars(found.outcome), "staged": changed.staged})
    return Plan(found.request, outcome, _judge(changed, found.judgement, work))


def plan_luks(
    image: ImageFile, request: AmendRequest, progress: Progress | None = None
) -> tuple[Plan, ...]:
    """Plan the change of the keys of a LUKS file, in which no guest takes part. ImageRejected."""
    changed = _change(image, (0, image.size), request, 0.0, progress)
    claim = Claim(True, changed.atomic, {})
    outcome = GuestRun(claim, (), changed.staged, vm_exits=0, options={})
    return (Plan(request, outcome, _judge(changed)),)


def _change(
    image: AnyImage,
    place: tuple[int, int],
    request: AmendRequest,
    spent: float,
    progress: Progress | None,
) -> Changed:
    if _lack:
        raise HostError(_lack)
    keys = request.keys
    assert keys is not None  # noqa: S101 - the step is theirs
    return change_keys(image.read, place, image.size, keys, request.timeout - spent, progress)


def _judge(changed: Changed, found: Judgement | None = None, work: int = 0) -> Judgement:
    """What there is to say of a change that was judged; `found` and `work` are of the rest."""
    changes = tuple(Change(f"keyslot_{number}", *iters) for number, *iters in changed.slots)
    if found is None:
        return Judgement(True, changed.atomic, changes, told=FrozenDict())
    more = found.told, found.warnings, found.work + work
    return Judgement(True, changed.atomic, changes, *more)
