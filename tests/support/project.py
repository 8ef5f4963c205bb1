"""Test side: where the project is, and its planner as a library of this host."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from build_guest import ROOT

__all__ = ["ROOT", "load_planner"]

PLANNER = ROOT / "build" / "planner"


def load_planner() -> Any:
    """The planner as a host library: the module `_planner`, with `ffi` and `lib`."""
    if str(PLANNER) not in sys.path:
        sys.path.append(str(PLANNER))
    try:
        return importlib.import_module("_planner")
    except ImportError as error:
        raise RuntimeError('the planner is not built: run "make planner"') from error
