"""Test side: the real guest fills zero clusters, removes bitmaps and completes snapshots."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.image.image_file import ImageFile
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import Isolation
from tests.support.forge import Bitmap, Image, Reader, faults, find_extension, layout
from tests.support.table_images import DOWNGRADES, MIXED, UPGRADES, cut

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

BITMAPS = [Bitmap(name=b"one", dirty=[1, 5]), Bitmap(name=b"two\n\xff")]


def amend(path: Path, image: Image, **request: Any) -> instar.AmendResult:
    """Amend, and see that the image is whole and reads as before in all layers."""
    image.write(path)
    backing = (bytes(range(1, 252)) * (image.size // 251 + 1))[: image.size]
    backing = backing if image.backing_file else b""
    before = Reader(path.read_bytes(), backing=backing)
    result = instar.amend(path, **request)
    after = Reader(path.read_bytes(), backing=backing)
    assert faults(after) == []
    for layer in before.layers:
        for index in list(image.contents(layer))[:300]:
            assert after.read(index, layer) == before.read(index, layer), (layer, index)
    return result


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_downgrade_fills_zero_clusters(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image"
    result = amend(path, DOWNGRADES[name], compat="0.10")
    assert (result.compat, result.atomic) == ("0.10", True)
    assert {part.phase for part in result.ranges} >= {2, 3}


@pytest.mark.parametrize("isolation", [None, "process"])
def test_a_downgrade_removes_bitmaps_if_asked_to(
    tmp_path: Path, isolation: Isolation | None
) -> None:
    path = tmp_path / "image"
    image = Image(clusters=MIXED, bitmaps=BITMAPS)
    image.write(path)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(path, compat="0.10", isolation=isolation)
    assert r"2 ('one', 'two\n\xff'); remove them with --drop-bitmaps" in str(caught.value)
    assert path.read_bytes() == image.build()
    amend(path, image, compat="0.10", drop_bitmaps=True, isolation=isolation)
    assert find_extension(path.read_bytes(), layout.EXTENSION_BITMAPS) is None


@pytest.mark.parametrize("bits", [9, 16])
@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_completes_snapshots(tmp_path: Path, name: str, bits: int) -> None:
    snapshots = UPGRADES[name]
    image = Image(version=2, cluster_bits=bits, size=1 << 20, snapshots=snapshots)
    result = amend(tmp_path / "image", image, compat="1.1")
    assert "snapshots_offset" in {change.field for change in result.changes}
    after = Reader((tmp_path / "image").read_bytes()).snapshots
    assert [entry.name for entry in after] == [snapshot.name for snapshot in snapshots]
    assert all(entry.extra_data_size >= 24 for entry in after)


class TestGrowth:
    IMAGE = DOWNGRADES["new refcount blocks"]

    @pytest.mark.parametrize("isolation", [None, "process"])
    def test_a_file_does_not_grow_by_more_than_it_may(
        self, tmp_path: Path, isolation: Isolation | None
    ) -> None:
        path = tmp_path / "image"
        self.IMAGE.write(path)
        with pytest.raises(instar.ImageRejected, match="allow more with --max-growth"):
            instar.amend(path, compat="0.10", max_growth=4096, isolation=isolation)
        assert path.read_bytes() == self.IMAGE.build()

    def test_a_dry_run_changes_nothing_and_says_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "image"
        self.IMAGE.write(path)
        dry = instar.amend(path, compat="0.10", dry_run=True)
        assert path.read_bytes() == self.IMAGE.build()
        wet = instar.amend(path, compat="0.10")
        assert (dry.ranges, dry.changes) == (wet.ranges, wet.changes)
        assert path.stat().st_size == max(part.offset + part.length for part in wet.ranges)
        assert any(part.zeroes for part in wet.ranges)

    @pytest.mark.parametrize("size", [1, 700, 4096])
    def test_a_zero_cluster_in_a_short_last_cluster_needs_none(
        self, tmp_path: Path, size: int
    ) -> None:
        path = tmp_path / "image"
        data = cut(size)
        path.write_bytes(data)
        assert instar.amend(path, compat="0.10", max_growth=0).action == "amended"
        assert path.stat().st_size == len(data)
        assert faults(Reader(path.read_bytes())) == []
        assert Reader(path.read_bytes()).read(3) == bytes(4096)

    @pytest.mark.parametrize("growth", [-1, 1 << 63, 1.5, True, "1G"])
    def test_it_is_a_number_of_bytes(self, tmp_path: Path, growth: Any) -> None:
        with pytest.raises(instar.UsageError, match=r"^max_growth is a number of bytes, not "):
            instar.amend(tmp_path / "image", compat="0.10", max_growth=growth)

    def test_bitmaps_are_dropped_or_not(self, tmp_path: Path) -> None:
        maybe: Any = "yes"
        with pytest.raises(instar.UsageError, match=r"^drop_bitmaps is True or False, not 'yes'$"):
            instar.amend(tmp_path / "image", compat="0.10", drop_bitmaps=maybe)

    def test_a_block_device_does_not_grow(self, tmp_path: Path) -> None:
        request = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=1 << 30)
        self.IMAGE.write(tmp_path / "image")
        with ImageFile.open(str(tmp_path / "image"), writable=True, max_growth=1 << 30) as image:
            assert request.fit(image.is_device) is request
            image.is_device = True
            fixed = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=0, fixed_size=True)
            assert request.fit(image.is_device) == fixed


def test_a_huge_l1_table_is_held_twice_at_most(tmp_path: Path) -> None:
    """As it is and as it will be: 32 MiB each, of which the file stores 16 KiB."""
    path, cluster, entries = tmp_path / "image", 1 << 16, (4 << 20) - 8192
    Image(size=1 << 30).write(path)
    with path.open("r+b") as file:
        header = bytearray(file.read(104))
        blocks = int.from_bytes(header[48:56], "big")
        file.seek(blocks)
        block = int.from_bytes(file.read(8), "big")
        l1_table = path.stat().st_size
        count = -(-8 * entries // cluster)
        file.seek(block + 2 * (l1_table // cluster))
        file.write(b"\0\1" * count)
        header[24:32] = (entries * 8192 * cluster).to_bytes(8, "big")
        header[36:48] = entries.to_bytes(4, "big") + l1_table.to_bytes(8, "big")
        file.seek(0)
        file.write(header)
        file.truncate(l1_table + count * cluster)
    tracemalloc.start()
    try:
        result = instar.amend(path, size=(4 << 20) * 8192 * cluster, dry_run=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "l1_size" in {change.field for change in result.changes}
    assert peak < 72 << 20
