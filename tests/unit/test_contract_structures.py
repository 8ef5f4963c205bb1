"""Test side: what a rogue guest may try on snapshots and bitmaps, and where an image is wrong."""

from __future__ import annotations

import struct
import time
from collections.abc import Container, Sequence

import pytest

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.base.refusals import SNAPSHOTS_MAX
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.reader.l1_tables import l2_tables
from instar.vmm.contract.reader.structures import Snapshots, bitmap_clusters, kept_bitmaps
from instar.vmm.contract.terms import Original
from instar.vmm.qcow2 import EXTENSION_BITMAPS
from instar.vmm.qcow2.header_view import HeaderView
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Image, Snapshot, Zero, ZeroAllocated
from tests.support.planning import Case
from tests.support.reference import COPIED, downgrade, upgrade
from tests.support.tables import (
    BACKED,
    BITMAPS,
    NOTHING,
    OLD,
    PLAIN,
    PREPARE,
    RELEASE,
    SMALL,
    SUMS,
    SWITCH,
    assert_fault,
)

BITS = 9  # of clusters, where only a table is looked at
SNAPSHOT = struct.Struct(">QIHHIIQII")


class TestStructures:
    def test_a_snapshot_is_dropped(self) -> None:
        model = upgrade(OLD)
        model.put(SWITCH, 60, (1).to_bytes(4, "big"))
        assert_fault(model, "^the guest changes a header field that it must not change$")

    @pytest.mark.parametrize("at", [0, 8, 12, 16, 35, 36, 40, 48, 56, 64, 65, 70])
    def test_a_snapshot_changes(self, at: int) -> None:
        model = upgrade(OLD)
        offset = model.places["snapshots_offset"] + at
        (byte,) = model.read(offset, 1)
        model.put(PREPARE, offset, bytes([byte ^ 1]))
        assert_fault(model, "^the guest changes more of the snapshots than they lack$")

    def test_the_snapshot_table_is_not_written(self) -> None:
        model = upgrade(OLD)
        del model.case.phases[PREPARE][model.places["snapshots_offset"] // 512]
        assert_fault(model, "of a new table unwritten$")

    def test_the_snapshot_table_is_written_over_something(self) -> None:
        model = upgrade(OLD)
        model.put(SWITCH, 64, OLD.regions()["l1_table"].start.to_bytes(8, "big"))
        assert_fault(model, "which is in use$")

    def test_the_old_snapshot_table_is_kept(self) -> None:
        model = upgrade(OLD)
        model.case.phases[RELEASE].clear()
        assert_fault(model, SUMS)

    def test_a_snapshot_table_moves_that_lacks_nothing(self) -> None:
        image = Image(version=2, **SMALL, snapshots=[Snapshot(name=b"whole")])
        assert_fault(upgrade(image), "^the guest moves a snapshot table that need not change$")

    def test_a_snapshot_table_moves_in_a_downgrade(self) -> None:
        model = downgrade(PLAIN)
        model.word(SWITCH, 64, len(model.data))
        assert_fault(model, "^the guest changes a header field that it must not change$")

    def test_bitmaps_are_removed_unasked(self) -> None:
        model = downgrade(BITMAPS, drop_bitmaps=True)
        model.case.request = AmendRequest.of(compat=2)
        assert_fault(model, "^the guest downgrades an image with bitmaps$")

    def test_bitmaps_are_removed_and_stay_in_use(self) -> None:
        model = downgrade(BITMAPS, drop_bitmaps=True)
        model.case.phases[RELEASE].clear()
        assert_fault(model, "^the guest stages fewer refcounts than it changes$")

    def test_all_clusters_of_a_bitmaps_table_are_released(self) -> None:
        bitmap = Bitmap(name=b"fine", granularity_bits=9)
        image = Image(cluster_bits=9, size=140 << 20, bitmaps=[bitmap])
        table = image.regions()["bitmap[0].table"]
        assert table.stop - table.start > 512
        downgrade(image, drop_bitmaps=True).case.judge()

    def test_the_clusters_of_stale_bitmaps_are_released(self) -> None:
        model = downgrade(BITMAPS, drop_bitmaps=True)
        stale = Image(bitmaps=BITMAPS.bitmaps, header={"autoclear_features": 0}).build()
        model.case.data = stale
        assert_fault(model, f"{SUMS}|{NOTHING}")


class TestOverlaps:
    """The image's refcounts are wrong, which the guest cannot know: the image is rejected."""

    @pytest.mark.parametrize(
        "region", ["l1_table", "snapshot[0].l1_table", "snapshot_table", "refcount_table"]
    )
    def test_a_free_cluster_holds_metadata(self, region: str) -> None:
        cluster = BACKED.regions()[region].start // 512
        image = Image(**{**vars(BACKED), "refcounts": {cluster: 0}})
        with pytest.raises(ImageRejected) as caught:
            downgrade(image).case.judge()
        (refusal,) = caught.value.refusals
        assert refusal.name == "overlap"
        assert refusal.detail["offset"] == cluster * 512
        assert "unless instar check -r all repairs it" in refusal.message

    def test_a_cluster_of_zeros_is_metadata(self) -> None:
        image = Image(**SMALL, clusters={1: Zero(), 2: ZeroAllocated(b"x")}, backing_file=b"base")
        l1_table = image.regions()["l1_table"].start
        patch = ("l2_table[0]", 16, (l1_table | COPIED | 1).to_bytes(8, "big"))
        with pytest.raises(ImageRejected, match="is used twice"):
            downgrade(Image(**{**vars(image), "patches": [patch]})).case.judge()

    def test_a_released_cluster_is_metadata(self) -> None:
        image = Image(**SMALL, clusters={2: ZeroAllocated(b"x")})
        l1_table = image.regions()["l1_table"].start
        patch = ("l2_table[0]", 16, (l1_table | COPIED | 1).to_bytes(8, "big"))
        with pytest.raises(ImageRejected, match="is used twice"):
            downgrade(Image(**{**vars(image), "patches": [patch]})).case.judge()

    @pytest.mark.parametrize(
        ("region", "at"), [("refcount_table", 8), ("snapshot_table", 0)], ids=["block", "l1_table"]
    )
    def test_an_l2_table_that_is_written_is_another_table(self, region: str, at: int) -> None:
        l2_table, names = BACKED.regions()["l2_table[0]"].start, BACKED.regions()[region].start + at
        case = downgrade(BACKED).case
        case.judge()
        case.data = case.data[:names] + l2_table.to_bytes(8, "big") + case.data[names + 8 :]
        with pytest.raises(ImageRejected) as caught:
            case.judge()
        (refusal,) = caught.value.refusals
        assert (refusal.name, refusal.detail["offset"]) == ("overlap", l2_table)

    def test_a_cluster_that_is_taken_belongs_to_a_bitmap(self) -> None:
        bitmaps = BITMAPS.bitmaps
        image = Image(**{**vars(BACKED), "bitmaps": bitmaps})
        data = image.regions()["bitmap[0].data[0]"].start
        image = Image(**{**vars(image), "refcounts": {data // 512: 0}})
        assert_overlap(downgrade(image, drop_bitmaps=True).case, data)

    def test_a_cluster_of_zeros_is_set_free_by_a_bitmap(self) -> None:
        clusters = {2: ZeroAllocated(b"x")}
        image = Image(**SMALL, clusters=clusters, bitmaps=BITMAPS.bitmaps, backing_file=b"base")
        data = image.regions()["bitmap[0].data[0]"].start
        patch = ("l2_table[0]", 16, (data | COPIED | 1).to_bytes(8, "big"))
        image = Image(**{**vars(image), "patches": [patch]})
        assert_overlap(downgrade(image, drop_bitmaps=True).case, data)

    def test_refcounts_change_in_an_l1_table(self) -> None:
        case = downgrade(BACKED).case
        case.judge()
        block = BACKED.regions()["refcount_block[0]"].start
        names = BACKED.regions()["snapshot_table"].start
        case.data = case.data[:names] + block.to_bytes(8, "big") + case.data[names + 8 :]
        assert_overlap(case, block)

    def test_refcounts_change_in_data(self) -> None:
        block = BACKED.regions()["refcount_block[0]"].start
        patch = ("l2_table[0]", 40 * 8, (block | COPIED).to_bytes(8, "big"))
        assert_overlap(downgrade(Image(**{**vars(BACKED), "patches": [patch]})).case, block)

    def test_the_refcount_table_names_a_block_twice(self) -> None:
        case = downgrade(BACKED).case
        case.judge()
        table = BACKED.regions()["refcount_table"].start
        entry = case.data[table : table + 8]
        case.data = case.data[: table + 80] + entry + case.data[table + 88 :]
        assert_overlap(case, int.from_bytes(entry, "big"))

    def test_the_l2_table_counts_as_free(self) -> None:
        image = Image(**SMALL, clusters={1: Zero()})
        l2_table = image.regions()["l2_table[0]"].start
        count = image.regions()["refcount_block[0]"].start + l2_table // 512 * 2
        case = downgrade(image).case
        case.judge()
        case.data = case.data[:count] + bytes(2) + case.data[count + 2 :]
        with pytest.raises(ImageRejected) as caught:
            case.judge()
        (refusal,) = caught.value.refusals
        assert refusal.name == "refcount"
        assert refusal.detail == {"offset": l2_table, "refcount": 0, "needed": 1}


def assert_overlap(case: Case, offset: int) -> None:
    """The image is rejected because of this cluster."""
    with pytest.raises(ImageRejected) as caught:
        case.judge()
    (refusal,) = caught.value.refusals
    assert (refusal.name, refusal.detail["offset"]) == ("overlap", offset)


class TestWork:
    """What it takes to judge an image is bounded: more is a refusal, and never a fault."""

    @pytest.mark.parametrize("what", ["zero clusters", "bitmaps", "snapshots"])
    def test_too_much_is_refused(self, what: str) -> None:
        models = {
            "zero clusters": lambda: downgrade(BACKED),
            "bitmaps": lambda: downgrade(BITMAPS, drop_bitmaps=True),
            "snapshots": lambda: upgrade(OLD),
        }
        case = models[what]().case
        case.judge()
        enough = 0
        for budget in range(0, 2 << 20, 8000):
            case.work_max = budget
            try:
                case.judge()
            except ImageRejected as error:
                (refusal,) = error.refusals
                assert (refusal.name, refusal.detail) == ("work_limit", {"limit": budget})
                assert not enough
            else:
                enough = enough or budget
        assert enough > 50_000


@pytest.mark.parametrize("count", [512, 513])
def test_no_snapshot_table_is_larger_than_qemu_takes(count: int) -> None:
    """64 MiB, of entries of 128 KiB each."""
    names = (1 << 16) - 1, (1 << 16) - 41  # bytes of the ID, and of the name
    entry = struct.pack(">QIHHIIQII", 0, 0, *names, 0, 0, 0, 0, 0)

    def read(offset: int, size: int) -> bytes:
        return (entry if offset % (1 << 17) == 0 else b"").ljust(size, b"\0")

    disk = Disk(Original(read, 1 << 30, 1 << 40), 16, 0)
    if count == 512:
        assert len(Snapshots(disk, 1 << 17, count, 0).clusters) == 1024
    else:
        with pytest.raises(GuestFault, match=f"accepted a snapshot table of {513 << 17} bytes$"):
            Snapshots(disk, 1 << 17, count, 0)


def disk_of(data: bytes, size: int = 1 << 40) -> Disk:
    """A disk that begins with these bytes, and has zeros behind them."""
    return Disk(Original(lambda at, n: data[at : at + n].ljust(n, b"\0"), size, 1 << 40), BITS, 0)


@pytest.mark.parametrize(
    ("clusters", "alone", "rows"),
    [
        ([], (), []),
        ([7], (), [range(7, 8)]),
        ([9, 7, 8], (), [range(7, 10)]),
        ([1, 2, 4], (), [range(1, 3), range(4, 5)]),
        (range(300), (), [range(128), range(128, 256), range(256, 300)]),
        (range(6), {3}, [range(3), range(3, 4), range(4, 6)]),
        (range(6), {0, 5}, [range(1), range(1, 5), range(5, 6)]),
        ([3], {3}, [range(3, 4)]),
    ],
)
def test_rows_are_ascending_near_each_other_and_never_empty(
    clusters: Sequence[int], alone: Container[int], rows: list[range]
) -> None:
    assert [*disk_of(b"").rows(clusters, alone)] == rows


def test_no_more_snapshots_are_there_than_qemu_takes() -> None:
    snapshots = Snapshots(disk_of(b""), 0, SNAPSHOTS_MAX, 0)
    assert SNAPSHOTS_MAX == len(snapshots.l1_tables) == 65536
    assert snapshots.clusters == range(40 * 65536 >> BITS)
    with pytest.raises(GuestFault, match=r"accepted 65537 snapshots$"):
        Snapshots(disk_of(b""), 0, SNAPSHOTS_MAX + 1, 0)


@pytest.mark.parametrize(("rest", "clusters"), [(0, 1), (512 - 40, 1), (513 - 40, 2), (1000, 3)])
def test_a_snapshot_table_ends_with_its_last_text(rest: int, clusters: int) -> None:
    last = SNAPSHOT.pack(0, 0, rest // 2, rest - rest // 2, 0, 0, 0, 0, 0)
    for before in (0, 3, 4, 5):
        # Each entry but the last one is filled up to a multiple of 8 bytes from the first one on.
        first = SNAPSHOT.pack(0, 0, 0, 512 * 4 - 40 - before, 0, 0, 0, 0, 0).ljust(512 * 4, b"\0")
        table = Snapshots(disk_of(bytes(512) + first + last), 512, 2, 0)
        assert len(table.l1_tables) == 2
        assert table.clusters == range(1, 5 + clusters)


@pytest.mark.parametrize(("extra", "lacks"), [(0, True), (15, True), (16, False), (1024, False)])
def test_a_snapshot_has_no_more_extra_data_than_qemu_takes(extra: int, lacks: bool) -> None:
    entry = SNAPSHOT.pack(0, 0, 0, 0, 0, 0, 0, 0, extra)
    assert Snapshots(disk_of(entry), 0, 1, 0).lacks_extra_data == lacks
    if extra == 1024:
        with pytest.raises(GuestFault, match=r"a snapshot with 1025 bytes of extra data$"):
            Snapshots(disk_of(entry[:-4] + (1025).to_bytes(4, "big")), 0, 1, 0)


@pytest.mark.parametrize("size", [0, 4, 7, 8, 9, 15, 16, 17, 23, 24, 25, 40])
def test_an_upgrade_keeps_the_extra_data_that_is_whole_and_adds_what_lacks(size: int) -> None:
    state, disk_size, extra = 5, 1 << 30, bytes(range(1, size + 1))
    entry = SNAPSHOT.pack(0, 0, 1, 2, 0, 0, 0, state, size) + extra + b"ID!"
    (upgraded,) = Snapshots(disk_of(entry), 0, 1, disk_size).upgraded()
    known = (state, disk_size, (1 << 64) - 1)
    parts = [
        extra[at : at + 8] if size >= at + 8 else value.to_bytes(8, "big")
        for at, value in zip((0, 8, 16), known, strict=True)
    ]
    wanted = b"".join(parts) + extra[24:]
    assert upgraded[:36] == entry[:36]
    assert int.from_bytes(upgraded[36:40], "big") == len(wanted)
    assert upgraded[40:] == (wanted + b"ID!").ljust(-(-(len(wanted) + 3) // 8) * 8, b"\0")


def bitmaps_of(count: int, size: int, directory: bytes = b"") -> list[int]:
    """The clusters of bitmaps whose directory begins the disk."""
    return [*bitmap_clusters(disk_of(directory), struct.pack(">IIQQ", count, 0, size, 0))]


def bitmap(name: int, extra: int = 0) -> bytes:
    """An entry of a directory, of a bitmap without a table."""
    entry = struct.pack(">QIIBBHI", 0, 0, 0, 1, 9, name, extra)
    return entry + bytes(name + extra + -(len(entry) + name + extra) % 8)


def test_no_bitmaps_are_more_or_longer_than_qemu_takes() -> None:
    with pytest.raises(GuestFault, match=r"bitmap directory that is too short$"):
        bitmaps_of(65535, 0)
    with pytest.raises(GuestFault, match=r"accepted 65536 bitmaps$"):
        bitmaps_of(65536, 0)
    with pytest.raises(GuestFault, match=r"bitmap directory of another size than it has$"):
        bitmaps_of(0, 64 << 20)
    with pytest.raises(GuestFault, match=f"a bitmap directory of {(64 << 20) + 1} bytes$"):
        bitmaps_of(0, (64 << 20) + 1)


@pytest.mark.parametrize("name", [0, 1, 7, 8, 9, 1023])
def test_a_bitmap_directory_is_as_long_as_its_entries(name: int) -> None:
    entry = bitmap(name)
    directory = entry + bitmap(5)
    assert bitmaps_of(2, len(directory), directory) == [*range(-(-len(directory) >> BITS))]
    with pytest.raises(GuestFault, match=r"bitmap directory that is too short$"):
        bitmaps_of(2, len(entry) + 23, directory)
    for size in (len(directory) - 1, len(directory) + 1):
        with pytest.raises(GuestFault, match=r"bitmap directory of another size than it has$"):
            bitmaps_of(2, size, directory)


@pytest.mark.parametrize("entry", [bitmap(1024), bitmap(3, extra=1)])
def test_a_bitmap_has_no_long_name_and_no_extra_data(entry: bytes) -> None:
    with pytest.raises(GuestFault, match=r"a bitmap with extra data, or a long name$"):
        bitmaps_of(1, len(entry), entry)


def test_of_several_bitmaps_extensions_the_last_is_in_force() -> None:
    """As in qemu: the directory that the others name is no bitmap's."""
    kinds = [(EXTENSION_BITMAPS, b"first"), (7, b"other"), (EXTENSION_BITMAPS, b"last")]
    view = HeaderView({"autoclear_features": 1}, b"", b"", tuple(kinds), None)
    assert kept_bitmaps(view, view) == b"last"


def test_tables_that_are_known_are_not_walked_for_each_snapshot() -> None:
    def time_of(known: set[int]) -> float:
        words = [(n << 16) + (1 << 30) for n in range(many + 2000)]
        disk = disk_of(struct.pack(f">{len(words)}Q", *words))
        l1_tables = [(0, many), *((8 * n, 1) for n in range(many + 1, many + 2000, 2))]
        start = time.process_time()
        assert len(l2_tables(disk, l1_tables, known)) == many + 1000
        return time.process_time() - start

    many = 1 << 13
    assert time_of(set(range(4 * many))) < 5 * time_of(set())
