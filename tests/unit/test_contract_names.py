"""Test side: a guest that is taken over cannot commit another name than the one asked for."""

from __future__ import annotations

from typing import Any

import pytest

from instar import abi
from instar.vmm.amend.result import SWITCH
from instar.vmm.base.record import FrozenDict
from instar.vmm.contract.terms import Change
from instar.vmm.request import AmendRequest
from tests.support.forge import Extension, Image, layout
from tests.support.planning import SECTOR, Case, fault_of, plan, plan_request

FORMAT, DATA_FILE = layout.EXTENSION_BACKING_FORMAT, layout.EXTENSION_DATA_FILE
BACKED: dict[str, Any] = {"backing_file": b"base", "backing_format": b"qcow2"}
EXTERNAL: dict[str, Any] = {"data_file": b"disk.raw", "data_file_raw": True}

NAME = "the guest changes the backing file name"
EXTENSION = "the guest changes, adds or drops a header extension"
FIELD = "the guest changes a header field that it must not change"
WITHOUT = "the guest leaves a backing file without a format, or a format without a file"


def change(name: bytes | None = None, form: bytes | None = None, **others: Any) -> AmendRequest:
    return AmendRequest.of(backing_file=name, backing_fmt=form, change_backing=True, **others)


def rebased(**image: Any) -> Case:
    """Another name and format, all in the first sector."""
    return plan_request(Image(**{**BACKED, **image}).build(), change(b"other", b"raw"))


def moved() -> Case:
    """A name that is too long for the first sector."""
    return plan_request(Image(**BACKED).build(), change(b"n" * 600, b"raw"))


def renamed() -> Case:
    """Another data file."""
    return plan_request(Image(**EXTERNAL).build(), AmendRequest.of(data_file=b"new.raw"))


def removed() -> Case:
    """No backing file any more."""
    return plan_request(Image(**BACKED).build(), change(b""))


def raw_off() -> Case:
    return plan_request(Image(**EXTERNAL).build(), AmendRequest.of(data_file_raw=False))


HONEST = (rebased, moved, renamed, removed, raw_off)


def place(case: Case, text: bytes) -> int:
    """Where a text is in the amended header cluster, in which it is once."""
    found = case.amended()[: 1 << 16]
    assert found.count(text) == 1
    return found.index(text)


@pytest.mark.parametrize("make", HONEST)
def test_the_honest_cases_of_these_tests_are_good(make: Any) -> None:
    make().judge()


def test_what_changes_is_told_by_what_the_host_sees() -> None:
    assert [*rebased().judge()] == [
        Change("backing_file_size", 4, 5),
        Change("backing_file", "base", "other"),
        Change("backing_fmt", "qcow2", "raw"),
    ]


class TestBackingFile:
    def test_a_byte_of_the_name_is_another(self) -> None:
        for make, name in ((rebased, b"other"), (moved, b"n" * 600)):
            case = make()
            at = place(case, name) + len(name) - 1
            case.put(at, b"X", SWITCH if at < SECTOR else abi.INSTAR_PHASE_PREPARE)
            assert fault_of(case) == NAME

    def test_the_name_is_cut_or_goes_on(self) -> None:
        for size in (4, 6):
            case = rebased()
            case.number(16, size, 4)
            assert fault_of(case) in (NAME, FIELD)

    def test_the_name_stays_the_old_one(self) -> None:
        case = plan_request(Image(**BACKED).build(), change(b"basE", b"raw"))
        case.put(place(case, b"basE"), b"base")
        assert fault_of(case) == NAME

    def test_the_name_goes_though_it_shall_stay(self) -> None:
        case = rebased()
        case.number(8, 0)
        assert fault_of(case) == NAME

    def test_a_name_is_left_that_shall_go(self) -> None:
        case = removed()
        case.number(8, 136)
        case.number(16, 4, 4)
        case.put(136, b"base")
        assert fault_of(case) == FIELD

    def test_another_format(self) -> None:
        case = rebased()
        case.put(place(case, b"raw\0"), b"nbd")
        assert fault_of(case) == EXTENSION

    def test_the_format_goes(self) -> None:
        case = rebased()
        case.put(place(case, b"raw\0") - 8, bytes(4))
        assert fault_of(case) == EXTENSION

    def test_a_second_format_after_the_first(self) -> None:
        case = rebased()
        case.put(place(case, b"raw\0") + 8, b"\xe2\x79\x2a\xca\0\0\0\3nbd\0\0\0\0\0" + bytes(8))
        case.number(8, 200)
        case.put(200, b"other")
        assert fault_of(case) == EXTENSION

    def test_an_extension_that_names_a_data_file_besides(self) -> None:
        case = rebased()
        case.put(place(case, b"raw\0") + 8, b"DATA\0\0\0\3/x\0\0\0\0\0\0" + bytes(8))
        case.number(8, 200)
        case.put(200, b"other")
        assert fault_of(case) == EXTENSION

    def test_extensions_change_their_places(self) -> None:
        case = rebased(extensions=(Extension(0x11111111, b"11111111"),))
        start = place(case, b"raw\0") - 8
        both = case.amended()[start : start + 32]
        case.put(start, both[16:] + both[:16])
        assert fault_of(case) == EXTENSION

    def test_a_feature_bit_besides(self) -> None:
        for at, word in ((72, "incompatible"), (80, "compatible"), (88, "autoclear")):
            case = rebased()
            case.number(at, 8 if at == 72 else 1)
            case.says(f"{word}_features", 8 if at == 72 else 1)
            assert fault_of(case) == FIELD

    def test_fields_that_nobody_knows_change(self) -> None:
        case = rebased()
        case.put(105, b"\1")
        assert fault_of(case) == "the guest sets header fields that nobody asked for"

    def test_the_new_name_lies_on_the_old_one_before_the_switch(self) -> None:
        case = plan_request(
            Image(**BACKED, backing_file_offset=4096).build(), change(b"n" * 600, b"raw")
        )
        case.put(4096, b"BASE", abi.INSTAR_PHASE_PREPARE)
        case.claims(atomic=True)
        assert fault_of(case) == "the guest changes the old header before the switch"

    def test_slack_is_written_that_nothing_refers_to(self) -> None:
        case = rebased()
        case.put(8192, b"x", abi.INSTAR_PHASE_PREPARE)
        assert fault_of(case) == "the guest writes sector 16 in phase 0 for nothing"

    def test_a_sector_outside_the_header_cluster(self) -> None:
        case = rebased()
        case.put(1 << 16, b"\0")
        case.claims(atomic=False)
        assert fault_of(case).startswith("the guest reports success, yet wrote nothing or outside")


