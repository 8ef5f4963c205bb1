"""Host side: what a child that amends one image is told of the packages that keys need."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import pytest

from instar.vmm.fleet import child


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("/some/where/cryptography/__init__.py", ["/some/where"]), (None, []), ("", [])],
)
def test_a_package_is_found_by_its_file(
    origin: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("cryptography", None, origin=origin)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    assert child._find_packages() == expected


def test_a_package_that_is_not_installed_is_found_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert child._find_packages() == []
