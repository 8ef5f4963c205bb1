"""Host side: judges what the guest staged, as the states that a commit passes through.

Whatever the guest is, after this the change is one that was asked for. The image is looked at as it
is, and as it will be after each phase; what differs must be what the rules of the options allow in
that phase (rules/). This file judges the header cluster, which is all of most changes; tables.py
judges the rest. What the host cannot see is in docs/threat-model.md.
"""

from __future__ import annotations

from ..base.errors import GuestFault, ImageRejected
from ..base.record import FrozenDict
from ..image.staging import SECTOR_SIZE, ZeroedInUse
from ..qcow2.header_view import MalformedHeader, is_raw, texts_of
from ..qcow2.probe import AUTOCLEAR_BITMAPS, EXTENSION_BITMAPS
from ..request.kinds import tell_text
from .differences import BITMAPS, HEADER, LAYER, LAYOUT, RECODED, SNAPSHOTS_PLACE, SWITCH
from .header import HeaderStates
from .rules import allowed, expected, is_satisfied, judge_request, rules_of
from .terms import Change, Judgement, OutsideError, Spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import Numbers, StagedWrites
    from ..qcow2.header_view import HeaderView
    from ..request import AmendRequest
    from .terms import Claim, Original

_V3_LENGTH = 112
_WORDS = slice(80, 96)  # the compatible and the autoclear word in the header
_FIELDS = slice(24, 60)  # from the size to the refcount table
_REFCOUNTS = slice(48, 60), slice(96, 100)  # what tells of the refcounts
# The incompatible features of an image that may be amended, and of one that may become version 2.
_AMENDABLE, _EXPRESSIBLE = 0x1C, 0x08
_OUTSIDE = "the guest reports success, yet wrote nothing or outside the header"
_LAYER = ("l1_size", "l1_table_offset")
_FIELD = "the guest changes a header field that it must not change"
_TABLE_PLACE = ("refcount_table_offset", "refcount_table_clusters")
_PLACES = (*_TABLE_PLACE, "snapshots_offset")


def preload(request: AmendRequest) -> None:
    """Import what judge() may need, for a process that can open no file afterwards."""
    rules_of(request)
    if request.repairs:
        from .repair import repaired  # noqa: F401
    if request.writes_tables or request.moves_header:
        # Many changes write the fields of the header only.
        from . import one_sector, tables  # noqa: F401
    if request.refcount_bits is not None:
        from . import recoded  # noqa: F401
    if request.size is not None:
        from . import resized  # noqa: F401


