"""Test side: images for the write contract's rules on tables, and the faults that it finds."""

from __future__ import annotations

import re
from typing import Any

from instar.abi import (
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_MAPPING,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_RELEASE,
    INSTAR_PHASE_SWITCH,
)
from tests.support.forge import Bitmap, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.clusters import Cluster
from tests.support.planning import fault_of
from tests.support.reference import Model

PREPARE, TABLE, MAPPING = INSTAR_PHASE_PREPARE, INSTAR_PHASE_REFCOUNT_TABLE, INSTAR_PHASE_MAPPING
SWITCH, RELEASE, FLAGS = INSTAR_PHASE_SWITCH, INSTAR_PHASE_RELEASE, INSTAR_PHASE_FLAGS

SUMS = r"are not what the changes add up to"
ENTRY = r"the guest changes the L2 entry"
NOTHING = r"in phase \d for nothing"
SMALL: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 20}
# Guest clusters: in use, free zeros, zeros with a cluster of their own, zeros that a snapshot uses.
CLUSTERS: dict[int, Cluster] = {
    0: Data(b"a"),
    1: Zero(),
    2: ZeroAllocated(b"x"),
    3: ZeroAllocated(b"s"),
}
SNAPSHOT = Snapshot(name=b"own", clusters={0: Data(b"b"), 3: Data(b"s")})
PLAIN = Image(**SMALL, clusters=CLUSTERS, snapshots=[SNAPSHOT])
BACKED = Image(**SMALL, clusters=CLUSTERS, snapshots=[SNAPSHOT], backing_file=b"base")
BLOCKS = Image(**SMALL, clusters={n: Zero() for n in range(300)}, backing_file=b"base")
LARGE = Image(
    cluster_bits=9, size=16 << 20, clusters={n: Zero() for n in range(17000)}, backing_file=b"base"
)
BITMAPS = Image(bitmaps=[Bitmap(name=b"one", dirty=[1]), Bitmap(name=b"two")])
OLD = Image(
    version=2,
    **SMALL,
    clusters={0: Data(b"a")},
    snapshots=[Snapshot(name=b"first", extra_data_size=0), Snapshot(name=b"second")],
)


def place(image: Image, index: int, table: str = "l2_table[0]") -> int:
    """Where the L2 entry of a guest cluster is."""
    if _placed[0] is not image:  # to find that out builds it
        _placed[:] = image, image.regions()
    return int(_placed[1][table].start + 8 * index)


_placed: list[Any] = [None, {}]
"""The image that was asked about last, and its regions."""


def assert_fault(model: Model, words: str) -> None:
    """The write contract finds a fault that is described by these words."""
    message = fault_of(model.case)
    assert re.search(words, message), message
