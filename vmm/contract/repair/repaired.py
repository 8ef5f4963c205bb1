"""Host side: judges a repair, of which all can be computed: refcounts and flags follow from tables.

The judge counts all references itself (reference_counts.py), and then knows each refcount and each
flag that there must be. The guest is believed nothing but where new refcount structures are, and
that only where nothing can be: after the end of the file, or on a block device in clusters that
nothing refers to.
"""

from __future__ import annotations

from instar.abi import INSTAR_PHASE_COUNT

from ...base.errors import GuestFault
from ...image.staging import SECTOR_SIZE
from ...qcow2 import (
    AUTOCLEAR_KNOWN,
    EXTENSION_BACKING_FORMAT,
    EXTENSION_BITMAPS,
    EXTENSION_DATA_FILE,
    EXTENSION_LUKS,
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_KNOWN,
    REFCOUNT_ORDER_V2,
    REFCOUNT_TABLE_BYTES,
    REFCOUNT_TABLE_FIELDS,
)
from ..differences import MAPPING, PREPARE, SWITCH
from ..pending import Pending
from ..reader.disk import Disk
from ..reader.limits import check_tables
from ..reader.reference_counts import ReferenceCounts
from ..reader.widths import Width
from .recounted import Recounted, refcount_structures
from .reflagged import judge_flags, judge_no_flags, take_sectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...image.staging import StagedWrites
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..header import HeaderStates
    from ..terms import Original

_INCOMPATIBLE, _AUTOCLEAR = slice(72, 80), slice(88, 96)
_KNOWN_EXTENSIONS = {
    *(EXTENSION_BACKING_FORMAT, EXTENSION_BITMAPS, EXTENSION_DATA_FILE, EXTENSION_LUKS),
}
_PIECE = 1 << 16  # bytes of a refcount block that are judged at once


