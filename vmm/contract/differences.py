"""Host side: the kinds of difference that a phase may make to an image, as the rules name them."""

from __future__ import annotations

from instar.abi import (
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_MAPPING,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_RELEASE,
    INSTAR_PHASE_SWITCH,
)

PREPARE, REFCOUNT_TABLE, MAPPING = (
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_MAPPING,
)
SWITCH, RELEASE, FLAGS = INSTAR_PHASE_SWITCH, INSTAR_PHASE_RELEASE, INSTAR_PHASE_FLAGS

SLACK = "slack"
"""Bytes of the header cluster that nothing refers to."""
HEADER = "header"
"""Fields of the header, which the rules of the options name one by one."""
LAYOUT = "layout"
"""The place of extensions and of the backing file name, and whether there are feature names."""
TABLE_PLACE = "refcount table's place"
"""Where the refcount table is, and how large."""
SNAPSHOTS_PLACE = "snapshot table's place"
"""Where the snapshot table is: the one as it was, with the extra data that it lacks."""
LAYER = "active layer"
"""The disk's size; the L1 table's place and length, new L2 tables, bytes beyond the old end."""
BITMAPS = "bitmaps"
"""The bitmaps extension goes; what it names is given up if it is in force."""
COUNTS = "refcounts"
"""Refcounts: before the switch they rise from 0, after it they fall."""
BLOCKS = "refcount blocks"
"""Refcount blocks are named where none were."""
RECODED = "recoded refcounts"
"""All refcounts are written anew in new clusters, in another width, with a table of their own."""
ZEROES = "zeroes"
"""L2 entries of zero clusters become what reads as zeros in version 2."""
COPIED = "copied"
"""L2 entries get the flag that says that their cluster has one user."""

Differences = frozenset[tuple[int, str]]
"""Pairs of a phase and a kind."""
