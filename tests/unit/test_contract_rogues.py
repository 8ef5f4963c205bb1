"""Test side: what a guest that is taken over may try on L2 tables, and cannot commit."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from instar.vmm.request import AmendRequest
from tests.support.forge import Compressed, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.clusters import Cluster
from tests.support.reference import COPIED, Model, downgrade, upgrade
from tests.support.tables import (
    BACKED,
    BITMAPS,
    BLOCKS,
    CLUSTERS,
    ENTRY,
    FLAGS,
    MAPPING,
    NOTHING,
    OLD,
    PLAIN,
    PREPARE,
    RELEASE,
    SMALL,
    SUMS,
    SWITCH,
    TABLE,
    assert_fault,
    place,
)


def test_the_honest_cases_of_these_tests_are_good() -> None:
    for image in (PLAIN, BACKED, BLOCKS):
        downgrade(image).case.judge()
    downgrade(BITMAPS, drop_bitmaps=True).case.judge()
    upgrade(OLD).case.judge()


class TestEntries:
    @pytest.mark.parametrize("image", [PLAIN, BACKED])
    def test_an_entry_of_data_is_cleared(self, image: Image) -> None:
        model = downgrade(image)
        model.word(MAPPING, place(image, 0), 0)
        assert_fault(model, f"{ENTRY} .* no zero cluster, to 0x0$")

    def test_an_entry_that_reads_from_the_backing_file_is_filled(self) -> None:
        model = downgrade(BACKED)
        model.word(MAPPING, place(BACKED, 9), model.entries(place(BACKED, 0))[1][1])
        assert_fault(model, ENTRY)

    def test_a_zero_cluster_reads_from_the_backing_file(self) -> None:
        model = downgrade(BACKED)
        model.word(MAPPING, place(BACKED, 1), 0)
        assert_fault(model, f"{ENTRY} 0x1 to 0x0$")

    def test_a_zero_cluster_gets_a_cluster_that_is_in_use(self) -> None:
        model = downgrade(BACKED)
        used = BACKED.regions()["data[0]"].start
        model.word(MAPPING, place(BACKED, 1), used | COPIED)
        assert_fault(model, ENTRY)

    def test_and_zeroes_it(self) -> None:
        model = downgrade(BACKED)
        used = BACKED.regions()["data[0]"].start
        model.word(MAPPING, place(BACKED, 1), used | COPIED)
        model.zero(used)
        assert_fault(model, f"takes cluster {used:#x}, which is in use")

    def test_two_entries_get_one_cluster(self) -> None:
        model = downgrade(BLOCKS)
        entries = model.entries(place(BLOCKS, 0), MAPPING)
        model.word(MAPPING, place(BLOCKS, 1), entries[0][1])
        assert_fault(model, "which is in use")

    def test_a_cluster_keeps_old_bytes(self) -> None:
        model = downgrade(BACKED)
        model.case.zeroes.pop()
        assert_fault(model, ENTRY)

    def test_a_cluster_that_a_snapshot_reads_is_zeroed(self) -> None:
        model = downgrade(BACKED)
        shared = BACKED.regions()["data[3]"].start
        model.word(MAPPING, place(BACKED, 3), shared)
        model.zero(shared)
        assert_fault(model, ENTRY)

    def test_a_cluster_is_zeroed_that_no_entry_has(self) -> None:
        model = downgrade(BACKED)
        model.zero(len(model.data) + (1 << 16))
        assert_fault(model, "^the guest zeroes clusters for nothing$")

    def test_a_cluster_in_use_is_zeroed(self) -> None:
        model = downgrade(BACKED)
        model.zero(BACKED.regions()["data[0]"].start)
        assert_fault(model, "^the guest zeroes clusters for nothing$")

    def test_more_is_zeroed_than_there_are_entries(self) -> None:
        model = downgrade(BACKED)
        model.case.zeroes.append((len(model.data) // 512 + 100, 1 << 20))
        assert_fault(model, "^the guest zeroes more clusters than it changes entries$")

    def test_a_part_of_a_cluster_is_zeroed(self) -> None:
        model = downgrade(Image(clusters={1: Zero()}, backing_file=b"base"))
        start, count = model.case.zeroes.pop()
        model.case.zeroes.append((start, count - 1))
        assert_fault(model, "^the guest zeroes a part of a cluster")

    def test_a_range_is_zeroed_twice(self) -> None:
        model = downgrade(BACKED)
        model.case.zeroes.append(model.case.zeroes[0])
        assert_fault(model, "is to be zeroed twice$")

    def test_a_range_is_zeroed_and_written(self) -> None:
        model = downgrade(BACKED)
        model.case.phases[PREPARE][model.case.zeroes[0][0]] = bytes(512)
        assert_fault(model, "is to be zeroed and written$")

    @pytest.mark.parametrize("offset", [1 << 30, 1 << 63])
    def test_a_range_is_zeroed_and_written_and_the_refcount_table_is_outside(
        self, offset: int
    ) -> None:
        model = downgrade(BACKED)
        case = model.case
        case.phases[PREPARE][case.zeroes[0][0]] = bytes(512)
        case.data = case.data[:48] + struct.pack(">Q", offset) + case.data[56:]
        case.number(48, offset)
        assert_fault(model, f"^the guest accepted a table at {offset:#x}, outside the image$")

    def test_a_zero_cluster_is_left(self) -> None:
        model = downgrade(PLAIN)
        model.word(MAPPING, place(PLAIN, 1), 1)
        assert_fault(model, "^the guest leaves zero clusters in the L2 table")

    def test_an_encrypted_image_is_filled(self) -> None:
        image = Image(**SMALL, clusters={0: Zero()}, backing_file=b"base", crypt_method=1)
        assert_fault(downgrade(image), ENTRY)

    @pytest.mark.parametrize("flag", [COPIED, 1 << 61, 1 << 62])
    def test_a_flag_of_the_new_entry_is_wrong(self, flag: int) -> None:
        model = downgrade(BACKED)
        word = dict(model.entries(place(BACKED, 0), MAPPING))[place(BACKED, 1)]
        model.word(MAPPING, place(BACKED, 1), word ^ flag)
        assert_fault(model, ENTRY)

    def test_l2_entries_change_in_an_upgrade(self) -> None:
        model = upgrade(OLD)
        model.word(MAPPING, place(OLD, 0), 1)
        assert_fault(model, "^the guest changes L2 entries in an upgrade$")

    def test_data_are_written_as_an_l2_table(self) -> None:
        image = Image(
            **SMALL,
            clusters={0: Data(bytes(7) + b"\1"), 1: Zero()},
            snapshots=[Snapshot(name=b"a", clusters={0: Data(b"b")})],
        )
        model = downgrade(image)
        model.put(MAPPING, image.regions()["data[0]"].start, bytes(512))
        assert_fault(model, "^the guest writes L2 entries where no L2 table is$")


class TestWhatVersion2Lacks:
    """The host looks at each L2 table of each layer, whether or not anything else is staged."""

    @staticmethod
    def header_alone(image: Image) -> Model:
        """A downgrade that stages nothing but the header."""
        model = downgrade(image)
        for phase in model.case.phases[:SWITCH] + model.case.phases[SWITCH + 1 :]:
            phase.clear()
        model.case.zeroes.clear()
        return model

    @pytest.mark.parametrize("index", [0, 63, 64])
    @pytest.mark.parametrize("cluster", [Zero(), ZeroAllocated(b"z")])
    @pytest.mark.parametrize("snapshot", [False, True])
    def test_zero_clusters_stay(self, index: int, cluster: Cluster, snapshot: bool) -> None:
        clusters: dict[int, Cluster] = {0: Data(b"d"), index: cluster}
        own = [Snapshot(name=b"own", clusters=clusters)] if snapshot else []
        image = Image(**SMALL, clusters={} if snapshot else clusters, snapshots=own)
        table = image.regions()[
            f"snapshot[0].l2_table[{index // 64}]" if snapshot else f"l2_table[{index // 64}]"
        ]
        model = self.header_alone(image)
        assert_fault(model, f"^the guest leaves zero clusters in the L2 table at {table.start:#x}$")

    def test_zero_clusters_stay_in_one_table_of_two(self) -> None:
        image = Image(**SMALL, clusters={0: Zero(), 64: Zero()})
        model = downgrade(image)
        del model.case.phases[MAPPING][image.regions()["l2_table[1]"].start // 512]
        assert_fault(model, "^the guest leaves zero clusters in the L2 table")

    @pytest.mark.parametrize("written", [0, 3, 7])
    @pytest.mark.parametrize("left", [1, 4, 6])
    def test_zero_clusters_stay_in_one_sector_of_a_table(self, written: int, left: int) -> None:
        zeros: dict[int, Cluster] = {64 * n + 5: Zero() for n in (written, left)}
        image = Image(cluster_bits=12, size=1 << 21, clusters=zeros)
        model = downgrade(image)
        model.case.judge()
        del model.case.phases[MAPPING][image.regions()["l2_table[0]"].start // 512 + left]
        assert_fault(model, "^the guest leaves zero clusters in the L2 table")

    def test_an_image_without_any_is_downgraded(self) -> None:
        for compression in (0, 1):
            image = Image(
                **SMALL,
                clusters={0: Data(b"d"), 70: Data(b"e")},
                snapshots=[Snapshot(name=b"own", clusters={3: Data(b"s")})],
                compression_type=compression,
            )
            self.header_alone(image).case.judge()

    @pytest.mark.parametrize("zeroes", [False, True])
    def test_compressed_clusters_are_of_zlib(self, zeroes: bool) -> None:
        clusters: dict[int, Cluster] = {0: Compressed(b"d"), 64: Zero() if zeroes else Data(b"d")}
        downgrade(Image(**SMALL, clusters=clusters)).case.judge()
        model = downgrade(Image(**SMALL, clusters=clusters, compression_type=1))
        assert_fault(model, "^the guest leaves what zlib cannot read in the table at")

    @pytest.mark.parametrize(
        ("extra", "fits"),
        [
            (struct.pack(">QQ", 0, 1 << 20), True),
            (struct.pack(">QQ", (1 << 32) - 1, 1 << 20), True),
            (struct.pack(">QQ", 1 << 32, 1 << 20), False),
            (struct.pack(">QQ", 0, 1 << 19), False),
            (struct.pack(">Q", 1 << 32), False),
        ],
    )
    @pytest.mark.parametrize("zeroes", [False, True])
    def test_snapshots_say_what_version_2_can(self, extra: bytes, fits: bool, zeroes: bool) -> None:
        clusters: dict[int, Cluster] = {0: Zero()} if zeroes else {}
        image = Image(
            **SMALL,
            clusters=clusters,
            snapshots=[Snapshot(name=b"s", extra_data_size=len(extra), clusters={})],
        )
        image = replace(image, patches=[("snapshot_table", 40, extra)])
        model = downgrade(image)
        if fits:
            model.case.judge()
        else:
            assert_fault(model, "^the guest leaves a snapshot that version 2 cannot say$")


class TestFlags:
    def flagged(self, image: Image = PLAIN) -> tuple[Model, int]:
        """An honest case, and the entry of cluster 3 of the snapshot, which alone uses it now."""
        return downgrade(image), place(image, 3, "snapshot[0].l2_table[0]")

    def test_a_cluster_that_two_use_is_marked(self) -> None:
        image = Image(**SMALL, clusters=CLUSTERS, snapshots=[Snapshot(name=b"shared")])
        model = downgrade(image)
        word = dict(model.entries(place(image, 0), MAPPING))[place(image, 0)]
        model.word(FLAGS, place(image, 0), word | COPIED)
        assert_fault(model, ENTRY)

    def test_a_mark_is_set_outside_the_active_layer(self) -> None:
        model, entry = self.flagged()
        (word,) = [word for at, word in model.entries(entry - 24) if at == entry]
        model.word(FLAGS, entry, word | COPIED)
        assert_fault(model, "^the guest sets flags outside the active layer's L2 tables$")

    @pytest.mark.parametrize("change", [-1, 512, 1 << 61])
    def test_more_than_the_mark_changes(self, change: int) -> None:
        model, entry = self.flagged()
        (word,) = [word for at, word in model.entries(entry - 24) if at == entry]
        model.word(FLAGS, entry, (word | COPIED) + change)
        assert_fault(model, "L2 entry")


class TestPlaces:
    @pytest.mark.parametrize("phase", [PREPARE, TABLE, RELEASE])
    def test_a_sector_without_a_reason(self, phase: int) -> None:
        model = downgrade(PLAIN)
        model.put(phase, PLAIN.regions()["data[0]"].start, b"X")
        assert_fault(model, NOTHING)

    @pytest.mark.parametrize("phase", [MAPPING, FLAGS])
    def test_data_in_the_phases_of_l2_tables(self, phase: int) -> None:
        model = downgrade(PLAIN)
        model.put(phase, PLAIN.regions()["data[0]"].start, b"X")
        assert_fault(model, f"{ENTRY}|leaves zero clusters|unaligned")

    @pytest.mark.parametrize("other", [PREPARE, TABLE, RELEASE, FLAGS])
    def test_l2_entries_in_another_phase(self, other: int) -> None:
        model = downgrade(PLAIN)
        model.case.phases[other].update(model.case.phases[MAPPING])
        model.case.phases[MAPPING].clear()
        assert_fault(model, f"{NOTHING}|{SUMS}|{ENTRY}")

    def test_l2_entries_in_the_switch(self) -> None:
        model = downgrade(PLAIN)
        model.case.phases[SWITCH].update(model.case.phases[MAPPING])
        assert_fault(model, "wrote nothing or outside the header$")

    def test_the_file_grows_by_more_than_it_may(self) -> None:
        model = downgrade(BLOCKS)
        growth = model.case.staged().end() * 512 - len(model.data)
        model.case.request = AmendRequest.of(compat=2, max_growth=growth)
        model.case.judge()
        model.case.request = AmendRequest.of(compat=2, max_growth=growth - 512)
        assert_fault(model, "^the guest lets the file grow by more than it may$")
