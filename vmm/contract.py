"""Host side: the write contract of amend. Judges what the guest staged; nothing is written before.

Whatever the guest is, after this the change is one that was asked for: the fixed fields are the old
ones but for the version, the feature words and the place of the backing file name; name, format and
all other extensions are the same, byte for byte; the image reads as before until the last phase.
What the host cannot see here is in docs/threat-model.md.
"""

from __future__ import annotations

from instar.vmm.errors import GuestFault
from instar.vmm.header_view import HEADER_LIMIT, MalformedHeader, view_header
from instar.vmm.record import record
from instar.vmm.result import Change
from instar.vmm.staging import SECTOR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from instar.vmm.header_view import HeaderView
    from instar.vmm.request import AmendRequest

    Reader = Callable[[int, int], bytes]
    Phase = Mapping[int, bytes]

_V3_LENGTH = 112
_BITMAPS = 0x23852875  # header extension type
# The incompatible features of an image that may be amended, and of one that may become version 2.
_AMENDABLE, _EXPRESSIBLE = 0x1C, 0x08


@record
class Claim:
    """What the guest says it did."""

    amended: bool
    """Whether it says that it changed the image."""
    atomic: bool
    """Whether the last phase is one sector."""
    fields: Mapping[str, int]
    """The version and feature words it says the image now has."""


def judge(
    read: Reader, request: AmendRequest, phases: list[dict[int, bytes]], claim: Claim
) -> tuple[Change, ...]:
    """Return the changes to the header if `phases` may be committed, else raise GuestFault.

    `read(offset, size)` reads the image file as it is, shorter at its end; `phases` are the staged
    sectors, none of them empty.
    """
    read = _remember(read)
    try:
        before = view_header(read)
        if not claim.amended:
            _judge_noop(before, request, phases)
            after = before
        else:
            after = _judge_amended(read, before, request, phases, claim.atomic)
    except MalformedHeader as error:
        raise GuestFault(f"the guest accepted or made a malformed header: {error}") from error
    if any(after.fields.get(name, 0) != value for name, value in claim.fields.items()):
        raise GuestFault("the guest reports another version or feature word than it wrote")
    names = {**before.fields, **after.fields}
    changes = ((n, before.fields.get(n), after.fields.get(n)) for n in names)
    return tuple(Change(*change) for change in changes if change[1] != change[2])


def _remember(read: Reader) -> Reader:
    """Read each part of the file once: less work, and all is judged by the same bytes."""
    known: dict[tuple[int, int], bytes] = {}

    def read_once(offset: int, size: int) -> bytes:
        if (offset, size) not in known:
            known[offset, size] = read(offset, size)
        return known[offset, size]

    return read_once


def _judge_noop(before: HeaderView, request: AmendRequest, phases: list[dict[int, bytes]]) -> None:
    if phases:
        raise GuestFault("the guest reports a no-op, yet wrote")
    if not request.satisfied_by(before.fields):
        raise GuestFault("the guest reports a no-op, yet the image is not as asked")


def _judge_amended(
    read: Reader,
    before: HeaderView,
    request: AmendRequest,
    phases: list[dict[int, bytes]],
    atomic: bool,
) -> HeaderView:
    _judge_places(read, before, phases, atomic)
    # Bytes that the old header refers to are the same before the switch: whichever of the sectors
    # written so far reach the disk, the image reads as before.
    if not _reads_as(before, _overlay(read, phases[:-1])):
        raise GuestFault("the guest changes the old header before the switch")
    after = view_header(_overlay(read, phases))
    _judge_fields(before, after, request)
    _judge_request(before, request)
    if after.name != before.name:
        raise GuestFault("the guest changes the backing file name")
    if after.extensions != before.extensions:
        raise GuestFault("the guest changes, adds or drops a header extension")
    return after


def _reads_as(before: HeaderView, read: Reader) -> bool:
    """Whether `read` gives the same header, byte for byte."""
    try:
        now = view_header(read)
    except MalformedHeader:
        return False
    return (now.raw, now.name) == (before.raw, before.name)


def _judge_request(before: HeaderView, request: AmendRequest) -> None:
    """The request is one that has to be carried out, as far as the header tells."""
    version = request.version or before.fields["version"]
    features = before.fields.get("incompatible_features", 0)
    if request.satisfied_by(before.fields):
        raise GuestFault("the guest reports success, yet the image was as asked before")
    if features & ~_AMENDABLE or (version == 2 and features & ~_EXPRESSIBLE):
        raise GuestFault("the guest amends an image whose features forbid it")
    if version == 2 and request.lazy_refcounts:
        raise GuestFault("the guest reports lazy refcounts in a version 2 image")
    if version < before.fields["version"] and (
        before.fields["refcount_order"] != 4
        or any(kind == _BITMAPS for kind, _data in before.extensions)
    ):
        raise GuestFault("the guest downgrades an image with bitmaps or another refcount width")


def _judge_places(
    read: Reader, before: HeaderView, phases: list[dict[int, bytes]], atomic: bool
) -> None:
    end = min(1 << before.fields["cluster_bits"], HEADER_LIMIT) // SECTOR_SIZE
    last = max((sector for phase in phases for sector in phase), default=end)
    if last >= end or len(read(last * SECTOR_SIZE, SECTOR_SIZE)) < SECTOR_SIZE:
        raise GuestFault("the guest reports success, yet wrote nothing or outside the header")
    *slack, switch = phases
    if len(slack) > 1 or any(0 in phase for phase in slack) or 0 not in switch:
        raise GuestFault("the guest's phases are not slack, then the switch")
    if atomic != (len(switch) == 1) or (slack and not atomic):
        raise GuestFault("the guest's switch is not the one it reports")


def _judge_fields(before: HeaderView, after: HeaderView, request: AmendRequest) -> None:
    fields = dict(after.fields)
    del fields["backing_file_offset"]
    if before.raw[:4] != after.raw[:4] or fields != request.expected_fields(before.fields):
        raise GuestFault("the guest changes a header field that it must not change")
    version, old_version = after.fields["version"], before.fields["version"]
    if version == old_version:
        # Only the compatible and the autoclear word, which the fields above have settled.
        if before.raw[:80] + before.raw[96:] != after.raw[:80] + after.raw[96:]:
            raise GuestFault("the guest changes more of the header than the feature words")
    elif version == 3 and after.unknown != bytes(_V3_LENGTH - 104):
        raise GuestFault("the guest sets header fields that nobody asked for")


def _overlay(read: Reader, phases: list[dict[int, bytes]]) -> Reader:
    """Read through staged sectors; like `read`, no further than the end of the file."""
    sectors = {number: data for phase in phases for number, data in phase.items()}

    def read_staged(offset: int, size: int) -> bytes:
        first = offset // SECTOR_SIZE
        data = bytearray(read(first * SECTOR_SIZE, offset + size - first * SECTOR_SIZE))
        for number, sector in sectors.items():
            at = (number - first) * SECTOR_SIZE
            if 0 <= at < len(data):
                data[at : at + SECTOR_SIZE] = sector[: len(data) - at]
        return bytes(data[offset - first * SECTOR_SIZE :])

    return read_staged
