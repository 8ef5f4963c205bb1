"""The forge's model of an image says what the forge's other readers say. Test side."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.forge import (
    Bitmap,
    Compressed,
    Data,
    Extension,
    Image,
    Reader,
    Snapshot,
    Zero,
    ZeroAllocated,
    faults,
    layout,
)
from tests.support.forge.audit import counted_refcounts, stored_refcounts
from tests.support.forge.model import Model

pytestmark = pytest.mark.any_python  # a tool of the tests

BACKING = bytes(range(1, 251)) * 300
ZEROES = Image(
    cluster_bits=9,
    size=(200 << 9) - 100,
    backing_file=b"base",
    clusters={1: Zero(), 2: ZeroAllocated(b"z"), 70: Data(b"d")},
    bitmaps=[Bitmap(name=b"b", dirty=(0, 3), granularity_bits=9)],
)
LUKS = Image(cluster_bits=9, size=1 << 14, crypt_method=2, crypto_header=b"k" * 1500)


def whole(version: int, cluster_bits: int) -> Image:
    """An image with snapshots, compressed clusters, and tables apart."""
    far = 1 << (cluster_bits - 3)
    return Image(
        version=version,
        cluster_bits=cluster_bits,
        size=(far + 2) << cluster_bits,
        backing_file=b"base",
        clusters={0: Data(b"a"), 1: Compressed(b"b"), far: Data(b"c")},
        snapshots=[Snapshot(name=b"s1"), Snapshot(name=b"s2", clusters={0: Data(b"d")})],
        extensions=[Extension(0x11111111, b"x" * 20)],
    )


EXTENDED = Image(cluster_bits=16, size=1 << 20, extended_l2=True, clusters={0: Data(b"a")})
IMAGES = [
    *(whole(version, bits).build() for version in (2, 3) for bits in (9, 10, 12, 16)),
    *(image.build() for image in (ZEROES, LUKS, EXTENDED)),
]


@pytest.mark.parametrize("data", IMAGES, ids=range(len(IMAGES)))
def test_they_count_the_same(data: bytes) -> None:
    reader, model = Reader(data), Model(data)
    if model.refcount_order == 4:
        counted = {cluster: n for cluster, n in counted_refcounts(reader).items() if n}
        assert counted == model.counted
        assert stored_refcounts(reader) == model.stored
        assert faults(reader) == [] == model.wrong_flags
        assert not model.wrong_refcounts


@pytest.mark.parametrize("region", ["data[2]", "l2_table[0]", "bitmap_directory", "refcount_table"])
def test_they_find_the_same_faults(region: str) -> None:
    cluster = ZEROES.regions()[region].start >> 9
    block = ZEROES.regions()["refcount_block[0]"].start
    for refcount in (0, 2):
        data = bytearray(ZEROES.build())
        data[block + 2 * cluster : block + 2 * cluster + 2] = refcount.to_bytes(2, "big")
        model = Model(data)
        assert model.wrong_refcounts == {cluster: (refcount, 1)}
        assert len(faults(Reader(bytes(data)))) == 1 + len(model.wrong_flags)


@pytest.mark.parametrize(("version", "bits"), [(2, 9), (3, 9), (3, 12), (2, 16)])
def test_they_read_the_same_of_all_layers(version: int, bits: int) -> None:
    compare(whole(version, bits))
    compare(ZEROES)


def compare(image: Image) -> None:
    """Both readings of an image."""
    data = image.build()
    backing = BACKING if image.backing_file else b""
    reader, model = Reader(data, backing=backing), Model(data, backing=backing)
    for number, layer in enumerate(model.contents()):
        snapshot = number - 1 if number else None
        for guest, read in enumerate(layer):
            assert read == reader.read_whole(guest, snapshot)


def test_it_says_where_everything_is() -> None:
    for image in (ZEROES, LUKS, whole(3, 9)):
        regions, uses = image.regions(), Model(image.build()).uses
        places = {(use.kind, use.offset) for use in uses}
        for name in ("l1_table", "l2_table[0]", "refcount_table", "bitmap_directory"):
            if name in regions:
                assert (name.partition("[")[0], regions[name].start) in places
        for use in uses:
            if use.kind in ("data", "zero_cluster", "l2_table", "bitmap"):
                word = int.from_bytes(image.build()[use.place :][:8], "big")
                assert word & 0x00FFFFFFFFFFFE00 == use.offset
    assert ("crypto_header", LUKS.regions()["crypto_header"].start) in {
        (use.kind, use.offset) for use in Model(LUKS.build()).uses
    }


@pytest.mark.parametrize(
    "fields", [{"cluster_bits": 77}, {"l1_size": 0xFFFFFFFF}, {"nb_snapshots": 0xFFFFFFFF}]
)
def test_nothing_is_too_odd(fields: dict[str, Any]) -> None:
    model = Model(Image(header=fields).build())
    assert model.contents()
    assert model.uses
    assert isinstance(model.wrong_flags, list)
    assert model.said()["size"] == layout.HeaderV2.parse(model.data).size
