"""The header cluster: header, extensions, backing file name. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.support.forge import layout
from tests.support.forge.extensions import END, Extension, feature_name_table
from tests.support.forge.space import Space

if TYPE_CHECKING:
    from tests.support.forge.description import Description

V2_FIELDS = frozenset(field.name for field in layout.HeaderV2.subcons)
V3_FIELDS = frozenset(
    field.name for struct in (layout.HeaderV3, layout.AdditionalFields) for field in struct.subcons
)


def feature_words(image: Description) -> dict[str, int]:
    """The three feature words: what the image needs, and the bits that were asked for besides."""
    return {
        "incompatible_features": image.incompatible_features
        | (layout.INCOMPATIBLE_DIRTY if image.dirty else 0)
        | (layout.INCOMPATIBLE_CORRUPT if image.corrupt else 0)
        | (layout.INCOMPATIBLE_DATA_FILE if image.data_file is not None else 0)
        | (layout.INCOMPATIBLE_COMPRESSION_TYPE if image.compression_type else 0)
        | (layout.INCOMPATIBLE_EXTENDED_L2 if image.extended_l2 else 0),
        "compatible_features": image.compatible_features
        | (layout.COMPATIBLE_LAZY_REFCOUNTS if image.lazy_refcounts else 0),
        "autoclear_features": image.autoclear_features
        | (layout.AUTOCLEAR_BITMAPS if image.bitmaps and image.version != 2 else 0)
        | (layout.AUTOCLEAR_DATA_FILE_RAW if image.data_file_raw else 0),
    }


def all_extensions(
    image: Description, crypto_header: bytes | None, bitmaps: bytes | None
) -> list[Extension]:
    """The extension area in order, given the data of the extensions that point into the file."""
    implied = {
        layout.EXTENSION_BACKING_FORMAT: image.backing_format,
        layout.EXTENSION_DATA_FILE: image.data_file or None,
        layout.EXTENSION_CRYPTO_HEADER: crypto_header,
        layout.EXTENSION_FEATURE_NAME_TABLE: feature_name_table(image.feature_name_table),
        layout.EXTENSION_BITMAPS: bitmaps,
    }
    return [
        *image.first_extensions,
        *(Extension(number, data) for number, data in implied.items() if data is not None),
        *image.extensions,
        *([END] if image.end_marker else []),
    ]


def write_header(
    image: Description, space: Space, places: Mapping[str, int], extensions: list[Extension]
) -> None:
    """Write the header cluster. `places` are the fields that say where the tables are."""
    length = layout.HEADER_V2_LENGTH if image.version == 2 else image.header_length
    area = b"".join(extension.pack() for extension in extensions)
    end = length + len(area)
    space.regions["header"] = range(length)
    space.regions["extensions"] = range(length, end)
    backing_file_offset = _backing_file_offset(image, end)
    fields = {
        "magic": layout.MAGIC,
        "version": image.version,
        "backing_file_offset": backing_file_offset,
        "backing_file_size": len(image.backing_file or b""),
        "cluster_bits": image.cluster_bits,
        "size": image.size,
        "crypt_method": image.crypt_method,
        "nb_snapshots": len(image.snapshots),
        "refcount_order": image.refcount_order,
        "header_length": length,
        "compression_type": image.compression_type,
        **feature_words(image),
        **places,
        **image.header,
    }
    space.file.write(0, _pack(image, fields, length) + area)
    if image.backing_file is not None:
        stop = backing_file_offset + len(image.backing_file)
        space.regions["backing_file"] = range(backing_file_offset, stop)
        space.file.write(backing_file_offset, image.backing_file)


def _backing_file_offset(image: Description, end: int) -> int:
    """Where the name goes, by default to the `end` of the extensions; 0 if there is none."""
    offset = 0
    if image.backing_file is not None:
        offset = end if image.backing_file_offset is None else image.backing_file_offset
        end += len(image.backing_file) if offset == end else 0
    if end > image.geometry.cluster_size:
        raise ValueError(f"the header does not fit into its cluster: it takes {end} bytes")
    return offset


def _pack(image: Description, fields: Mapping[str, object], length: int) -> bytes:
    """The fields in their places, as many as `length` bytes hold."""
    known = V2_FIELDS if image.version == 2 else V2_FIELDS | V3_FIELDS
    if unknown := image.header.keys() - known:
        raise ValueError(f"version {image.version} has no header fields {sorted(unknown)}")
    packed: bytes = layout.HeaderV2.build(fields)
    if image.version == 2:
        if bits := {name: word for name, word in feature_words(image).items() if word}:
            raise ValueError(f"version 2 has no feature bits, but they would be {bits}")
        return packed
    packed += layout.HeaderV3.build(fields) + layout.AdditionalFields.build(fields)
    packed += image.unknown_header_fields
    return packed[:length].ljust(length, b"\0")
