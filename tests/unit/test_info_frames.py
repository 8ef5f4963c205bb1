"""Test side: what the guest of an info says is held to be in order, bounded, and consistent."""

from __future__ import annotations

from struct import Struct

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.inspect.frames import BitmapRecord, InfoFrames, SnapshotRecord

SNAPSHOT, BITMAP = Struct(abi.InfoSnapshot_FORMAT), Struct(abi.InfoBitmap_FORMAT)
FEATURE, RESULT = Struct(abi.InfoFeature_FORMAT), Struct(abi.InfoResult_FORMAT)
REFUSAL = Struct(abi.AmendRefusal_FORMAT)
TEXT, FEATURES = abi.FRAME_INFO_TEXT, abi.FRAME_INFO_FEATURES
SNAPSHOTS, BITMAPS = abi.FRAME_INFO_SNAPSHOTS, abi.FRAME_INFO_BITMAPS
LUKS, REFUSALS, INFO = abi.FRAME_INFO_LUKS, abi.FRAME_REFUSALS, abi.FRAME_INFO


def told(*frames: tuple[int, bytes]) -> InfoFrames:
    found = InfoFrames()
    for kind, payload in frames:
        found.receive(kind, payload)
    return found


def fault(*frames: tuple[int, bytes]) -> str:
    with pytest.raises(GuestFault) as caught:
        told(*frames)
    return str(caught.value)


def text(number: int, offset: int, part: bytes) -> tuple[int, bytes]:
    return TEXT, Struct("<II").pack(number, offset) + part


@pytest.mark.parametrize(
    ("number", "most"),
    [
        (abi.INFO_TEXT_BACKING_FILE, 1023),
        (abi.INFO_TEXT_BACKING_FORMAT, 15),
        (abi.INFO_TEXT_DATA_FILE, 65536),
    ],
)
def test_a_text_comes_in_parts_and_has_its_length(number: int, most: int) -> None:
    first, rest = text(number, 0, b"12345"), text(number, 5, b"x" * (most - 5))
    assert told(first, rest).texts == {number: b"12345" + b"x" * (most - 5)}
    assert fault(first, (rest[0], rest[1] + b"x")) == f"text {number} of {most + 1} bytes"
    assert fault(first, text(number, 6, b"7")) == f"text {number} of 6 bytes"
    assert told(first, text(number, 4, b"6")).texts == {number: b"12346"}
    assert told(first, text(number, 0, b"")).texts == {number: b""}
    assert told(first, text(number, 0, b"again")).texts == {number: b"again"}


def test_a_text_of_no_number_or_without_a_place_is_a_fault() -> None:
    for number in (0, abi.INFO_TEXT_DATA_FILE + 1):
        assert fault(text(number, 0, b"")) == f"text {number} of 0 bytes"
    assert fault((TEXT, bytes(7))) == "a text of 7 bytes"


def test_features_have_their_names() -> None:
    names = FEATURE.pack(0, 63, b"one") + FEATURE.pack(2, 5, b"a" * 46)
    assert told((FEATURES, names)).features == {(0, 63): b"one", (2, 5): b"a" * 46}
    assert fault((FEATURES, names[:-1])) == "feature names of 95 bytes"


def snapshot(id_size: int = 1, name_size: int = 2) -> bytes:
    fields = SNAPSHOT.pack(1, 2, 3, 4, 5, 6, 7, 8, id_size, name_size)
    return fields + b"i" * id_size + b"n" * name_size


def test_snapshots_are_what_the_guest_read() -> None:
    one = SnapshotRecord(b"i", b"nn", 2, 3, 6, 7, 4, 5)
    frame = SNAPSHOTS, snapshot() + snapshot(127, 255) + snapshot(0, 0)
    found = told(frame, (SNAPSHOTS, snapshot())).snapshots
    assert found[0] == found[3] == one
    assert [(len(each.id), len(each.name)) for each in found[1:3]] == [(127, 255), (0, 0)]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (snapshot(128, 0), "a snapshot with names of 128 and 0 bytes"),
        (snapshot(0, 256), "a snapshot with names of 0 and 256 bytes"),
        (snapshot()[:-1], "snapshots of 58 bytes"),
        (snapshot() + bytes(SNAPSHOT.size - 1), "snapshots of 114 bytes"),
        (snapshot() + b"x", "snapshots of 60 bytes"),
    ],
)
def test_snapshots_that_are_not_whole_are_a_fault(payload: bytes, message: str) -> None:
    assert fault((SNAPSHOTS, payload)) == message


