"""Random header clusters, valid ones, as hypothesis strategies. Test side."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from instar.vmm.request import AmendRequest
from tests.support.forge import Extension, Image, layout
from tests.support.planner import HEADER_LIMIT

FILL = b"\xee"
"""Stands in all bytes of the header cluster that mean nothing."""

_TYPES = (
    0x11111111,
    0x22222222,
    layout.EXTENSION_FEATURE_NAME_TABLE,
    layout.EXTENSION_BACKING_FORMAT,
    layout.EXTENSION_DATA_FILE,
)
_V2_TYPES = (*_TYPES, layout.EXTENSION_BITMAPS)
"""In version 3 it stops a downgrade."""
_LIMITS = {layout.EXTENSION_BACKING_FORMAT: (0, 15), layout.EXTENSION_BITMAPS: (24, 24)}
"""The least and the most bytes of data, for those that do not take any number."""

cluster_bits = st.sampled_from([*range(9, 17), 9, 10, 11, 12, 16, 21])

requests = st.builds(
    AmendRequest.of,
    compat=st.sampled_from([None, 2, 3]),
    lazy_refcounts=st.sampled_from([None, False, True]),
)


def lengths(most: int) -> st.SearchStrategy[int]:
    """Any number up to `most`, small ones and those near the limits more often."""
    edges = [n for n in (0, 1, 7, 8, 9, 40, 384, 392, 400, 432, most - 8, most) if 0 <= n <= most]
    return st.one_of(st.sampled_from(edges), st.integers(0, min(most, 600)), st.integers(0, most))


@st.composite
def extension_lists(draw: st.DrawFn, room: int, types: tuple[int, ...]) -> list[Extension]:
    """Extensions that take no more than `room` bytes, the end marker not counted."""
    found: list[Extension] = []
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(types) | st.integers(0x70000000, 0x7FFFFFFF))
        least, most = _LIMITS.get(kind, (0, room))
        if room < least + 8:
            break
        size = draw(st.just(least) if least else lengths(min(most, room - 8)))
        found.append(Extension(kind, bytes([size % 251 + 1]) * size, padding=FILL))
        room -= len(found[-1].pack())
    return found


@st.composite
def names(draw: st.DrawFn, end: int, cluster_size: int) -> tuple[int, bytes]:
    """Offset and bytes of a backing file name somewhere behind `end`."""
    half = (cluster_size - end) // 2  # a copy of the name just fits behind it, or just does not
    size = draw(
        st.sampled_from([0, 1, 8, 100, 255, 511, 512, 1000, 1023])
        | st.integers(0, 1023)
        | st.integers(half - 20, half + 4)
    )
    size = max(min(size, 1023, cluster_size - end), 0)
    last = cluster_size - size
    near = [n for n in (end, end + 1, last, 488, 504, 512, 520, 1024) if end <= n <= last]
    offset = draw(
        st.one_of(
            st.sampled_from(near),
            st.integers(end, min(last, end + 1024)),
            st.integers(end, last),
        )
    )
    return offset, bytes(97 + n % 23 for n in range(size))


@st.composite
def images(draw: st.DrawFn, version: int | None = None) -> Image:
    """An image that is empty but for its header cluster; that may hold anything valid."""
    version = version or draw(st.sampled_from([2, 3]))
    bits = draw(cluster_bits)
    cluster_size = 1 << bits
    limit = min(cluster_size, HEADER_LIMIT)
    fields: dict[str, Any] = {"version": version, "cluster_bits": bits, "size": 1 << 15}
    length = layout.HEADER_V2_LENGTH
    if version == 3:
        length = draw(st.sampled_from([104, 112, 112, 112, 120, 128, 496, 504, limit - 8]))
        length = min(length, limit - 8)
        unknown = max(length - layout.HEADER_LENGTH, 0)
        fields.update(
            header_length=length,
            unknown_header_fields=FILL * unknown,
            lazy_refcounts=draw(st.booleans()),
            compatible_features=draw(st.sampled_from([0, 0xF0])),
            autoclear_features=draw(st.sampled_from([0, 0xF0])),
        )
    types = _V2_TYPES if version == 2 else _TYPES
    extensions = draw(extension_lists(limit - length - 8, types))
    end = length + sum(len(extension.pack()) for extension in extensions)
    fields["extensions"] = extensions
    if draw(st.booleans()):
        # Only a name that follows at once can take the end marker's part.
        end_marker = not draw(st.booleans())
        end += 8 if end_marker else 0
        offset, name = draw(names(end, cluster_size)) if end_marker else (end, b"base.qcow2")
        name = name[: cluster_size - offset]
        fields.update(end_marker=end_marker, backing_file=name, backing_file_offset=offset)
    else:
        end += 8
        offset, name = cluster_size, b""
    filled = min(cluster_size, HEADER_LIMIT + 2048)
    gaps = [(end, min(offset, filled)), (offset + len(name), filled)]
    fields["patches"] = [(start, FILL * (stop - start)) for start, stop in gaps if start < stop]
    return Image(**fields)
