"""Host side: many images and other processes: batches, workers, a confined child."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:  # as in interrupts.py
    import _signal as signal

MARGIN = 30.0
"""Seconds that a child has for all but its guest: its start, the locks, the commit."""
PATIENCE = 2.0
"""Seconds that a child or worker has for what it began once it is to end."""


def describe_end(code: int) -> str:
    """How a child ended, by its exit code, which is below 0 for a signal."""
    if code >= 0:
        return f"ended with status {code}"
    return f"was killed ({signal.strsignal(-code) or -code})"


def end_child(pid: int, patience: float = 0.0) -> int | None:
    """Wait for a forked child's end, and enforce it after so many seconds.

    Returns its status as waitpid(2) has it; None where this process hears of no child's end, as it
    ignores SIGCHLD, or waits for any child elsewhere.
    """
    end = time.monotonic() + patience
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
        while ended == 0 and time.monotonic() < end:
            time.sleep(0.002)
            ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    return status
