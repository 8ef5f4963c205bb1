"""The digest of a disk's contents: the same however they were read; cheap for holes. Test side.

It is made of the disk's size and of the blocks that are not all zeros, so that neither holes nor
the way in which zeros are stored matter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK = 512
_ZEROS = bytes(BLOCK)
_CHUNK = 1 << 20


def digest(size: int, pieces: Iterable[tuple[int, bytes]]) -> str:
    """The digest of a disk of `size` bytes, of which `pieces` are all that may not be zero.

    Pieces are an offset, a multiple of BLOCK, and bytes; in order, none twice.
    """
    state = hashlib.sha256(b"%d" % size)
    for offset, data in pieces:
        if data == bytes(len(data)):
            continue
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            if block != _ZEROS and (block := block.rstrip(b"\0")):
                state.update(b" %d:" % (offset + at) + block)
    return state.hexdigest()[:24]


def raw_digest(path: Path) -> str:
    """The digest of a raw disk in a file, of which holes are not read."""
    with path.open("rb", buffering=0) as stream:
        return digest(path.stat().st_size, _stored(stream.fileno()))


def _stored(descriptor: int) -> Iterator[tuple[int, bytes]]:
    end = os.fstat(descriptor).st_size
    at = 0
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        for offset in range(start // BLOCK * BLOCK, at, _CHUNK):
            yield offset, os.pread(descriptor, min(_CHUNK, at - offset), offset)
