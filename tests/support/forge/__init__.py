"""Builds and reads qcow2 images, valid or not, without qemu. Test side of the trust boundary.

    image = Image(
        cluster_bits=16,
        clusters={0: Data(b"\\x05"), 3: Zero(), 7: Compressed(b"text")},
        snapshots=[Snapshot(name=b"before", clusters={0: Data(b"\\x04")})],
    )
    image.write(tmp_path / "disk.qcow2")
    image.contents()[0]                 # what the guest reads, 64 KiB of fives
    faults(Reader(image.build()))       # what `qemu-img check` would say: nothing

`layout` declares the structures, the other modules have a section of the specification each.
"""

from tests.support.forge.audit import counted_refcounts, faults, references, stored_refcounts
from tests.support.forge.bitmaps import Bitmap
from tests.support.forge.clusters import (
    Cluster,
    Compressed,
    Data,
    RawEntry,
    Subclusters,
    Unallocated,
    Zero,
    ZeroAllocated,
)
from tests.support.forge.extensions import KNOWN_FEATURES, Extension, Feature
from tests.support.forge.image import Image
from tests.support.forge.parse import (
    find_extension,
    parse_bitmaps,
    parse_extensions,
    parse_feature_name_table,
    parse_header,
    parse_snapshots,
)
from tests.support.forge.reader import Reader, UnreadableError
from tests.support.forge.snapshots import Snapshot

__all__ = [
    "KNOWN_FEATURES",
    "Bitmap",
    "Cluster",
    "Compressed",
    "Data",
    "Extension",
    "Feature",
    "Image",
    "RawEntry",
    "Reader",
    "Snapshot",
    "Subclusters",
    "Unallocated",
    "UnreadableError",
    "Zero",
    "ZeroAllocated",
    "counted_refcounts",
    "faults",
    "find_extension",
    "parse_bitmaps",
    "parse_extensions",
    "parse_feature_name_table",
    "parse_header",
    "parse_snapshots",
    "references",
    "stored_refcounts",
]
