"""Host side: results and errors that another process of ours sent as JSON, which may be taken over.

What this process knows itself it does not take from there, and every other value must be one that
an amend can have. So a lie is confined to what the image would have looked like to an honest one.
"""

from __future__ import annotations

from instar.abi import (
    FRAME_PAYLOAD_MAX,
    INSTAR_PHASE_PREPARE,
    INSTAR_SEGMENTS_MAX,
    INSTAR_STAGED_MAX,
    REFUSAL_MAX,
)

from ..amend.chain import RANGES_MAX_OF_STEPS, combine
from ..amend.messages import CHANGED_FIELDS
from ..amend.result import KEYSLOTS, RANGES_MAX, SWITCH, AmendResult, AmendStep, ByteRange
from ..base.errors import (
    GuestFault,
    HostError,
    ImageLocked,
    ImageRejected,
    InstarError,
    Refusal,
)
from ..base.escape import escape_around
from ..base.lean_json import load_told
from ..base.record import FrozenDict, record
from ..base.refusals import is_known
from ..contract.terms import SPARE_MAX, Change
from ..image.commit import GIVEN_BACK
from ..image.staging import SECTOR_SIZE
from ..request.kinds import TEXT, Option
from ..request.options import BY_KEY, COMPAT_LEVELS, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ..request import AmendRequest

    T = TypeVar("T")

ANSWER_MAX = 1 << 20
"""Bytes of a document. RANGES_MAX ranges take half of it; read, hostile ones take 25 MiB."""

_WORD = 1 << 64
_COUNT = 1 << 63
_TEXT_MAX = 1 << 16
_WARNINGS_MAX = 8
_MORE_MAX = INSTAR_SEGMENTS_MAX + INSTAR_STAGED_MAX // SECTOR_SIZE + SPARE_MAX
_TEXTS = tuple(row.key for row in OPTIONS if row.kind == TEXT)
# What annotations call types; which strings Literals allow is judged by value.
_PLAIN = {
    "Mapping": ("dict", "FrozenDict"),
    "None": ("NoneType",),
    **dict.fromkeys(("Format", "Action"), ("str",)),
}
_KINDS = (HostError, ImageLocked, GuestFault)  # usage was checked before anybody was asked


@record
class Expected:
    """What is known of an amend without asking the process that carried it out."""

    name: str
    """The image's path, as text."""
    request: AmendRequest
    """What that process was told to do."""
    payload_sha256: str
    """The digest of the payload that it has."""
    end: int = _COUNT
    """How far the file may reach in the end, in bytes."""


def describe_unsure(request: AmendRequest) -> str:
    """What there is to say of an image where no document came."""
    if request.runs <= 1:
        return "the image is the old one or the amended one, see with qemu-img info"
    return "none, some or all steps are done, each of them as a whole, see with qemu-img info"


