"""Test side: the planner reads the options that it is asked for, or says that it cannot."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import abi
from instar.vmm.amend.messages import OPTION_KINDS, pack_config, pack_options, read_told
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.qcow2.probe import parse_fixed_header
from instar.vmm.request import AmendRequest
from tests.support.forge import Image
from tests.support.project import load_planner

IMAGE = Image(size=1 << 16).build()


def record(key: int, kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", key, kind, len(value) if length is None else length) + value


COMPAT = record(abi.OPTION_COMPAT, abi.OPTION_KIND_NUMBER, b"\2".ljust(8, b"\0"))
LAZY = record(abi.OPTION_LAZY_REFCOUNTS, abi.OPTION_KIND_FLAG, bytes(8))

MALFORMED = {
    "half a head": COMPAT + LAZY[:4],
    "a head alone": LAZY[:8],
    "half a value": LAZY[:12],
    "a value beyond the page": record(1, 2, bytes(8), 0xFFFFFFFF),
    "a value that wraps around": record(1, 2, bytes(8), 0xFFFFFFF9),
    "a number of 4 bytes": record(1, 2, bytes(8), 4),
    "a number of 16 bytes": record(1, 2, bytes(16)),
    "a flag of two": record(2, 1, b"\2".ljust(8, b"\0")),
    "one key twice": COMPAT + COMPAT,
    "keys that descend": LAZY + COMPAT,
    "no option's key": record(0, 1, bytes(8)),
    "an unknown key": record(abi.OPTION_KEY_MAX + 1, 1, bytes(8)),
    "an unknown kind": record(1, 9, bytes(8)),
    "another option's kind": record(1, 1, bytes(8)),
    "bytes for a number": record(1, 3, b"22222222"),
}


def plan(records: bytes) -> Any:
    """What the planner library answers to these option records, on an image of version 3."""
    planner = load_planner()
    header = parse_fixed_header(IMAGE[:512])
    assert header is not None
    request = AmendRequest.of()
    raw = bytearray(pack_config(header, request, len(IMAGE), WORK_MIN, progress=False, debug=False))
    at = 104
    assert struct.unpack_from("<I", raw, at) == (0,)
    struct.pack_into("<I", raw, at, len(records))
    outcome = planner.ffi.new("struct host_outcome *")
    planner.lib.host_plan(bytes(raw + records), IMAGE, len(IMAGE), 0, outcome)
    return outcome


@pytest.mark.parametrize("records", MALFORMED.values(), ids=MALFORMED)
def test_malformed_options_are_not_understood(records: bytes) -> None:
    outcome = plan(records)
    assert (outcome.understood, outcome.planned, outcome.write_count) == (False, False, 0)


@pytest.mark.parametrize("compat", [None, 2, 3])
@pytest.mark.parametrize("lazy", [None, 0, 1])
def test_what_holds_in_the_end_comes_back_as_records(compat: int | None, lazy: int | None) -> None:
    asked = {abi.OPTION_COMPAT: compat, abi.OPTION_LAZY_REFCOUNTS: lazy}
    outcome = plan(pack_options({k: value for k, value in asked.items() if value is not None}))
    assert outcome.understood
    assert outcome.planned == (compat != 2 or not lazy)
    told = read_told(bytes(outcome.options[0 : outcome.options_size]))
    if not outcome.planned:
        assert told == {}
        return
    kinds = OPTION_KINDS.items()
    assert told.keys() == {key for key, kind in kinds if kind != abi.OPTION_KIND_BYTES}
    assert (told[abi.OPTION_COMPAT], told[abi.OPTION_LAZY_REFCOUNTS]) == (compat or 3, lazy or 0)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_the_guest_reads_options_as_the_host_writes_them(records: bytes) -> None:
    outcome = plan(records)
    if outcome.understood:
        assert len(records) % 8 == 0
