"""Test side: where the project is, and its planner as a library of this host."""

from __future__ import annotations

import compileall
import importlib
import sys
from pathlib import Path
from typing import Any

from build_guest import ROOT

__all__ = ["ROOT", "compile_package", "load_planner"]

PLANNER = ROOT / "build" / "planner"


def load_planner() -> Any:
    """The planner as a host library: the module `_planner`, with `ffi` and `lib`."""
    if str(PLANNER) not in sys.path:
        sys.path.append(str(PLANNER))
    try:
        return importlib.import_module("_planner")
    except ImportError as error:
        raise RuntimeError('the planner is not built: run "make planner"') from error


def compile_package() -> None:
    """Write the bytecode that an installation has and an editable one lacks until it is used."""
    import instar.vmm

    for folder in (*instar.vmm.__path__, str(Path(instar.__file__ or "").parent)):
        compileall.compile_dir(folder, quiet=1)
