"""What can be said of a qcow2 image that is to be built. Test side of the trust boundary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.forge import layout
from tests.support.forge.bitmaps import Bitmap
from tests.support.forge.clusters import Cluster
from tests.support.forge.extensions import Extension, Feature
from tests.support.forge.mapping import Geometry
from tests.support.forge.snapshots import Snapshot

Patch = tuple[int, bytes] | tuple[str, int, bytes]
"""Bytes to put at an offset of the file, or at an offset of a region named in `Image.regions`."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a qcow2 image shall be; without arguments, an empty one of version 3 and 64 MiB.

    Whatever a file can hold can be built, valid or not. An error (of `construct`, or ValueError)
    means that the description cannot be written down: a value exceeds its field, the header its
    cluster, or version 2 has no place for it. Equal descriptions give equal bytes, so what was
    learnt from one can go into the next (`dataclasses.replace`).

    clusters: the guest clusters by number; what is not mentioned is unallocated.
    data_file: the name of the external data file; empty, the feature bit without the extension.
    crypto_header: what the full disk encryption header points to; nothing is encrypted.
    *_features: bits to be set besides those that the other arguments imply.
    unknown_header_fields: what follows the 112 bytes that are defined, as far as header_length.
    backing_file_offset: by default behind the extensions; else anywhere, over whatever is there.
    first_extensions, extensions: written as they are, before and after those that are implied.
    feature_name_table: True for the names that qemu writes.
    holes: host clusters that stay free.
    refcounts: stored refcounts by host cluster, whatever is true.
    header: raw values of header fields, over all that was computed.
    patches: raw bytes, over everything.
    """

    version: int = 3
    cluster_bits: int = 16
    size: int = 64 << 20
    backing_file: bytes | None = None
    backing_format: bytes | None = None
    backing_file_offset: int | None = None
    crypt_method: int = 0
    crypto_header: bytes | None = None
    incompatible_features: int = 0
    compatible_features: int = 0
    autoclear_features: int = 0
    refcount_order: int = 4
    header_length: int = layout.HEADER_LENGTH
    compression_type: int = 0
    unknown_header_fields: bytes = b""
    dirty: bool = False
    corrupt: bool = False
    lazy_refcounts: bool = False
    extended_l2: bool = False
    data_file: bytes | None = None
    data_file_raw: bool = False
    feature_name_table: bool | Sequence[Feature] = False
    first_extensions: Sequence[Extension] = ()
    extensions: Sequence[Extension] = ()
    end_marker: bool = True
    clusters: Mapping[int, Cluster] = field(default_factory=dict)
    snapshots: Sequence[Snapshot] = ()
    bitmaps: Sequence[Bitmap] = ()
    holes: Collection[int] = ()
    refcounts: Mapping[int, int] = field(default_factory=dict)
    header: Mapping[str, object] = field(default_factory=dict)
    patches: Sequence[Patch] = ()

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.cluster_bits, self.extended_l2)
