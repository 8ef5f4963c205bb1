"""Host side: how many images of a batch are done, in one line that is written over."""

from __future__ import annotations

import time

from .report import write

PAUSE = 0.1
"""Seconds between two states of the line, for who reads it."""


class Counter:
    """A progress bar of the plainest kind, with the methods of tqdm's that a batch calls."""

    def __init__(self, total: int | None, stream_name: str, *, stays: bool) -> None:
        """Show 0 of `total`, None where that is not known; `stays` leaves the last state."""
        self._of = " images" if total is None else f"/{total} images"
        self._stream_name = stream_name
        self._stays = stays
        self._done = 0
        self._width = 0
        self._next = 0.0
        self._show()

    def update(self) -> None:
        """One more is done."""
        self._done += 1
        if time.monotonic() >= self._next:
            self._show()

    def clear(self) -> None:
        """Leave the line to another text, after which the next update() shows it again."""
        if self._width and not self._stays:
            write(self._stream_name, f"{'':{self._width}}\r")
            self._width, self._next = 0, 0.0

    def close(self) -> None:
        """Show no more."""
        if self._stays:
            self._show()
            write(self._stream_name, "\n")
        self.clear()

    def _show(self) -> None:
        text = f"    ({self._done}{self._of})"
        self._width, self._next = len(text), time.monotonic() + PAUSE
        write(self._stream_name, f"{text}\r")
