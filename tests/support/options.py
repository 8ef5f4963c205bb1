"""Test side: a value for every option there is, so that a test names only those it is about."""

from __future__ import annotations

from typing import Any

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
