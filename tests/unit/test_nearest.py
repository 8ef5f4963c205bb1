"""Test side: a word is suggested only where it is near, or where it was begun."""

from __future__ import annotations

import pytest

from instar.vmm.base.nearest import nearest

KNOWN = ("amend", "rebase", "resize", "info", "check")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("amned", "amend"),
        ("AMEND", "amend"),
        ("rebuse", "rebase"),
        ("reb", "rebase"),
        ("re", None),  # begins two
        ("create", None),
        ("map", None),
        ("inf", "info"),
        ("ifno", "info"),
        ("foo", None),
        ("", None),
        ("a" * 100_000, None),
    ],
)
def test_a_word_is_near_or_begun(word: str, meant: str | None) -> None:
    assert nearest(word, KNOWN) == meant


def test_of_nothing_nothing_is_near() -> None:
    assert nearest("amend", ()) is None
