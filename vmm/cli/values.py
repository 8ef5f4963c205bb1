"""Host side: values of flags that several commands have."""

from __future__ import annotations

from ..base.errors import UsageError
from ..request.lists import parse_size


def read_seconds(text: str) -> float:
    """The value of --timeout. UsageError if it is none."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--timeout: expected a number of seconds, not '{text}'") from None


def read_size(flag: str, text: str) -> int:
    """The value of a flag in bytes. UsageError if it is none."""
    size = parse_size(text)
    if size is None:
        raise UsageError(f"--{flag}: expected a size such as 512M or 1.5G, not '{text}'")
    return size
