"""Test side: the planner fuzzer's inputs, as sparse.h describes them, written and read."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from instar.vmm.amend.messages import pack_options
from instar.vmm.base.errors import UsageError
from instar.vmm.request import AmendRequest
from instar.vmm.request.kinds import FLAG, Option
from instar.vmm.request.options import OPTIONS, PERMISSIONS
from tests.support.options import read_options

_HEAD = struct.Struct("<BBBBQ")
_CHUNK = struct.Struct("<QH")
_CHUNK_MAX = 0xFFFF
ASK_COMPAT, ASK_COMPAT_V3, ASK_LAZY, ASK_LAZY_ON = 2, 4, 8, 16
REQUEST_OFFSET = (1 << 64) - 1
"""Where a chunk lies that is no part of the image: what else is asked for."""
_REQUEST = struct.Struct("<IQ")
_FLAGGED = "compat", "lazy_refcounts"
_GAP = 16
"""Zeros that are worth the end of a chunk."""


@dataclass(frozen=True)
class Input:
    """A request on an image, and what else happens."""

    flags: int
    size: int
    chunks: tuple[tuple[int, bytes], ...]
    mode: int = 0
    fail_read: int = 0

    def pack(self) -> bytes:
        """The bytes of the input."""
        parts = [_HEAD.pack(self.flags, self.mode, self.fail_read, 0, self.size)]
        parts += [_CHUNK.pack(offset, len(data)) + data for offset, data in self.chunks]
        return b"".join(parts)


def parse(data: bytes) -> Input | None:
    """Read an input as the fuzzer does; None if it is too short to be one."""
    if len(data) < _HEAD.size:
        return None
    flags, mode, fail_read, _, size = _HEAD.unpack_from(data)
    chunks = []
    at = _HEAD.size
    while len(data) - at >= _CHUNK.size:
        offset, length = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        chunks.append((offset, data[at : at + length]))
        at += length
    return Input(flags, size & (1 << 63) - 1, tuple(chunks), mode, fail_read)


def from_image(image: bytes, flags: int, parts: list[range], mode: int = 0) -> Input:
    """The input for a whole image of which only `parts` matter."""
    chunks = [chunk for part in parts for chunk in _runs(image, part)]
    return Input(flags, len(image), tuple(sorted(chunks)), mode)


def _runs(image: bytes, part: range) -> Iterator[tuple[int, bytes]]:
    """What is not zero, in whole eight bytes from where it starts."""
    data = image[part.start : part.stop]
    for run in re.finditer(rb"[^\0](?:\0{0,%d}[^\0])*" % (_GAP - 1), data, re.DOTALL):
        start, stop = run.start() // 8 * 8, -(-run.end() // 8) * 8
        for at in range(start, stop, _CHUNK_MAX):
            yield part.start + at, data[at : min(stop, at + _CHUNK_MAX)]


def request_flags(request: AmendRequest) -> int:
    """The flags of an input that say what is asked for, as in sparse.h."""
    flags = ASK_COMPAT if request.compat else 0
    flags |= ASK_COMPAT_V3 if request.compat == 3 else 0
    flags |= ASK_LAZY if request.lazy_refcounts is not None else 0
    return flags | (ASK_LAZY_ON if request.lazy_refcounts else 0)


def request_chunk(request: AmendRequest) -> tuple[int, bytes]:
    """The chunk that says what is asked for besides compat and lazy_refcounts."""
    flags = sum(row.flag for row in PERMISSIONS if request.permissions.get(row.key))
    values = {row.abi_key: value for row, value in request.asked() if row.key not in _FLAGGED}
    return REQUEST_OFFSET, _REQUEST.pack(flags, request.backing_size) + pack_options(values)


def asking(found: Input, request: AmendRequest) -> Input:
    """The input with all of this request."""
    chunks = [chunk for chunk in found.chunks if chunk[0] != REQUEST_OFFSET]
    flags = request_flags(request)
    return replace(found, flags=flags, chunks=(*chunks, request_chunk(request)))


def request_of(found: Input) -> AmendRequest | None:
    """The request of an input; None if no caller of instar can ask for that."""
    version = lazy = None
    if found.flags & ASK_COMPAT:
        version = 3 if found.flags & ASK_COMPAT_V3 else 2
    if found.flags & ASK_LAZY:
        lazy = bool(found.flags & ASK_LAZY_ON)
    asked: dict[str, Any] = {"compat": version, "lazy_refcounts": lazy}
    chunks = [data for offset, data in found.chunks if offset == REQUEST_OFFSET]
    if chunks:
        if len(chunks[-1]) < _REQUEST.size:
            return None
        flags, asked["backing_size"] = _REQUEST.unpack_from(chunks[-1])
        asked |= {row.key: True for row in PERMISSIONS if row.flag & flags}
        try:
            values = read_options(chunks[-1][_REQUEST.size :])
            rows = [row for row in OPTIONS if row.abi_key in values and row.key not in _FLAGGED]
            asked |= {row.key: _take(row, values[row.abi_key]) for row in rows}
        except (ValueError, UsageError):
            return None
    request = AmendRequest.of(**asked)
    known = ASK_COMPAT | ASK_COMPAT_V3 | ASK_LAZY | ASK_LAZY_ON
    is_whole = request_flags(request) == found.flags & known and len(request.steps()) == 1
    return request if is_whole else None


def _take(row: Option, value: int | bytes) -> int | bytes:
    """A value as the host would send it. UsageError."""
    return row.take(bool(value) if row.kind == FLAG else value)
