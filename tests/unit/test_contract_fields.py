"""Test side: the write contract's rules on header fields and extensions, each of them broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from instar.vmm.request import AmendRequest
from tests.support.forge import Image, layout
from tests.support.planning import (
    ALL,
    DESCRIPTION,
    UNKNOWN,
    Case,
    downgrade,
    extension,
    fault_of,
    plan,
    toggle,
    upgrade,
)

FORMAT_AT = {2: 72 + 8, 3: 112 + 8}
"""Where the backing format's name is, in an amended header of that version."""
FIRST_AT = {version: at + 8 for version, at in FORMAT_AT.items()}
"""Where the extension behind it is."""

FIELD = "the guest changes a header field that it must not change"
EXTENSION = "the guest changes, adds or drops a header extension"
MORE = "the guest changes more of the header than the feature words"
UNASKED = "the guest sets header fields that nobody asked for"

V2_FIELDS = {
    "virtual size": (24, (64 << 20) + 512, 8),
    "virtual size, larger": (24, 1 << 62, 8),
    "cluster bits": (20, 17, 4),
    "encryption": (32, 1, 4),
    "L1 size": (36, 2, 4),
    "L1 table": (40, 5 << 16, 8),
    "L1 table, unaligned": (40, 1, 8),
    "refcount table": (48, 5 << 16, 8),
    "refcount table's size": (56, 2, 4),
    "number of snapshots": (60, 1, 4),
    "snapshot table": (64, 5 << 16, 8),
    "length of the backing file name": (16, 3, 4),
    "magic": (0, 0x514649FC, 4),
}
V3_FIELDS = {
    "an incompatible bit": (72, 1, 8),
    "the data file bit": (72, 4, 8),
    "an unknown incompatible bit": (72, 1 << 63, 8),
    "another compatible bit": (80, 3, 8),
    "an autoclear bit": (88, 1, 8),
    "refcount width": (96, 3, 4),
}


class TestFields:
    @pytest.mark.parametrize("make", ALL.values(), ids=ALL)
    @pytest.mark.parametrize(("offset", "value", "size"), V2_FIELDS.values(), ids=V2_FIELDS)
    def test_a_changed_field(
        self, make: Callable[[], Case], offset: int, value: int, size: int
    ) -> None:
        case = make()
        case.number(offset, value, size)
        assert fault_of(case) == FIELD

    @pytest.mark.parametrize("make", [upgrade, toggle])
    @pytest.mark.parametrize(("offset", "value", "size"), V3_FIELDS.values(), ids=V3_FIELDS)
    def test_a_feature_that_was_not_asked_for(
        self, make: Callable[[], Case], offset: int, value: int, size: int
    ) -> None:
        case = make()
        case.number(offset, value, size)
        assert fault_of(case) == FIELD

    @pytest.mark.parametrize("length", [104, 120])
    def test_another_header_length(self, length: int) -> None:
        case = plan(Image(version=2).build(), 3)
        case.number(100, length, 4)
        assert fault_of(case) == FIELD

    @pytest.mark.parametrize(
        ("make", "request_"),
        [
            (upgrade, AmendRequest.of(lazy_refcounts=True)),
            (upgrade, AmendRequest.of(compat=2)),
            (downgrade, AmendRequest.of(compat=3)),
            (downgrade, AmendRequest.of(lazy_refcounts=False)),
            (toggle, AmendRequest.of(compat=2)),
            (toggle, AmendRequest.of(lazy_refcounts=False)),
            (toggle, AmendRequest.of(compat=3)),
        ],
    )
    def test_something_else_than_was_asked_for(
        self, make: Callable[[], Case], request_: AmendRequest
    ) -> None:
        case = make()
        case.request = request_
        assert fault_of(case) == FIELD

    def test_unknown_autoclear_bits_that_stay(self) -> None:
        case = plan(Image(autoclear_features=0x10).build(), None, True)
        case.number(88, 0x10)
        assert fault_of(case) == FIELD

    @pytest.mark.parametrize("offset", [104, 105, 111])
    def test_an_additional_field_that_an_upgrade_sets(self, offset: int) -> None:
        case = upgrade()
        case.put(offset, b"\1")
        assert fault_of(case) == UNASKED


