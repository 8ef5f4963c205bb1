"""Host side: the header cluster as it is, and after each phase of a commit."""

from __future__ import annotations

from instar.abi import INSTAR_PHASE_COUNT

from ..base.errors import GuestFault
from ..image.staging import SECTOR_SIZE
from ..qcow2 import REFCOUNT_ORDER_V2, REFCOUNT_TABLE_BYTES
from ..qcow2.header_view import MalformedHeader, header_end, view_header
from .differences import PREPARE, REFCOUNT_TABLE, SLACK, SWITCH, TABLE_PLACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import StagedWrites
    from ..qcow2.header_view import HeaderView
    from .differences import Differences
    from .terms import Original

_TOO_EARLY = "the guest changes the old header before the switch"


class HeaderStates:
    """What is staged for the header cluster, and the header that each phase leaves."""

    def __init__(self, original: Original, staged: StagedWrites) -> None:
        """Walk the header as it is. MalformedHeader if it cannot be walked."""
        self._read, self._size, self._staged = original.read, original.size, staged
        self.before = view_header(self._read)
        """The header as it is."""
        self.places: dict[str, int] = {}
        """The refcount table's new place, if it moves before the switch."""
        # What is staged from there on has to be asked for (pending.py).
        self._end = header_end(self.before.fields["cluster_bits"]) // SECTOR_SIZE
        self._phases: list[dict[int, bytes]] = [{} for _ in range(INSTAR_PHASE_COUNT)]
        for phase in staged.phases():
            self._phases[phase] = {
                first + at // SECTOR_SIZE: bytes(data[at : at + SECTOR_SIZE])
                for first, data in staged.extents(phase, 0, self._end)
                for at in range(0, len(data), SECTOR_SIZE)
            }

    def size(self) -> int:
        """How many bytes are staged for the header cluster, in all phases."""
        return sum(map(len, self._phases)) * SECTOR_SIZE

    def has_slack(self) -> bool:
        """Whether the header cluster is written before anything refers to what is written."""
        return bool(self._phases[PREPARE])

    def is_switched(self) -> bool:
        """Whether the switch, and nothing but a header, is written in its phase."""
        switch = self._phases[SWITCH]
        return bool(switch or self.has_slack()) and len(switch) == self._staged.count(SWITCH)

    def is_cut(self) -> bool:
        """Whether the file ends within a sector that is written."""
        last = max((*self._phases[PREPARE], *self._phases[SWITCH]))
        return len(self._read(last * SECTOR_SIZE, SECTOR_SIZE)) < SECTOR_SIZE

    def view(self, phase: int) -> HeaderView:
        """The header after a phase. MalformedHeader if it cannot be walked."""
        staged = self._phases[: phase + 1]
        if not any(staged):
            return self.before

        def read(offset: int, size: int) -> bytes:
            """Read through what is staged; like the file, no further than its end."""
            first = offset // SECTOR_SIZE
            start = first * SECTOR_SIZE
            data = bytearray(self._read(start, offset + size - start))
            for sectors in staged:
                for number, sector in sectors.items():
                    at = number * SECTOR_SIZE - start
                    if 0 <= at < len(data):
                        data[at : at + SECTOR_SIZE] = sector[: len(data) - at]
            return bytes(data[offset - start :])

        return view_header(read)

    def judge_phases(self, allowed: Differences) -> None:
        """See that each phase writes what it may to the header cluster, as far as places go."""
        slack, switch = self._phases[PREPARE], self._phases[SWITCH]
        moved = set(self._phases[REFCOUNT_TABLE])
        others = sum(map(len, self._phases)) - len(slack) - len(switch) - len(moved)
        if 0 in slack or 0 not in switch or moved - {0} or others:
            raise GuestFault("the guest's phases are not slack, then the switch")
        if moved and (REFCOUNT_TABLE, TABLE_PLACE) not in allowed:
            raise GuestFault(_TOO_EARLY)
        if slack and (PREPARE, SLACK) not in allowed:
            raise GuestFault("the guest's phases are not slack, then the switch")

    def judge_prefixes(self) -> None:
        """See that before the switch the header says what it said, whichever sectors are written.

        Only the refcount table may be somewhere else.
        """
        before = self.before
        try:
            now = self.view(PREPARE)
        except MalformedHeader as error:
            raise GuestFault(_TOO_EARLY) from error
        if (now.raw, now.name) != (before.raw, before.name):
            raise GuestFault(_TOO_EARLY)
        moved = self._phases[REFCOUNT_TABLE].get(0)
        if moved is None:
            return
        old, place = self._read(0, SECTOR_SIZE), REFCOUNT_TABLE_BYTES
        if moved != old[: place.start] + moved[place] + old[place.stop :]:
            raise GuestFault(_TOO_EARLY)
        self.places = {
            "refcount_table_offset": int.from_bytes(moved[place][:8], "big"),
            "refcount_table_clusters": int.from_bytes(moved[place][8:], "big"),
        }
        if moved == old:
            raise GuestFault("the guest writes sector 0 in phase 1 for nothing")

    def judge_unnamed(self, after: HeaderView, *, cleared: bool) -> None:
        """See that bytes to which the new header does not refer stay, or if `cleared` become 0."""
        for phase in (PREPARE, SWITCH):
            for number, new in self._phases[phase].items():
                start = number * SECTOR_SIZE
                old = self._read(start, SECTOR_SIZE)
                kept = bytearray(old)
                for first, end in _extents(after):
                    part = slice(max(first - start, 0), min(max(end - start, 0), SECTOR_SIZE))
                    kept[part] = new[part]
                if kept == new:
                    continue
                differing = (now for was, now in zip(kept, new, strict=True) if was != now)
                if not cleared or any(differing):
                    raise GuestFault(f"the guest fills sector {number} with what nobody names")

    def judge_need(self, after: HeaderView) -> None:
        """See that each sector that is written holds something that the new header refers to."""
        for phase in (PREPARE, SWITCH):
            for number in self._phases[phase]:
                start = number * SECTOR_SIZE
                if all(start >= end or start + SECTOR_SIZE <= at for at, end in _extents(after)):
                    raise GuestFault(
                        f"the guest writes sector {number} in phase {phase} for nothing"
                    )

    def changes_others(self) -> bool:
        """Whether bytes change that are not the old header's, and that something else may own.

        By its refcount nothing else is in the cluster, and where something changes there are only
        zeros; if not, what is there only the whole image can tell (tables.py).
        """
        changes = False
        for sectors in self._phases:
            for number, new in sectors.items():
                start = number * SECTOR_SIZE
                old = self._read(start, SECTOR_SIZE)
                kept = bytearray(new)
                for first, end in _extents(self.before):
                    part = slice(max(first - start, 0), min(max(end - start, 0), SECTOR_SIZE))
                    kept[part] = old[part]
                if kept != old:
                    changes = True
                    if any(was not in (0, now) for was, now in zip(old, kept, strict=False)):
                        return True
        return changes and self._refcount() != 1

    def _refcount(self) -> int:
        """The refcount of the header cluster; 0 where none can be read."""
        fields = self.before.fields
        table = fields["refcount_table_offset"]
        entry = self._read(table, 8) if table < self._size else b""
        block = int.from_bytes(entry, "big") & -SECTOR_SIZE
        bits = 1 << fields.get("refcount_order", REFCOUNT_ORDER_V2)
        data = self._read(block, max(bits // 8, 1)) if 0 < block < self._size else b""
        return int.from_bytes(data, "big") & ((1 << bits) - 1)


def _extents(view: HeaderView) -> tuple[tuple[int, int], ...]:
    """Where a header's fields and extensions are, and its backing file's name."""
    name, at = view.name or b"", view.fields["backing_file_offset"]
    return (0, len(view.raw)), (at, at + len(name))
