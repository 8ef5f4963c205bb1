"""Host side: judges an amend that changes something: the header here, and all else by tables.py."""

from __future__ import annotations

from ..base.errors import GuestFault, ImageRejected
from ..image.staging import SECTOR_SIZE, ZeroedInUse
from ..qcow2 import (
    AUTOCLEAR_BITMAPS,
    EXTENSION_BITMAPS,
    HEADER_LENGTH_V3,
    HEADER_LENGTH_V3_MIN,
    REFCOUNT_TABLE_BYTES,
    REFCOUNT_TABLE_FIELDS,
)
from ..qcow2.header_view import header_end
from .differences import BITMAPS, HEADER, LAYER, LAYOUT, RECODED, SNAPSHOTS_PLACE, SWITCH
from .rules import allowed, expected, is_satisfied, judge_features, judge_request
from .terms import Spare, Transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import Numbers, StagedWrites
    from ..qcow2.header_view import HeaderView
    from ..request import AmendRequest
    from .header import HeaderStates
    from .terms import Original

_WORDS = slice(80, 96)  # the compatible and the autoclear word in the header
_FIELDS = slice(24, 60)  # from the size to the refcount table
_REFCOUNTS = REFCOUNT_TABLE_BYTES, slice(96, 100)  # what tells of the refcounts
_OUTSIDE = "the guest reports success, yet wrote nothing or outside the header"
_LAYER = ("l1_size", "l1_table_offset")
_FIELD = "the guest changes a header field that it must not change"
_PLACES = (*REFCOUNT_TABLE_FIELDS, "snapshots_offset")


