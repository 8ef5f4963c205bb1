"""Host side: results and errors that another process of ours sent as JSON, which may be taken over.

What it says is believed no further than that it is an outcome of one amend.
"""

from __future__ import annotations

from instar.vmm.contract_terms import Change
from instar.vmm.errors import (
    GuestFault,
    HostError,
    ImageLocked,
    ImageRejected,
    InstarError,
    Refusal,
    UsageError,
)
from instar.vmm.result import AmendResult, ByteRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

ANSWER_MAX = 1 << 22
"""Bytes of a document; RANGES_MAX ranges take a tenth of it."""
EITHER = "the image is the old one or the amended one, see with qemu-img info"
"""What there is to say of an image where no document came."""


def read_result(document: Any, name: str) -> AmendResult:
    """The result in the child's document; TypeError or KeyError if it is none."""
    lists = {
        "changes": tuple(_build(Change, change) for change in document["changes"]),
        "ranges": tuple(_build(ByteRange, part) for part in document["ranges"]),
        "warnings": tuple(str(warning) for warning in document["warnings"]),
    }
    return _build(AmendResult, {**document, **lists, "filename": name})


def read_error(error: Any) -> InstarError:
    """The error in the child's document; TypeError or KeyError if it is none."""
    kind, message = error["kind"], str(error["message"])
    for known in (UsageError, HostError, ImageLocked, GuestFault):
        if kind == known.__name__:
            return known(message)
    if kind == ImageRejected.__name__ and error["refusals"]:
        return ImageRejected(tuple(_build(Refusal, refusal) for refusal in error["refusals"]))
    return HostError(f"the confined process failed: {message}")


def _build(kind: type[T], fields: dict[str, Any]) -> T:
    """Make a record; TypeError or KeyError if its fields are not what their annotations say."""
    for name, allowed in _types(kind):
        if type(fields[name]).__name__ not in allowed:
            raise TypeError(name)
    return kind(**fields)


_known_types: dict[type, tuple[tuple[str, list[str]], ...]] = {}


def _types(kind: type) -> tuple[tuple[str, list[str]], ...]:
    """The fields of a record, each with the names of the types that it may have."""
    if kind not in _known_types:
        _known_types[kind] = tuple(
            (name, _translate(annotation)) for name, annotation in kind.__annotations__.items()
        )
    return _known_types[kind]


def _translate(annotation: str) -> list[str]:
    plain = annotation.partition("[")[0].replace("Mapping", "dict").replace("None", "NoneType")
    return plain.split(" | ")
