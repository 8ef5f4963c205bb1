"""Test side: to import this has a script run in the environment of `make dev`, if it does not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_PYTHON = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"

if importlib.util.find_spec("instar") is None:
    if not _PYTHON.is_file() or Path(sys.executable) == _PYTHON:
        sys.exit(f"{Path(sys.argv[0]).name} needs the environment that 'make dev' makes")
    os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606 - the same script
