"""Test side: headers of LUKS are read or refused, and the fuzzer finds a faulty reader."""

from __future__ import annotations

import time
from typing import Any

import pytest

from instar.vmm.base.errors import ImageRejected
from instar.vmm.base.luks_layout import STRIPES, place_of
from instar.vmm.base.refusals import luks_refusal
from instar.vmm.luks import header as reader
from tests.fuzz.luks import NAMES, Finding, check_one, run_batch
from tests.fuzz.luks_headers import may_be_read
from tests.support.luks_headers import SORTS, make_header


def test_headers_of_every_sort_are_accepted() -> None:
    for sort in SORTS:
        raw = make_header(*sort)
        assert check_one(raw, 1 << 30) == ""
        found = reader.read_header(raw, 1 << 30)
        assert (found.mode, found.key_bytes, found.hash) == sort


def test_headers_at_all_bounds_are_accepted_or_refused() -> None:
    found = run_batch("1", 20_000)
    assert {*found} == {"", *NAMES}
    assert min(found.values()) > 100  # of each, some


def test_a_seed_makes_the_same_headers() -> None:
    assert run_batch("2", 500) == run_batch("2", 500)


def _skip_areas(*_: Any) -> None:
    pass


def _ignore_payload(header: reader.Header, _end: int) -> None:
    check_areas(header, 1 << 40)


def _take_memory(header: reader.Header, end: int) -> None:
    bytearray(1 << 20)
    check_areas(header, end)


def _take_time(header: reader.Header, end: int) -> None:
    stop = time.thread_time() + 0.1
    while time.thread_time() < stop:
        pass
    check_areas(header, end)


def _never_end(_header: reader.Header, _end: int) -> None:
    while True:
        pass


def _fail(_header: reader.Header, _end: int) -> None:
    raise OverflowError


def _misname(_place: int, _value: int) -> None:
    raise ImageRejected((luks_refusal("luks_password"),))


def _any_stripes(raw: bytes, number: int) -> reader.Slot:
    whole = bytearray(raw)
    at = place_of(number, 44)
    whole[at : at + 4] = STRIPES.to_bytes(4, "big")
    return read_slot(bytes(whole), number)


check_areas, read_slot = reader._check_areas, reader._read_slot
FAULTS: dict[str, tuple[str, object, str]] = {
    "areas are not looked at": ("_check_areas", _skip_areas, "accepted"),
    "areas may lie in the data": ("_check_areas", _ignore_payload, "accepted"),
    "areas may lie in the header": ("_FIRST_AREA", 0, "accepted"),
    "a state is not looked at": ("INACTIVE", 0, "luks_header"),
    "any number of stripes is fine": ("_read_slot", _any_stripes, "accepted"),
    "a hash is missing": ("_HASHES", {}, "luks_cipher"),
    "a mode is there by half": ("MODES", {}, "KeyError"),
    "an exception is let through": ("_check_areas", _fail, "OverflowError"),
    "it takes memory": ("_check_areas", _take_memory, "too much memory"),
    "it takes time": ("_check_areas", _take_time, "too long"),
    "it never ends": ("_check_areas", _never_end, "does not come to an end"),
    "a refusal is of another name": ("_refuse", _misname, "refused as luks_password"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_fuzzer_finds_a_fault_of_the_reader(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    attribute, value, said = FAULTS[name]
    monkeypatch.setattr("tests.fuzz.luks._HANGS", 0.5)
    monkeypatch.setattr(reader, attribute, value)
    with pytest.raises(Finding, match=said):
        run_batch("1", 5000)


def test_the_model_knows_what_is_wrong() -> None:
    raw = make_header("xts-plain64", 64, "sha256")
    end = 512 * (8 + 8 * 504 - 4)
    assert may_be_read(raw, end)
    assert not may_be_read(raw, end - 1)
    assert not may_be_read(raw[:-1], end)
