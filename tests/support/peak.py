"""The most memory that this process has taken, since when one likes. Test side."""

from __future__ import annotations

import re
from pathlib import Path


def forget_peak() -> int:
    """Start anew from the present size, in bytes, which is returned (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The largest size since then, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10
