"""Host side: judges that the region of the LUKS header is that and nothing else.

Only there does a change of keyslots write, and what it writes is random to everybody else: so every
pointer that the image can hold is held against the region's clusters, and none may name one. The
guest has looked at some; nothing rests on what it said.
"""

from __future__ import annotations

import instar.abi as abi

from ..base.errors import NO_MEMORY, GuestFault, HostError, ImageRejected
from ..base.refusals import table_outside
from ..image.staging import StagedWrites
from ..qcow2 import (
    CRYPT_LUKS,
    EXTENSION_LUKS,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_EXTENDED_L2,
    REFCOUNT_ORDER_V2,
)
from ..qcow2.header_view import MalformedHeader, view_header
from .books import Books
from .reader.disk import Disk
from .reader.limits import LUKS_REGION_MAX, check_tables
from .reader.structures import Snapshots, kept_bitmaps
from .roles import Roles, State
from .terms import OutsideError
from .touched import Touched
from .zeroed import Zeroed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..qcow2.header_view import HeaderView
    from .terms import Original


def judge_luks_region(original: Original) -> tuple[tuple[int, int], int]:
    """Find the region of the LUKS header of an image that the guest has accepted.

    Returns its offset and length in bytes, and the work that it took, as disk.Disk counts it.
    Raises GuestFault if the guest should have refused, ImageRejected if something else is in the
    region, which it need not have seen, or if it takes too much work to tell, and HostError if this
    machine has too little memory for that.
    """
    try:
        header = view_header(original.read)
    except MalformedHeader as error:
        raise GuestFault(f"the guest accepted a malformed header: {error}") from error
    check_tables(header.fields)
    disk = Disk(original, header.fields["cluster_bits"], 0)
    place, others = _find(header)
    offset, length = place
    if not 0 < length <= LUKS_REGION_MAX or not 0 < offset < original.size:
        raise GuestFault("the guest accepted a LUKS header outside the image")
    clusters = disk.clusters(offset, length)
    if clusters.stop > -(-original.size // disk.cluster_size):
        raise GuestFault("the guest accepted a LUKS header outside the image")
    try:
        _judge(disk, header, others, clusters)
    except OutsideError as error:
        raise ImageRejected((table_outside(error.offset),)) from error
    except MemoryError as error:
        raise HostError(NO_MEMORY) from error
    except (OverflowError, RecursionError) as error:
        # The budgets come first; if they do not, it is for something that the guest should refuse.
        raise GuestFault(f"the guest accepted what cannot be judged: {error}") from error
    return place, disk.work


def _find(header: HeaderView) -> tuple[tuple[int, int], tuple[tuple[int, bytes], ...]]:
    """The region that counts, and all other extensions; of several the last one counts, as in qemu.

    GuestFault if there is none.
    """
    places = [at for at, (kind, _) in enumerate(header.extensions) if kind == EXTENSION_LUKS]
    if header.fields["crypt_method"] != CRYPT_LUKS or not places:
        raise GuestFault("the guest accepted an image without a LUKS header")
    data = header.extensions[places[-1]][1]
    if len(data) != 16:
        raise GuestFault("the guest accepted a malformed LUKS header extension")
    others = header.extensions[: places[-1]] + header.extensions[places[-1] + 1 :]
    return (int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")), others


def _judge(
    disk: Disk, header: HeaderView, others: tuple[tuple[int, bytes], ...], clusters: range
) -> None:
    """See that nothing uses these clusters but the extension. ImageRejected, GuestFault."""
    fields = header.fields
    features = fields.get("incompatible_features", 0)
    table = fields["refcount_table_offset"], fields["refcount_table_clusters"]
    books = Books(disk, *table, fields.get("refcount_order", REFCOUNT_ORDER_V2), windows_max=0)
    snapshots = Snapshots(disk, fields["snapshots_offset"], fields["nb_snapshots"], fields["size"])
    nothing = StagedWrites(0).zeroed()
    use = abi.AMEND_USE_CRYPTO_HEADER
    touched = Touched(
        *(disk.cluster_bits, books, Zeroed(disk, *nothing, 0), set(), set(), [clusters]),
        new_use=use,
    )
    roles = Roles(disk, books, snapshots, touched)
    state = State(
        (fields["l1_table_offset"], fields["l1_size"]),
        range(0),
        others,
        kept_bitmaps(header, header),
        extended=bool(features & INCOMPATIBLE_EXTENDED_L2),
        moves_refcounts=False,
        moves_snapshots=False,
    )
    roles.judge_structures(state, header=False)
    roles.judge_refcounts(state)
    active, more = roles.judge_l2_tables(state)
    if not features & INCOMPATIBLE_DATA_FILE:
        roles.judge_data(active | more, None, None, extended=state.extended)
    # A count of more than one is a use that cannot be found.
    if not books.all_have(clusters.start, len(clusters), 1):
        raise GuestFault("the guest accepted a LUKS header whose clusters have not one user each")
