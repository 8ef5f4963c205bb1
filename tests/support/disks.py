"""Test side: what the guest reads of an image in memory, and images that have more than that."""

from __future__ import annotations

from tests.support.forge import Reader

BACKING = bytes(range(1, 251)) * 60
"""What the one backing file has that there is."""

_SIZE_AT = 24  # in the header


def with_size(data: bytes, size: int) -> bytes:
    """The image with a disk of another size, and nothing else changed: the rest hides."""
    return data[:_SIZE_AT] + size.to_bytes(8, "big") + data[_SIZE_AT + 8 :]


def disk(data: bytes, layer: int | None = None) -> bytes:
    """What the guest reads of a layer, with the one backing file that there is."""
    reader = Reader(data, backing=BACKING if data[8:16] != bytes(8) else b"")
    size = reader.header.size
    if layer is not None:
        size = reader.snapshots[layer].extra_data.disk_size or size
    clusters = range(-(-size // reader.cluster_size))
    return b"".join(reader.read(n, layer) for n in clusters)


def snapshots(data: bytes) -> list[bytes]:
    """What the guest reads of each snapshot."""
    return [disk(data, n) for n in range(len(Reader(data).snapshots))]
