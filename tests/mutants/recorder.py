"""Test side: a plugin of pytest that records which tests run which lines, and how long they take.

Lines of the host's code by coverage, in this process. Blocks of the planner by the library that
tests/mutants/tree.py builds for it. Of other processes it says only that a test starts some.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest
from hypothesis import is_hypothesis_test

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = ROOT / "build" / "planner" / "libplanner.so"
SPACE = 1 << 20
SECONDS_MAX = 20
"""What a test may take to be of use here; it is ended, and not recorded."""
SPAWNS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec")


class Recorder:
    """Notes what each test runs."""

    def __init__(self, output: Path) -> None:
        """Begin: `output` is what it is written to in the end."""
        self._output = output
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._spawning: set[str] = set()
        self._blocks: dict[str, frozenset[int]] = {}
        self._now = ""
        self._seen = (ctypes.c_ubyte * SPACE).in_dll(ctypes.CDLL(str(LIBRARY)), "trace_seen")
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{ROOT}/vmm/*"]
        )
        # A warning would be an error.
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        sys.addaudithook(self._audit)
        self._coverage.start()

    def _audit(self, event: str, _: Any) -> None:
        if event in SPAWNS and self._now:
            self._spawning.add(self._now)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Let what runs now count for one test."""
        ctypes.memset(self._seen, 0, SPACE)
        self._now = item.nodeid
        self._coverage.switch_context(item.nodeid)
        signal.signal(signal.SIGALRM, _end)
        # Hypothesis ends the run where an example of its own is ended so.
        signal.alarm(0 if is_hypothesis_test(getattr(item, "obj", None)) else SECONDS_MAX)
        try:
            return (yield)
        finally:
            signal.alarm(0)
            self._coverage.switch_context("")
            self._now = ""
            hits = re.finditer(b"\1", bytes(self._seen))
            self._blocks[item.nodeid] = frozenset(match.start() for match in hits)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how long it took, and whether it failed."""
        taken = self._seconds.get(report.nodeid, 0.0) + report.duration
        self._seconds[report.nodeid] = taken
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write all of it."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            os.path.relpath(path, ROOT): data.contexts_by_lineno(path)
            for path in data.measured_files()
        }
        found = {
            "seconds": self._seconds,
            "failed": self._failed,
            "spawning": self._spawning,
            "blocks": self._blocks,
            "lines": lines,
        }
        self._output.write_bytes(pickle.dumps(found))


def _end(*_: object) -> None:
    raise TimeoutError("too slow to be recorded")


def pytest_configure(config: pytest.Config) -> None:
    """Take part where a run is recorded."""
    config.pluginmanager.register(Recorder(Path(os.environ["INSTAR_MUTANTS_RECORD"])))
