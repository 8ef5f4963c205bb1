"""Host side: what every version of qemu takes of an image, and so all that a change may leave.

QEMU's block/qcow2.h has the same limits. The planner keeps to them when it accepts an image; here
they bound what it is believed to have accepted, and what it makes. Three of them are in
base/refusals.py, whose words need them; L1 tables of snapshots are looked at where they are read.
"""

from __future__ import annotations

from ...base.errors import GuestFault
from ...base.refusals import (
    ENTRY_SIZE,
    L1_TABLE_MAX,
    REFCOUNT_TABLE_MAX,
    SNAPSHOT_SIZE,
    SNAPSHOTS_MAX,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SNAPSHOT_TABLE_MAX = 64 << 20
"""Bytes of a snapshot table."""
SNAPSHOT_EXTRA_MAX = 1024
"""Bytes of a snapshot's extra data."""
BITMAPS_MAX = 65535
"""Bitmaps of an image."""
BITMAP_DIRECTORY_MAX = 64 << 20
"""Bytes of a bitmap directory."""
BITMAP_NAME_MAX = 1023
"""Bytes of a bitmap's name."""
LUKS_REGION_MAX = 64 << 20
"""Bytes of the region of a LUKS header whose keyslots change; no LUKS1 header has more."""


def check_tables(fields: Mapping[str, int]) -> None:
    """See that a header of the guest's making, or that it accepted, names tables that qemu takes.

    `fields` are those of the header. GuestFault if it does not.
    """
    cluster_size = 1 << fields["cluster_bits"]
    sizes = (
        ("refcount", fields["refcount_table_clusters"] * cluster_size, REFCOUNT_TABLE_MAX),
        ("L1", ENTRY_SIZE * fields["l1_size"], L1_TABLE_MAX),
        ("snapshot", SNAPSHOT_SIZE * fields["nb_snapshots"], SNAPSHOT_SIZE * SNAPSHOTS_MAX),
    )
    for name, size, most in sizes:
        if size > most:
            raise GuestFault(f"the guest leaves a {name} table of {size} bytes, which is too large")
    places = fields["l1_table_offset"], fields["refcount_table_offset"], fields["snapshots_offset"]
    for place in places:
        if place % cluster_size or place >> 63:
            raise GuestFault(f"the guest leaves a table at {place:#x}, which no table can be")
