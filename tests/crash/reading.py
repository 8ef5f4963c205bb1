"""What a header means and which bytes say so, by the forge's parser. Test side."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.forge import Extension, layout, parse_extensions, parse_header


@dataclass(frozen=True)
class Meaning:
    """What a reader takes from a header; where in its cluster it stands does not matter."""

    fields: tuple[tuple[str, object], ...]
    """All header fields but the place of the backing file name."""
    extensions: tuple[Extension, ...]
    """In order; without the feature names, which are words for error messages."""
    name: bytes | None
    """Of the backing file."""


@dataclass(frozen=True)
class Reading:
    """A header cluster, read."""

    meaning: Meaning
    referenced: tuple[bytes, bytes]
    """The bytes it is read from: fields with extensions, and the name."""


def read(data: bytes) -> Reading:
    """Read the start of an image, which holds at least the header cluster or the whole file."""
    header = parse_header(data)
    extensions = parse_extensions(data)
    start, size = header.backing_file_offset, header.backing_file_size
    name = data[start : start + size] if start else None
    fields = {key: value for key, value in header.items() if not key.startswith("_")}
    del fields["backing_file_offset"]
    if name is None:  # "Header", backing_file_size: without an offset it means nothing
        del fields["backing_file_size"]
    end = fields.get("header_length", layout.HEADER_V2_LENGTH)
    end += sum(len(extension.pack()) for extension in extensions) + layout.HeaderExtension.sizeof()
    carried = tuple(e for e in extensions if e.type != layout.EXTENSION_FEATURE_NAME_TABLE)
    meaning = Meaning(tuple(fields.items()), carried, name)
    return Reading(meaning, (data[: min(end, start or end)], name or b""))
