"""Host side: what a change of `compat` may make different, and in which phase."""

from __future__ import annotations

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
