"""Random adds and erases by three programs in turn leave the right passphrases. Test side.

`scripts/key_sequences` makes more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.keys.sequences import run_sequence

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("form", ["qcow2", "luks"])
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_sequence_leaves_the_expected_passphrases(tmp_path: Path, form: str, seed: int) -> None:
    assert run_sequence(tmp_path / "i", form, seed).total() > 0
