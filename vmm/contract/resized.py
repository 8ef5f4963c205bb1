"""Host side: judges a change of the size that sector 0 makes alone: all else must be fit for it.

Then no cluster is taken, written or given up, so that nobody's use of one is in question.
"""

from __future__ import annotations

from ..base.errors import GuestFault
from ..qcow2 import REFCOUNT_ORDER_V2
from .books import Books
from .differences import PREPARE
from .layer import Layer
from .pending import Pending
from .reader.disk import Disk
from .reader.limits import check_tables
from .reader.structures import Snapshots, judge_bitmaps_fit, kept_bitmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .terms import Transition


def judge_resized(transition: Transition, backing_size: int) -> tuple[tuple[str, ...], int]:
    """Judge a change of which nothing is staged but the header. Arguments as judge_tables() has.

    Returns warnings and the work, as that does, and raises what that raises.
    """
    before, after = transition.before, transition.after
    old, new = before.fields, after.fields
    for fields in (old, new):
        check_tables(fields)
    disk = Disk(transition.original, old["cluster_bits"], 0)
    place = old["snapshots_offset"], old["nb_snapshots"]
    if place[1] and Snapshots(disk, *place, old["size"]).lacks_extra_data:
        raise GuestFault("the guest resizes a snapshot, which has the size of the header")
    table = old["refcount_table_offset"], old["refcount_table_clusters"]
    books = Books(disk, *table, old.get("refcount_order", REFCOUNT_ORDER_V2), windows_max=0)
    prepare = Pending(transition.staged, PREPARE, disk.cluster_bits)
    layer = Layer(disk, before, after, prepare, backing_size)
    layer.judge(books)
    bitmaps = kept_bitmaps(before, after)
    if bitmaps is not None:
        judge_bitmaps_fit(disk, bitmaps, old["size"], new["size"])
    return tuple(layer.warnings), disk.work
