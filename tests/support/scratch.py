"""A folder for one case, in memory where that can be. Test side."""

from __future__ import annotations

import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


def scratch(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """A new folder, gone at the end of a `with`, which gives its name."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    return tempfile.TemporaryDirectory(prefix=f"instar-{purpose}-", dir=parent)