class Amended:
    """Judges an amend that changes something."""

    def __init__(
        self, original: Original, states: HeaderStates, request: AmendRequest, staged: StagedWrites
    ) -> None:
        """Take the image, its header by phase, what was asked for and what is staged."""
        self._original, self._states = original, states
        self._before = states.before
        self._request = request
        self._staged = staged
        self.warnings: tuple[str, ...] = ()
        """What the user should know."""
        self.work = 0
        """What it took to tell, as disk.Disk counts it."""
        self.spare = Spare((), None)
        """What may be given back to the file system."""
        self._allowed = allowed(request, states.before)
        self._expected = expected(request, states.before)
        self._recodes = (SWITCH, RECODED) in self._allowed

    def judge(self, atomic: bool) -> HeaderView:
        """Return the amended header."""
        before, request, states = self._before, self._request, self._states
        if not states.is_switched() or states.is_cut():
            raise GuestFault(_OUTSIDE)
        states.judge_phases(self._allowed)
        if atomic != (self._staged.count(SWITCH) == 1) or (states.has_slack() and not atomic):
            raise GuestFault("the guest's switch is not the one it reports")
        states.judge_prefixes()
        after = states.view(SWITCH)
        dropping = {(SWITCH, LAYER), (SWITCH, BITMAPS)} <= self._allowed
        if dropping and _bitmaps_of(before) and not _bitmaps_of(after):
            self._expected.drop_bitmaps()  # tables.py sees whether that is needed
        self._judge_fields(after)
        _judge_request(before, request)
        if after.name != self._expected.name:
            raise GuestFault("the guest changes the backing file name")
        dropped = self._judge_extensions(after)
        self._judge_rest(after, dropped)
        states.judge_need(after)
        states.judge_unnamed(after, cleared=(SWITCH, LAYOUT) in self._allowed)
        if not atomic:
            self._judge_torn(after)
        return after

    def _judge_torn(self, after: HeaderView) -> None:
        from .one_sector import could_be_one

        if could_be_one(self._before, after):
            raise GuestFault("the guest switches by several sectors, where one would do")

    def _judge_fields(self, after: HeaderView) -> None:
        before, places = self._before, self._states.places
        wanted = {**self._expected.fields, **places}
        if self._recodes:
            wanted.update((name, after.fields[name]) for name in REFCOUNT_TABLE_FIELDS)
        elif (SWITCH, SNAPSHOTS_PLACE) in self._allowed and wanted["nb_snapshots"]:
            wanted["snapshots_offset"] = after.fields["snapshots_offset"]
        if (SWITCH, LAYER) in self._allowed:
            wanted.update((name, after.fields[name]) for name in _LAYER)
        fields = dict(after.fields)
        place = fields.pop("backing_file_offset")
        if place != before.fields["backing_file_offset"]:
            end = place + len(after.name or b"")
            if end > header_end(fields["cluster_bits"]):
                raise GuestFault("the guest puts the backing file name past the header")
        differs = not fields.items() <= before.fields.items()
        if before.raw[:4] != after.raw[:4] or fields != wanted:
            raise GuestFault(_FIELD)
        if differs and (SWITCH, HEADER) not in self._allowed:
            raise GuestFault(_FIELD)
        if (SWITCH, LAYOUT) not in self._allowed:
            self._judge_bytes(after)
        elif fields["version"] == 3 and after.unknown != self._unknown():
            raise GuestFault("the guest sets header fields that nobody asked for")

    def _unknown(self) -> bytes:
        """The fields of version 3 that this file does not know, as they must be."""
        before = self._before
        if before.fields["version"] == 3:
            return before.unknown
        return bytes(HEADER_LENGTH_V3 - HEADER_LENGTH_V3_MIN)

    def _judge_bytes(self, after: HeaderView) -> None:
        """Only words that are compared by name may change in a header that keeps its layout."""
        old, new = bytearray(self._before.raw), bytearray(after.raw)
        parts = [_WORDS] if after.fields["version"] == 3 else []
        if (SWITCH, LAYER) in self._allowed:
            parts.append(_FIELDS)
        parts += _REFCOUNTS if self._recodes else ()
        for part in parts:
            new[part] = old[part]
        if old != new:
            raise GuestFault("the guest changes more of the header than the feature words")

    def _judge_extensions(self, after: HeaderView) -> bytes | None:
        """Return the bitmaps extension if it is dropped and its clusters are to be released."""
        before = self._before
        bitmaps = _bitmaps_of(before)
        downgraded = after.fields["version"] < before.fields["version"]
        if bitmaps and downgraded and (SWITCH, BITMAPS) not in self._allowed:
            raise GuestFault("the guest downgrades an image with bitmaps")
        wanted = self._expected.extensions
        if after.extensions != wanted:
            raise GuestFault("the guest changes, adds or drops a header extension")
        dropped = bitmaps and not _bitmaps_of(after)
        # Else a program that does not know bitmaps has written, and may have used the clusters.
        if not dropped or not before.fields["autoclear_features"] & AUTOCLEAR_BITMAPS:
            return None
        if len(bitmaps) > 1:
            raise GuestFault("the guest accepted two bitmaps extensions")
        return bitmaps[0]

    def _judge_rest(self, after: HeaderView, dropped: bytes | None) -> None:
        """Judge what is staged besides the header, if there is anything."""
        transition = Transition(
            original=self._original,
            before=self._before,
            after=after,
            staged=self._staged,
            zeroes=self._judge_zeroes(),
            allowed=self._allowed,
        )
        if self._recodes:
            self._judge_recoded(transition)
            return
        before, zeroed = self._before.fields, len(transition.zeroes[0])
        moved = any(before[name] != after.fields[name] for name in _PLACES)
        outside = self._staged.size() != self._states.size() or zeroed or moved
        outside = outside or dropped is not None
        header = self._states.changes_others()
        completes = (SWITCH, SNAPSHOTS_PLACE) in self._allowed and before["nb_snapshots"]
        layer = (SWITCH, LAYER) in self._allowed
        if not (outside or header or completes or layer):
            if after.fields["version"] < before["version"]:
                from .version_2 import judge_untouched

                judge_untouched(self._original, self._before)
            return
        if not layer and (SWITCH, LAYOUT) not in self._allowed:
            raise GuestFault(_OUTSIDE)
        backing_size = self._request.backing_size
        if layer and not (outside or header):
            from .resized import judge_resized

            self.warnings, self.work = judge_resized(transition, backing_size)
            return
        self._judge_end()
        from .tables import judge_tables

        self.warnings, self.work, self.spare = judge_tables(
            transition, dropped, header=header, backing_size=backing_size
        )

    def _judge_end(self) -> None:
        end = -(-self._original.size // SECTOR_SIZE)
        if self._staged.end() > end + self._request.max_growth // SECTOR_SIZE:
            raise GuestFault("the guest lets the file grow by more than it may")

    def _judge_recoded(self, transition: Transition) -> None:
        """Judge the new refcounts, with which nothing else is staged outside the header."""
        others = len(transition.zeroes[0]) or self._states.places
        if others or (SWITCH, LAYER) in self._allowed:
            raise GuestFault("the guest changes more than the refcounts' width")
        self._judge_end()
        from .recoded import judge_recoded

        self.work = judge_recoded(
            transition,
            header=self._states.changes_others(),
            is_device=self._request.fixed_size,
        )

    def _judge_zeroes(self) -> tuple[Numbers, Numbers]:
        try:
            return self._staged.zeroed()
        except ZeroedInUse as error:
            if self._request.compat != 2:
                raise
            from .tables import explain

            refusal = explain(self._original, self._before, error.sector)
            if refusal is None:
                raise
            raise ImageRejected((refusal,)) from error


def _bitmaps_of(header: HeaderView) -> list[bytes]:
    return [data for kind, data in header.extensions if kind == EXTENSION_BITMAPS]


def _judge_request(before: HeaderView, request: AmendRequest) -> None:
    """The request is one that has to be carried out, as far as the header tells."""
    if is_satisfied(request, before):
        raise GuestFault("the guest reports success, yet the image was as asked before")
    judge_features(before, request.compat or before.fields["version"])
    judge_request(request, before)
