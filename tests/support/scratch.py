"""Folders for one case and for a whole run, in memory where that can be. Test side."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


_REMOVE = 'read -r _; exec rm -rf -- "$1"'
_SET_DEATH_SIGNAL = 1  # prctl(2)


def scratch(purpose: str, within: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """A new folder, gone at the end of a `with`, which gives its name."""
    parent = within or (_MEMORY if _MEMORY.is_dir() else None)
    return tempfile.TemporaryDirectory(prefix=f"instar-{purpose}-", dir=parent)


@dataclass(frozen=True)
class Run:
    """A folder for a run of several processes."""

    folder: Path
    _lifeline: int

    def join(self) -> None:
        """To be called in each process that the run forks: it ends with the one that forked it."""
        os.close(self._lifeline)
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


@contextmanager
def scratch_of_run(purpose: str) -> Iterator[Run]:
    """A new folder that goes however the run ends, be it by SIGKILL.

    Another process waits for the end of this one, on a pipe whose other end nobody else has, and
    removes the folder.
    """
    with scratch(purpose) as folder:
        remover = subprocess.Popen(
            ["sh", "-c", _REMOVE, "sh", folder], stdin=subprocess.PIPE, start_new_session=True
        )
        assert remover.stdin is not None
        try:
            yield Run(Path(folder), remover.stdin.fileno())
        finally:
            remover.stdin.close()
            remover.wait()
