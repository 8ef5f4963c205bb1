"""Test side: nothing that the image uses is written, zeroed, taken or set free for another use."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import ImageRejected
from tests.support import planning
from tests.support.forge import Bitmap, Data, Extension, Image, Snapshot, Zero, ZeroAllocated
from tests.support.planning import Case
from tests.support.reference import COPIED, Model, downgrade, upgrade
from tests.support.tables import (
    BACKED,
    BLOCKS,
    CLUSTERS,
    MAPPING,
    OLD,
    PLAIN,
    SMALL,
    SNAPSHOT,
    TABLE,
    place,
)

COMPRESSED = 1 << 62
LUKS = 0x0537BE77


def assert_overlap(case: Case, offset: int) -> tuple[int, int]:
    """The two users of the cluster, as the refusal names them."""
    with pytest.raises(ImageRejected) as caught:
        case.judge()
    (refusal,) = caught.value.refusals
    assert (refusal.name, refusal.detail["offset"]) == ("overlap", offset)
    return refusal.detail["user"], refusal.detail["other_user"]


def patched(image: Image, region: str, at: int, data: bytes) -> Image:
    patches = [*image.patches, (region, at, data)]
    return Image(**{**vars(image), "patches": patches})


def point(model: Model, offset: int, word: int) -> None:
    """Let the image have another word there, and what is staged for the sector with it."""
    case, data = model.case, word.to_bytes(8, "big")
    case.data = case.data[:offset] + data + case.data[offset + 8 :]
    for phase in case.phases:
        if offset // 512 in phase:
            sector, at = phase[offset // 512], offset % 512
            phase[offset // 512] = sector[:at] + data + sector[at + 8 :]


def taken(model: Model) -> list[int]:
    """The offsets of clusters that come into use."""
    return [n * 512 for n, change in model.changes.items() if change > 0]


def freed(model: Model) -> list[int]:
    return [n * 512 for n, by in model.changes.items() if by < 0 and model.old[n] + by == 0]


def touched() -> dict[str, tuple[Model, int]]:
    """Honest cases, and a cluster that each of them touches."""
    backed, plain, blocks, old = (
        downgrade(BACKED),
        downgrade(PLAIN),
        downgrade(BLOCKS),
        upgrade(OLD),
    )
    return {
        "taken": (backed, taken(backed)[0]),
        "taken by a refcount block": (blocks, taken(blocks)[-1]),
        "taken by the snapshot table": (old, taken(old)[0]),
        "set free": (plain, freed(plain)[0]),
        "the old snapshot table": (old, OLD.regions()["snapshot_table"].start),
        "written as an L2 table": (plain, PLAIN.regions()["l2_table[0]"].start),
        "written as a refcount block": (plain, PLAIN.regions()["refcount_block[0]"].start),
        "zeroed in its place": (backed, BACKED.regions()["data[2]"].start),
        "written as the refcount table": (blocks, BLOCKS.regions()["refcount_table"].start),
    }


TOUCHED = tuple(touched())
PURPOSES = {
    "written as an L2 table": abi.AMEND_USE_L2_TABLE,
    "written as a refcount block": abi.AMEND_USE_REFCOUNT_BLOCK,
    "written as the refcount table": abi.AMEND_USE_REFCOUNT_TABLE,
    **{name: abi.AMEND_USE_NEW for name in TOUCHED if name.startswith("taken")},
}
"""What the change has a cluster for, where that can be said."""
IMAGES = {"taken": BACKED, "zeroed in its place": BACKED, "set free": PLAIN}


def image_of(name: str) -> Image:
    if ("refcount block" in name and "taken" in name) or "refcount table" in name:
        return BLOCKS
    if "snapshot" in name:
        return OLD
    return IMAGES.get(name, PLAIN)


def spare(image: Image) -> int:
    """Where an L2 entry is that neither the image nor the change uses."""
    return place(image, 60, "l2_table[4]") if image is BLOCKS else place(image, 60)


class TestEveryPointerIsHeldAgainstEveryTouch:
    @pytest.mark.parametrize("name", TOUCHED)
    @pytest.mark.parametrize("flags", [0, COPIED])
    def test_data(self, name: str, flags: int) -> None:
        model, offset = touched()[name]
        model.case.judge()
        point(model, spare(image_of(name)), offset | flags)
        users = assert_overlap(model.case, offset)
        if name in PURPOSES:
            assert users == (PURPOSES[name], abi.AMEND_USE_DATA)
        else:
            assert users == (abi.AMEND_USE_DATA, abi.AMEND_USE_UNKNOWN)

    @pytest.mark.parametrize("name", TOUCHED)
    @pytest.mark.parametrize("at", [0, 100])
    def test_compressed_data(self, name: str, at: int) -> None:
        model, offset = touched()[name]
        point(model, spare(image_of(name)), COMPRESSED | offset + at)
        assert_overlap(model.case, offset)

    @pytest.mark.parametrize("name", TOUCHED)
    def test_the_end_of_compressed_data(self, name: str) -> None:
        model, offset = touched()[name]
        word = COMPRESSED | 1 << 61 | offset - 512  # two sectors
        point(model, spare(image_of(name)), word)
        # What comes before may be touched too, and then be met first.
        with pytest.raises(ImageRejected, match="is used twice"):
            model.case.judge()

    @pytest.mark.parametrize("name", [name for name in TOUCHED if "L2" not in name])
    @pytest.mark.parametrize("layer", ["l1_table", "snapshot[0].l1_table"])
    def test_an_l2_table(self, name: str, layer: str) -> None:
        image = image_of(name)
        if layer not in image.regions():
            layer = "l1_table"
        model, offset = touched()[name]
        point(model, image.regions()[layer].start + 8 * 20, offset)
        assert_overlap(model.case, offset)

    @pytest.mark.parametrize("name", TOUCHED)
    def test_an_l1_table(self, name: str) -> None:
        image = image_of(name)
        model, offset = touched()[name]
        if image is not OLD and "snapshot_table" in image.regions():
            point(model, image.regions()["snapshot_table"].start, offset)
        else:
            point(model, 40, offset)
        assert_overlap(model.case, offset)

    @pytest.mark.parametrize("name", [n for n in TOUCHED if "refcount block" not in n])
    def test_a_refcount_block(self, name: str) -> None:
        image = image_of(name)
        model, offset = touched()[name]
        entries = image.regions()["refcount_table"].start
        if offset == entries:  # new blocks are named after those that are there
            staged = model.case.phases[TABLE][offset // 512]
            model.word(TABLE, offset + 8 * 31, int.from_bytes(staged[8:16], "big"))
            model.word(TABLE, offset + 8, 0)
        point(model, entries + 8 * 30, offset)
        if offset >= len(model.case.data):  # no block can be there, whatever else is
            with pytest.raises(ImageRejected, match="is not a whole table inside the image"):
                model.case.judge()
        else:
            assert_overlap(model.case, offset)


def test_of_two_things_that_a_cluster_is_written_as_the_first_is_named() -> None:
    model, offset = touched()["written as the refcount table"]
    model.put(MAPPING, offset, model.case.data[offset : offset + 512])
    users = assert_overlap(model.case, offset)
    assert users == (abi.AMEND_USE_L2_TABLE, abi.AMEND_USE_REFCOUNT_TABLE)


class TestExtensions:
    """Structures that only extensions name."""

    def luks(self, offset: int, image: Image) -> Image:
        pointer = Extension(LUKS, struct.pack(">QQ", offset, 512))
        return Image(**{**vars(image), "extensions": (pointer,), "crypt_method": 2})

    def test_a_zero_clusters_host_is_the_luks_header(self) -> None:
        plain = Image(**SMALL, clusters={2: ZeroAllocated(b"x"), 3: Data(b"d")})
        image = self.luks(0, plain)
        host = image.regions()["data[2]"].start
        image = self.luks(host, plain)
        assert image.regions()["data[2]"].start == host
        assert_overlap(downgrade(image).case, host)

    def test_a_cluster_that_is_taken_is_the_luks_header(self) -> None:
        image = self.luks(1 << 30, OLD)
        model = upgrade(image)
        model.case.judge()
        offset = taken(model)[0]
        assert_overlap(upgrade(self.luks(offset, OLD)).case, offset)


class TestTheRefcountTablesTail:
    """What lies where the table has no entries yet is overwritten by new ones."""

    @pytest.mark.parametrize("what", ["l1_table", "snapshot_table", "data"])
    def test_a_structure_in_the_refcount_table(self, what: str) -> None:
        model = downgrade(BLOCKS)
        model.case.judge()
        table = BLOCKS.regions()["refcount_table"].start
        if what == "data":
            point(model, spare(BLOCKS), table | COPIED)
        elif what == "l1_table":
            point(model, 40, table)
        else:
            data = bytearray(model.case.data)
            data[60:72] = struct.pack(">IQ", 1, table)
            data[table + 40 : table + 40] = b""
            model.case.data = bytes(data)
            model.put(3, 60, struct.pack(">IQ", 1, table))
        assert_overlap(model.case, table)


class TestTheHeaderCluster:
    """A refcount of the header cluster other than 1 is looked into."""

    def image(self, version: int, **more: Any) -> Image:
        return Image(
            version=version, size=1 << 20, clusters={1: Data(b"d")}, refcounts={0: 2}, **more
        )

    def plan(self, version: int, **more: Any) -> Case:
        return planning.plan(self.image(version, **more).build(), 5 - version)

    def compressed(self, case: Case, image: Image) -> Case:
        entry = image.regions()["l2_table[0]"].start
        word = (COMPRESSED | 600).to_bytes(8, "big")
        case.data = case.data[:entry] + word + case.data[entry + 8 :]
        return case

    def test_compressed_data_in_the_header_cluster_are_not_overwritten(self) -> None:
        case = self.compressed(self.plan(2), self.image(2))
        assert_overlap(case, 0)

    def test_what_nothing_else_is_in_is_amended(self) -> None:
        assert self.plan(2).judge()

    def test_a_table_in_the_header_cluster_is_not_overwritten(self) -> None:
        case = self.plan(2)
        case.data = case.data[:40] + bytes(8) + case.data[48:]
        case.number(40, 0)
        assert_overlap(case, 0)

    def test_a_change_within_the_fields_needs_no_look(self) -> None:
        image = self.image(3)
        case = self.compressed(planning.plan(image.build(), None, True), image)
        case.judge()
        assert all(offset + size <= 1 << 16 for offset, size in case.reads)


class TestBitmaps:
    def test_bitmaps_that_are_out_of_force_use_nothing(self) -> None:
        image = Image(**SMALL, clusters=CLUSTERS, bitmaps=[Bitmap(name=b"one", dirty=[1])])
        stale = Image(**{**vars(image), "header": {"autoclear_features": 0}})
        downgrade(stale, drop_bitmaps=True).case.judge()


class TestSharing:
    def test_two_entries_that_have_one_zero_cluster_do_not_get_it_both(self) -> None:
        image = Image(**SMALL, clusters={0: ZeroAllocated(b"x"), 1: Zero()}, backing_file=b"base")
        host = image.regions()["data[0]"].start
        word = (host | COPIED | 1).to_bytes(8, "big")
        model = downgrade(patched(image, "l2_table[0]", 8, word))
        del model.case.zeroes[1:]
        assert_overlap(model.case, host)

    def test_a_layer_that_shares_all_is_no_other_user(self) -> None:
        image = Image(**SMALL, clusters=CLUSTERS, snapshots=[Snapshot(name=b"shared"), SNAPSHOT])
        for backing in (None, b"base"):
            downgrade(Image(**{**vars(image), "backing_file": backing})).case.judge()


class TestWhatADowngradeDrops:
    """A bitmap is read until the switch; nothing that is written before it may lie in one."""

    IMAGE = Image(
        **SMALL,
        clusters=CLUSTERS,
        backing_file=b"base",
        bitmaps=[Bitmap(name=b"one", dirty=[0], granularity_bits=9)],
    )

    def shared(self, image: Image, region: str, more: int = 1) -> Model:
        """The plan for an image whose bitmap has its data where something else is.

        `more` is what that adds to the cluster's refcount.
        """
        places, counts = (
            image.regions(),
            image.build()[image.regions()["refcount_block[0]"].start :],
        )
        host, old = places[region].start, places["bitmap[0].data[0]"].start
        for cluster, by in ((host >> 9, more), (old >> 9, -1)):
            count = int.from_bytes(counts[2 * cluster : 2 * cluster + 2], "big") + by
            image = patched(image, "refcount_block[0]", 2 * cluster, count.to_bytes(2, "big"))
        image = patched(image, "bitmap[0].table", 0, host.to_bytes(8, "big"))
        return downgrade(image, drop_bitmaps=True)

    def test_what_is_not_written_may_be_in_one(self) -> None:
        downgrade(self.IMAGE, drop_bitmaps=True).case.judge()
        self.shared(self.IMAGE, "data[0]").case.judge()
        self.shared(self.IMAGE, "data[2]").case.judge()

    @pytest.mark.parametrize("region", ["refcount_block[0]", "l2_table[0]"])
    @pytest.mark.parametrize("more", [0, 1, 2])
    def test_a_table_that_is_written_may_not(self, region: str, more: int) -> None:
        image = Image(**{**vars(self.IMAGE), "clusters": {0: Data(b"d"), 1: Zero()}})
        host = image.regions()[region].start
        assert_overlap(self.shared(image, region, more).case, host)

    @pytest.mark.parametrize("more", [0, 1])
    def test_nor_a_cluster_that_is_zeroed(self, more: int) -> None:
        # Two layers have the cluster, which counts for both.
        fields = {**vars(self.IMAGE), "snapshots": [Snapshot(name=b"same")]}
        image = Image(**fields)
        host = image.regions()["data[2]"].start
        case = self.shared(image, "data[2]", more).case
        if more == 0:
            assert_overlap(case, host)
        else:
            case.judge()

    def test_nor_the_refcount_table(self) -> None:
        image = Image(**{**vars(BLOCKS), "bitmaps": self.IMAGE.bitmaps})
        host = image.regions()["refcount_table"].start
        assert_overlap(self.shared(image, "refcount_table").case, host)
