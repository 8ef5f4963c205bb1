"""Host side: the rules of `compat`: the version of the header."""

from __future__ import annotations

from ...qcow2 import HEADER_LENGTH_V3, REFCOUNT_ORDER_V2
from ..differences import (
    BITMAPS,
    BLOCKS,
    COPIED,
    COUNTS,
    FLAGS,
    HEADER,
    LAYOUT,
    MAPPING,
    PREPARE,
    REFCOUNT_TABLE,
    RELEASE,
    SLACK,
    SNAPSHOTS_PLACE,
    SWITCH,
    TABLE_PLACE,
    ZEROES,
)
from . import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft

_V2_NAMES = frozenset(
    (
        *("version", "backing_file_size", "cluster_bits", "size", "crypt_method", "l1_size"),
        *("l1_table_offset", "refcount_table_offset", "refcount_table_clusters"),
        *("nb_snapshots", "snapshots_offset"),
    )
)

_BOTH = frozenset(
    {
        (PREPARE, SLACK),
        (PREPARE, COUNTS),
        (REFCOUNT_TABLE, BLOCKS),
        (REFCOUNT_TABLE, TABLE_PLACE),
        (SWITCH, HEADER),
        (SWITCH, LAYOUT),
        (RELEASE, COUNTS),
    }
)
UPGRADE = _BOTH | {(SWITCH, SNAPSHOTS_PLACE)}
"""From version 2 to version 3: snapshots get the extra data that they lack."""
DOWNGRADE = _BOTH | {(MAPPING, ZEROES), (FLAGS, COPIED)}
"""From version 3 to version 2: zero clusters get a form that version 2 has."""
DROP_BITMAPS = frozenset({(SWITCH, BITMAPS)})
"""What `drop_bitmaps` adds to a downgrade."""


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    return bool(header.fields["version"] == request.compat)


def _allowed(request: AmendRequest, before: HeaderView) -> Differences:
    if request.compat > before.fields["version"]:
        return UPGRADE
    if request.compat == before.fields["version"]:
        return frozenset()
    return DOWNGRADE | DROP_BITMAPS if request.drop_bitmaps else DOWNGRADE


def _expect(request: AmendRequest, before: HeaderView, draft: Draft) -> None:
    """An upgrade gives version 3's fields the values that version 2 implies.

    qcow2 specification, "Header". Bitmaps have no place in version 2.
    """
    fields = draft.fields
    fields["version"] = request.compat
    if request.compat == 2:
        for name in fields.keys() - _V2_NAMES:
            del fields[name]
    elif before.fields["version"] == 2:
        fields.update(incompatible_features=0, compatible_features=0, autoclear_features=0)
        fields.update(refcount_order=REFCOUNT_ORDER_V2, header_length=HEADER_LENGTH_V3)
    if request.compat < before.fields["version"]:
        draft.drop_bitmaps()


def _forbid(request: AmendRequest, before: HeaderView) -> str:
    downgrade = request.compat < before.fields["version"]
    if downgrade and before.fields["refcount_order"] != REFCOUNT_ORDER_V2:
        return "the guest downgrades an image with another refcount width"
    return ""


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
