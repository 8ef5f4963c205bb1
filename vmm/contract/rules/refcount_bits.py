"""Host side: the rules of `refcount_bits`: refcounts of another width, which are written anew."""

from __future__ import annotations

from ...qcow2 import REFCOUNT_ORDER_V2
from ..differences import HEADER, PREPARE, RECODED, SWITCH
from . import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft

RECODE = frozenset({(PREPARE, RECODED), (SWITCH, HEADER), (SWITCH, RECODED)})
"""New refcount structures beside the old ones, and the place and width of the refcounts."""


def _order(request: AmendRequest) -> int:
    """The width as the header has it: "Header", refcount_order."""
    bits: int = request.refcount_bits
    return bits.bit_length() - 1


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    return header.fields.get("refcount_order", REFCOUNT_ORDER_V2) == _order(request)


def _allowed(request: AmendRequest, before: HeaderView) -> Differences:
    return frozenset() if _is_satisfied(request, before) else RECODE


def _expect(request: AmendRequest, _before: HeaderView, draft: Draft) -> None:
    if draft.fields["version"] == 3:
        draft.fields["refcount_order"] = _order(request)


def _forbid(request: AmendRequest, before: HeaderView) -> str:
    version = request.compat or before.fields["version"]
    if version == 2 and _order(request) != REFCOUNT_ORDER_V2:
        return "the guest reports another refcount width in a version 2 image"
    return ""


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