def judge_repair(
    original: Original,
    states: HeaderStates,
    request: AmendRequest,
    staged: StagedWrites,
    *,
    amended: bool,
    atomic: bool,
) -> tuple[HeaderView, int]:
    """Judge the step of a repair: return the header as it will be, and the work that it took.

    Args:
        original: the image file.
        states: the header as it is, and as it will be.
        request: what was asked for, which is nothing but the repair.
        staged: what the guest wrote.
        amended: whether the guest says that it changed something.
        atomic: whether it says that one sector switches.

    Raises:
        GuestFault: something is wrong that is staged, or missing.
        ImageRejected: it takes too much work or memory to tell.
        OutsideError: a table is not inside the image.
    """
    before = states.before
    dirty = bool(before.fields.get("incompatible_features", 0) & INCOMPATIBLE_DIRTY)
    if not atomic:
        raise GuestFault("the guest's switch is not the one it reports")
    if not amended:
        if not staged.is_empty() or (dirty and not request.leaves_errors):
            raise GuestFault("the guest reports a no-op, yet wrote, or the image is dirty")
        return before, 0
    if staged.is_empty() or (request.repair and not dirty):
        raise GuestFault("the guest reports a repair, yet there was none to be made")
    after = _judge_header(original, states, staged)
    if staged.end() > -(-original.size // SECTOR_SIZE) + request.max_growth // SECTOR_SIZE:
        raise GuestFault("the guest lets the file grow by more than it may")
    repaired = _Repaired(original, before, after, staged)
    right = repaired.judge(request)
    cleared = dirty and not after.fields["incompatible_features"] & INCOMPATIBLE_DIRTY
    if dirty and cleared != right:
        raise GuestFault("the guest leaves the image dirty, or clean, without a reason")
    return after, repaired.work


def _judge_header(original: Original, states: HeaderStates, staged: StagedWrites) -> HeaderView:
    """See that of the header nothing changes but what may; return it as it will be."""
    before = states.before
    features = before.fields.get("incompatible_features", 0)
    if features & (~INCOMPATIBLE_KNOWN | INCOMPATIBLE_CORRUPT):
        raise GuestFault("the guest repairs an image whose features forbid it")
    if any(kind not in _KNOWN_EXTENSIONS for kind, _ in before.extensions):
        raise GuestFault("the guest repairs an image with an unknown header extension")
    phases = (PREPARE, MAPPING, SWITCH)
    others = sum(staged.count(phase) for phase in range(INSTAR_PHASE_COUNT) if phase not in phases)
    if others or len(staged.zeroed()[0]):
        raise GuestFault("the guest repairs in a phase that no repair has")
    new = staged.sector(SWITCH, 0)
    if staged.count(SWITCH) != (new is not None) or states.size() != SECTOR_SIZE * (
        new is not None
    ):
        raise GuestFault("the guest writes more of the header than its first sector")
    if new is None:
        if before.fields.get("autoclear_features", 0) & ~AUTOCLEAR_KNOWN:
            raise GuestFault("the guest leaves an autoclear bit that nobody knows")
        return before
    old = original.read(0, SECTOR_SIZE)
    wanted = bytearray(old)
    wanted[REFCOUNT_TABLE_BYTES] = new[REFCOUNT_TABLE_BYTES]
    if before.fields["version"] == 3:
        cleared = int.from_bytes(old[_INCOMPATIBLE], "big") & ~INCOMPATIBLE_DIRTY
        if new[_INCOMPATIBLE] != old[_INCOMPATIBLE]:
            wanted[_INCOMPATIBLE] = cleared.to_bytes(8, "big")
        autoclear = int.from_bytes(old[_AUTOCLEAR], "big") & AUTOCLEAR_KNOWN
        wanted[_AUTOCLEAR] = autoclear.to_bytes(8, "big")
    if bytes(new) != wanted or new == old:
        raise GuestFault("the guest changes more of the header than a repair does, or nothing")
    return states.view(SWITCH)


class _Repaired:
    """One judgement."""

    def __init__(
        self, original: Original, before: HeaderView, after: HeaderView, staged: StagedWrites
    ) -> None:
        for header in (before, after):
            check_tables(header.fields)
        self._before, self._after, self._staged = before, after, staged
        disk = self._disk = Disk(original, before.fields["cluster_bits"], staged.size())
        self._order = before.fields.get("refcount_order", REFCOUNT_ORDER_V2)
        self._references = ReferenceCounts(disk, before, self._order)

    @property
    def work(self) -> int:
        """What it has cost."""
        return self._disk.work

    def judge(self, request: AmendRequest) -> bool:
        """Judge all that is staged outside the header; whether all refcounts will be right."""
        fields, new = self._before.fields, self._after.fields
        right = True
        if any(fields[name] != new[name] for name in REFCOUNT_TABLE_FIELDS):
            if request.leaves_errors:
                raise GuestFault("the guest writes refcounts anew, where leaks were to go")
            Recounted(self._references, self._before, self._after, self._staged, self._disk).judge(
                is_device=request.fixed_size
            )
        else:
            right = self._judge_lowered()
            if not right and not request.leaves_errors:
                raise GuestFault("the guest leaves a refcount that is too low")
        if right:
            judge_flags(self._references, self._disk, fields, self._staged)
        else:
            judge_no_flags(self._disk, self._staged)
        return right

    def _judge_lowered(self) -> bool:
        """Judge refcounts that fall where they are; whether none is too low."""
        prepare = Pending(self._staged, PREPARE, self._disk.cluster_bits)
        table, blocks = refcount_structures(self._disk, self._before.fields)
        counts = self._references.counts
        for cluster in [*table, *blocks.values()]:
            if counts[cluster]:
                raise GuestFault("the guest leaves a refcount structure that is something else too")
            counts[cluster] = 1
        in_block = self._disk.cluster_size * 8 >> self._order
        right = True
        end = self._references.clusters + bool(counts[self._references.clusters])
        for index in range(-(-end // in_block)):
            first, last = index * in_block, min((index + 1) * in_block, end)
            if index not in blocks:
                right = right and not any(counts[first:last])
                continue
            right &= self._judge_block(blocks[index], first, last, prepare)
        prepare.finish()
        return right

    def _judge_block(self, block: int, first: int, last: int, prepare: Pending) -> bool:
        """Judge what a refcount block has of clusters that there are; whether none is too low."""
        width, low = Width(self._order), False
        step = min(_PIECE, self._disk.cluster_size)
        place = block << self._disk.cluster_bits
        while first < last:
            old = self._disk.read(place, step)
            found = width.unpack(old)
            wanted = self._references.counts[first : min(first + len(found), last)]
            if found[: len(wanted)].tolist() != wanted.tolist():
                pairs = list(zip(found, wanted, strict=False))
                low = low or any(have < count for have, count in pairs)
                lowered = [min(pair) for pair in pairs]
                new = width.pack([*lowered, *found[len(lowered) :]])
                take_sectors(prepare, place, old, new)
            first, place = first + len(found), place + step
        return not low
