"""Test side: a caller hears of progress and text, and an error of its own comes back as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.sandbox.rogues import Rogues, open_descriptors
from tests.support.forge import Data, Image

pytestmark = pytest.mark.kvm

SCANNED = Image(clusters={0: Data(b"\5"), 9000: Data(b"\6")})


class CallersError(Exception):
    """An error that instar has never heard of."""


ERRORS = [CallersError("mine"), BrokenPipeError(32, "the pipe is mine"), KeyboardInterrupt()]


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_arguments: object) -> None:
        raise error

    return fail


def test_progress_goes_up_to_the_end(path: Path) -> None:
    SCANNED.write(path)
    steps: list[tuple[int, int]] = []
    result = instar.amend(path, compat="0.10", progress=lambda *step: steps.append(step))
    assert result.action == "amended"
    assert steps
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] > 0
    assert len({total for _, total in steps}) == 1


def test_without_a_caller_for_it_there_is_no_progress_to_pay_for(path: Path) -> None:
    SCANNED.write(path)
    quiet = instar.amend(path, compat="0.10", dry_run=True)
    shown = instar.amend(path, compat="0.10", dry_run=True, progress=lambda *_step: None)
    assert quiet.vm_exits < shown.vm_exits


def test_text_comes_once_at_the_end(path: Path) -> None:
    SCANNED.write(path)
    texts: list[str] = []
    instar.amend(path, compat="0.10", debug=texts.append)
    assert texts == ["amend: planning\n"]


def test_a_guest_without_text_calls_nobody(rogues: Rogues, path: Path) -> None:
    texts: list[str] = []
    rogues.run("exit_without_result", path, debug=texts.append)
    assert texts == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("callback", ["progress", "debug"])
def test_an_error_of_the_callers_comes_back_as_it_is(
    path: Path, callback: str, error: BaseException
) -> None:
    SCANNED.write(path)
    before, descriptors = path.read_bytes(), open_descriptors()
    options: dict[str, Any] = {callback: failing(error)}
    with pytest.raises(type(error)) as caught:
        instar.amend(path, compat="0.10", **options)
    assert caught.value is error
    assert path.read_bytes() == before
    assert open_descriptors() == descriptors
