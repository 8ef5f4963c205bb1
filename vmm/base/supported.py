"""Host side: the one kind of machine that instar runs on; asked before anything else is imported.

The build asks the same of the machine that it builds on (scripts/hatch_build.py).
"""

from __future__ import annotations

import os
import sys

from .errors import HostError


def check_machine() -> None:
    """Raise HostError unless this is 64-bit Python for Linux on x86-64."""
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize <= 1 << 32:
        import platform

        bits = "" if sys.maxsize > 1 << 32 else ", and Python is for 32 bits"
        found = f"{platform.system()} on {platform.machine()}{bits}"
        raise HostError(f"instar needs Linux on x86-64, and this is {found}")
