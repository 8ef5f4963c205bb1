"""Test side: a deadline is a signal that is never delivered, of one thread, and leaves nothing."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.vmm.base.errors import HostError
from instar.vmm.machine.deadline import Deadline

SIGNAL = signal.SIGRTMAX
BIT = 1 << (SIGNAL - 1)
PATIENCE = 20.0


def mask() -> set[int]:
    """The signals that this thread blocks."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def wait_for_signal() -> None:
    """Wait until the deadline's signal is pending in this thread, without taking it."""
    end = time.monotonic() + PATIENCE
    while SIGNAL not in signal.sigpending():
        assert time.monotonic() < end, "no signal came"
        time.sleep(0.001)


def timers() -> int:
    """How many POSIX timers this process has."""
    return Path("/proc/self/timers").read_text(encoding="ascii").count("ClockID:")


def in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, and raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in errors:
        raise error


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Mask, handlers, pending signals and timers are as they were."""
    before = (mask(), handlers(), signal.sigpending(), timers(), signal.getitimer(0))
    yield
    assert (mask(), handlers(), signal.sigpending(), timers(), signal.getitimer(0)) == before


def test_the_signal_is_blocked_inside_and_pending_when_the_time_is_up() -> None:
    with Deadline(0.02) as deadline:
        assert mask() >= {SIGNAL}
        wait_for_signal()
        assert deadline.passed()


def test_a_pending_signal_is_taken_at_the_end() -> None:
    with Deadline(0.001):
        wait_for_signal()
    assert SIGNAL not in signal.sigpending()
    assert SIGNAL not in mask()


def test_time_that_is_left_leaves_nothing() -> None:
    with Deadline(PATIENCE) as deadline:
        assert not deadline.passed()
        assert SIGNAL not in signal.sigpending()


@pytest.mark.parametrize("seconds", [1e-12, 1e-9, 1e-6])
def test_the_shortest_time_is_one_too(seconds: float) -> None:
    with Deadline(seconds) as deadline:
        wait_for_signal()
        assert deadline.passed()


@pytest.mark.parametrize("seconds", [0.999999999, 1.0, 3600.5, 1e9 - 1])
def test_a_long_time_does_not_pass_at_once(seconds: float) -> None:
    with Deadline(seconds) as deadline:
        assert not deadline.passed()


def test_the_signal_never_comes_before_the_time_is_up() -> None:
    for _ in range(50):
        with Deadline(0.0005) as deadline:
            signal.sigwait({SIGNAL})
            assert deadline.passed()


def test_the_time_starts_with_the_block() -> None:
    deadline = Deadline(PATIENCE)
    time.sleep(0.01)
    started = time.monotonic()
    with deadline:
        assert not deadline.passed()
        assert time.monotonic() - started < PATIENCE


class TestTheMaskForTheGuest:
    def test_it_lets_the_signal_through(self) -> None:
        with Deadline(PATIENCE) as deadline:
            assert not deadline.run_mask & BIT

    def test_it_is_the_callers_otherwise(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
        try:
            with Deadline(PATIENCE) as deadline:
                expected = 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGTERM - 1)
                assert deadline.run_mask == expected
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGTERM})

    def test_a_caller_who_blocks_the_signal_still_does_afterwards(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
        try:
            with Deadline(0.001) as deadline:
                assert not deadline.run_mask & BIT
                wait_for_signal()
            assert SIGNAL in mask()
            assert SIGNAL not in signal.sigpending()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})


def test_an_error_inside_comes_out_and_leaves_nothing() -> None:
    error = ValueError("inside")

    def fail() -> None:
        with Deadline(0.001):
            wait_for_signal()
            raise error

    with pytest.raises(ValueError, match="inside") as caught:
        fail()
    assert caught.value is error


def test_no_handler_is_called() -> None:
    called: list[int] = []
    before = signal.signal(SIGNAL, lambda number, _frame: called.append(number))
    try:
        with Deadline(0.001):
            wait_for_signal()
        time.sleep(0.01)
    finally:
        signal.signal(SIGNAL, before)
    assert called == []


def test_many_deadlines_leave_no_timer() -> None:
    before = timers()
    for _ in range(100):
        with Deadline(PATIENCE):
            assert timers() == before + 1
    assert timers() == before


def test_a_timer_that_the_kernel_refuses_leaves_nothing() -> None:
    limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limits[1]))
    try:
        with pytest.raises(HostError, match="Resource temporarily unavailable"):
            Deadline(PATIENCE).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, limits)


class TestThreads:
    def test_another_thread_than_the_main_one_has_one_too(self) -> None:
        def work() -> None:
            with Deadline(0.005) as deadline:
                wait_for_signal()
                assert deadline.passed()
            assert SIGNAL not in signal.sigpending()
            assert SIGNAL not in mask()

        in_thread(work)

    def test_the_signal_is_of_the_thread_alone(self) -> None:
        with Deadline(PATIENCE):

            def work() -> None:
                with Deadline(0.001):
                    wait_for_signal()

            in_thread(work)
            assert SIGNAL not in signal.sigpending()

    def test_two_threads_have_times_of_their_own(self) -> None:
        together = threading.Barrier(2)
        passed: dict[str, bool] = {}

        def long() -> None:
            with Deadline(PATIENCE) as deadline:
                together.wait(PATIENCE)
                together.wait(PATIENCE)
                passed["long"] = deadline.passed() or SIGNAL in signal.sigpending()

        def short() -> None:
            together.wait(PATIENCE)
            with Deadline(0.005) as deadline:
                wait_for_signal()
                passed["short"] = deadline.passed()
            together.wait(PATIENCE)

        other = threading.Thread(target=long)
        other.start()
        in_thread(short)
        other.join(PATIENCE)
        assert passed == {"short": True, "long": False}
