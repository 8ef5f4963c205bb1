"""Lets a signal end a long run in order: after what is at hand, and with a total. Test side."""

from __future__ import annotations

import signal
from types import FrameType


class Stop:
    """Whether a run was told to end by one of these signals, inside of this.

    The second one ends the process at once. Those that it forks meanwhile inherit that.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self.is_told = False

    def __enter__(self) -> Stop:
        self._before = [signal.signal(number, self._note) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.is_told = True
        signal.signal(number, signal.SIG_DFL)
