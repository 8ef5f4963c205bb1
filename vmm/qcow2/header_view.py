"""Host side: what a qcow2 header cluster refers to, for the write contract alone.

The bytes are hostile. The walk is bounded by HEADER_LIMIT, follows no pointer out of the cluster,
and can do nothing but describe or raise MalformedHeader; all use of it is to compare two headers.
"""

from __future__ import annotations

from struct import Struct

from ..base.record import record
from . import (
    AUTOCLEAR_DATA_FILE_RAW,
    CLUSTER_BITS_MAX,
    CLUSTER_BITS_MIN,
    EXTENSION_BACKING_FORMAT,
    EXTENSION_DATA_FILE,
    EXTENSION_FEATURE_NAMES,
    HEADER_LENGTH_V2,
    HEADER_LENGTH_V3_MIN,
    INCOMPATIBLE_DATA_FILE,
    REFCOUNT_ORDER_MAX,
    REFCOUNT_ORDER_V2,
)
from .probe import header_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_LIMIT = 0x10000
"""The part of the header cluster that fields and extensions may use, in bytes."""

EXTENSION_HEADER = Struct(">II")
"""The type and the length of an extension."""
_END = 0
_NAME_MAX = 1023


def header_end(cluster_bits: int) -> int:
    """Where the part of a header cluster ends that fields and extensions may use, in bytes."""
    return min(1 << cluster_bits, HEADER_LIMIT)


class MalformedHeader(Exception):
    """The bytes are not a header that the planner could have accepted or made."""


@record
class HeaderView:
    """A header and all that it refers to in its cluster."""

    fields: dict[str, int]
    """The fixed fields, in the specification's names."""
    raw: bytes
    """The bytes of fields and extensions, end marker included."""
    unknown: bytes
    """Fields after refcount_order and header_length; empty in version 2."""
    extensions: tuple[tuple[int, bytes], ...]
    """(type, data) in order, feature names left out: they are but words for error messages."""
    name: bytes | None
    """The backing file name, or None where there is no backing file."""


def text_of(view: HeaderView, kind: int) -> bytes:
    """Text of the last extension of a kind, as qemu reads it: up to a NUL byte; b"" for none."""
    found = [data for other, data in view.extensions if other == kind]
    return found[-1].partition(b"\0")[0] if found else b""


def texts_of(view: HeaderView) -> dict[str, bytes]:
    """What a header says by text, as the options have it; b"" where it says nothing."""
    return {
        "backing_file": (view.name or b"").partition(b"\0")[0],
        "backing_fmt": text_of(view, EXTENSION_BACKING_FORMAT),
        "data_file": text_of(view, EXTENSION_DATA_FILE),
    }


def is_raw(view: HeaderView) -> bool | None:
    """Whether the external data file is a raw image of the disk; None where there is none."""
    if not view.fields.get("incompatible_features", 0) & INCOMPATIBLE_DATA_FILE:
        return None
    return bool(view.fields["autoclear_features"] & AUTOCLEAR_DATA_FILE_RAW)


def view_header(read: Callable[[int, int], bytes]) -> HeaderView:
    """Walk the header that `read(offset, size)` gives. MalformedHeader if it cannot be walked.

    `read` must return `size` bytes, or fewer at the end of the file.
    """
    start = read(0, 4096)
    if len(start) < 512:
        raise MalformedHeader("short header")
    fields = header_fields(start)
    length = fields.get("header_length", HEADER_LENGTH_V2)
    bits = fields["cluster_bits"]
    known = CLUSTER_BITS_MIN <= bits <= CLUSTER_BITS_MAX
    if fields["version"] not in (2, 3) or not known or length % 8:
        raise MalformedHeader("version, cluster_bits or header_length")
    if fields.get("refcount_order", REFCOUNT_ORDER_V2) > REFCOUNT_ORDER_MAX:
        raise MalformedHeader("refcount_order")
    cluster_size = 1 << bits
    name_offset = fields["backing_file_offset"]
    limit = name_offset or cluster_size
    if not HEADER_LENGTH_V2 <= length <= limit <= cluster_size or length > HEADER_LIMIT:
        raise MalformedHeader("header_length or backing_file_offset")
    name = None
    if name_offset:
        size = fields["backing_file_size"]
        if size > min(_NAME_MAX, cluster_size - name_offset):
            raise MalformedHeader("backing_file_size")
        name = read(name_offset, size)
    walk = _Walk(read, start)
    extensions = tuple(walk.extensions(length, limit))
    most = max(length - HEADER_LENGTH_V3_MIN, 0)
    unknown = walk.take(HEADER_LENGTH_V3_MIN, most) if most else b""
    return HeaderView(fields, walk.take(0, min(walk.end, limit)), unknown, extensions, name)


class _Walk:
    """Steps through the extensions, reading more of the header only where they go on."""

    def __init__(self, read: Callable[[int, int], bytes], start: bytes) -> None:
        self._read = read
        self._loaded = start
        self.end = 0

    def take(self, at: int, size: int) -> bytes:
        end = at + size
        if end > len(self._loaded):
            self._load(end)
        return self._loaded[at:end]

    def _load(self, end: int) -> None:
        if end > HEADER_LIMIT:
            raise MalformedHeader("header larger than its limit")
        self._loaded = self._read(0, HEADER_LIMIT)
        if end > len(self._loaded):
            raise MalformedHeader("header reaches beyond the file")

    def extensions(self, at: int, limit: int) -> list[tuple[int, bytes]]:
        found = []
        while at < limit:
            kind, size = EXTENSION_HEADER.unpack(self.take(at, EXTENSION_HEADER.size))
            at += EXTENSION_HEADER.size
            if size > limit - at:
                raise MalformedHeader("extension reaches beyond its limit")
            if kind == _END:
                break
            if kind != EXTENSION_FEATURE_NAMES:
                found.append((kind, self.take(at, size)))
            at += -(-size // 8) * 8
        self.end = at
        return found