def judge(
    original: Original, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> Judgement:
    """Say what will change if `staged` is committed, which then may be.

    Args:
        original: the image file.
        request: what was asked for.
        staged: what the guest wrote; it stays as it is.
        claim: what the guest says.

    Raises:
        GuestFault: it may not be committed.
        ImageRejected: it may not, because a cluster is in use that by its refcount is free, or
            has one user only; or because it takes too much work or memory to tell.
    """
    try:
        return _judge(original, request, staged, claim)
    except MalformedHeader as error:
        raise GuestFault(f"the guest accepted or made a malformed header: {error}") from error
    except OutsideError as error:
        raise GuestFault(str(error)) from error
    except (MemoryError, OverflowError, RecursionError) as error:
        # The budgets come first; if they do not, it is for something that no planner stages.
        raise GuestFault(f"the guest stages what cannot be judged: {error}") from error


def _judge(
    original: Original, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> Judgement:
    states = HeaderStates(_remember(original), staged)
    before = after = states.before
    warnings: tuple[str, ...] = ()
    work = 0
    spare = Spare((), None)
    if request.repairs:
        from .repair.repaired import judge_repair

        ends = {"amended": claim.amended, "atomic": claim.atomic}
        after, work = judge_repair(original, states, request, staged, **ends)
    elif claim.amended:
        amended = _Amended(original, states, request, staged)
        after = amended.judge(claim.atomic)
        warnings, work, spare = amended.warnings, amended.work, amended.spare
    else:
        _judge_noop(before, request, staged, claim.atomic)
    if any(after.fields.get(name, 0) != value for name, value in claim.fields.items()):
        raise GuestFault("the guest reports another version or feature word than it wrote")
    old, new, texts = before.fields, after.fields, texts_of(after)
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes = [Change(name, old.get(name), new.get(name)) for name in differing]
    for key, text in texts_of(before).items():
        if text != texts[key]:
            changes.append(Change(key, tell_text(text), tell_text(texts[key])))
    return Judgement(
        amended=not staged.is_empty(),
        atomic=staged.count(SWITCH) <= 1,
        changes=tuple(changes),
        told=FrozenDict(data_file_raw=is_raw(after), **texts),
        warnings=warnings,
        work=work,
        spare=Spare((), None) if request.fixed_size else spare,  # a device has no holes
    )


def _remember(original: Original) -> Original:
    """Read each part of the file once: less work, and all is judged by the same bytes."""
    known: list[tuple[int, int, bytes]] = []  # hardly more than three

    def read_once(offset: int, size: int) -> bytes:
        for start, end, data in known:
            if start <= offset and offset + size <= end:
                return data[offset - start : offset - start + size]
        known.append((offset, offset + size, original.read(offset, size)))
        return known[-1][2]

    return type(original)(read_once, original.size, original.work_max, original.stored)


def _judge_noop(
    before: HeaderView, request: AmendRequest, staged: StagedWrites, atomic: bool
) -> None:
    if not staged.is_empty():
        raise GuestFault("the guest reports a no-op, yet wrote")
    if not is_satisfied(request, before):
        raise GuestFault("the guest reports a no-op, yet the image is not as asked")
    _judge_features(before, before.fields["version"])
    if not atomic:
        raise GuestFault("the guest's switch is not the one it reports")


def _judge_features(before: HeaderView, version: int) -> None:
    features = before.fields.get("incompatible_features", 0)
    if features & ~_AMENDABLE or (version == 2 and features & ~_EXPRESSIBLE):
        raise GuestFault("the guest amends an image whose features forbid it")


class _Amended:
    """Judges an amend that changes something."""

    def __init__(
        self, original: Original, states: HeaderStates, request: AmendRequest, staged: StagedWrites
    ) -> None:
        self._original, self._states = original, states
        self._before = states.before
        self._request = request
        self._staged = staged
        self.warnings: tuple[str, ...] = ()
        self.work = 0
        self.spare = Spare((), None)
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
        if {(SWITCH, LAYER), (SWITCH, BITMAPS)} <= self._allowed and not _bitmaps_of(after):
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
            wanted.update((name, after.fields[name]) for name in _TABLE_PLACE)
        elif (SWITCH, SNAPSHOTS_PLACE) in self._allowed and wanted["nb_snapshots"]:
            wanted["snapshots_offset"] = after.fields["snapshots_offset"]
        if (SWITCH, LAYER) in self._allowed:
            wanted.update((name, after.fields[name]) for name in _LAYER)
        fields = dict(after.fields)
        del fields["backing_file_offset"]
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
        return before.unknown if before.fields["version"] == 3 else bytes(_V3_LENGTH - 104)

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
        before, staged = self._before.fields, self._staged
        if self._recodes:
            self._judge_recoded(after)
            return
        zeroes = self._judge_zeroes()
        moved = any(before[name] != after.fields[name] for name in _PLACES)
        outside = staged.size() != self._states.size() or len(zeroes[0]) or moved or dropped
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
        image = self._original, self._before, after
        if layer and not (outside or header):
            from .resized import judge_resized

            backing_size = self._request.backing_size
            self.warnings, self.work = judge_resized(*image, staged, backing_size)
            return
        self._judge_end()
        from .tables import judge_tables

        self.warnings, self.work, self.spare = judge_tables(
            *(*image, staged, zeroes, self._allowed, dropped),
            header=header,
            backing_size=self._request.backing_size,
        )

    def _judge_end(self) -> None:
        end = -(-self._original.size // SECTOR_SIZE)
        if self._staged.end() > end + self._request.max_growth // SECTOR_SIZE:
            raise GuestFault("the guest lets the file grow by more than it may")

    def _judge_recoded(self, after: HeaderView) -> None:
        """Judge the new refcounts, with which nothing else is staged outside the header."""
        others = len(self._judge_zeroes()[0]) or self._states.places
        if others or (SWITCH, LAYER) in self._allowed:
            raise GuestFault("the guest changes more than the refcounts' width")
        self._judge_end()
        from .recoded import judge_recoded

        self.work = judge_recoded(
            *(self._original, self._before, after, self._staged),
            header=self._states.changes_others(),
            is_device=self._request.fixed_size,
        )

    def _judge_zeroes(self) -> tuple[Numbers, Numbers]:
        try:
            return self._staged.zeroed()
        except ZeroedInUse as error:
            fault = GuestFault(str(error))
            if self._request.compat != 2:
                raise fault from error
            from .tables import explain

            refusal = explain(self._original, self._before, error.sector)
            if refusal is None:
                raise fault from error
            raise ImageRejected((refusal,)) from error


def _bitmaps_of(header: HeaderView) -> list[bytes]:
    return [data for kind, data in header.extensions if kind == EXTENSION_BITMAPS]


def _judge_request(before: HeaderView, request: AmendRequest) -> None:
    """The request is one that has to be carried out, as far as the header tells."""
    if is_satisfied(request, before):
        raise GuestFault("the guest reports success, yet the image was as asked before")
    _judge_features(before, request.compat or before.fields["version"])
    judge_request(request, before)
