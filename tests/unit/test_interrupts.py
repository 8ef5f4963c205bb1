"""Host side: interrupts cost nothing that was heard, also where two of them come at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NoReturn

import pytest

from instar.vmm.fleet.interrupts import INTERRUPTS, LetIn, carry_through


class Batch:
    """Work on three images, of which two were begun when it lets interrupts in."""

    def __init__(self, *interrupts: int) -> None:
        self._interrupts = interrupts
        self.stopped = False

    def run(self) -> Iterator[int]:
        yield 1
        for number in self._interrupts:
            os.kill(os.getpid(), number)
        with LetIn():
            pass
        yield 3

    def finish(self) -> Iterator[int]:
        os.kill(os.getpid(), signal.SIGINT)  # from someone who has no patience
        yield 2

    def stop(self) -> None:
        self.stopped = True


def _interrupt(number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A caller's own handlers, each of which raises KeyboardInterrupt each time."""
    before = {number: signal.signal(number, _interrupt) for number in INTERRUPTS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def tell(batch: Batch, told: list[int]) -> None:
    """Add one after the other, so that an interrupt costs nothing that was told before."""
    for one in carry_through(batch):
        told.append(one)


@pytest.mark.parametrize(
    "interrupts", [(signal.SIGINT,), (signal.SIGTERM,), INTERRUPTS, INTERRUPTS[::-1]]
)
def test_what_was_begun_is_told_whatever_interrupts_come(interrupts: tuple[int, ...]) -> None:
    batch = Batch(*interrupts)
    told: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt):
        tell(batch, told)
    assert told == [1, 2]
    assert batch.stopped
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_without_an_interrupt_all_is_told() -> None:
    batch = Batch()
    assert [*carry_through(batch)] == [1, 3]
    assert batch.stopped
