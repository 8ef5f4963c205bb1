"""Test side: the worker fuzzer for a while; it notices when answers are not judged."""

from __future__ import annotations

from typing import Any

import pytest

from instar.vmm.fleet import document
from tests.fuzz.worker import FindingError, run


def test_workers_that_lie_find_nothing() -> None:
    tally = run(seed=1, runs=4000, seconds=120)
    assert tally.messages >= 4000
    assert tally.endings["honest"] > 1000
    assert {"believed", "refused"} < tally.endings.keys()


MENDS: dict[str, tuple[Any, str, Any]] = {
    "what the parent knows": (document, "_is_as_told", lambda *_: True),
    "ranges": (document, "_are_ranges", lambda *_: True),
    "types": (document, "_build", lambda kind, fields: kind(**fields)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "without"), MENDS.values(), ids=MENDS)
def test_the_fuzzer_finds_what_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, without: Any
) -> None:
    monkeypatch.setattr(module, name, without)
    with pytest.raises((FindingError, AttributeError, TypeError, ValueError)):
        run(seed=3, runs=60_000, seconds=120)
