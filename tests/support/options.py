"""Test side: a value for every option there is, so that a test names only those it is about."""

from __future__ import annotations

import struct
from typing import Any

from instar import abi
from instar.vmm.amend.messages import OPTION_KINDS
from instar.vmm.base.record import FrozenDict
from instar.vmm.request.kinds import FLAG, TEXT
from instar.vmm.request.options import OPTIONS

_USUAL: dict[str, Any] = {"compat": "1.1", "lazy_refcounts": True, "refcount_bits": 16}


def told(**changed: Any) -> FrozenDict[str, Any]:
    """What the result of a lazy toggle tells, with some options changed."""
    usual = {FLAG: False, TEXT: None}
    values = {row.key: None if row.may_lack else usual.get(row.kind, row.least) for row in OPTIONS}
    return FrozenDict({**values, **_USUAL, **changed})


def raw(**changed: Any) -> dict[int, int | bytes]:
    """The same as the guest tells it: by keys, in the ABI's form, without text."""
    values = told(**changed)
    return {
        row.abi_key: row.take(values[row.key] or False if row.kind == FLAG else values[row.key])
        for row in OPTIONS
        if row.kind != TEXT
    }


_RECORD = struct.Struct(abi.OptionRecord_FORMAT)


def read_options(records: bytes) -> dict[int, int | bytes]:
    """Take the option records of a request apart, as the guest does: the values by their keys.

    ValueError if they are malformed.
    """
    values: dict[int, int | bytes] = {}
    at = latest = 0
    while at < len(records):
        if len(records) - at < _RECORD.size:
            raise ValueError(records)
        key, kind, length = _RECORD.unpack_from(records, at)
        start = at + _RECORD.size
        at = start + length + -length % 8
        raw, padding = records[start : start + length], records[start + length : at]
        if at > len(records) or any(padding) or key <= latest or OPTION_KINDS.get(key) != kind:
            raise ValueError(records)
        latest, values[key] = key, _read_value(kind, raw)
    return values


def _read_value(kind: int, raw: bytes) -> int | bytes:
    value = int.from_bytes(raw, "little")
    if kind == abi.OPTION_KIND_BYTES:
        sound = len(raw) <= abi.OPTION_BYTES_MAX and 0 not in raw
    else:
        sound = len(raw) == 8 and (value < 2 or kind != abi.OPTION_KIND_FLAG)
    if not sound:
        raise ValueError(raw)
    return raw if kind == abi.OPTION_KIND_BYTES else value
