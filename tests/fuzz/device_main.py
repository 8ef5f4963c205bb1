"""Test side: runs the device target under atheris, for scripts/fuzz, which puts it on the path.

Usage: device_main COUNTS [libFuzzer's arguments]. COUNTS is a file for how inputs ended.
"""

from __future__ import annotations

import collections
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["instar.vmm"]):
    from tests.fuzz import device

SAVED_EVERY = 5.0
"""Seconds."""


class Counter:
    """Counts endings, and saves them now and then: libFuzzer ends the process itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = time.monotonic()
        self.endings: collections.Counter[str] = collections.Counter()

    def run(self, data: bytes) -> None:
        """Run one input."""
        self.endings[device.run_input(data)] += 1
        if self.endings.total() % 1024 == 0 and time.monotonic() > self.saved + SAVED_EVERY:
            self.saved = time.monotonic()
            self.path.write_text(json.dumps(dict(sorted(self.endings.items())), indent=1))


def main() -> None:
    """Hand over to libFuzzer."""
    counter = Counter(Path(sys.argv[1]))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], counter.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
