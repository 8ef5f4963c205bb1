"""Test side: how long a fuzzer runs, and what it says meanwhile.

It ends after so many inputs, after some time, or when it is told to by SIGTERM: its total is
printed then too.
"""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

from tests.support.stop import Stop

EVERY = 60.0
"""Seconds between two lines that say how far a run is."""


class Limits:
    """The end of a run; a context manager, inside of which SIGTERM is such an end."""

    def __init__(self, runs: int, seconds: float, name: str = "") -> None:
        """Start the clock. Without a name nothing is printed."""
        self._runs, self._name = runs, name
        self._started = self._told = time.monotonic()
        self._end = self._started + seconds
        self._stop = Stop(signal.SIGTERM)

    def __enter__(self) -> Limits:
        self._stop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.__exit__()

    @property
    def took(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def are_met(self, done: int, findings: int = 0) -> bool:
        """Whether to end after so many inputs; says how far the run is, once a minute."""
        now = time.monotonic()
        if self._name and now - self._told >= EVERY:
            self._told = now
            print(
                f"{self._name}: {done} in {self.took:.0f} s, "
                f"{time.process_time():.0f} s of processor time, {findings} findings",
                flush=True,
            )
        return self._stop.is_told or done >= self._runs or now > self._end


def limit_space(more: int) -> None:
    """Have what takes more bytes of address space than there are now fail at once."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
