"""Test side: errors say whose fault it is, have an exit status each, and travel."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from instar.vmm.base import errors
from instar.vmm.base.errors import (
    GuestFault,
    HostError,
    ImageLocked,
    ImageRejected,
    InstarError,
    Refusal,
    UsageError,
)

DEFINED = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
CLASSES = {name: value for name, value in DEFINED.items() if issubclass(value, InstarError)}
ONE = Refusal("dirty", 7, "DIRTY", 8, "it is dirty", {})
TWO = Refusal("corrupt", 8, "DIRTY", 8, "it is corrupt", {"bits": 2})


def make(kind: type[InstarError]) -> InstarError:
    return ImageRejected((ONE, TWO)) if kind is ImageRejected else kind("some message")


def test_every_error_is_an_instar_error() -> None:
    exceptions = {name for name, value in DEFINED.items() if issubclass(value, BaseException)}
    assert exceptions == set(CLASSES)


def test_no_kind_of_error_is_a_kind_of_another() -> None:
    kinds = set(CLASSES.values()) - {InstarError}
    assert all(not issubclass(one, other) for one in kinds for other in kinds if one is not other)


def test_no_error_is_one_that_a_caller_may_catch_for_something_else() -> None:
    for kind in CLASSES.values():
        assert not issubclass(kind, OSError | ValueError | LookupError | RuntimeError)


def test_exit_statuses_are_those_of_the_table() -> None:
    table = dict(re.findall(r"^\| (\w+) +\| [^|]*\| (\d) +\|$", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(status) for name, status in table.items()} == {
        name: kind.exit_status for name, kind in CLASSES.items() if kind is not InstarError
    }


def test_only_the_callers_fault_has_a_status_of_its_own() -> None:
    assert UsageError.exit_status == 2
    assert {HostError, ImageRejected, ImageLocked, GuestFault} <= {
        kind for kind in CLASSES.values() if kind.exit_status == 1
    }


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_an_error_survives_pickle(kind: type[InstarError]) -> None:
    error = make(kind)
    restored = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(restored) is kind
    assert str(restored) == str(error)
    assert restored.exit_status == error.exit_status


def test_a_rejection_names_all_reasons() -> None:
    error = ImageRejected((ONE, TWO))
    assert str(error) == "it is dirty; it is corrupt"
    assert error.refusals == (ONE, TWO)


def test_a_rejection_keeps_its_reasons_in_a_pickle() -> None:
    restored = pickle.loads(pickle.dumps(ImageRejected((ONE, TWO))))  # noqa: S301 - our own bytes
    assert restored.refusals == (ONE, TWO)