def bitmap(bits: int = 16, size: int = 3) -> bytes:
    return BITMAP.pack(1, 2, 3, bits, size) + b"b" * size


def test_bitmaps_are_what_the_guest_read() -> None:
    found = told((BITMAPS, bitmap() + bitmap(63, 0)), (BITMAPS, bitmap())).bitmaps
    one = BitmapRecord(b"bbb", 3, 16)
    assert found == [one, BitmapRecord(b"", 3, 63), one]
    for payload in (bitmap(64), bitmap()[:-1]):
        assert fault((BITMAPS, payload)).startswith("a bitmap with 2^")
    assert fault((BITMAPS, bitmap() + bytes(23))) == "bitmaps of 50 bytes"


def test_a_luks_header_comes_once_and_whole() -> None:
    header = bytes(592)
    assert told((LUKS, header)).luks == header
    for frames in ([header[1:]], [header + b"x"], [header, header]):
        assert (
            fault(*((LUKS, one) for one in frames)) == f"a LUKS header of {len(frames[-1])} bytes"
        )


def test_refusals_come_once_and_are_no_more_than_there_can_be() -> None:
    one = REFUSAL.pack(1, 2, 3, 4, 5)
    assert told((REFUSALS, one * 64)).refusals == ((1, 2, 3, 4, 5),) * 64
    assert fault((REFUSALS, one * 65)) == "65 refusals"
    for frames in ([b""], [one[1:]], [one, one]):
        assert (
            fault(*((REFUSALS, each) for each in frames)) == f"refusals of {len(frames[-1])} bytes"
        )


def test_no_more_is_taken_than_the_abi_allows() -> None:
    frames = [(BITMAPS, bitmap(16, 3584 - BITMAP.size))] * 256
    assert len(told(*frames).bitmaps) == 256
    assert fault(*frames, (TEXT, b"x")) == f"{0xC0000 + (1 << 17) + 1} bytes of records"


@pytest.mark.parametrize("kind", [0, abi.FRAME_RESULT, abi.FRAME_INFO - 1, abi.FRAME_CHECK])
def test_a_frame_of_another_operation_is_a_fault(kind: int) -> None:
    assert fault((kind, b"")) == f"frame of type {kind} from an operation that has none"


GOOD = {"magic": abi.INFO_RESULT_MAGIC, "refusals": 1, "read": 15, "counted": 2}
GOOD |= {"snapshots": 1, "bitmaps": 1, "crypto_offset": 1 << 16, "reserved": 0}


@pytest.mark.parametrize(
    ("changed", "is_good"),
    [
        *(({}, True), ({"read": 0}, True), ({"counted": 1}, True), ({"crypto_offset": 7}, True)),
        *(({"magic": 0}, False), ({"refusals": 0}, False), ({"refusals": 2}, False)),
        *(({"read": 16}, False), ({"counted": 0}, False), ({"reserved": 1}, False)),
        *(({"snapshots": 0}, False), ({"bitmaps": 0}, False), ({"snapshots": 2}, False)),
    ],
)
def test_a_result_counts_what_was_told(changed: dict[str, int], is_good: bool) -> None:
    result = {**GOOD, **changed}
    frames = told(
        (REFUSALS, REFUSAL.pack(1, 2, 3, 4, 5)),
        *((SNAPSHOTS, snapshot()), (BITMAPS, bitmap()), (INFO, RESULT.pack(*result.values()))),
    )
    if is_good:
        frames.complete()
        assert (frames.read, frames.bitmaps_counted) == (result["read"], result["counted"])
    else:
        with pytest.raises(GuestFault, match=r"^a result that contradicts what was told$"):
            frames.complete()


def test_a_result_is_whole() -> None:
    raw = RESULT.pack(*GOOD.values())
    for size in (0, RESULT.size - 1):
        assert fault((INFO, raw[:size])) == f"a result of {size} bytes"
