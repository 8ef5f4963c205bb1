"""Test side: what the tests of the sandbox share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sandbox.rogues import Rogues


@pytest.fixture(scope="session")
def rogues(tmp_path_factory: pytest.TempPathFactory) -> Rogues:
    """The payloads that break the rules."""
    return Rogues(tmp_path_factory.mktemp("rogues"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an image goes."""
    return tmp_path / "image.qcow2"
