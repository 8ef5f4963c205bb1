"""Test side: other users of an image: qemu processes that hold it open, and who locks what."""

from __future__ import annotations

import contextlib
import fcntl
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.qemu import Qemu

INSTAR = (sys.executable, "-m", "instar")
"""The command."""

_FLOCK = struct.Struct("hh4xqqi4x")
_CALL = re.compile(r"(F_OFD_[SG]ETLK), \{l_type=(\w+).*?l_start=(\d+)")


@contextlib.contextmanager
def hold_open(qemu: Qemu, image: Path, *arguments: str) -> Iterator[None]:
    """Have qemu-io hold `image` open inside the block."""
    process = subprocess.Popen(
        [qemu.directory / "qemu-io", *arguments, image],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(lambda: bool(locked_bytes(image)), process)
        yield
    finally:
        process.communicate(b"q\n", timeout=20)


@contextlib.contextmanager
def serve(qemu: Qemu, image: Path) -> Iterator[None]:
    """Have qemu-nbd serve `image` on a socket inside the block."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [qemu.directory / "qemu-nbd", "-t", "-k", f"{folder}/nbd", "-f", "qcow2", image],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(lambda: bool(locked_bytes(image)), process)
            yield
        finally:
            process.kill()  # some versions wait for clients on SIGTERM
            process.wait(20)


def locked_bytes(image: Path) -> set[int]:
    """The bytes from 100 to 103 and from 200 to 203 on which somebody else has a lock."""
    found = set()
    with image.open("rb") as file:
        for byte in (*range(100, 104), *range(200, 204)):
            query = _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, query)
            if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
                found.add(byte)
    return found


def strace_locks(command: Sequence[str]) -> list[tuple[str, str, int]]:
    """The locks that `command` takes and probes, in order; what it asks about byte 0 left out."""
    with tempfile.NamedTemporaryFile() as log:
        subprocess.run(
            ["strace", "-f", "-e", "trace=fcntl", "-o", log.name, *command],
            check=True,
            capture_output=True,
        )
        text = Path(log.name).read_text(encoding="utf-8")
    calls = [(call, kind, int(start)) for call, kind, start in _CALL.findall(text)]
    return [call for call in calls if call[1] != "F_UNLCK" or call[0] != "F_OFD_SETLK" if call[2]]


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < end, "the process did not open the image"
        time.sleep(0.01)
