"""Test side: what an honest guest stages for tables keeps the write contract, and is the amend.

Each of these cases is staged by tests/support/reference.py; the rules broken are in
test_contract_rogues.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import abi
from instar.abi import INSTAR_PHASE_MAPPING as MAPPING
from instar.vmm.base.errors import GuestFault
from instar.vmm.contract import tables
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.terms import Original
from tests.support.forge import (
    Bitmap,
    Cluster,
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
from tests.support.reference import Model, downgrade, upgrade
from tests.support.table_images import BACKED, DOWNGRADES, MIXED, SMALL, UPGRADES

pytestmark = pytest.mark.any_python


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


def test_of_a_downgrade_of_a_header_alone_only_the_tables_of_layers_are_read() -> None:
    image = Image(clusters={0: Data(b"a")})
    model = downgrade(image)
    model.case.judge()
    elsewhere = [read for read in model.case.reads if sum(read) > 1 << 16]
    places = [image.regions()[name].start for name in ("l1_table", "l2_table[0]")]
    assert [offset for offset, _ in elsewhere] == places
    assert len(set(elsewhere)) == len(elsewhere)


def test_tables_that_only_lose_plain_zero_clusters_are_read_once() -> None:
    clusters = {0: Data(b"a"), **dict.fromkeys((1, 70, 300, 301), Zero())}
    image = Image(**SMALL, clusters=clusters)
    model = downgrade(image)
    model.case.judge()
    tables = {region.start for name, region in image.regions().items() if "l2_table" in name}
    assert len(tables) == 3
    assert sorted(at for at, _ in model.case.reads if at in tables) == sorted(tables)
    assert_same_contents(image, model)


def test_tables_in_a_row_are_read_together() -> None:
    """A file may have very many in holes, where to read them one by one is all the work."""
    image = Image(**SMALL, clusters={n: Data(b"a") for n in range(0, 2048, 64)})
    model = downgrade(image)
    model.case.judge()
    regions = [region for name, region in image.regions().items() if "l2_table" in name]
    assert len(regions) == 32
    starts = {region.start for region in regions}
    rows = sum(start - 512 not in starts for start in starts)
    reads = [at for at, _ in model.case.reads if at in starts]
    assert len(reads) == rows < len(regions)


@pytest.mark.parametrize("table", [0, 5, 31])
def test_of_tables_in_a_row_the_one_with_a_zero_cluster_is_named(table: int) -> None:
    clusters = {n: Data(b"a") for n in range(0, 2048, 64)}
    zero = table * 64 + 1
    image = Image(**SMALL, clusters={**clusters, zero: Zero()})
    model = downgrade(image)
    model.case.phases[MAPPING].clear()
    place = image.regions()[f"l2_table[{table}]"].start
    with pytest.raises(GuestFault, match=f"leaves zero clusters in the L2 table at {place:#x}$"):
        model.case.judge()


@given(
    st.sets(st.integers(0, 300)),
    st.sets(st.integers(0, 300)),
    st.sampled_from([9, 12, 16, 21]),
    st.integers(1, 300),
)
def test_rows_have_each_cluster_once(
    clusters: set[int], alone: set[int], bits: int, end: int
) -> None:
    file = Original(lambda _offset, size: bytes(size), end << bits, 1 << 40)
    rows = list(Disk(file, bits, 0).rows(clusters, alone))
    assert [cluster for row in rows for cluster in row] == sorted(clusters)
    for row in rows:
        assert len(row) == 1 or not alone & set(row)
        assert len(row) == 1 or len(row) << bits <= 1 << 16
        assert row.start >= end or row.stop <= end


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


@pytest.mark.parametrize("bits", [11, 16])
def test_zero_clusters_are_filled_in_place_in_sectors_that_are_staged_in_a_row(bits: int) -> None:
    clusters: dict[int, Cluster] = {64 * n: ZeroAllocated(b"z") for n in range(3)}
    image = Image(cluster_bits=bits, size=1 << 2 * bits - 3, backing_file=b"b", clusters=clusters)
    downgrade(image).case.judge()


@pytest.mark.parametrize("snapshots", [0, 1, 3])
@pytest.mark.parametrize("sectors", [1, 2, 5])
def test_each_layer_may_fill_what_the_written_entries_can_name(
    snapshots: int, sectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 entries a sector: for as many clusters, and no more, the refcounts may make room."""
    told: list[int] = []
    monkeypatch.setattr(tables, "judge_growth", lambda *rest: told.append(rest[-1]))
    clusters: dict[int, Cluster] = {64 * n: Zero() for n in range(sectors)}
    layers = [Snapshot(name=b"%d" % n, clusters={}) for n in range(snapshots)]
    model = downgrade(Image(**BACKED, clusters=clusters, snapshots=layers))
    model.case.judge()
    assert told == [64 * sectors * (1 + snapshots)]
