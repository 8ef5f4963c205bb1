"""Test side: whatever class an error has inside, documents and processes know it by its kind."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import re

import build_guest
import pytest

import instar.vmm
from instar.vmm.base.errors import (
    DEFECT,
    INTERRUPTED,
    KINDS,
    ImageRejected,
    InstarError,
    UsageError,
    error_fields,
    reason_of_fork,
)
from instar.vmm.base.refusals import translate
from instar.vmm.fleet.document import Expected, read_outcome
from instar.vmm.request.keywords import make_request

(REFUSAL,) = translate(((7, 8, 0, 0, 0),))
REQUEST = make_request({"lazy_refcounts": True, "timeout": 30})
EXPECTED = Expected("disk", REQUEST, "00" * 32)


def import_all() -> None:
    for module in pkgutil.walk_packages(instar.vmm.__path__, "instar.vmm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def classes_below(kind: type[InstarError]) -> list[type[InstarError]]:
    below = kind.__subclasses__()
    return below + [deeper for one in below for deeper in classes_below(one)]


import_all()
INSIDE = classes_below(InstarError)


def make(kind: type[InstarError]) -> InstarError:
    """An error of any class, however it wants to be made."""
    if issubclass(kind, ImageRejected):
        return kind((REFUSAL,))
    error = kind.__new__(kind, "some message")
    assert str(error) == "some message"
    return error


class Deeper(KINDS[0]):  # type: ignore[valid-type,misc]
    """A class as a module might have one for its own use."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what} {number}")


def documented() -> set[str]:
    """The kinds that docs/amend.md lists."""
    text = (build_guest.ROOT / "docs/amend.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `error\.kind` \|(.*)\|$", text, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row))


def test_the_docs_list_all_kinds() -> None:
    assert documented() == {INTERRUPTED, DEFECT, *(kind.__name__ for kind in KINDS)}


@pytest.mark.parametrize("kind", [*INSIDE, Deeper], ids=lambda kind: kind.__name__)
def test_every_class_of_errors_has_a_documented_kind(kind: type[InstarError]) -> None:
    found = error_fields(make(kind) if kind is not Deeper else Deeper(3, "sector"))["kind"]
    assert found in documented() - {INTERRUPTED, DEFECT}
    assert found in {above.__name__ for above in kind.__mro__}


@pytest.mark.parametrize("kind", INSIDE, ids=lambda kind: kind.__name__)
def test_an_error_stays_of_its_kind_from_process_to_process(kind: type[InstarError]) -> None:
    error = make(kind)
    fields = error_fields(error)
    pickled = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(pickled).__name__, str(pickled)) == (fields["kind"], str(error))
    if not issubclass(kind, UsageError):  # which is told before another process is asked
        told = read_outcome(json.dumps({"error": fields}).encode(), EXPECTED)
        assert (type(told).__name__, str(told)) == (fields["kind"], str(error))


@pytest.mark.parametrize(
    "error", [ValueError("x"), ImportError("x"), SystemExit(1), OSError(5, "x")]
)
def test_what_is_no_error_of_the_package_is_a_defect(error: BaseException) -> None:
    assert error_fields(error)["kind"] == DEFECT
    assert type(error).__name__ in str(error_fields(error)["message"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("x.so: failed to map segment from shared object"),
        SystemError("error return without exception set"),
        SystemError("<function f at 0x7f> returned NULL without setting an exception"),
    ],
)
def test_a_lack_of_memory_is_this_machines_and_says_what_helps(error: Exception) -> None:
    fields = error_fields(error)
    assert fields["kind"] == "HostError"
    assert "address space (ulimit -v) or of data (ulimit -d)" in str(fields["message"])


def test_a_process_that_may_not_be_says_which_limit_helps() -> None:
    assert reason_of_fork(BlockingIOError(11, "x")) == "x; raise the limit of processes (ulimit -u)"
    assert reason_of_fork(OSError(12, "x")) == "x"
    assert reason_of_fork(PermissionError(13, "x", "/bin/python-of-others")) == "x"


def test_an_interrupt_is_an_interrupt() -> None:
    assert error_fields(KeyboardInterrupt())["kind"] == INTERRUPTED
