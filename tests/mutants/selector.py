"""Test side: a plugin of pytest that runs chosen tests in their order, and notes what failed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

CHOSEN = Path(os.environ["INSTAR_MUTANTS_CHOSEN"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what was chosen, in its order."""
    there = {item.nodeid: item for item in items}
    items[:] = [there[name] for name in json.loads(CHOSEN.read_text("utf-8")) if name in there]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say which test failed."""
    if report.failed:
        CHOSEN.with_suffix(".failed").write_text(report.nodeid, "utf-8")
