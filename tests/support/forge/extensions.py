"""Header extensions and the feature name table. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.forge import layout


@dataclass(frozen=True)
class Extension:
    """A header extension.

    `length` is written instead of the true length of the data, `padding` fills them up to 8 bytes.
    """

    type: int
    data: bytes = b""
    length: int | None = None
    padding: bytes = field(default=b"\0", compare=False)

    def pack(self) -> bytes:
        length = len(self.data) if self.length is None else self.length
        head = layout.HeaderExtension.build({"type": self.type, "length": length})
        return bytes(head) + self.data + self.padding * (-len(self.data) % 8)


END = Extension(layout.EXTENSION_END)


@dataclass(frozen=True)
class Feature:
    """An entry of the feature name table: which bit of which feature word has this name."""

    type: int
    bit: int
    name: bytes


INCOMPATIBLE, COMPATIBLE, AUTOCLEAR = range(3)

KNOWN_FEATURES = (
    Feature(INCOMPATIBLE, 0, b"dirty bit"),
    Feature(INCOMPATIBLE, 1, b"corrupt bit"),
    Feature(INCOMPATIBLE, 2, b"external data file"),
    Feature(INCOMPATIBLE, 3, b"compression type"),
    Feature(INCOMPATIBLE, 4, b"extended L2 entries"),
    Feature(COMPATIBLE, 0, b"lazy refcounts"),
    Feature(AUTOCLEAR, 0, b"bitmaps"),
    Feature(AUTOCLEAR, 1, b"raw external data"),
)
"""The bits that the specification defines, under the names that qemu writes."""


def feature_name_table(features: Sequence[Feature] | bool) -> bytes | None:
    """The data of the feature name table; True stands for the known features."""
    if not features:
        return None
    entries = [
        {"type": feature.type, "bit": feature.bit, "name": feature.name}
        for feature in (KNOWN_FEATURES if features is True else features)
    ]
    return bytes(layout.FeatureNameTable.build(entries))