def read_outcome(text: bytes | bytearray, expected: Expected) -> AmendResult | InstarError:
    """Read a document, a result or an error. ValueError if no honest process says such a thing.

    A result has the fields of an AmendResult: the document itself, or its "result".
    """
    try:
        document = load_told(text)
        if "error" in document:
            return _read_error(document["error"], expected.name)
        return _read_result(document.get("result", document), expected)
    except (LookupError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError("not the document of an amend") from fault


def _read_result(document: Any, expected: Expected) -> AmendResult:
    lists = {
        **_read_lists(document),
        "warnings": tuple(_clean(warning, expected.name) for warning in document["warnings"]),
    }
    steps = _read_steps(document["steps"], expected)
    options = FrozenDict(document["options"])
    _demand([*options] == [*BY_KEY])
    if expected.request.needs_guest:
        _demand(all(map(Option.is_told, OPTIONS, options.values())))
    else:
        _demand({*options.values()} == {None})
    result = _build(AmendResult, {**document, **lists, "options": options, "steps": steps})
    _demand(_is_as_told(result, expected))
    _demand(all(0 <= n < _COUNT for n in (result.bytes_read, result.vm_exits)))
    _demand(len(result.warnings) <= _WARNINGS_MAX)
    version = COMPAT_LEVELS[result.compat] if result.compat else None
    _demand(all(c.after == version for c in result.changes if c.field == "version"))
    if steps:
        _demand(all(getattr(result, name) == value for name, value in combine(steps).items()))
        _demand(result.bytes_written <= INSTAR_STAGED_MAX)
    else:
        _demand_sound(result, expected.request, expected.end, RANGES_MAX)
    return result


def _read_steps(document: Any, expected: Expected) -> tuple[AmendStep, ...]:
    """Read the steps of a result, which has none where there is but one."""
    requests = expected.request.steps()
    steps: list[AmendStep] = []
    if len(document) > len(requests):  # one had to be done in parts
        requests = tuple([part for step in requests for part in step.parts() or (step,)])
    if len(requests) == 1:
        _demand(document == [])
        return ()
    left = RANGES_MAX_OF_STEPS
    for fields, request in zip(document, requests, strict=True):
        asked = request.told_all()
        _demand(fields["asked"] == asked)
        step = _build(AmendStep, {**fields, **_read_lists(fields), "asked": asked})
        _demand_sound(step, request, expected.end, left)
        left -= len(step.ranges)
        steps.append(step)
    return tuple(steps)


def _read_lists(document: Any) -> dict[str, Any]:
    return {
        "changes": tuple(_build(Change, change) for change in document["changes"]),
        "ranges": tuple(_build(ByteRange, part) for part in document["ranges"]),
    }


def _demand_sound(
    part: AmendResult | AmendStep, request: AmendRequest, end: int, ranges_max: int
) -> None:
    """See that what an amend, or a step of one, says of its changes can be true."""
    if part.action == "noop":
        _demand(not (part.changes or part.ranges or part.more_ranges or part.bytes_written))
        _demand(part.file_end is None)
        _demand(request.keys is None)
        return
    _demand(part.action == "amended")
    _demand(_are_changes(part, request))
    switches = request.keys is None and not request.mends  # which may do without
    _demand(_are_ranges(part, end, ranges_max, switches=switches))
    is_given_back = any(one.phase == GIVEN_BACK for one in part.ranges)
    _demand(request.size is not None or not (is_given_back or part.file_end is not None))
    _demand(part.file_end is None or 0 < part.file_end < end)


def _is_as_told(result: AmendResult, expected: Expected) -> bool:
    """Whether what this process knows is what the result says."""
    request = expected.request
    is_qcow2 = request.needs_guest
    told = dict(request.told())
    if request.relative:  # to what the disk had, which only the result tells
        before = [change.before or 0 for change in result.changes if change.field == "size"]
        moved = request.relative * request.size
        told["size"] = before[0] + moved if before else result.options["size"]
    return (
        result.filename == expected.name
        and str(result.format) == request.format
        and result.payload_sha256 == (expected.payload_sha256 if is_qcow2 else "")
        and result.dry_run == request.dry_run
        and all(_is_asked(key, result.options[key], value) for key, value in told.items())
        and not (result.lazy_refcounts and result.compat == "0.10")
    )


def _is_asked(key: str, told: object, asked: object) -> bool:
    """Whether an option is as asked; what an image lacks is off."""
    return told == asked or (BY_KEY[key].may_lack and told is None and not asked)


def _are_changes(result: AmendResult | AmendStep, request: AmendRequest) -> bool:
    """Whether these are fields of the header, in its order, each with another value than before."""
    if request.keys is not None:
        return _are_keyslots(result)
    moved = [row.fields for row, _ in request.asked()]
    places = [CHANGED_FIELDS.index(change.field) for change in result.changes]
    values = {change.field: change.after for change in result.changes}
    return (
        places == sorted({*places})
        and (
            any(not fields or not values.keys().isdisjoint(fields) for fields in moved)
            or (request.repairs and not moved)  # of a repair most is in no field of the header
        )
        and all(change.before != change.after for change in result.changes)
        and all(
            _is_value(change.field, value)
            for change in result.changes
            for value in (change.before, change.after)
        )
    )


def _are_keyslots(result: AmendResult | AmendStep) -> bool:
    """Whether these are keyslots in their order, each with the iterations that it can have."""
    fields = [change.field for change in result.changes]
    values = [value for change in result.changes for value in (change.before, change.after)]
    known = [field for field in KEYSLOTS if field in fields]
    return fields == known and all(
        value is None or (type(value) is int and 0 < value < 1 << 32) for value in values
    )


def _is_value(field: str, value: object) -> bool:
    if field in _TEXTS:
        return BY_KEY[field].is_told(value)
    return value is None or (type(value) is int and 0 <= value < _WORD)


def _are_ranges(
    result: AmendResult | AmendStep, end: int, ranges_max: int, *, switches: bool
) -> bool:
    """Whether ranges are whole sectors of the file, in order and apart, as many as there can be.

    `switches` says that what is atomic can be told from what the switch writes.
    """
    last, told, switched = (0, False, 0), 0, 0
    for part in result.ranges:
        start = part.phase, not part.zeroes, part.offset
        sound = (
            0 <= part.phase <= GIVEN_BACK
            and last <= start
            and 0 < part.length <= part.offset + part.length <= -(-end // SECTOR_SIZE) * SECTOR_SIZE
            and not (part.offset % SECTOR_SIZE or part.length % SECTOR_SIZE)
            and (part.zeroes or part.phase != GIVEN_BACK)
            and not (part.zeroes and part.phase not in (INSTAR_PHASE_PREPARE, GIVEN_BACK))
        )
        if not sound:
            return False
        last = *start[:2], part.offset + part.length
        told += 0 if part.zeroes else part.length
        switched += part.length if part.phase == SWITCH else 0
    if result.bytes_written % SECTOR_SIZE or not told <= result.bytes_written <= INSTAR_STAGED_MAX:
        return False
    if result.more_ranges:
        return len(result.ranges) == ranges_max and 0 < result.more_ranges <= _MORE_MAX
    as_told = result.atomic == (switched == SECTOR_SIZE)
    return told == result.bytes_written and (as_told or not switches)


def _read_error(error: Any, name: str) -> InstarError:
    kind, message = error["kind"], _clean(error["message"], name)
    for known in _KINDS:
        if kind == known.__name__:
            return known(message)
    if kind == ImageRejected.__name__:
        refusals = tuple(_read_refusal(refusal, name) for refusal in error["refusals"])
        _demand(0 < len(refusals) <= REFUSAL_MAX)
        return ImageRejected(refusals)
    _demand(type(kind) is str)
    return HostError(f"the confined process failed at '{name}': {message}")


def _read_refusal(fields: Any, name: str) -> Refusal:
    names = tuple(fields["names"])
    _demand(all(type(one) is str and len(one) <= FRAME_PAYLOAD_MAX for one in names))
    _demand(len(names) <= FRAME_PAYLOAD_MAX)
    message = _clean(fields["message"], name)
    refusal = _build(Refusal, {**fields, "message": message, "names": names})
    _demand(is_known(refusal))
    return refusal


def _clean(text: Any, name: str) -> str:
    """Words for people, with whatever is not printable escaped, but for the image's name."""
    _demand(type(text) is str and len(text) <= _TEXT_MAX)
    return escape_around(text, name)


def _demand(condition: bool) -> None:
    if not condition:
        raise ValueError("not what an amend can come to")


def _build(kind: type[T], fields: dict[str, Any]) -> T:
    """Make a record; TypeError or KeyError if its fields are not what their annotations say."""
    types = (kind, *map(type, map(fields.__getitem__, kind.__annotations__)))
    if types not in _seen_types:
        for of, annotation in zip(types[1:], kind.__annotations__.values(), strict=True):
            if of.__name__ not in _translate(annotation):
                raise TypeError(annotation)
        _seen_types.add(types)
    return kind(**fields)


_seen_types: set[tuple[type, ...]] = set()
"""Records with the types of their fields, which were as they may be: no more than there can be."""


def _translate(annotation: str) -> list[str]:
    plain = annotation.partition("[")[0].split(" | ")
    return [kind for name in plain for kind in _PLAIN.get(name, (name,))]
