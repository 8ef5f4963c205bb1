"""Copies, cuts and hashes files of any size, at the cost of what is stored in them. Test side."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096
_CHUNK = 256 * BLOCK


def copy(source: Path, target: Path) -> Path:
    """Copy a file with its holes; returns the copy."""
    with target.open("wb") as stream:
        for offset, data in _chunks(source):
            stream.seek(offset)
            stream.write(data)
        stream.truncate(source.stat().st_size)
    return target


def set_length(path: Path, length: int) -> None:
    """Cut or extend a file."""
    os.truncate(path, length)


def settle(path: Path) -> None:
    """Write a file out, so that its st_blocks stays as it is.

    A file system that allocates late may count other blocks once it has written them, which it
    does when it likes: between two looks at the file, or within the program that is tested.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def stored(path: Path) -> int:
    """How many bytes of a file are stored, once it is written out."""
    settle(path)
    return path.stat().st_blocks * 512


def digest(path: Path, start: int = 0) -> str:
    """A hash of a file from `start` on, a multiple of 512; holes are zeros like others."""
    state = hashlib.sha256(b"%d" % path.stat().st_size)
    for offset, chunk in _chunks(path):
        for at in range(0, len(chunk), 512 * 8):
            block = chunk[at : at + BLOCK]
            if offset + at < start:
                block = block[min(start - offset - at, BLOCK) :]
            if block.strip(b"\0"):
                state.update(b"%d" % (offset + at))
                state.update(block)
    return state.hexdigest()


def fingerprint(path: Path) -> tuple[str, int]:
    """What stays as it is in a file that nobody writes to: its bytes and its time."""
    return digest(path), path.stat().st_mtime_ns


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are not holes, with their offsets, multiples of BLOCK."""
    with path.open("rb", buffering=0) as stream:
        end = 0
        while (start := _seek_data(stream.fileno(), end)) is not None:
            end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, end, _CHUNK):
                yield offset, os.pread(stream.fileno(), min(_CHUNK, end - offset), offset)


def _seek_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
