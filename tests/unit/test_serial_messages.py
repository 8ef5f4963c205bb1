"""Test side: what a guest says is judged frame by frame, and must not contradict itself."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import abi
from instar.vmm.amend.messages import (
    OPTION_KINDS,
    Messages,
    look_ahead,
    pack_config,
    pack_options,
    read_told,
)
from instar.vmm.base.errors import GuestFault
from instar.vmm.qcow2.probe import FixedHeader
from instar.vmm.request import AmendRequest
from instar.vmm.request.keys import EraseKey
from tests.support.options import raw, read_options

RESULT = struct.Struct(abi.AmendResult_FORMAT)
REFUSAL = struct.Struct(abi.AmendRefusal_FORMAT)
CONFIG = struct.Struct(abi.AmendConfig_FORMAT)

GOOD = {
    "magic": abi.AMEND_RESULT_MAGIC,
    "target_format": abi.AMEND_FORMAT_QCOW2,
    "action": abi.AMEND_ACTION_AMENDED,
    "error": abi.AMEND_OK,
    "resulting_version": 3,
    "resulting_lazy_refcounts": 1,
    "atomic": 1,
    "refusal_count": 0,
    "resulting_incompatible_features": 0,
    "resulting_compatible_features": 1,
    "resulting_autoclear_features": 2,
    "reserved": 0,
}

OPTIONS = raw(data_file_raw=True)
NEXT = abi.OPTION_KEY_MAX + 1

BAD: dict[str, tuple[dict[str, int], str]] = {
    "another magic": ({"magic": 0}, "a result with a bad magic, format or reserved field"),
    "another format": ({"target_format": 1}, "a result with a bad magic, format or reserved field"),
    "a reserved field": ({"reserved": 1}, "a result with a bad magic, format or reserved field"),
    "an unknown action": ({"action": 2}, "a result with action 2"),
    "an error without refusals": ({"error": 3}, "a result with error 3 and 0 refusals"),
    "refusals that did not come": (
        {"error": 3, "refusal_count": 1},
        "a result with error 3 and 1 refusals",
    ),
    "lazy refcounts without their bit": (
        {"resulting_compatible_features": 2},
        "a result that contradicts itself",
    ),
    "the lazy refcounts bit alone": (
        {"resulting_lazy_refcounts": 0},
        "a result that contradicts itself",
    ),
    "lazy refcounts of two": ({"resulting_lazy_refcounts": 2}, "a result that contradicts itself"),
    "atomic of two": ({"atomic": 2}, "a result that contradicts itself"),
}


def result(**changed: int) -> bytes:
    return RESULT.pack(*{**GOOD, **changed}.values())


def refusal(reason: int = 7, error: int = 8, *details: int) -> bytes:
    return REFUSAL.pack(reason, error, *(*details, 0, 0, 0)[:3])


def judge(*frames: tuple[int, bytes]) -> tuple[Any, Any]:
    """What becomes of these frames; before a result without refusals come the options of GOOD."""
    messages = Messages()
    kinds = {kind for kind, _ in frames}
    for kind, payload in frames:
        if kind == abi.FRAME_RESULT and not {abi.FRAME_REFUSALS, abi.FRAME_OPTIONS} & kinds:
            messages.receive(abi.FRAME_OPTIONS, pack_options(OPTIONS))
        messages.receive(kind, payload)
    return messages.complete()


def judge_refusals(refusals: bytes, **changed: int) -> tuple[Any, Any]:
    words = {"error": 8, "action": 0, **changed}
    return judge((abi.FRAME_REFUSALS, refusals), (abi.FRAME_RESULT, result(**words)))


def test_the_fields_of_these_tests_are_those_of_the_abi() -> None:
    assert tuple(GOOD) == abi.AmendResult_FIELDS


def test_a_good_result_is_a_claim() -> None:
    refusals, claim = judge((abi.FRAME_RESULT, result()))
    assert refusals == ()
    assert (claim.amended, claim.atomic) == (True, True)
    assert claim.fields == {
        "size": OPTIONS[abi.OPTION_SIZE],
        "version": 3,
        "incompatible_features": 0,
        "compatible_features": 1,
        "autoclear_features": 2,
        "refcount_order": 4,
    }


def test_a_noop_is_a_claim() -> None:
    _, claim = judge((abi.FRAME_RESULT, result(action=abi.AMEND_ACTION_NOOP, atomic=0)))
    assert (claim.amended, claim.atomic) == (False, False)


@pytest.mark.parametrize(("changed", "message"), BAD.values(), ids=BAD)
def test_a_bad_result_is_a_fault(changed: dict[str, int], message: str) -> None:
    with pytest.raises(GuestFault) as caught:
        judge((abi.FRAME_RESULT, result(**changed)))
    assert str(caught.value) == message


def test_refusals_come_with_their_details() -> None:
    refusals, _ = judge_refusals(refusal(7, 8) + refusal(31, 3, 5), refusal_count=2)
    assert refusals == ((7, 8, 0, 0, 0), (31, 3, 5, 0, 0))


def test_the_action_of_a_refusal_means_nothing() -> None:
    refusals, _ = judge_refusals(refusal(), refusal_count=1, action=4711)
    assert refusals == ((7, 8, 0, 0, 0),)


def test_as_many_refusals_as_the_abi_allows_are_taken() -> None:
    refusals, _ = judge_refusals(refusal() * abi.REFUSAL_MAX, refusal_count=abi.REFUSAL_MAX)
    assert len(refusals) == abi.REFUSAL_MAX


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFFFFFF])
def test_a_wrong_count_of_refusals_is_a_fault(count: int) -> None:
    with pytest.raises(GuestFault, match=f"^a result with error 8 and {count} refusals$"):
        judge_refusals(refusal() * 2, refusal_count=count)


def test_more_refusals_than_the_abi_allows_are_a_fault() -> None:
    with pytest.raises(GuestFault, match="and 65 refusals"):
        judge_refusals(refusal() * 65, refusal_count=65)


def test_refusals_without_an_error_are_a_fault() -> None:
    with pytest.raises(GuestFault, match=r"^a result with error 0 and 1 refusals$"):
        judge_refusals(refusal(), refusal_count=1, error=abi.AMEND_OK)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 63])
def test_refusals_that_are_not_whole_are_a_fault(size: int) -> None:
    with pytest.raises(GuestFault, match=f"^refusals of {size} bytes$"):
        judge((abi.FRAME_REFUSALS, bytes(size)))


def test_refusals_come_once() -> None:
    with pytest.raises(GuestFault, match=r"^frame of type 2 with 32 bytes$"):
        judge((abi.FRAME_REFUSALS, refusal()), (abi.FRAME_REFUSALS, refusal()))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (0, 0),
        (7, 64),
        (0xFFFFFFFF, 64),
        (99, abi.AmendProgress_SIZE),
        (99, abi.AmendResult_SIZE),
        (abi.FRAME_RESULT, 0),
        (abi.FRAME_RESULT, abi.AmendResult_SIZE - 1),
        (abi.FRAME_RESULT, abi.AmendResult_SIZE + 1),
        (abi.FRAME_PROGRESS, 0),
        (abi.FRAME_PROGRESS, abi.AmendProgress_SIZE - 1),
        (abi.FRAME_PROGRESS, abi.AmendProgress_SIZE + 1),
    ],
)
def test_a_frame_of_unknown_type_or_wrong_size_is_a_fault(kind: int, size: int) -> None:
    with pytest.raises(GuestFault, match=f"^frame of type {kind} with {size} bytes$"):
        judge((kind, bytes(size)))


def test_no_result_at_all_is_a_fault() -> None:
    with pytest.raises(GuestFault, match=r"^the guest ended without a result$"):
        judge()


def packed_names(*names: bytes) -> bytes:
    return b"".join(struct.pack("<H", len(name)) + name for name in names)


class TestNames:
    def test_they_come_before_the_refusals(self) -> None:
        messages = Messages()
        messages.receive(abi.FRAME_NAMES, packed_names(b"one", b"", b"\xff" * 1023))
        messages.receive(abi.FRAME_REFUSALS, refusal(28, 3, 2))
        messages.receive(abi.FRAME_RESULT, result(error=3, action=0, refusal_count=1))
        assert messages.complete()[0] == ((28, 3, 2, 0, 0),)
        assert messages.names == (b"one", b"", b"\xff" * 1023)

    @pytest.mark.parametrize(
        "raw", [b"\1", b"\3\0ab", packed_names(b"one") + b"\0", b"\xff\xff" * 9]
    )
    def test_names_that_are_not_whole_are_a_fault(self, raw: bytes) -> None:
        with pytest.raises(GuestFault, match=f"^bitmap names of {len(raw)} bytes$"):
            judge((abi.FRAME_NAMES, raw))

    def test_no_names_are_a_fault(self) -> None:
        with pytest.raises(GuestFault, match=r"^bitmap names of 0 bytes$"):
            judge((abi.FRAME_NAMES, b""))

    def test_they_come_once(self) -> None:
        names = (abi.FRAME_NAMES, packed_names(b"one"))
        with pytest.raises(GuestFault, match=r"^frame of type 4 with 5 bytes$"):
            judge(names, names)

    def test_they_do_not_come_behind_the_refusals(self) -> None:
        with pytest.raises(GuestFault, match=r"^frame of type 4 with 5 bytes$"):
            judge((abi.FRAME_REFUSALS, refusal()), (abi.FRAME_NAMES, packed_names(b"one")))

    def test_they_come_with_a_refusal_only(self) -> None:
        with pytest.raises(GuestFault, match=r"^bitmap names without a refusal$"):
            judge((abi.FRAME_NAMES, packed_names(b"one")), (abi.FRAME_RESULT, result()))


def packed_snapshot(number: int, identity: bytes, name: bytes) -> bytes:
    return struct.pack("<IHH", number, len(identity), len(name)) + identity + name


class TestSnapshots:
    ONE = (abi.FRAME_SNAPSHOTS, packed_snapshot(3, b"7", b"tag"))

    def test_they_come_before_the_refusals(self) -> None:
        messages = Messages()
        messages.receive(
            abi.FRAME_SNAPSHOTS, packed_snapshot(3, b"7", b"tag") + packed_snapshot(9, b"", b"")
        )
        messages.receive(abi.FRAME_REFUSALS, refusal(29, 3, 3))
        messages.receive(abi.FRAME_RESULT, result(error=3, action=0, refusal_count=1))
        assert messages.complete()[0] == ((29, 3, 3, 0, 0),)
        assert messages.snapshots == {3: (b"7", b"tag"), 9: (b"", b"")}

    @pytest.mark.parametrize("raw", [b"", b"\1" * 7, ONE[1][:-1], ONE[1] + b"\0"])
    def test_names_that_are_not_whole_are_a_fault(self, raw: bytes) -> None:
        with pytest.raises(GuestFault, match=f"^snapshot names of {len(raw)} bytes$"):
            judge((abi.FRAME_SNAPSHOTS, raw))

    def test_they_come_once(self) -> None:
        with pytest.raises(GuestFault, match=r"^frame of type 5 with 12 bytes$"):
            judge(self.ONE, self.ONE)

    def test_they_do_not_come_behind_the_refusals(self) -> None:
        with pytest.raises(GuestFault, match=r"^frame of type 5 with 12 bytes$"):
            judge((abi.FRAME_REFUSALS, refusal()), self.ONE)

    def test_they_come_with_a_refusal_only(self) -> None:
        with pytest.raises(GuestFault, match=r"^snapshot names without a refusal$"):
            judge(self.ONE, (abi.FRAME_RESULT, result()))


class TestOptions:
    """Rogue payloads send what is malformed; these are the rest."""

    def test_their_values_come_by_their_keys(self) -> None:
        messages = Messages()
        messages.receive(abi.FRAME_OPTIONS, pack_options(OPTIONS))
        messages.receive(abi.FRAME_RESULT, result())
        messages.complete()
        assert messages.options == OPTIONS

    @pytest.mark.parametrize("bits", [0, 3, 24, 128, 1 << 32])
    def test_a_width_that_there_is_not_is_a_fault(self, bits: int) -> None:
        records = pack_options({**OPTIONS, abi.OPTION_REFCOUNT_BITS: bits})
        with pytest.raises(GuestFault, match=rf"^a result with refcounts of {bits} bits$"):
            judge((abi.FRAME_OPTIONS, records), (abi.FRAME_RESULT, result()))

    def test_version_2_has_refcounts_of_16_bits(self) -> None:
        words = {"resulting_version": 2, "resulting_lazy_refcounts": 0}
        words |= {"resulting_compatible_features": 0, "resulting_autoclear_features": 0}
        told = {**OPTIONS, abi.OPTION_COMPAT: 2, abi.OPTION_LAZY_REFCOUNTS: 0}
        told[abi.OPTION_DATA_FILE_RAW] = 0
        end = (abi.FRAME_RESULT, result(**words))
        _, claim = judge((abi.FRAME_OPTIONS, pack_options(told)), end)
        assert "refcount_order" not in claim.fields
        told[abi.OPTION_REFCOUNT_BITS] = 8
        with pytest.raises(GuestFault, match=r"^a result that contradicts its options$"):
            judge((abi.FRAME_OPTIONS, pack_options(told)), end)

    def test_every_kind_can_be_packed_and_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(OPTION_KINDS, NEXT, abi.OPTION_KIND_BYTES)
        for text in (b"", b"x", b"eight by", bytes(range(1, 256)), b"\xff" * abi.OPTION_BYTES_MAX):
            values = {**OPTIONS, NEXT: text}
            packed = pack_options(values)
            assert len(packed) % 8 == 0
            assert read_options(packed) == values

    @pytest.mark.parametrize("key", OPTION_KINDS.keys() - OPTIONS.keys())
    @pytest.mark.parametrize("text", [b"", b"eight by", b"x" * 24])
    def test_text_is_not_told(self, key: int, text: bytes) -> None:
        with pytest.raises(GuestFault, match=r"^option"):
            read_told(pack_options({**OPTIONS, key: text}))

    @pytest.mark.parametrize("key", OPTIONS)
    def test_an_option_that_is_not_told_is_a_fault(self, key: int) -> None:
        told = {other: value for other, value in OPTIONS.items() if other != key}
        with pytest.raises(GuestFault, match=r"^a result with the options"):
            judge((abi.FRAME_OPTIONS, pack_options(told)), (abi.FRAME_RESULT, result()))

    @given(st.binary(max_size=80))
    def test_any_bytes_are_options_or_a_fault(self, records: bytes) -> None:
        with suppress(GuestFault):
            assert pack_options(read_told(records)) == records


class TestProgress:
    def shown(self, *steps: tuple[int, int]) -> list[tuple[int, int]]:
        shown: list[tuple[int, int]] = []
        messages = Messages(lambda done, total: shown.append((done, total)))
        for step in steps:
            messages.receive(abi.FRAME_PROGRESS, struct.pack("<QQ", *step))
        return shown

    def test_progress_is_shown_as_it_comes(self) -> None:
        assert self.shown((0, 4), (2, 4), (4, 4)) == [(0, 4), (2, 4), (4, 4)]

    def test_progress_beyond_the_end_is_not_shown(self) -> None:
        assert self.shown((5, 4), ((1 << 64) - 1, 0)) == []

    def test_progress_that_nobody_wants_is_dropped(self) -> None:
        Messages().receive(abi.FRAME_PROGRESS, struct.pack("<QQ", 1, 2))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 7),
            st.binary(max_size=200)
            | st.lists(st.integers(0, 3), min_size=12, max_size=12).map(
                lambda words: RESULT.pack(*(abi.AMEND_RESULT_MAGIC, 2, *words[2:-1], 0))
            )
            | st.integers(0, 70).map(lambda count: refusal() * count)
            | st.tuples(st.integers(0, 4), st.integers(0, 2)).map(
                lambda values: pack_options(dict(enumerate(values, 1)))
            ),
        ),
        max_size=4,
    )
)
def test_any_frames_are_a_claim_or_a_fault(frames: list[tuple[int, bytes]]) -> None:
    try:
        refusals, claim = judge(*frames)
        assert len(refusals) <= abi.REFUSAL_MAX
        assert isinstance(claim.amended, bool)
    except GuestFault:
        pass


class EntryOnly:
    """An image in which every entry is the same."""

    def __init__(self, entry: int, size: int = 1 << 30) -> None:
        self._entry, self.size = entry, size
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        return self._entry.to_bytes(8, "big")


class TestConfig:
    HEADER = FixedHeader(3, 16, 1 << 30, 0x10, 1, 2, 4)

    def pack(
        self, request: AmendRequest, *, progress: bool = False, debug: bool = False
    ) -> dict[str, Any]:
        raw = pack_config(self.HEADER, request, 12345, 6789, progress=progress, debug=debug)
        fields = dict(zip(abi.AmendConfig_FIELDS, CONFIG.unpack_from(raw), strict=True))
        self.options = read_options(raw[abi.AmendConfig_SIZE :])
        assert fields.pop("options_size") == len(raw) - abi.AmendConfig_SIZE
        assert len(raw) <= abi.OPERATION_CONFIG_SIZE
        return fields

    def test_it_says_what_the_host_saw(self) -> None:
        assert self.pack(AmendRequest.of()) == {
            "magic": abi.AMEND_CONFIG_MAGIC,
            "target_format": abi.AMEND_FORMAT_QCOW2,
            "flags": abi.AMEND_FLAG_QUIET,
            "sector_size": 512,
            "cluster_size": 1 << 16,
            "current_version": 3,
            "current_refcount_bits": 16,
            "pad": 0,
            "current_incompatible_features": 0x10,
            "current_compatible_features": 1,
            "virtual_size": 1 << 30,
            "image_size": 12345,
            "current_autoclear_features": 2,
            "max_growth": 0,
            "work_max": 6789,
            "read_along_0": 0,
            "read_along_1": 0,
            "options_pad": 0,
            "backing_size": abi.BACKING_SIZE_UNKNOWN,
            "reserved": bytes(8),
        }

    @pytest.mark.parametrize(
        ("version", "request_", "table", "size", "along"),
        [
            (2, AmendRequest.of(compat=3), 0x10000, 0x40000, (0x10000, 0x30000)),
            (
                2,
                AmendRequest.of(compat=3, lazy_refcounts=True),
                0x10000,
                0x30001,
                (0x10000, 0x30000),
            ),
            (2, AmendRequest.of(compat=3), 0x10000, 0x30000, (0, 0)),
            (2, AmendRequest.of(compat=3), 0x10100, 0x40000, (0, 0)),
            (2, AmendRequest.of(compat=3), (1 << 64) - 512, 0x40000, (0, 0)),
            (2, AmendRequest.of(compat=2), 0x10000, 0x40000, (0, 0)),
            (2, AmendRequest.of(lazy_refcounts=True), 0x10000, 0x40000, (0, 0)),
            (3, AmendRequest.of(compat=3), 0x10000, 0x40000, (0, 0)),
            (3, AmendRequest.of(compat=2), 0x10000, 0x40000, (0, 0)),
        ],
    )
    def test_it_says_where_an_upgrade_looks_for_a_refcount(
        self, version: int, request_: AmendRequest, table: int, size: int, along: tuple[int, int]
    ) -> None:
        header = FixedHeader(version, 16, 1 << 30, 0, 0, 0, 4, table, 2)
        image: Any = EntryOnly(0, size)
        wanted, table_along = look_ahead(header, request_, image)
        assert (table_along, image.asked) == ((0, 0), [])
        raw = pack_config(header, request_, size, 6789, wanted, progress=False, debug=False)
        fields = dict(zip(abi.AmendConfig_FIELDS, CONFIG.unpack_from(raw), strict=True))
        assert (fields["read_along_0"], fields["read_along_1"]) == wanted == along

    # Clusters of 64 KiB: a table maps 512 MiB, or 256 MiB with extended entries.
    @pytest.mark.parametrize(
        ("old", "new", "extended", "entry", "table"),
        [
            (64 << 20, 10 << 30, False, 0x30000, (0x80000 + 0x2000, 0xE000)),
            (10 << 30, 64 << 20, False, 0x30000, (0x80000 + 0x2000, 0xE000)),
            (64 << 20, (64 << 20) + 512, False, 0x30000, (0x80000 + 0x2000, 0xE000)),
            ((64 << 20) + 512, 10 << 30, False, 0x30000, (0x80000 + 0x2000, 0xE000)),
            ((64 << 20) - 512, 10 << 30, False, 0x30000, (0x80000 + 0x1E00, 0xE200)),
            (64 << 20, 10 << 30, True, 0x30000, (0x80000 + 0x4000, 0xC000)),
            (512, 10 << 30, False, 0x30000, (0x80000, 0x10000)),
            ((512 << 20) - 512, 10 << 30, False, 0x30000, (0x80000 + 0xFE00, 0x200)),
            ((512 << 20) + (1 << 16), 10 << 30, False, 0x30008, (0x80000, 0x10000)),
            ((33 << 30) + (1 << 16), 64 << 30, False, 0x30210, (0x80000, 0x10000)),
            (512 << 20, 10 << 30, False, 0, (0, 0)),
            (256 << 20, 10 << 30, True, 0, (0, 0)),
            (0, 10 << 30, False, 0, (0, 0)),
        ],
    )
    @pytest.mark.parametrize("flags", [0, 1 << 63, 1 << 63 | 0x1FF])
    def test_it_says_which_part_of_a_table_a_change_of_the_size_looks_at(
        self,
        old: int,
        new: int,
        extended: bool,
        entry: int,
        table: tuple[int, int],
        flags: int,
    ) -> None:
        header = FixedHeader(3, 16, old, 0x10 * extended, 0, 0, 4, 0x10000, 1, 0x30000)
        request = AmendRequest.of(size=new, shrink=True)
        image: Any = EntryOnly(0x80000 | flags)
        along, wanted = look_ahead(header, request, image)
        assert wanted == table
        assert image.asked == ([(entry, 8)] if entry else [])
        assert along[0] == (entry or along[0]) // 512 * 512

    @pytest.mark.parametrize(
        ("entry", "size", "asked"), [(1 << 63, 1 << 30, 1), (0x80000, 0x30000, 0)]
    )
    def test_no_table_is_looked_at_where_there_is_none(
        self, entry: int, size: int, asked: int
    ) -> None:
        header = FixedHeader(3, 16, 64 << 20, 0, 0, 0, 4, 0x10000, 1, 0x30000)
        image: Any = EntryOnly(entry, size)
        assert look_ahead(header, AmendRequest.of(size=1 << 30), image)[1] == (0, 0)
        assert len(image.asked) == asked

    def test_no_table_is_looked_at_for_another_change(self) -> None:
        header = FixedHeader(3, 16, 64 << 20, 0, 0, 0, 4, 0x10000, 1, 0x30000)
        image: Any = EntryOnly(0x80000)
        assert look_ahead(header, AmendRequest.of(compat=2), image)[1] == (0, 0)
        assert image.asked == []

    def test_no_table_is_looked_at_where_the_size_of_clusters_is_out_of_range(self) -> None:
        request, image = AmendRequest.of(size=1 << 30), cast("Any", EntryOnly(0x80000))
        for bits in (0, 8, 22, 63, 1 << 31):
            header = FixedHeader(3, bits, 64 << 20, 0, 0, 0, 4, 0x10000, 1, 0x30000)
            assert look_ahead(header, request, image)[1] == (0, 0)
        assert image.asked == []

    @pytest.mark.parametrize("version", [None, 2, 3])
    @pytest.mark.parametrize("lazy", [None, False, True])
    def test_it_says_what_is_asked_for(self, version: int | None, lazy: bool | None) -> None:
        assert (
            self.pack(AmendRequest.of(compat=version, lazy_refcounts=lazy))["flags"]
            == abi.AMEND_FLAG_QUIET
        )
        asked = {abi.OPTION_COMPAT: version, abi.OPTION_LAZY_REFCOUNTS: lazy}
        assert self.options == {key: value for key, value in asked.items() if value is not None}

    @pytest.mark.parametrize(
        ("request_", "flag"),
        [
            (AmendRequest.of(compat=2, drop_bitmaps=True), abi.AMEND_FLAG_DROP_BITMAPS),
            (AmendRequest.of(compat=2, fixed_size=True), abi.AMEND_FLAG_FIXED_SIZE),
            (AmendRequest.of(size=512, shrink=True), abi.AMEND_FLAG_SHRINK),
            (AmendRequest.of(change_backing=True), abi.AMEND_FLAG_CHANGE_BACKING),
            (AmendRequest.of(max_growth=1 << 30, backing_size=1 << 30), 0),
            (AmendRequest.of(repair=True), abi.AMEND_FLAG_REPAIR),
            (AmendRequest.of(mends="leaks"), abi.AMEND_FLAG_REPAIR_LEAKS),
            (AmendRequest.of(mends="all"), abi.AMEND_FLAG_REPAIR_ALL),
            (AmendRequest.of(keys=EraseKey(1)), abi.AMEND_FLAG_KEYS),
            (AmendRequest.of(), 0),
        ],
    )
    def test_it_says_what_may_be_done_for_it(self, request_: AmendRequest, flag: int) -> None:
        assert self.pack(request_)["flags"] == flag | abi.AMEND_FLAG_QUIET
        assert self.pack(request_, debug=True)["flags"] == flag

    def test_it_says_how_far_the_file_may_grow(self) -> None:
        assert self.pack(AmendRequest.of(compat=2, max_growth=1 << 40))["max_growth"] == 1 << 40

    def test_it_asks_for_progress_and_text_where_they_are_wanted(self) -> None:
        flags = self.pack(AmendRequest.of(), progress=True, debug=True)["flags"]
        assert flags == abi.AMEND_FLAG_PROGRESS
