"""Test side: what the guest reads of an image in memory, and images that have more than that."""

from __future__ import annotations

from dataclasses import replace

from tests.support.forge import Data, Image, Reader, Snapshot, ZeroAllocated

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


def half_zeroed(count: int, cluster_bits: int = 9) -> Image:
    """Clusters that the active layer and a snapshot share, of which the latter reads as zeros."""
    image = Image(
        cluster_bits=cluster_bits,
        size=64 << cluster_bits,
        clusters={n: Data(b"a") for n in range(count)},
        snapshots=[Snapshot(name=b"s", clusters={n: ZeroAllocated(b"z") for n in range(count)})],
    )
    data, regions = image.build(), image.regions()
    block, patches = regions["refcount_block[0]"].start, []
    for n in range(count):
        active = regions["l2_table[0]"].start + 8 * n
        zero = regions["snapshot[0].l2_table[0]"].start + 8 * n
        shared, alone = (int.from_bytes(data[at + 1 : at + 7], "big") << 8 for at in (active, zero))
        patches += [(active, shared.to_bytes(8, "big")), (zero, (shared | 1).to_bytes(8, "big"))]
        for offset, refcount in ((shared, 2), (alone, 0)):
            patches.append((block + 2 * (offset >> cluster_bits), refcount.to_bytes(2, "big")))
    return replace(image, patches=patches)
