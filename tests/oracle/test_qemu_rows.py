"""Every recorded behaviour of qemu-img: instar does the same, or differs on purpose. Test side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle.agreement import assert_as_recorded
from tests.support.qemu import Qemu
from tests.support.rows import RECORDED, REFUSALS, Row


@pytest.mark.kvm
@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row.name)
def test_instar_does_as_recorded(row: Row, tmp_path: Path, qemu_versions: tuple[Qemu, ...]) -> None:
    assert_as_recorded(row, tmp_path, qemu_versions)


def test_names_of_rows_are_unique() -> None:
    names = [row.name for row in (*RECORDED, *REFUSALS)]
    assert sorted(set(names)) == sorted(names)
