"""Host side: the write contract of amend. Judges what the guest staged; nothing is written before.

Whatever the guest is, after this the change is one that was asked for: the fixed fields are the old
ones but for the version, the feature words and the place of the backing file name; name, format and
all other extensions are the same, byte for byte; the header reads as before until the switch. All
else that is staged is judged in contract_tables.py. What the host cannot see is in
docs/threat-model.md.
"""

from __future__ import annotations

from instar.abi import (
    INSTAR_PHASE_COUNT,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_SWITCH,
)
from instar.vmm.contract_terms import Change
from instar.vmm.errors import GuestFault, ImageRejected
from instar.vmm.header_view import HEADER_LIMIT, MalformedHeader, view_header
from instar.vmm.staging import SECTOR_SIZE, ZeroedInUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.contract_terms import Claim, Original, Reader
    from instar.vmm.header_view import HeaderView
    from instar.vmm.request import AmendRequest
    from instar.vmm.staging import Numbers, StagedWrites

_V3_LENGTH = 112
_BITMAPS, _BITMAPS_VALID = 0x23852875, 1  # header extension type, autoclear feature
_REFCOUNT_TABLE = (48, 60)  # where the header names the refcount table's offset and clusters
_PLACES = ("refcount_table_offset", "refcount_table_clusters", "snapshots_offset")
# The incompatible features of an image that may be amended, and of one that may become version 2.
_AMENDABLE, _EXPRESSIBLE = 0x1C, 0x08


def prepare(request: AmendRequest) -> None:
    """Import what judge() may need, for a process that can open no file afterwards."""
    if request.version is not None:
        import instar.vmm.contract_tables  # noqa: F401 - only a change of version writes tables


