"""Test side: the versions of qemu that the locking tests run against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.qemu import Qemu


@pytest.fixture(params=["oldest", "newest"])
def boundary_qemu(request: pytest.FixtureRequest, qemu_versions: tuple[Qemu, ...]) -> Qemu:
    """The oldest and the newest version of qemu at hand."""
    return qemu_versions[0 if request.param == "oldest" else -1]
