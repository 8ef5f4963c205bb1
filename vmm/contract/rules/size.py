"""Host side: the rules of `size`: how large the disk is. layer.py recomputes its tables."""

from __future__ import annotations

from ...qcow2 import AUTOCLEAR_BITMAPS, INCOMPATIBLE_DATA_FILE
from ..differences import (
    BITMAPS,
    BLOCKS,
    COUNTS,
    HEADER,
    LAYER,
    LAYOUT,
    PREPARE,
    REFCOUNT_TABLE,
    RELEASE,
    SLACK,
    SWITCH,
    TABLE_PLACE,
)
from . import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft

RESIZE = frozenset(
    {
        (PREPARE, COUNTS),
        (PREPARE, LAYER),
        (REFCOUNT_TABLE, BLOCKS),
        (REFCOUNT_TABLE, TABLE_PLACE),
        (SWITCH, HEADER),
        (SWITCH, LAYER),
        (RELEASE, COUNTS),
    }
)
"""The active layer gets another L1 table, or another length of it."""


DROP_BITMAPS = frozenset({(PREPARE, SLACK), (SWITCH, LAYOUT), (SWITCH, BITMAPS)})
"""What `drop_bitmaps` adds, as bitmaps may not fit; whether they do, their tables tell."""


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    return bool(header.fields["size"] == request.size)


def _allowed(request: AmendRequest, before: HeaderView) -> Differences:
    if _is_satisfied(request, before):
        return frozenset()
    in_force = before.fields.get("autoclear_features", 0) & AUTOCLEAR_BITMAPS
    return RESIZE | DROP_BITMAPS if request.drop_bitmaps and in_force else RESIZE


def _expect(request: AmendRequest, _before: HeaderView, draft: Draft) -> None:
    draft.fields["size"] = request.size


def _forbid(request: AmendRequest, before: HeaderView) -> str:
    fields = before.fields
    if request.size < fields["size"] and not request.shrink:
        return "the guest makes the disk smaller, which it may not"
    if _is_satisfied(request, before):
        return ""
    if fields["version"] == 2 and fields["nb_snapshots"]:
        return "the guest resizes an image of version 2 with snapshots"
    if fields.get("incompatible_features", 0) & INCOMPATIBLE_DATA_FILE:
        return "the guest resizes an image with an external data file"
    return ""


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