class TestTheRestOfTheHeader:
    @pytest.mark.parametrize("offset", [104, 111, 120, FIRST_AT[3] + 8])
    def test_a_toggle_changes_the_feature_words_and_nothing_else(self, offset: int) -> None:
        case = toggle()
        case.put(offset, b"\7")
        assert fault_of(case) == MORE

    def test_a_toggle_leaves_the_feature_names_alone(self) -> None:
        case = plan(Image(feature_name_table=True).build(), None, True)
        case.put(112 + 8 + 2, b"X")
        assert fault_of(case) == MORE

    def test_a_toggle_leaves_the_name_where_it_is(self) -> None:
        case = toggle()
        place = Image(**DESCRIPTION).regions()["backing_file"].start
        case.put(place + 64, b"base")
        case.number(8, place + 64)
        assert fault_of(case) == MORE

    @pytest.mark.parametrize(("make", "version"), [(upgrade, 3), (downgrade, 2)])
    def test_extensions_stay_as_they_are(self, make: Callable[[], Case], version: int) -> None:
        first = FIRST_AT[version] + 8
        names = layout.EXTENSION_FEATURE_NAME_TABLE.to_bytes(4, "big")
        for offset, data in (
            (FORMAT_AT[version], b"raw\0\0"),
            (FORMAT_AT[version] - 1, b"\4"),
            (first, b"F"),
            (first - 8, b"\x44ATA"),
            (first - 8, names),
            (first - 8, bytes(8)),
        ):
            case = make()
            case.put(offset, data)
            assert fault_of(case) == EXTENSION, (offset, data)


@pytest.mark.parametrize("make", [upgrade, downgrade])
class TestExtensions:
    def rewrite(self, case: Case, *extensions: bytes) -> None:
        """Put these extensions into the amended header, and the name behind them."""
        at = 72 if case.claim.fields["version"] == 2 else 112
        area = b"".join(extensions) + bytes(8)
        case.put(at, area + b"base")
        case.number(8, at + len(area))

    FORMAT = extension(layout.EXTENSION_BACKING_FORMAT, b"qcow2")
    FIRST, SECOND = (extension(each.type, each.data) for each in UNKNOWN)

    def test_the_same_ones_are_good(self, make: Callable[[], Case]) -> None:
        case = make()
        self.rewrite(case, self.FORMAT, self.FIRST, self.SECOND)
        case.judge()

    def test_feature_names_may_come_and_go(self, make: Callable[[], Case]) -> None:
        case = make()
        names = extension(layout.EXTENSION_FEATURE_NAME_TABLE, bytes(48))
        self.rewrite(case, self.FORMAT, names, self.FIRST, self.SECOND)
        case.judge()

    @pytest.mark.parametrize(
        "order",
        [(), (0,), (0, 1), (0, 2), (1, 2), (0, 2, 1), (1, 0, 2), (0, 0, 1, 2), (0, 1, 2, 2)],
    )
    def test_dropped_reordered_and_doubled_ones(
        self, make: Callable[[], Case], order: tuple[int, ...]
    ) -> None:
        case = make()
        known = (self.FORMAT, self.FIRST, self.SECOND)
        self.rewrite(case, *(known[number] for number in order))
        assert fault_of(case) == EXTENSION

    @pytest.mark.parametrize(
        "added",
        [
            extension(layout.EXTENSION_DATA_FILE, b"/etc/shadow"),
            extension(layout.EXTENSION_BACKING_FORMAT, b"raw"),
            extension(0x33333333, b""),
        ],
    )
    def test_an_added_one(self, make: Callable[[], Case], added: bytes) -> None:
        case = make()
        self.rewrite(case, self.FORMAT, self.FIRST, self.SECOND, added)
        assert fault_of(case) == EXTENSION
