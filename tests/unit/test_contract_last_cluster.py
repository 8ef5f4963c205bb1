"""The write contract on the cluster that a disk ends within: what is written there has one user."""

from __future__ import annotations

import pytest

from instar.vmm.base.errors import ImageRejected
from instar.vmm.request import AmendRequest
from tests.support.disks import with_size
from tests.support.forge import Bitmap, Data, Image, Snapshot
from tests.support.planner import ask
from tests.support.planning import Case, case_of
from tests.support.project import load_planner

BITS, SIZE = 12, 1 << 12
IN_TABLE = SIZE // 8
END = 2 * SIZE + 1024
"""Of the disk, within its third cluster."""
IMAGE = Image(
    cluster_bits=BITS,
    size=8 * SIZE,
    clusters={n: Data(bytes([n + 1]) * SIZE) for n in range(3)},
)
TWO_TABLES = Image(
    cluster_bits=BITS,
    size=(IN_TABLE + 8) * SIZE,
    clusters={**{n: Data(bytes([n + 1]) * SIZE) for n in range(3)}, IN_TABLE: Data(b"z")},
)


def grown(image: Image, patches: dict[int, int], end: int = END) -> Case:
    """What an honest guest stages to grow a disk with an end, and numbers of 64 bits patched."""
    data = bytearray(with_size(image.build(), end))
    for at, number in patches.items():
        data[at : at + 8] = number.to_bytes(8, "big")
    request = AmendRequest.of(size=1 << 24, max_growth=1 << 30, drop_bitmaps=True)
    return case_of(bytes(data), request, ask(load_planner(), bytes(data), request))


def last_cluster(image: Image) -> tuple[int, int]:
    """Where the entry of the cluster is that the disk ends within, and the entry."""
    at = image.regions()["l2_table[0]"].start + 8 * 2
    return at, int.from_bytes(image.build()[at : at + 8], "big")


def test_what_hides_in_it_goes() -> None:
    case = grown(IMAGE, {})
    case.judge()
    at = last_cluster(IMAGE)[1] & 0x00FFFFFFFFFFFE00
    assert case.amended()[at : at + SIZE] == b"\3" * 1024 + bytes(SIZE - 1024)


@pytest.mark.parametrize("number", [3, 5, 7])
def test_an_entry_past_the_end_that_names_it_too_does_not_set_it_free(number: int) -> None:
    at, entry = last_cluster(IMAGE)
    with pytest.raises(ImageRejected, match="is used twice"):
        grown(IMAGE, {at + 8 * (number - 2): entry}).judge()


def test_nor_does_a_bitmap_that_is_dropped() -> None:
    bitmaps = [Bitmap(name=b"b", dirty=[3], granularity_bits=9, flags=3)]
    image = Image(cluster_bits=BITS, size=8 * SIZE, clusters=IMAGE.clusters, bitmaps=bitmaps)
    table = image.regions()["bitmap[0].table"].start
    with pytest.raises(ImageRejected, match="is used twice"):
        grown(image, {table: last_cluster(image)[1] & ~(1 << 63)}).judge()


def test_it_is_not_written_where_another_entry_names_its_table_too() -> None:
    regions = TWO_TABLES.regions()
    l1_table = regions["l1_table"].start
    table = int.from_bytes(TWO_TABLES.build()[l1_table : l1_table + 8], "big")
    end = IN_TABLE * SIZE + END
    grown(TWO_TABLES, {}, IN_TABLE * SIZE + 512).judge()
    with pytest.raises(ImageRejected, match="is used twice"):
        grown(TWO_TABLES, {l1_table + 8: table}, end).judge()


def test_a_snapshot_that_shares_its_table_is_no_second_use() -> None:
    image = Image(
        cluster_bits=BITS,
        size=8 * SIZE,
        clusters=IMAGE.clusters,
        snapshots=[Snapshot(name=b"s")],
    )
    grown(image, {}).judge()
