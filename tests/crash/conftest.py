"""What the tests of crashes and failures share. Test side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.bench import Bench


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A Bench of the case that is the parameter."""
    bench = Bench(request.param, tmp_path_factory.mktemp("bench"))
    with bench.judge:
        yield bench
