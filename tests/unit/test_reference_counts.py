"""Test side: what the judge counts of references is what a slow walk of the image counts."""

from __future__ import annotations

import pytest

from instar.vmm.base.errors import GuestFault
from instar.vmm.contract.reader.disk import COMPRESSED, COPIED, ZERO, Disk
from instar.vmm.contract.reader.reference_counts import ReferenceCounts
from instar.vmm.contract.terms import Original
from instar.vmm.qcow2.header_view import view_header
from tests.support.forge import Bitmap, Compressed, Data, Image, Reader, Snapshot, ZeroAllocated
from tests.support.forge.audit import counted_refcounts
from tests.support.forge.clusters import Cluster

BITS = 9
CLUSTERS: dict[int, Cluster] = {
    **{n: Data(b"d") for n in range(130)},
    200: Compressed(b"c"),
    201: ZeroAllocated(b"z"),
}
SNAPSHOTS = [Snapshot(name=b"a", clusters={**CLUSTERS, 3: Data(b"e")}), Snapshot(name=b"b")]
PLAIN = Image(cluster_bits=BITS, size=300 << BITS, clusters=CLUSTERS)
IMAGES = {
    "plain": PLAIN,
    "snapshots": Image(cluster_bits=BITS, size=300 << BITS, clusters=CLUSTERS, snapshots=SNAPSHOTS),
    "wide refcounts": Image(
        cluster_bits=BITS, size=300 << BITS, clusters=CLUSTERS, refcount_order=5
    ),
    "bitmaps": Image(cluster_bits=BITS, size=300 << BITS, bitmaps=[Bitmap(name=b"m", dirty=[1])]),
    "subclusters": Image(cluster_bits=14, size=1 << 20, extended_l2=True, clusters={1: Data(b"d")}),
    "data file": Image(
        cluster_bits=BITS, size=9 << BITS, clusters={1: Data(b"d")}, data_file=b"data"
    ),
}
BOOKS = ("refcount_table", "refcount_block")


def references_of(image: Image, data: bytes | None = None) -> ReferenceCounts:
    data = image.build() if data is None else data

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    header = view_header(read)
    disk = Disk(Original(read, len(data), 1 << 30), image.cluster_bits, 0)
    return ReferenceCounts(disk, header, header.fields.get("refcount_order", 4))


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_all_but_refcount_structures_is_counted(image: Image) -> None:
    expected = counted_refcounts(Reader(image.build()))
    for name, place in image.regions().items():
        if name.startswith(BOOKS):
            expected.subtract(n >> image.cluster_bits for n in place[:: 1 << image.cluster_bits])
    found = references_of(image).counts
    assert found.itemsize == (4 if image.refcount_order > 4 else 2)
    assert {n: count for n, count in enumerate(found) if count} == dict(+expected)


ROW = tuple(COPIED | n << BITS for n in range(70, 134))


def changed(at: int, by: int) -> tuple[int, ...]:
    words = list(ROW)
    words[at] += by
    return tuple(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (ROW, True),
        (ROW[:1], True),
        (tuple(word & ~COPIED | ZERO for word in ROW), True),
        *((changed(at, by), False) for at in (0, 1, 62, 63) for by in (512, -512, ZERO)),
        (changed(31, -COPIED), False),
        (ROW[::-1], False),
        (tuple(word | COMPRESSED for word in ROW), False),
        ((0, 512, 1024), False),
        ((COPIED, COPIED | 512), False),
        ((0,), False),
    ],
)
def test_clusters_in_a_row_are_known_as_such(words: tuple[int, ...], expected: bool) -> None:
    assert references_of(PLAIN).is_run(words) == expected
    assert not references_of(IMAGES["data file"]).is_run(words)


def test_what_lies_in_a_data_file_is_in_no_cluster_of_the_image() -> None:
    image = IMAGES["data file"]
    table = image.regions()["l2_table[0]"].start
    data = bytearray(image.build())
    data[table : table + 8] = (1 << 40 | COPIED).to_bytes(8, "big")
    assert references_of(image, bytes(data)).counts == references_of(image).counts
    data[table : table + 8] = COMPRESSED.to_bytes(8, "big")
    with pytest.raises(GuestFault, match="accepted the compressed cluster"):
        references_of(image, bytes(data))