class TestLeave:
    """What the request does not allow is no change that a guest can make."""

    def without_leave(self, case: Case, **options: Any) -> Case:
        case.request = AmendRequest.of(**options)
        return case

    def test_a_confirmation_changes_nothing(self) -> None:
        case = self.without_leave(rebased(), backing_file=b"other", backing_fmt=b"raw")
        assert fault_of(case) == FIELD
        case = self.without_leave(rebased(), backing_file=b"base", backing_fmt=b"qcow2")
        assert fault_of(case) == FIELD

    def test_a_toggle_changes_no_name(self) -> None:
        case = self.without_leave(rebased(), lazy_refcounts=True)
        assert fault_of(case) == FIELD

    def test_a_noop_confirms_another_name(self) -> None:
        data = Image(**BACKED).build()
        for request in (
            AmendRequest.of(backing_file=b"base"),
            AmendRequest.of(backing_file=b"other", backing_fmt=b"qcow2"),
            change(b"other"),
            AmendRequest.of(data_file=b"x"),
        ):
            case = plan(data, 3)
            case.request = request
            assert fault_of(case) == "the guest reports a no-op, yet the image is not as asked"

    def test_a_name_without_a_format(self) -> None:
        case = plan_request(Image().build(), change(b"other", b"raw"))
        start = place(case, b"raw\0") - 8
        case.put(start, bytes(16))
        case.request = change(b"other")
        assert fault_of(case) == WITHOUT

    def test_a_format_without_a_name(self) -> None:
        case = plan_request(Image(backing_format=b"qcow2").build(), change(b"b", b"raw"))
        case.number(8, 0)
        case.number(16, 0, 4)
        case.request = change(None, b"raw")
        assert fault_of(case) == WITHOUT

    def test_a_backing_file_over_a_raw_data_file(self) -> None:
        image = Image(**EXTERNAL).build()
        case = plan_request(image, change(b"b", b"raw", data_file_raw=False))
        case.number(88, 2)
        case.says("autoclear_features", 2)
        assert fault_of(case) == FIELD
        case.request = change(b"b", b"raw")
        assert fault_of(case) == "the guest gives a backing file to an image with a raw data file"


class TestDataFile:
    def test_a_byte_of_the_name_is_another(self) -> None:
        case = renamed()
        case.put(place(case, b"new.raw"), b"X")
        assert fault_of(case) == EXTENSION

    def test_the_old_name_comes_once_more(self) -> None:
        case = renamed()
        case.put(place(case, b"new.raw") + 8, b"DATA\0\0\0\x08disk.raw" + bytes(8))
        assert fault_of(case) == EXTENSION

    def test_the_name_goes(self) -> None:
        case = renamed()
        case.put(place(case, b"new.raw") - 8, bytes(4))
        assert fault_of(case) == EXTENSION

    def test_raw_goes_or_stays_where_nobody_asked(self) -> None:
        case = renamed()
        case.number(88, 0)
        case.says("autoclear_features", 0)
        assert fault_of(case) == FIELD

    def test_an_image_without_a_data_file_gets_the_name_of_one(self) -> None:
        case = renamed()
        for at, word in ((72, "incompatible_features"), (88, "autoclear_features")):
            case.data = case.data[:at] + bytes(8) + case.data[at + 8 :]
            case.number(at, 0)
            case.says(word, 0)
        assert fault_of(case) == "the guest names a data file of an image that has none"

    def test_raw_off_changes_another_bit(self) -> None:
        case = raw_off()
        case.number(80, 1)
        case.says("compatible_features", 1)
        assert fault_of(case) == FIELD

    def test_raw_on(self) -> None:
        image = Image(**EXTERNAL).build()
        case = plan_request(image, AmendRequest.of(data_file_raw=False))
        case.data = case.amended()
        case.stage({0: image[:SECTOR]})
        case.says("autoclear_features", 2)
        case.request = AmendRequest.of(data_file_raw=True)
        assert fault_of(case) == FIELD
        case = plan(Image(data_file=b"disk").build(), None, True)
        case.request = AmendRequest.of(lazy_refcounts=True, data_file_raw=True)
        assert fault_of(case) == "the guest reports a raw data file that was not one before"


def test_the_texts_that_are_told_are_the_hosts_own() -> None:
    from instar.vmm.contract.judge import judge
    from instar.vmm.contract.terms import Original

    case = rebased()
    original = Original(lambda at, size: case.data[at : at + size], len(case.data), case.work_max)
    told = judge(original, case.request, case.staged(), case.claim).told
    assert told == FrozenDict(
        backing_file=b"other", backing_fmt=b"raw", data_file=b"", data_file_raw=None
    )
