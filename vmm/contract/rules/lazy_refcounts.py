"""Host side: the rules of `lazy_refcounts`: a compatible feature bit of version 3."""

from __future__ import annotations

from ...qcow2 import COMPATIBLE_LAZY_REFCOUNTS
from ..differences import HEADER, SWITCH
from . import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft

TOGGLE = frozenset({(SWITCH, HEADER)})
"""The feature words in the header's first sector: nothing else, and nothing before."""


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    lazy = bool(header.fields.get("compatible_features", 0) & COMPATIBLE_LAZY_REFCOUNTS)
    return bool(lazy == request.lazy_refcounts)


def _allowed(_request: AmendRequest, _before: HeaderView) -> Differences:
    return TOGGLE


def _expect(request: AmendRequest, _before: HeaderView, draft: Draft) -> None:
    if draft.fields["version"] == 3:
        draft.fields["compatible_features"] &= ~COMPATIBLE_LAZY_REFCOUNTS
        if request.lazy_refcounts:
            draft.fields["compatible_features"] |= COMPATIBLE_LAZY_REFCOUNTS


def _forbid(request: AmendRequest, before: HeaderView) -> str:
    if request.lazy_refcounts and (request.compat or before.fields["version"]) == 2:
        return "the guest reports lazy refcounts in a version 2 image"
    return ""


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
