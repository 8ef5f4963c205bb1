"""Reads the structures of a qcow2 image back. Test side of the trust boundary.

For images that tests made: a value that makes no sense is returned as it is, and a structure for
which the file is too short is an error of `construct`.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

from construct import Container

from tests.support.forge import layout
from tests.support.forge.extensions import Extension, Feature


@lru_cache(1 << 15)
def parsed(structure: Any, raw: bytes) -> Any:
    """What `structure` makes of these bytes. It is kept, and not to be changed."""
    return structure.parse(raw)


def parse_header(data: bytes) -> Any:
    """The header fields as a container; for version 2, those of version 2 only.

    An additional field that header_length does not reach reads as zero, to the specification the
    same. `unknown_header_fields` are the bytes between the known fields and header_length.
    """
    header = Container(parsed(layout.HeaderV2, bytes(data[: layout.HEADER_V2_LENGTH])))
    if header.version == 2:
        return header
    rest = bytes(data[layout.HEADER_V2_LENGTH : layout.HEADER_V3_LENGTH])
    header.update(parsed(layout.HeaderV3, rest))
    additional = data[layout.HEADER_V3_LENGTH : header.header_length]
    known = layout.HEADER_LENGTH - layout.HEADER_V3_LENGTH
    fields = bytes(additional[:known]).ljust(known, b"\0")
    header.update(parsed(layout.AdditionalFields, fields))
    header.unknown_header_fields = additional[known:]
    return header


def parse_extensions(data: bytes) -> list[Extension]:
    """The header extensions in order, without the end marker.

    The area ends at the marker, the backing file name or the end of the cluster; data that would
    reach further are cut off, and `Extension.length` then says how long they claim to be.
    """
    header = parse_header(data)
    offset = layout.HEADER_V2_LENGTH if header.version == 2 else header.header_length
    # Bounded, since a hostile cluster_bits would make a number half a gigabyte long.
    end = min(header.backing_file_offset or 1 << min(header.cluster_bits, 63), len(data))
    extensions = []
    head_size = layout.HeaderExtension.sizeof()
    while offset + head_size <= end:
        head = parsed(layout.HeaderExtension, bytes(data[offset : offset + head_size]))
        offset += head_size
        if head.type == layout.EXTENSION_END:
            break
        body = data[offset : min(offset + head.length, end)]
        lies = len(body) != head.length
        extensions.append(Extension(head.type, body, head.length if lies else None))
        offset += head.length + -head.length % 8
    return extensions


def find_extension(data: bytes, extension_type: int) -> bytes | None:
    """The data of the first header extension of this type, if there is one."""
    return next((e.data for e in parse_extensions(data) if e.type == extension_type), None)


def parse_feature_name_table(data: bytes) -> list[Feature]:
    """The entries of the feature name table; none if there is no such extension."""
    table = find_extension(data, layout.EXTENSION_FEATURE_NAME_TABLE) or b""
    return [Feature(e.type, e.bit, e.name) for e in layout.FeatureNameTable.parse(table)]


def parse_snapshots(data: bytes) -> list[Any]:
    """The snapshot table entries, with `extra_data` parsed (`entry.extra_data.disk_size`)."""
    header = parse_header(data)
    # The last entry's padding may lie behind the end of the file.
    tail = data[header.snapshots_offset :] if header.nb_snapshots else b""
    stream = BytesIO(tail + bytes(8))
    entries = [layout.SnapshotTableEntry.parse_stream(stream) for _ in range(header.nb_snapshots)]
    for entry in entries:
        entry.extra_data = layout.SnapshotExtraData.parse(entry.extra_data)
    return entries


def parse_bitmaps(data: bytes) -> list[Any]:
    """The bitmap directory entries; none if there is no bitmaps extension."""
    found = find_extension(data, layout.EXTENSION_BITMAPS)
    if found is None:
        return []
    extension = layout.BitmapsExtension.parse(found)
    stream = BytesIO(data[extension.bitmap_directory_offset :] + bytes(8))
    return [layout.BitmapDirectoryEntry.parse_stream(stream) for _ in range(extension.nb_bitmaps)]
