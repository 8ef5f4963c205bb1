"""What a case of the catalogue is, and the pieces that the cases are made of. Test side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.forge import Data, Image, Snapshot
from tests.support.forge.description import Patch
from tests.support.sparse import set_length

Regions = Mapping[str, range]

BACKING_FILE = b"base.raw"
"""Lies beside every image."""


@dataclass(frozen=True)
class Case:
    """An image that is invalid or extreme; whoever amends it is asked for each of REQUESTS."""

    name: str
    """What is wrong with it."""
    image: Image
    patches: Callable[[Regions], Sequence[Patch]] | None = None
    """More patches, from what the regions of `image` are."""
    length: int | None = None
    """What the file is cut or extended to in the end."""
    reason: str = ""
    """What is among instar's reasons whenever it refuses; it has no right to without one."""
    differs: str = ""
    """The deliberate divergences that explain where qemu-img accepts and instar does not, or the
    other way round, separated by blanks."""
    rewrites: bool = False
    """Whether an amend may change more than the header: what the image says then judges it."""
    leaks: bool = False
    """Whether refcounts that contradict each other may leave a leaked cluster."""
    drop_bitmaps: bool = False
    max_growth: int | None = None
    exits: int = 64
    """How often the guest may stop for the host, unless the limit of work ends it."""
    bytes_read: int = 1 << 20
    """How much may be read of the image."""

    def write(self, path: Path) -> None:
        """Make the image, and the backing file that it may name."""
        image = self.image
        if self.patches is not None:
            more = self.patches(image.regions())
            image = replace(image, patches=[*image.patches, *more])
        image.write(path)
        if self.length is not None:
            set_length(path, self.length)
        path.with_name(BACKING_FILE.decode()).write_bytes(b"\x07" * 4096)


V3 = Image(clusters={0: Data(b"\x05"), 2: Data(b"\x06")})
V2 = replace(V3, version=2)
SNAPSHOT = Snapshot(name=b"before", clusters={0: Data(b"\x04")})
SNAPPED = replace(V3, snapshots=[SNAPSHOT])
BACKED = replace(V3, backing_file=BACKING_FILE, backing_format=b"raw")
TINY = replace(V3, cluster_bits=9, size=1 << 20)
"""With clusters of one sector."""

CLUSTER = 1 << 16

_FIELDS = {
    "magic": (0, 4),
    "version": (4, 4),
    "backing_file_offset": (8, 8),
    "backing_file_size": (16, 4),
    "cluster_bits": (20, 4),
    "size": (24, 8),
    "crypt_method": (32, 4),
    "l1_size": (36, 4),
    "l1_table_offset": (40, 8),
    "refcount_table_offset": (48, 8),
    "refcount_table_clusters": (56, 4),
    "nb_snapshots": (60, 4),
    "snapshots_offset": (64, 8),
    "incompatible_features": (72, 8),
    "compatible_features": (80, 8),
    "autoclear_features": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
    "compression_type": (104, 1),
}


def field(name: str, value: int) -> Patch:
    """A header field with any value that its width allows."""
    offset, width = _FIELDS[name]
    return offset, value.to_bytes(width, "big")


def fields(**values: int) -> list[Patch]:
    """Several header fields."""
    return [field(name, value) for name, value in values.items()]


def u64(*values: int) -> bytes:
    """Numbers as they stand in tables."""
    return b"".join(value.to_bytes(8, "big") for value in values)


def u32(*values: int) -> bytes:
    """Numbers as they stand in headers."""
    return b"".join(value.to_bytes(4, "big") for value in values)


def number(value: int) -> str:
    """A number for a name: near a large power of two as that, else in digits."""
    for bits in range(16, 65):
        apart = value - (1 << bits)
        if apart == 0:
            return f"2^{bits}"
        if abs(apart) <= CLUSTER and bits > 17:
            return f"2^{bits}{apart:+}"
    return str(value) if value < CLUSTER else hex(value)


def header_cases(
    title: str,
    base: Image,
    name: str,
    values: Sequence[int],
    reason: str = "",
    differs: str = "",
) -> Iterator[Case]:
    """One case for each value of a header field."""
    for value in values:
        yield Case(
            f"{title}: {name} is {number(value)}",
            replace(base, patches=[*base.patches, field(name, value)]),
            reason=reason,
            differs=differs,
        )
