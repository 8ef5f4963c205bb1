"""When a call on the image fails, amend() raises HostError and nothing is lost. Test side.

In this process, so that calls can also do half of what they are asked, as the kernel may.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.crash.cases import LAZY_OFF, LAZY_ON, REBASE, UPGRADE, Case
from tests.crash.verdict import Judge, Verdict
from tests.support import qemu as oracle

pytestmark = pytest.mark.kvm

CASES = (
    Case(UPGRADE, "extensions and long name", 16),
    Case(UPGRADE, "no slack", 11),
    Case(LAZY_ON, "as qemu makes it", 12),
    Case(LAZY_OFF, "bare", 9),
    Case(REBASE, "overlay", 16),
)
REQUESTS: dict[str, dict[str, Any]] = {
    UPGRADE.name: {"compat": "1.1"},
    LAZY_ON.name: {"lazy_refcounts": True},
    LAZY_OFF.name: {"lazy_refcounts": False},
    REBASE.name: {
        "backing_file": REBASE.backing_file,
        "backing_fmt": "raw",
        "change_backing": True,
    },
}
FUNCTIONS = ("open", "fstat", "lseek", "preadv", "pread", "pwrite", "pwritev", "fdatasync", "close")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES)

DESCRIPTORS = Path("/proc/self/fd")

Fault = Callable[..., Any]
"""Called instead of the function it is given, with that function's arguments."""


class Injector:
    """Stands between Python and the kernel for all calls on one image."""

    def __init__(self, image: Path, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.at: int | None = None
        self.fault: Fault | None = None
        self._path = str(image)
        self._descriptors: set[int] = set()
        for name in FUNCTIONS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def arm(self, at: int | None, fault: Fault | None) -> None:
        """Let `fault` befall the call number `at`, or every call."""
        self.calls, self.at, self.fault = [], at, fault

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *arguments: Any, **named: Any) -> Any:
            concerned = first == self._path if name == "open" else first in self._descriptors
            if not concerned:
                return function(first, *arguments, **named)
            self.calls.append(name)
            hit = self.fault is not None and self.at in (None, len(self.calls) - 1)
            if name == "close":
                self._descriptors.discard(first)
            run = self.fault if hit and self.fault else _unharmed
            result = run(name, function, first, *arguments, **named)
            if name == "open":
                self._descriptors.add(result)
            return result

        return call


def _unharmed(_name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


def failing(number: int) -> Fault:
    """The call fails with this errno; a descriptor that was to be closed is closed all the same."""

    def fault(name: str, function: Callable[..., Any], *arguments: Any, **_named: Any) -> Any:
        if name == "close":
            function(*arguments)
        raise OSError(number, os.strerror(number))

    return fault


def short(most: int) -> Fault:
    """Reads and writes move `most` bytes at best."""

    def fault(name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if name == "preadv":
            descriptor, views, *rest = arguments
            assert len(views) == 1
            return function(descriptor, [views[0][:most]], *rest)
        if name == "pread":
            descriptor, size, *rest = arguments
            return function(descriptor, min(size, most), *rest)
        if name == "pwrite":
            descriptor, data, *rest = arguments
            return function(descriptor, data[:most], *rest)
        return function(*arguments, **named)

    return fault


def cut_off(most: int) -> Fault:
    """A write moves `most` bytes, and the rest of it fails."""

    def fault(_name: str, function: Callable[..., Any], *arguments: Any, **_named: Any) -> Any:
        descriptor, data, offset = arguments
        function(descriptor, data[:most], offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return fault


def stuck() -> Fault:
    """Writes return 0, again and again."""
    patience = iter(range(1000))

    def fault(name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if name != "pwrite":
            return function(*arguments, **named)
        assert next(patience, None) is not None, "still trying"
        return 0

    return fault


class Harness:
    """An image that amend() amends again and again, from the same bytes."""

    def __init__(self, case: Case, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.image = case.write(folder)
        self.before = self.image.read_bytes()
        self._request = REQUESTS[case.transition.name]
        self._amend()
        self.after = self.image.read_bytes()
        original = folder / "original.qcow2"
        original.write_bytes(self.before)
        self.judge = Judge(original, self.after, [oracle.newest()])
        self.injector = Injector(self.image, patch)
        self.run(None, None)
        self.calls = list(self.injector.calls)

    def _amend(self) -> None:
        assert instar.amend(str(self.image), **self._request).action == "amended"

    def run(self, at: int | None, fault: Fault | None) -> None:
        """Amend the image as it was, with a fault in one call or all."""
        self.image.write_bytes(self.before)
        self.injector.arm(at, fault)
        self._amend()

    def calls_of(self, *names: str) -> list[int]:
        """The numbers of the calls of these functions."""
        return [number for number, name in enumerate(self.calls) if name in names]


@pytest.fixture(params=CASES, ids=str)
def harness(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Harness]:
    harness = Harness(request.param, tmp_path, monkeypatch)
    with harness.judge:
        yield harness


def promise_broken(harness: Harness, at: int | None, fault: Fault) -> str | None:
    """Amend with a fault; says how that breaks the promise, None if it does not."""
    descriptors = set(DESCRIPTORS.iterdir())
    said = ""
    try:
        harness.run(at, fault)
    except instar.HostError as error:
        said = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        harness.injector.arm(None, None)
    found = harness.judge.identify(harness.image)
    if set(DESCRIPTORS.iterdir()) != descriptors:
        return "a descriptor stays open"
    if not found.whole or harness.image.stat().st_size != len(harness.before):
        return found.value
    if not said:
        return None if found is Verdict.NEW else "nothing is said"
    unsure = "the image may be amended" in said
    return None if unsure or found is Verdict.OLD else f"{found.value}, but: {said}"


@pytest.mark.parametrize(
    "function",
    [
        *("open", "fstat", "pwrite", "fdatasync"),
        *("pread", "preadv"),
        "close",
    ],
)
def test_a_call_that_fails_is_a_host_error_and_the_image_whole(
    harness: Harness, function: str
) -> None:
    assert harness.calls_of(function)
    outcomes = {
        (at, errno.errorcode[error]): promise_broken(harness, at, failing(error))
        for at in harness.calls_of(function)
        for error in ERRORS
    }
    assert {key: broken for key, broken in outcomes.items() if broken} == {}


@pytest.mark.parametrize("most", [1, 100, 511, 512, 513])
def test_calls_that_do_half_of_it_are_repeated_until_all_is_done(
    harness: Harness, most: int
) -> None:
    harness.run(None, short(most))
    assert harness.image.read_bytes() == harness.after
    for at in harness.calls_of("pread", "preadv", "pwrite"):
        harness.run(at, short(most))
        assert harness.image.read_bytes() == harness.after


def test_a_write_that_is_cut_short_before_the_switch_leaves_the_old_image(
    harness: Harness,
) -> None:
    *slack, switch = harness.calls_of("pwrite")
    for at in slack:
        for most in (1, 512, 700):
            assert promise_broken(harness, at, cut_off(most)) is None
            assert harness.judge.identify(harness.image) is Verdict.OLD
    assert switch == harness.calls_of("fdatasync")[-1] - 1


def test_a_write_that_gets_nowhere_is_an_error(harness: Harness) -> None:
    assert promise_broken(harness, None, stuck()) is None
