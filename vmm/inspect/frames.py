"""Host side: what the guest of `instar info` says of one image: frames, judged as they come."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    FRAME_INFO,
    FRAME_INFO_BITMAPS,
    FRAME_INFO_FEATURES,
    FRAME_INFO_LUKS,
    FRAME_INFO_SNAPSHOTS,
    FRAME_INFO_TEXT,
    FRAME_REFUSALS,
    INFO_LUKS_SIZE,
    INFO_READ_BITMAPS,
    INFO_READ_EXTENSIONS,
    INFO_READ_HEADER,
    INFO_READ_SNAPSHOTS,
    INFO_RECORDS_MAX,
    INFO_RESULT_MAGIC,
    INFO_SNAPSHOT_ID_MAX,
    INFO_SNAPSHOT_NAME_MAX,
    INFO_TEXT_BACKING_FILE,
    INFO_TEXT_BACKING_FORMAT,
    INFO_TEXT_DATA_FILE,
    REFUSAL_MAX,
    AmendRefusal_FORMAT,
    InfoBitmap_FORMAT,
    InfoFeature_FORMAT,
    InfoResult_FORMAT,
    InfoSnapshot_FORMAT,
)

from ..base.errors import GuestFault
from ..base.record import record

_RESULT = Struct(InfoResult_FORMAT)
_REFUSAL = Struct(AmendRefusal_FORMAT)
_TEXT = Struct("<II")
_FEATURE = Struct(InfoFeature_FORMAT)
_SNAPSHOT = Struct(InfoSnapshot_FORMAT)
_BITMAP = Struct(InfoBitmap_FORMAT)

INFO_READ_ALL = INFO_READ_HEADER | INFO_READ_EXTENSIONS | INFO_READ_SNAPSHOTS | INFO_READ_BITMAPS
_TEXTS_MAX = {  # in bytes; a data file's name is as long as the header's part that is read
    INFO_TEXT_BACKING_FILE: 1023,
    INFO_TEXT_BACKING_FORMAT: 15,
    INFO_TEXT_DATA_FILE: 1 << 16,
}


@record
class SnapshotRecord:
    """An internal snapshot, as the guest read it."""

    id: bytes
    name: bytes
    vm_state_size: int
    disk_size: int
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    icount: int
    """2^64 - 1 if there is none."""


@record
class BitmapRecord:
    """A persistent bitmap, as the guest read it."""

    name: bytes
    flags: int
    granularity_bits: int


class InfoFrames:
    """Takes the frames of one run."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self.texts: dict[int, bytes] = {}
        self.features: dict[tuple[int, int], bytes] = {}
        """The names of unknown bits, by kind and number of the bit."""
        self.snapshots: list[SnapshotRecord] = []
        self.bitmaps: list[BitmapRecord] = []
        self.luks: bytes | None = None
        self.refusals: tuple[tuple[int, ...], ...] = ()
        self.read = 0
        """What could be read, INFO_READ_*; this and the next are told last."""
        self.bitmaps_counted = 0
        """How many bitmaps the image says it has."""
        self._result: tuple[int, ...] = ()
        self._records = 0

    def receive(self, kind: int, payload: bytes) -> None:
        """Take one frame. GuestFault if it is malformed or out of order."""
        takers = {
            FRAME_INFO_TEXT: self._take_text,
            FRAME_INFO_FEATURES: self._take_features,
            FRAME_INFO_SNAPSHOTS: self._take_snapshots,
            FRAME_INFO_BITMAPS: self._take_bitmaps,
            FRAME_INFO_LUKS: self._take_luks,
            FRAME_REFUSALS: self._take_refusals,
            FRAME_INFO: self._take_result,
        }
        if kind not in takers:
            raise GuestFault(f"frame of type {kind} from an operation that has none")
        self._records += len(payload)
        if self._records > INFO_RECORDS_MAX + (1 << 17):
            raise GuestFault(f"{self._records} bytes of records")
        takers[kind](payload)

    def complete(self) -> None:
        """See that the guest has said all, and counted it right. GuestFault."""
        magic, refusals, read, counted, snapshots, bitmaps, _offset, reserved = self._result
        told = len(self.refusals), len(self.snapshots), len(self.bitmaps)
        if (
            magic != INFO_RESULT_MAGIC
            or reserved
            or read & ~INFO_READ_ALL
            or told != (refusals, snapshots, bitmaps)
            or bitmaps > counted
        ):
            raise GuestFault("a result that contradicts what was told")
        self.read, self.bitmaps_counted = read, counted

    def _take_text(self, payload: bytes) -> None:
        if len(payload) < _TEXT.size:
            raise GuestFault(f"a text of {len(payload)} bytes")
        text, offset = _TEXT.unpack_from(payload)
        before = self.texts.get(text, b"")[:offset]  # nothing, where an extension comes again
        whole = before + payload[_TEXT.size :]
        if len(before) != offset or len(whole) > _TEXTS_MAX.get(text, -1):
            raise GuestFault(f"text {text} of {len(whole)} bytes")
        self.texts[text] = whole

    def _take_features(self, payload: bytes) -> None:
        if len(payload) % _FEATURE.size:
            raise GuestFault(f"feature names of {len(payload)} bytes")
        for kind, bit, name in _FEATURE.iter_unpack(payload):
            self.features[kind, bit] = name.partition(b"\0")[0]

    def _take_snapshots(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            if len(payload) - at < _SNAPSHOT.size:
                raise GuestFault(f"snapshots of {len(payload)} bytes")
            fields = _SNAPSHOT.unpack_from(payload, at)
            _, vm_state, disk, clock, icount, seconds, nanoseconds, _, id_size, name_size = fields
            middle = at + _SNAPSHOT.size + id_size
            at = middle + name_size
            if id_size > INFO_SNAPSHOT_ID_MAX or name_size > INFO_SNAPSHOT_NAME_MAX:
                raise GuestFault(f"a snapshot with names of {id_size} and {name_size} bytes")
            if at > len(payload):
                raise GuestFault(f"snapshots of {len(payload)} bytes")
            names = payload[middle - id_size : middle], payload[middle:at]
            times = seconds, nanoseconds, clock
            self.snapshots.append(SnapshotRecord(*names, vm_state, disk, *times, icount))

    def _take_bitmaps(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            if len(payload) - at < _BITMAP.size:
                raise GuestFault(f"bitmaps of {len(payload)} bytes")
            _, _, flags, granularity_bits, name_size = _BITMAP.unpack_from(payload, at)
            start = at + _BITMAP.size
            at = start + name_size
            if at > len(payload) or granularity_bits > 63:
                raise GuestFault(f"a bitmap with 2^{granularity_bits} bytes for each of its bits")
            self.bitmaps.append(BitmapRecord(payload[start:at], flags, granularity_bits))

    def _take_luks(self, payload: bytes) -> None:
        if len(payload) != INFO_LUKS_SIZE or self.luks is not None:
            raise GuestFault(f"a LUKS header of {len(payload)} bytes")
        self.luks = payload

    def _take_refusals(self, payload: bytes) -> None:
        if not payload or len(payload) % _REFUSAL.size or self.refusals:
            raise GuestFault(f"refusals of {len(payload)} bytes")
        self.refusals = tuple(_REFUSAL.iter_unpack(payload))
        if len(self.refusals) > REFUSAL_MAX:
            raise GuestFault(f"{len(self.refusals)} refusals")

    def _take_result(self, payload: bytes) -> None:
        if len(payload) != _RESULT.size:
            raise GuestFault(f"a result of {len(payload)} bytes")
        self._result = _RESULT.unpack(payload)
