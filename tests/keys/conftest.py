"""Test side: a LUKS file that qemu-img made, once for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instar.vmm.request.keys import AddKey
from tests.keys.files import FIRST, apply, change, make


@pytest.fixture(scope="session")
def luks(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with FIRST in slot 0 and nothing else."""
    options: dict[str, Any] = {"cipher-alg": "aes-128"}
    return make(tmp_path_factory.mktemp("luks") / "disk", **options).read_bytes()


@pytest.fixture(scope="session")
def full(luks: bytes) -> bytes:
    """The same with the passphrase "k" and its number in each of the other slots."""
    for number in range(1, 8):
        keys = AddKey(FIRST, b"k%d" % number, slot=number, iter_time=0)
        luks = apply(luks, change(luks, keys))
    return luks


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"
