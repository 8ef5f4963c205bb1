"""Test side: the planner as a library that is honest but for one reason, to which it is deaf."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from build_guest import ROOT
from build_planner import SHARED, compile_library

from instar.vmm.base.reasons import REASONS
from tests.support.project import load_planner

_VERDICT = ROOT / "tests" / "support" / "deaf_verdict.c"


class DeafPlanner:
    """What ask() takes for a planner: it goes on as if one reason to refuse were none."""

    def __init__(self, library: Path) -> None:
        """Build the library there. BuildError if there is no compiler, or it failed."""
        compile_library(library, replaced={SHARED / "verdict.c": _VERDICT})
        self.ffi: Any = load_planner().ffi
        self.lib: Any = self.ffi.dlopen(str(library))
        self._deaf_to = ctypes.c_uint32.in_dll(ctypes.CDLL(str(library)), "deaf_to")

    def be_deaf_to(self, reason: str | None) -> None:
        """Overhear this reason, by its name, from now on; None hears all."""
        numbers = (number for number, row in REASONS.items() if row[0] == reason)
        self._deaf_to.value = next(numbers) if reason else 0