def judge(
    original: Original, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> tuple[Change, ...]:
    """Return the changes to the header if `staged` may be committed.

    Args:
        original: the image file.
        request: what was asked for.
        staged: what the guest wrote; it stays as it is.
        claim: what the guest says.

    Raises:
        GuestFault: it may not be committed.
        ImageRejected: it may not, because a cluster is in use that by its refcount is free, or
            has one user only; or because it takes too much work to tell.
    """
    read_header = _remember(original.read)
    try:
        before = view_header(read_header)
        if not claim.amended:
            _judge_noop(before, request, staged)
            after = before
        else:
            amended = _Amended(original, read_header, before, request, staged)
            after = amended.judge(claim.atomic)
    except MalformedHeader as error:
        raise GuestFault(f"the guest accepted or made a malformed header: {error}") from error
    if any(after.fields.get(name, 0) != value for name, value in claim.fields.items()):
        raise GuestFault("the guest reports another version or feature word than it wrote")
    names = {**before.fields, **after.fields}
    changes = ((n, before.fields.get(n), after.fields.get(n)) for n in names)
    return tuple(Change(*change) for change in changes if change[1] != change[2])


def _remember(read: Reader) -> Reader:
    """Read each part of the file once: less work, and all is judged by the same bytes."""
    known: dict[tuple[int, int], bytes] = {}

    def read_once(offset: int, size: int) -> bytes:
        if (offset, size) not in known:
            known[offset, size] = read(offset, size)
        return known[offset, size]

    return read_once


def _judge_noop(before: HeaderView, request: AmendRequest, staged: StagedWrites) -> None:
    if not staged.is_empty():
        raise GuestFault("the guest reports a no-op, yet wrote")
    if not request.satisfied_by(before.fields):
        raise GuestFault("the guest reports a no-op, yet the image is not as asked")


class _Amended:
    """Judges an amend that changes something."""

    def __init__(
        self,
        original: Original,
        read_header: Reader,
        before: HeaderView,
        request: AmendRequest,
        staged: StagedWrites,
    ) -> None:
        self._original, self._read_header = original, read_header
        self._before = before
        self._request = request
        self._staged = staged
        self._end = min(1 << before.fields["cluster_bits"], HEADER_LIMIT) // SECTOR_SIZE
        self._phases = [_sectors(staged, phase) for phase in range(INSTAR_PHASE_COUNT)]
        self._header = [
            {number: data for number, data in phase.items() if number < self._end}
            for phase in self._phases
        ]

    def judge(self, atomic: bool) -> HeaderView:
        """Return the amended header."""
        before, request = self._before, self._request
        slack, switch = self._judge_places(atomic)
        # Bytes that the old header refers to are the same before the switch: whichever of the
        # sectors written so far reach the disk, the image reads as before.
        if not _reads_as(before, _overlay(self._read_header, slack)):
            raise GuestFault("the guest changes the old header before the switch")
        self._judge_cluster({**slack, **switch})
        after = view_header(_overlay(self._read_header, {**slack, **switch}))
        fields = request.expected_fields(before.fields)
        self._allow_new_places(fields, after)
        _judge_fields(before, after, fields)
        _judge_request(before, request)
        if after.name != before.name:
            raise GuestFault("the guest changes the backing file name")
        released = self._judge_extensions(after)
        self._judge_rest(after, released)
        return after

    def _judge_places(self, atomic: bool) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """The header's sectors before the switch and in it."""
        header, phases = self._header, self._phases
        slack, switch = header[INSTAR_PHASE_PREPARE], header[INSTAR_PHASE_SWITCH]
        last = max((*slack, *switch), default=self._end)
        switches_elsewhere = len(switch) != len(phases[INSTAR_PHASE_SWITCH])
        if last >= self._end or switches_elsewhere or self._is_cut(last):
            raise GuestFault("the guest reports success, yet wrote nothing or outside the header")
        moved = set(header[INSTAR_PHASE_REFCOUNT_TABLE])
        others = sum(map(len, header)) - len(slack) - len(switch) - len(moved)
        if 0 in slack or 0 not in switch or moved - {0} or others:
            raise GuestFault("the guest's phases are not slack, then the switch")
        if atomic != (len(switch) == 1) or (slack and not atomic):
            raise GuestFault("the guest's switch is not the one it reports")
        return slack, switch

    def _judge_cluster(self, sectors: dict[int, bytes]) -> None:
        """See that a change of version overwrites nothing else in the header's cluster.

        By its refcount there is nothing, and where something changes that the header does not use,
        there are only zeros; else all tables are looked at.
        """
        before, read = self._before, self._read_header
        if self._request.version in (None, before.fields["version"]):
            return
        name = range(before.fields["backing_file_offset"], 0)
        if before.name is not None:
            name = range(name.start, name.start + len(before.name))
        empty = not any(
            old not in (0, new)
            for number, data in sectors.items()
            for at, (old, new) in enumerate(
                zip(read(number * SECTOR_SIZE, SECTOR_SIZE), data, strict=False),
                number * SECTOR_SIZE,
            )
            if at >= len(before.raw) and at not in name
        )
        if empty and self._header_refcount() == 1:
            return
        from instar.vmm.contract_tables import judge_header_cluster

        judge_header_cluster(self._original, before)

    def _header_refcount(self) -> int:
        """What the image's tables say; 0 where they say nothing."""
        fields, read = self._before.fields, self._original.read
        if fields.get("refcount_order", 4) != 4:
            return 0
        table, size = fields["refcount_table_offset"], self._original.size
        block = int.from_bytes(read(table, 8), "big") if table < size else 0
        if block % (1 << fields["cluster_bits"]) or not 0 < block < size:
            return 0
        return int.from_bytes(read(block, 2), "big")

    def _is_cut(self, sector: int) -> bool:
        return len(self._read_header(sector * SECTOR_SIZE, SECTOR_SIZE)) < SECTOR_SIZE

    def _allow_new_places(self, fields: dict[str, int], after: HeaderView) -> None:
        """Let fields say where tables are now, which judge_tables() checks."""
        if fields["version"] == self._before.fields["version"]:
            return
        if 0 in self._header[INSTAR_PHASE_REFCOUNT_TABLE]:
            moved = self._header[INSTAR_PHASE_REFCOUNT_TABLE][0]
            now = self._read_header(0, SECTOR_SIZE)
            place = slice(*_REFCOUNT_TABLE)
            if moved != now[: place.start] + moved[place] + now[place.stop :]:
                raise GuestFault("the guest changes the old header before the switch")
            fields["refcount_table_offset"] = int.from_bytes(moved[place][:8], "big")
            fields["refcount_table_clusters"] = int.from_bytes(moved[place][8:], "big")
        if fields["version"] == 3 and fields["nb_snapshots"]:
            fields["snapshots_offset"] = after.fields["snapshots_offset"]

    def _judge_extensions(self, after: HeaderView) -> bytes | None:
        """Return the bitmaps extension if it is dropped and its clusters are to be released."""
        before, request = self._before, self._request
        kept = before.extensions
        bitmaps = [data for kind, data in kept if kind == _BITMAPS]
        if bitmaps and after.fields["version"] < before.fields["version"]:
            if not request.drop_bitmaps:
                raise GuestFault("the guest downgrades an image with bitmaps")
            kept = tuple(extension for extension in kept if extension[0] != _BITMAPS)
        if after.extensions != kept:
            raise GuestFault("the guest changes, adds or drops a header extension")
        # Else a program that does not know bitmaps has written, and may have used the clusters.
        if kept == before.extensions or not before.fields["autoclear_features"] & _BITMAPS_VALID:
            return None
        if len(bitmaps) > 1:
            raise GuestFault("the guest accepted two bitmaps extensions")
        return bitmaps[0]

    def _judge_rest(self, after: HeaderView, released: bytes | None) -> None:
        """Judge what is staged besides the header, if there is anything."""
        before, staged = self._before.fields, self._staged
        zeroes = self._judge_zeroes()
        header = sum(map(len, self._header))
        moved = any(before[name] != after.fields[name] for name in _PLACES)
        if header * SECTOR_SIZE == staged.size() and not (len(zeroes[0]) or moved or released):
            return
        if before["version"] == after.fields["version"]:
            raise GuestFault("the guest reports success, yet wrote nothing or outside the header")
        if (
            staged.end()
            > -(-self._original.size // SECTOR_SIZE) + self._request.max_growth // SECTOR_SIZE
        ):
            raise GuestFault("the guest lets the file grow by more than it may")
        from instar.vmm.contract_tables import judge_tables

        rest = [
            {number: data for number, data in phase.items() if number >= self._end}
            for phase in self._phases
        ]
        judge_tables(self._original, self._before, after, rest, zeroes, released)

    def _judge_zeroes(self) -> tuple[Numbers, Numbers]:
        try:
            return self._staged.zeroed()
        except ZeroedInUse as error:
            fault = GuestFault(str(error))
            if self._request.version != 2:
                raise fault from error
            from instar.vmm.contract_tables import explain

            refusal = explain(self._original, self._before, error.sector)
            if refusal is None:
                raise fault from error
            raise ImageRejected((refusal,)) from error


def _sectors(staged: StagedWrites, phase: int) -> dict[int, bytes]:
    return {
        first + at // SECTOR_SIZE: bytes(data[at : at + SECTOR_SIZE])
        for first, data in staged.extents(phase)
        for at in range(0, len(data), SECTOR_SIZE)
    }


def _reads_as(before: HeaderView, read: Reader) -> bool:
    """Whether `read` gives the same header, byte for byte."""
    try:
        now = view_header(read)
    except MalformedHeader:
        return False
    return (now.raw, now.name) == (before.raw, before.name)


def _judge_request(before: HeaderView, request: AmendRequest) -> None:
    """The request is one that has to be carried out, as far as the header tells."""
    version = request.version or before.fields["version"]
    features = before.fields.get("incompatible_features", 0)
    if request.satisfied_by(before.fields):
        raise GuestFault("the guest reports success, yet the image was as asked before")
    if features & ~_AMENDABLE or (version == 2 and features & ~_EXPRESSIBLE):
        raise GuestFault("the guest amends an image whose features forbid it")
    if version == 2 and request.lazy_refcounts:
        raise GuestFault("the guest reports lazy refcounts in a version 2 image")
    if version < before.fields["version"] and before.fields["refcount_order"] != 4:
        raise GuestFault("the guest downgrades an image with another refcount width")


def _judge_fields(before: HeaderView, after: HeaderView, expected: dict[str, int]) -> None:
    fields = dict(after.fields)
    del fields["backing_file_offset"]
    if before.raw[:4] != after.raw[:4] or fields != expected:
        raise GuestFault("the guest changes a header field that it must not change")
    version, old_version = after.fields["version"], before.fields["version"]
    if version == old_version:
        # Only the compatible and the autoclear word, which the fields above have settled.
        if before.raw[:80] + before.raw[96:] != after.raw[:80] + after.raw[96:]:
            raise GuestFault("the guest changes more of the header than the feature words")
    elif version == 3 and after.unknown != bytes(_V3_LENGTH - 104):
        raise GuestFault("the guest sets header fields that nobody asked for")


def _overlay(read: Reader, sectors: dict[int, bytes]) -> Reader:
    """Read through staged sectors; like `read`, no further than the end of the file."""

    def read_staged(offset: int, size: int) -> bytes:
        first = offset // SECTOR_SIZE
        data = bytearray(read(first * SECTOR_SIZE, offset + size - first * SECTOR_SIZE))
        for number, sector in sectors.items():
            at = (number - first) * SECTOR_SIZE
            if 0 <= at < len(data):
                data[at : at + SECTOR_SIZE] = sector[: len(data) - at]
        return bytes(data[offset - first * SECTOR_SIZE :])

    return read_staged
