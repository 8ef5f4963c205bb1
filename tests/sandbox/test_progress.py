"""Test side: an amend that takes long tells how far it is, and no other one costs an exit more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import instar
from tests.support.forge import Data, Image

pytestmark = pytest.mark.kvm

BITS = 9
MANY = Image(
    cluster_bits=BITS, size=8000 << BITS, clusters={n: Data(b"d") for n in range(0, 8000, 2)}
)


@pytest.mark.parametrize(
    "asked", [{"refcount_bits": 64}, {"size": 10 << BITS, "shrink": True}], ids=["width", "size"]
)
def test_a_change_of_many_tables_tells_its_progress(path: Path, asked: dict[str, Any]) -> None:
    MANY.write(path)
    quiet = instar.amend(path, dry_run=True, **asked).vm_exits
    told: list[float] = []
    loud = instar.amend(path, progress=lambda done, total: told.append(done / total), **asked)
    assert told == sorted(told)
    assert len(told) >= 10
    assert told[0] < 0.1
    assert 0.8 < told[-1] <= 1
    assert loud.vm_exits == quiet + len(told)
