"""Host side: the step of an amend that changes keyslots, of a qcow2 image or of a LUKS file.

The guest says whether the image is sound and the LUKS header's region nothing else; it stages
nothing and hears of no secret. What it says can only end the amend: the host reads the region's
place itself.
Imported only where keys are to change.
"""

from __future__ import annotations

from ..base.errors import GuestFault, HostError
from ..base.record import FrozenDict
from ..contract.terms import Change, Claim, Judgement
from ..image.staging import SECTOR_SIZE
from ..qcow2.header_view import view_header
from ..qcow2.probe import EXTENSION_LUKS
from .messages import Outcome, Plan

try:
    from ..luks.change import change_keys
    from ..luks.crypto import warm_up
except ImportError as error:
    if not (error.name or "").startswith("cryptography"):
        raise
    raise HostError(
        "to change keys takes the package cryptography; pip install 'instar[luks]'"
    ) from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..image.image_file import ImageFile
    from ..image.view import AnyImage
    from ..luks.change import Changed
    from ..request import AmendRequest

    Progress = Callable[[int, int], None]

_LUKS = 2  # crypt_method


def preload_keys() -> None:
    """Load what is needed, for a process that can open no file afterwards."""
    warm_up()


def plan_keys(image: AnyImage, found: Plan, spent: float, progress: Progress | None) -> Plan:
    """Add to what the guest found of a qcow2 image the change of its keys; `spent` is in seconds.

    Raises ImageRejected, and GuestFault if the guest should have refused.
    """
    place = _find_region(image)
    changed = _change(image, place, found.request, spent, progress)
    outcome = Outcome(**{**vars(found.outcome), "staged": changed.staged})
    return Plan(found.request, outcome, _judge(changed, found.judgement))


def plan_luks(
    image: ImageFile, request: AmendRequest, progress: Progress | None = None
) -> tuple[Plan, ...]:
    """Plan the change of the keys of a LUKS file, in which no guest takes part. ImageRejected."""
    changed = _change(image, (0, image.size), request, 0.0, progress)
    claim = Claim(True, changed.atomic, {})
    outcome = Outcome(claim, (), changed.staged, vm_exits=0, options={})
    return (Plan(request, outcome, _judge(changed)),)


def _change(
    image: AnyImage,
    place: tuple[int, int],
    request: AmendRequest,
    spent: float,
    progress: Progress | None,
) -> Changed:
    keys = request.keys
    assert keys is not None  # noqa: S101 - the step is theirs
    return change_keys(image.read, place, image.size, keys, request.timeout - spent, progress)


def _judge(changed: Changed, found: Judgement | None = None) -> Judgement:
    """What there is to say of a change that was judged; `found` is said of the rest."""
    changes = tuple(Change(f"keyslot_{number}", *iters) for number, *iters in changed.slots)
    if found is None:
        return Judgement(True, changed.atomic, changes, told=FrozenDict())
    more = found.told, found.warnings, found.work
    return Judgement(True, changed.atomic, changes, *more)


def _find_region(image: AnyImage) -> tuple[int, int]:
    """Offset and length of the LUKS header's region in a qcow2 image, in bytes."""
    header = view_header(image.read)
    found = [data for kind, data in header.extensions if kind == EXTENSION_LUKS]
    if header.fields["crypt_method"] != _LUKS or not found or len(found[-1]) != 16:
        raise GuestFault("the guest accepted an image without a LUKS header")
    offset, length = (int.from_bytes(found[-1][at : at + 8], "big") for at in (0, 8))
    cluster_size = 1 << header.fields["cluster_bits"]
    if offset < cluster_size or offset % SECTOR_SIZE or offset + length > image.size + cluster_size:
        raise GuestFault("the guest accepted a LUKS header outside the image")
    return offset, length
