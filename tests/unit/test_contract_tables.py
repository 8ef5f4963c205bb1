"""Test side: what an honest guest stages for tables keeps the write contract, and is the amend.

Each of these cases is staged by tests/sandbox/reference.py; the rules broken are in
test_contract_rogues.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from instar import abi
from tests.forge import (
    Bitmap,
    Compressed,
    Data,
    Image,
    Reader,
    Snapshot,
    Zero,
    ZeroAllocated,
    faults,
    find_extension,
    layout,
)
from tests.forge.clusters import Cluster
from tests.sandbox.reference import Model, downgrade, upgrade

SMALL: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 20}
BACKED: dict[str, Any] = {"backing_file": b"base"}
MIXED: dict[int, Cluster] = {
    0: Data(b"a"),
    1: Zero(),
    2: ZeroAllocated(b"x"),
    3: Compressed(b"c" * 50),
    70: Zero(),
}
SHARED = Snapshot(name=b"shared")
OWN = Snapshot(name=b"own", clusters={0: Data(b"b"), 1: Zero(), 2: Data(b"x"), 5: Zero()})

COMPRESSED: dict[int, Cluster] = {
    0: Compressed(b"c", stored=b"c" * 700),
    64: Compressed(b"d"),
    65: Zero(),
}
"""The first entry of the second sector names bytes within a cluster."""

DOWNGRADES: dict[str, Image] = {
    "zero clusters": Image(**SMALL, clusters=MIXED),
    "zero clusters, backing file": Image(**SMALL, **BACKED, clusters=MIXED),
    "64 KiB": Image(clusters=MIXED),
    "a zero cluster beside a compressed one": Image(size=8 << 20, clusters=COMPRESSED),
    "a zero cluster beside a compressed one, backing file": Image(
        size=8 << 20, **BACKED, clusters=COMPRESSED
    ),
    "64 KiB, backing file": Image(**BACKED, clusters=MIXED),
    "2 MiB, backing file": Image(cluster_bits=21, **BACKED, clusters={0: Zero(), 1: Data(b"a")}),
    "shared tables": Image(**SMALL, clusters=MIXED, snapshots=[SHARED]),
    "shared tables, backing file": Image(**SMALL, **BACKED, clusters=MIXED, snapshots=[SHARED]),
    "own tables": Image(**SMALL, clusters=MIXED, snapshots=[OWN]),
    "own tables, backing file": Image(**SMALL, **BACKED, clusters=MIXED, snapshots=[OWN]),
    "zero clusters of a snapshot only": Image(
        **SMALL, **BACKED, clusters={0: Data(b"a")}, snapshots=[OWN]
    ),
    "new refcount blocks": Image(
        **SMALL, **BACKED, clusters={n: Zero() for n in range(600)}, snapshots=[SHARED]
    ),
    "a larger refcount table": Image(
        cluster_bits=9, size=16 << 20, **BACKED, clusters={n: Zero() for n in range(17000)}
    ),
    "free clusters first": Image(
        **SMALL, **BACKED, clusters={n: Zero() for n in range(6)}, holes=[2, 3, 7]
    ),
}


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_downgrade_that_fills_zero_clusters_may_be_committed(name: str) -> None:
    image = DOWNGRADES[name]
    model = downgrade(image)
    changes = {change.field: change.after for change in model.case.judge()}
    assert changes["version"] == 2
    assert changes.get("refcount_table_offset") == model.places.get("refcount_table_offset")
    assert_same_contents(image, model)


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "stale"])
@pytest.mark.parametrize("image", [Image(**SMALL), Image(clusters=MIXED, **BACKED)])
def test_a_downgrade_that_removes_bitmaps_may_be_committed(image: Image, valid: bool) -> None:
    bitmaps = [Bitmap(name=b"one", dirty=[1, 5]), Bitmap(name=b"two")]
    described = {**vars(image), "bitmaps": bitmaps}
    header = {} if valid else {"autoclear_features": 0}
    image = Image(**{**described, "header": header})
    model = downgrade(image, drop_bitmaps=True)
    model.case.judge()
    after = model.case.amended()
    assert find_extension(after, layout.EXTENSION_BITMAPS) is None
    if valid:
        assert_same_contents(image, model)


UPGRADES: dict[str, list[Snapshot]] = {
    "none": [Snapshot(name=b"a", extra_data_size=0, vm_state=b"state")],
    "eight bytes": [Snapshot(name=b"abc", extra_data_size=8)],
    "some of them": [
        Snapshot(name=b"whole", extra_data_size=32),
        Snapshot(name=b"n" * 200, extra_data_size=0),
        Snapshot(name=b"cut", extra_data_size=13),
        Snapshot(name=b"required", extra_data_size=16),
    ],
    "many": [Snapshot(name=b"snapshot %d" % n, extra_data_size=0) for n in range(40)],
}


@pytest.mark.parametrize("bits", [9, 16])
@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_that_completes_snapshots_may_be_committed(name: str, bits: int) -> None:
    clusters = {0: Data(b"a")}
    snapshots = UPGRADES[name]
    image = Image(
        version=2, cluster_bits=bits, size=1 << 20, clusters=clusters, snapshots=snapshots
    )
    model = upgrade(image)
    assert [change.field for change in model.case.judge()][:2] == ["version", "snapshots_offset"]
    assert_same_contents(image, model)
    for before, after in zip(
        Reader(model.data).snapshots, Reader(model.case.amended()).snapshots, strict=True
    ):
        assert (after.id, after.name, after.l1_size) == (before.id, before.name, before.l1_size)
        assert after.extra_data.disk_size == image.size
        assert after.extra_data_size >= 24


def test_a_table_that_holds_all_is_not_read_for_a_header_alone() -> None:
    model = downgrade(Image(clusters={0: Data(b"a")}))
    model.case.judge()
    assert all(offset + size <= 1 << 16 for offset, size in model.case.reads)


def test_each_window_of_refcounts_is_read_once() -> None:
    model = downgrade(DOWNGRADES["own tables, backing file"])
    model.case.judge()
    blocks = DOWNGRADES["own tables, backing file"].regions()["refcount_block[0]"]
    reads = [read for read in model.case.reads if read[0] in blocks]
    assert reads
    assert len(reads) == len(set(reads))


def assert_same_contents(image: Image, model: Model) -> None:
    """The amended image is whole, and all layers read as before."""
    backing = bytes(range(1, 252)) * (image.size // 251 + 1) if image.backing_file else b""
    backing = backing[: image.size]
    before = Reader(model.data, backing=backing)
    after = Reader(model.case.amended(), backing=backing)
    assert faults(after) == []
    assert len(model.case.phases) == abi.INSTAR_PHASE_COUNT
    for layer in before.layers:
        number = None if layer is None else layer
        for index in list(image.contents(number))[:700]:
            assert after.read(index, layer) == before.read(index, layer), (layer, index)
