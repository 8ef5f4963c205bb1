"""The image forge, without qemu: what it builds is read back by code that owes it nothing.

Test side of the trust boundary.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.forge import (
    KNOWN_FEATURES,
    Bitmap,
    Cluster,
    Compressed,
    Data,
    Extension,
    Feature,
    Image,
    RawEntry,
    Reader,
    Snapshot,
    Subclusters,
    Unallocated,
    UnreadableError,
    Zero,
    ZeroAllocated,
    counted_refcounts,
    faults,
    find_extension,
    layout,
    parse_bitmaps,
    parse_extensions,
    parse_feature_name_table,
    parse_header,
    parse_snapshots,
    references,
    stored_refcounts,
)
from tests.support.sparse import stored

pytestmark = pytest.mark.any_python  # a tool of the tests

NOISE = bytes((n * n * 7 + n // 3) % 256 for n in range(10007))
"""Repeats too late for a window of 4 KiB, so that it hardly compresses."""

BACKING = NOISE * 3


def everything(cluster_bits: int, **fields: Any) -> Image:
    """An image with every kind of cluster, in two L2 tables, that two snapshots share in part."""
    far = 1 << (cluster_bits - 3)
    clusters: dict[int, Cluster] = {
        0: Data(b"\x05"),
        1: Data(NOISE),
        2: Unallocated(),
        3: Zero(),
        4: ZeroAllocated(b"stale"),
        5: Compressed(b"\x07"),
        6: Compressed(NOISE),
        far: Data(b"far"),
        far + 1: Zero(),
    }
    snapshots = [
        Snapshot(name=b"taken just now", vm_state=b"state"),
        Snapshot(name=b"older", clusters={**clusters, 0: Data(b"\x04"), 4: Data(b"stale")}),
    ]
    size = (far + 2 << cluster_bits) - 512
    return Image(
        **{
            "cluster_bits": cluster_bits,
            "size": size,
            "clusters": clusters,
            "snapshots": snapshots,
            "bitmaps": [Bitmap(name=b"b0", dirty=[0, size - 1 >> 16]), Bitmap(name=b"b1")],
            "extensions": [Extension(0x11111111, b"one"), Extension(0x22222222)],
            "backing_file": b"base.raw",
            "backing_format": b"raw",
            **fields,
        }
    )


def assert_sound(image: Image) -> Reader:
    """No faults, no part lies over another, and the guest reads what was described."""
    regions = image.regions()
    del regions["header_cluster"]  # the parts of which are named too
    for before, after in pairwise(sorted(regions.values(), key=lambda region: region.start)):
        assert before.stop <= after.start
    data_file = image.build_data_file() if image.data_file else b""
    reader = Reader(image.build(), data_file=data_file, backing=BACKING)
    assert faults(reader) == []
    for layer in reader.layers:
        contents = image.contents(layer, backing=BACKING)
        assert {index: reader.read(index, layer) for index in contents} == contents
    return reader


class TestLayout:
    def test_structures_have_the_sizes_of_the_specification(self) -> None:
        assert layout.HeaderV2.sizeof() == 72
        assert layout.HeaderV3.sizeof() == 104 - 72
        assert layout.AdditionalFields.sizeof() == 112 - 104
        assert layout.FeatureName.sizeof() == 48
        assert layout.BitmapsExtension.sizeof() == 24
        assert layout.CryptoHeaderExtension.sizeof() == 16
        for entry in (
            layout.RefcountTableEntry,
            layout.L1Entry,
            layout.SubclusterBitmap,
            layout.BitmapTableEntry,
        ):
            assert entry.sizeof() == 8

    def test_an_empty_image_byte_by_byte(self) -> None:
        header = Image(lazy_refcounts=True, header={"size": 0x0123456789ABCDEF}).build()[:120]
        assert header == bytes.fromhex(
            "514649fb 00000003"  # magic, version
            "0000000000000000 00000000"  # backing_file_offset, backing_file_size
            "00000010 0123456789abcdef 00000000"  # cluster_bits, size, crypt_method
            "00000001 0000000000010000"  # l1_size, l1_table_offset
            "0000000000020000 00000001"  # refcount_table_offset, refcount_table_clusters
            "00000000 0000000000000000"  # nb_snapshots, snapshots_offset
            "0000000000000000 0000000000000001 0000000000000000"  # the feature words
            "00000004 00000070 00 00000000000000"  # refcount_order, header_length, compression_type
            "00000000 00000000"  # end of the header extension area
        )

    def test_table_entries_byte_by_byte(self) -> None:
        image = Image(
            clusters={0: Data(b"\x01"), 1: Zero(), 2: ZeroAllocated(), 3: Compressed(b"\x01")}
        )
        data, regions = image.build(), image.regions()
        l1, l2 = regions["l1_table"].start, regions["l2_table[0]"].start
        assert data[l1 : l1 + 8].hex() == f"{1 << 63 | l2:016x}"
        compressed = regions["data[3]"].start
        assert data[l2 : l2 + 40].hex() == (
            f"{1 << 63 | regions['data[0]'].start:016x}"
            f"{1:016x}"
            f"{1 << 63 | regions['data[2]'].start | 1:016x}"
            f"{1 << 62 | compressed:016x}"
            f"{0:016x}"
        )

    @pytest.mark.parametrize("cluster_bits", range(9, 22))
    def test_a_compressed_descriptor_divides_its_bits_by_cluster_size(
        self, cluster_bits: int
    ) -> None:
        entry = layout.l2_entry(cluster_bits).parse(
            (1 << 62 | 1 << 70 - cluster_bits).to_bytes(8, "big")
        )
        assert entry.cluster.additional_sectors == 1
        assert entry.cluster.host_cluster_offset == 0


class TestSoundImages:
    @pytest.mark.parametrize("cluster_bits", range(9, 22))
    def test_every_cluster_size(self, cluster_bits: int) -> None:
        reader = assert_sound(everything(cluster_bits))
        assert reader.header.cluster_bits == cluster_bits

    @pytest.mark.parametrize("refcount_order", range(2, 7))
    def test_every_refcount_width_with_snapshots(self, refcount_order: int) -> None:
        assert_sound(everything(12, refcount_order=refcount_order))

    @pytest.mark.parametrize("refcount_order", range(7))
    def test_every_refcount_width_without_snapshots(self, refcount_order: int) -> None:
        assert_sound(everything(9, refcount_order=refcount_order, snapshots=[]))

    def test_version_2(self) -> None:
        image = everything(
            16,
            version=2,
            clusters={0: Data(b"\x05"), 1: Compressed(b"\x06"), 9: Data(NOISE)},
            bitmaps=[],
            snapshots=[Snapshot(name=b"s", extra_data_size=0)],
        )
        reader = assert_sound(image)
        assert "header_length" not in reader.header
        assert [e.type for e in parse_extensions(reader.data)][1:] == [0x11111111, 0x22222222]

    @pytest.mark.parametrize("cluster_bits", [14, 16, 21])
    def test_extended_l2_entries(self, cluster_bits: int) -> None:
        parts: dict[int, Data | Zero] = {0: Data(b"\x09"), 1: Zero(), 31: Data(NOISE)}
        clusters = {
            0: Data(b"\x05"),
            1: Subclusters(parts),
            2: Subclusters(),
            3: Zero(),
            4: ZeroAllocated(b"x"),
            5: Compressed(b"\x06"),
            6: Unallocated(),
        }
        image = everything(cluster_bits, extended_l2=True, clusters=clusters)
        reader = assert_sound(image)
        assert reader.header.incompatible_features == layout.INCOMPATIBLE_EXTENDED_L2
        assert reader.entry(1).subclusters.allocated == 1 << 31 | 1
        assert reader.entry(1).subclusters.reads_as_zeros == 1 << 1
        assert not reader.entry(3).descriptor.cluster.reads_as_zeros

    def test_external_data_file(self, tmp_path: Path) -> None:
        image = Image(
            size=1 << 20,
            data_file=b"disk.raw",
            data_file_raw=True,
            clusters={0: Data(b"\x05"), 3: Data(b"\x06"), 4: ZeroAllocated(), 5: Zero()},
        )
        reader = assert_sound(image)
        assert reader.header.incompatible_features == layout.INCOMPATIBLE_DATA_FILE
        assert reader.header.autoclear_features == layout.AUTOCLEAR_DATA_FILE_RAW
        assert find_extension(reader.data, layout.EXTENSION_DATA_FILE) == b"disk.raw"
        image.write(tmp_path / "disk.qcow2")
        raw = (tmp_path / "disk.raw").read_bytes()
        assert len(raw) == image.size
        assert raw[3 << 16 : 4 << 16] == image.contents()[3]

    def test_many_refcount_blocks(self) -> None:
        """With 64-bit refcounts and 512-byte clusters, a block has 64 counts, a table 64 blocks."""
        clusters = {n: Data(b"%d" % n) for n in range(4200)}
        image = Image(cluster_bits=9, size=4 << 20, refcount_order=6, clusters=clusters)
        reader = Reader(image.build())
        assert reader.header.refcount_table_clusters == 2
        assert stored_refcounts(reader) == counted_refcounts(reader)

    def test_a_disk_of_one_pebibyte(self, tmp_path: Path) -> None:
        last = (1 << 50 - 21) - 1
        image = Image(cluster_bits=21, size=1 << 50, clusters={last: Data(b"\x01")})
        image.write(tmp_path / "big.qcow2")
        assert Reader((tmp_path / "big.qcow2").read_bytes()).read(last) == b"\x01" * (1 << 21)

    @pytest.mark.parametrize("size", [0, 512])
    def test_a_disk_of_next_to_nothing(self, size: int) -> None:
        assert parse_header(assert_sound(Image(size=size)).data).l1_size == size // 512

    def test_holes_stay_free(self) -> None:
        holes = {1, 40, *range(2, 30, 2)}
        reader = assert_sound(everything(12, holes=holes))
        assert not holes & stored_refcounts(reader).keys()

    def test_equal_descriptions_give_equal_bytes(self) -> None:
        assert everything(12).build() == everything(12).build()


class TestSharing:
    def test_layers_share_what_is_equal(self) -> None:
        old = {0: Data(b"old"), 1: Data(b"same")}
        image = Image(
            clusters={0: Data(b"new"), 1: Data(b"same")},
            snapshots=[Snapshot(name=b"a", clusters=old), Snapshot(name=b"b", clusters=old)],
        )
        reader = assert_sound(image)
        counts, regions = stored_refcounts(reader), image.regions()
        by_name = {name: counts[region.start >> 16] for name, region in regions.items()}
        assert by_name["data[0]"] == 1
        assert by_name["data[1]"] == 3
        assert by_name["snapshot[0].data[0]"] == 2
        assert by_name["snapshot[0].l2_table[0]"] == 2
        assert [reader.entry(n).descriptor.copied for n in (0, 1)] == [True, False]
        assert next(reader.l1_entries())[1].copied

    def test_a_zero_cluster_can_sit_on_the_data_of_a_snapshot(self) -> None:
        snapshot = Snapshot(name=b"s", clusters={0: Data(b"\x05")})
        image = Image(clusters={0: ZeroAllocated(b"\x05")}, snapshots=[snapshot])
        reader = assert_sound(image)
        hosts = [reader.host_range(reader.entry(0, layer)) for layer in reader.layers]
        assert hosts[0] == hosts[1]

    def test_compressed_clusters_share_host_clusters_as_far_as_refcounts_go(self) -> None:
        clusters = {n: Compressed(b"%d" % n) for n in range(5)}
        image = Image(clusters=clusters)
        counts = {}
        for order in (0, 1, 4):
            reader = assert_sound(replace(image, refcount_order=order))
            first = reader.host_range(reader.entry(0))
            counts[order] = stored_refcounts(reader)[first.start >> 16]
        assert counts == {0: 1, 1: 3, 4: 5}

    def test_compressed_data_can_cross_into_the_next_cluster(self) -> None:
        clusters = {n: Compressed(NOISE[n:]) for n in range(20)}
        reader = assert_sound(Image(cluster_bits=12, clusters=clusters))
        hosts = [reader.host_range(reader.entry(n)) for n in clusters]
        assert any(host.start >> 12 != host.stop - 1 >> 12 for host in hosts)

    def test_a_refcount_that_does_not_fit_is_an_error(self) -> None:
        image = Image(refcount_order=0, clusters={0: Data(b"")}, snapshots=[Snapshot(name=b"s")])
        with pytest.raises(ValueError, match=r"refcount 2 .* 1 bits"):
            image.build()


class TestHeader:
    def test_feature_bits(self) -> None:
        image = Image(
            dirty=True,
            corrupt=True,
            lazy_refcounts=True,
            compression_type=1,
            incompatible_features=1 << 63,
            compatible_features=1 << 7,
            autoclear_features=1 << 9,
        )
        header = parse_header(image.build())
        assert header.incompatible_features == 1 << 63 | 0b1011
        assert header.compatible_features == 1 << 7 | 1
        assert header.autoclear_features == 1 << 9
        assert header.compression_type == 1

    @pytest.mark.parametrize("header_length", [104, 112, 120, 512])
    def test_header_length_moves_the_extensions(self, header_length: int) -> None:
        unknown = b"unknown!"[: max(header_length - 112, 0)]
        image = Image(
            header_length=header_length,
            unknown_header_fields=b"unknown!",
            extensions=[Extension(7, b"seven")],
        )
        header = parse_header(image.build())
        assert header.header_length == header_length
        assert header.unknown_header_fields.rstrip(b"\0") == unknown
        assert parse_extensions(image.build()) == [Extension(7, b"seven")]

    def test_raw_fields_come_before_all_that_is_computed(self) -> None:
        raw = {"l1_table_offset": 123, "incompatible_features": 1 << 5, "header_length": 1 << 31}
        header = Image(dirty=True, header={**raw, "magic": b"QFI\xfa"}).build()
        parsed = parse_header(header)
        assert {name: parsed[name] for name in raw} == raw
        assert parsed.magic == b"QFI\xfa"

    def test_patches_come_last_and_may_name_a_region(self) -> None:
        image = Image(
            clusters={0: Data(b"\x01")},
            header={"version": 4},
            patches=[(4, b"\0\0\0\5"), ("l2_table[0]", 8, b"\xff" * 8)],
        )
        data = image.build()
        assert parse_header(data).version == 5
        assert data[image.regions()["l2_table[0]"].start :][8:16] == b"\xff" * 8

    def test_backing_file_name_follows_the_extensions(self) -> None:
        data = Image(backing_file=b"base", backing_format=b"qcow2").build()
        header = parse_header(data)
        assert header.backing_file_offset == 112 + 16 + 8
        assert data[header.backing_file_offset :][: header.backing_file_size] == b"base"
        assert find_extension(data, layout.EXTENSION_BACKING_FORMAT) == b"qcow2"

    def test_backing_file_name_at_a_place_of_choice(self) -> None:
        data = Image(backing_file=b"base", backing_file_offset=(1 << 16) - 4).build()
        assert parse_header(data).backing_file_offset == (1 << 16) - 4
        assert data[(1 << 16) - 4 : 1 << 16] == b"base"

    def test_what_cannot_be_written_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="version 2 has no feature bits"):
            Image(version=2, lazy_refcounts=True).build()
        with pytest.raises(
            ValueError, match=r"version 2 has no header fields \['refcount_order'\]"
        ):
            Image(version=2, header={"refcount_order": 4}).build()
        with pytest.raises(ValueError, match="no header fields"):
            Image(header={"l1_tabel_offset": 4}).build()
        with pytest.raises(ValueError, match="does not fit into its cluster"):
            Image(cluster_bits=9, backing_file=b"x" * 400).build()
        with pytest.raises(ValueError, match="subclusters need extended_l2"):
            Image(clusters={0: Subclusters()}).build()


class TestExtensions:
    def test_order_and_padding(self) -> None:
        data = Image(
            first_extensions=[Extension(1, b"123", padding=b"\xff")],
            backing_format=b"raw",
            extensions=[Extension(2), Extension(3, bytes(1000))],
        ).build()
        types = [extension.type for extension in parse_extensions(data)]
        assert types == [1, layout.EXTENSION_BACKING_FORMAT, 2, 3]
        assert data[112:128].hex() == "00000001 00000003 313233 ffffffffff".replace(" ", "")

    def test_a_length_that_lies(self) -> None:
        data = Image(extensions=[Extension(1, b"12345678", length=1 << 30)]).build()
        (extension,) = parse_extensions(data)
        assert extension.length == 1 << 30
        assert extension.data.rstrip(b"\0") == b"12345678"

    def test_without_end_marker_the_backing_file_name_ends_the_area(self) -> None:
        extension = Extension(1, b"12345678")
        data = Image(extensions=[extension], end_marker=False, backing_file=b"base-of-it").build()
        assert parse_header(data).backing_file_offset == 112 + 16
        assert parse_extensions(data) == [extension]

    def test_feature_name_table(self) -> None:
        assert parse_feature_name_table(Image().build()) == []
        assert parse_feature_name_table(Image(feature_name_table=True).build()) == [*KNOWN_FEATURES]
        own = [Feature(0, 63, b"x" * 46)]
        assert parse_feature_name_table(Image(feature_name_table=own).build()) == own

    def test_crypto_header(self) -> None:
        image = Image(crypt_method=2, crypto_header=b"LUKS\xba\xbe" + bytes(200000))
        data = assert_sound(image).data
        raw = find_extension(data, layout.EXTENSION_CRYPTO_HEADER)
        pointer = layout.CryptoHeaderExtension.parse(raw)
        assert pointer.length == 200006
        assert data[pointer.offset :].startswith(b"LUKS\xba\xbe")
        assert parse_header(data).crypt_method == 2

    def test_bitmaps(self) -> None:
        """A bit for each 512 bytes of 16 MiB is 4 KiB of bitmap, eight clusters of 512 bytes."""
        bitmap = Bitmap(name=b"fine", granularity_bits=9, dirty=[4096 * 7 + 10], flags=1)
        image = Image(cluster_bits=9, size=16 << 20, bitmaps=[bitmap, Bitmap(name=b"coarse")])
        data = assert_sound(image).data
        fine, coarse = parse_bitmaps(data)
        assert (fine.name, fine.bitmap_table_size, fine.flags) == (b"fine", 8, 1)
        assert (coarse.name, coarse.bitmap_table_size, coarse.granularity_bits) == (
            b"coarse",
            1,
            16,
        )
        table = data[fine.bitmap_table_offset :][:64]
        assert table[:56] == bytes(56)
        stored = data[int.from_bytes(table[56:], "big") :][:512]
        assert stored == b"\0\x04" + bytes(510)
        assert parse_header(data).autoclear_features == layout.AUTOCLEAR_BITMAPS


class TestSnapshots:
    @pytest.mark.parametrize("extra_data_size", [0, 8, 16, 24, 40])
    def test_extra_data(self, extra_data_size: int) -> None:
        snapshot = Snapshot(
            name=b"name",
            id=b"17",
            vm_state=b"x" * 100000,
            disk_size=1 << 20,
            extra_data_size=extra_data_size,
            icount=5,
            date_sec=1,
            date_nsec=2,
            vm_clock_nsec=3,
        )
        data = Image(snapshots=[snapshot, replace(snapshot, name=b"other")]).build()
        first, second = parse_snapshots(data)
        assert (first.name, second.name, first.id) == (b"name", b"other", b"17")
        assert (first.date_sec, first.date_nsec, first.vm_clock_nsec) == (1, 2, 3)
        assert first.vm_state_size == 100000
        defined = {8: ("vm_state_size", 100000), 16: ("disk_size", 1 << 20), 24: ("icount", 5)}
        for end, (field, value) in defined.items():
            assert first.extra_data[field] == (value if extra_data_size >= end else None)
        assert first.extra_data.unknown == b"\xee" * max(extra_data_size - 24, 0)

    def test_vm_state_starts_behind_the_last_l1_entry_of_the_disk(self) -> None:
        image = Image(cluster_bits=9, size=40000, snapshots=[Snapshot(name=b"s", vm_state=NOISE)])
        reader = assert_sound(image)
        assert reader.header.l1_size == 2
        guest, entry = next(reader.l2_entries_in(*next(reader.l1_entries(0))))
        assert guest == 2 * 64
        assert reader.take(reader.host_range(entry).start, 512) == NOISE[:512]

    def test_vm_state_size_over_32_bits_is_in_the_extra_data_only(self) -> None:
        data = Image(snapshots=[Snapshot(name=b"s", vm_state_size=1 << 33)]).build()
        (entry,) = parse_snapshots(data)
        assert (entry.vm_state_size, entry.extra_data.vm_state_size) == (0, 1 << 33)

    def test_disk_size_decides_the_l1_table_and_what_the_guest_sees(self) -> None:
        snapshot = Snapshot(name=b"s", clusters={0: Data(b"\x01")}, disk_size=100 * 512)
        image = Image(cluster_bits=9, size=1 << 20, snapshots=[snapshot])
        reader = assert_sound(image)
        assert reader.l1_table(0)[1] == 2
        assert reader.l1_table()[1] == 32


class TestInvalidImages:
    """The auditor sees what is wrong, which makes its silence about the others worth something."""

    def test_wrong_refcounts(self) -> None:
        image = Image(clusters={0: Data(b"\x01")}, refcounts={1: 0, 20: 1, 2: 9})
        assert faults(Reader(image.build())) == [
            "host cluster 1: refcount 0, 1 references",
            "host cluster 2: refcount 9, 1 references",
            "L2 entry of guest cluster 0: COPIED is True, should be False",
        ]

    def test_leaked_cluster(self) -> None:
        image = Image(holes=[1], refcounts={1: 1})
        assert faults(Reader(image.build())) == ["host cluster 1: refcount 1, 0 references"]

    def test_raw_entries_stand_as_they_are(self) -> None:
        image = Image(clusters={0: RawEntry(0x8000000000050001), 1: Data(b"")})
        reader = Reader(image.build())
        descriptor = reader.entry(0).descriptor
        assert descriptor.copied
        assert descriptor.cluster.reads_as_zeros
        assert descriptor.cluster.host_cluster_offset == 0x50000
        assert image.contents().keys() == {1}
        assert faults(reader)

    def test_zero_clusters_of_version_2(self) -> None:
        reader = Reader(Image(version=2, clusters={0: Zero()}).build())
        with pytest.raises(UnreadableError, match="version 2"):
            reader.read(0)

    def test_a_subcluster_that_is_two_things_at_once(self) -> None:
        clusters = {0: RawEntry(0x50000, subcluster_bitmap=1 << 32 | 1)}
        reader = Reader(Image(extended_l2=True, clusters=clusters).build())
        with pytest.raises(UnreadableError, match="subcluster"):
            reader.read(0)

    def test_references_are_all_that_is_counted(self) -> None:
        reader = Reader(everything(16).build())
        total = sum(-(-length // reader.cluster_size) for _, length in references(reader))
        assert total == sum(counted_refcounts(reader).values())


def test_compressed_bytes_of_choice_are_stored_as_they_are() -> None:
    image = Image(compression_type=1, clusters={0: Compressed(b"\x01", stored=b"\x28\xb5\x2f\xfd")})
    region = image.regions()["data[0]"]
    assert image.build()[region.start : region.stop] == b"\x28\xb5\x2f\xfd"


def test_files_are_sparse(tmp_path: Path) -> None:
    path = tmp_path / "sparse.qcow2"
    clusters = {
        n << 18: Data(b"" if n else b"\x01" * 4096 + bytes((2 << 20) - 4096)) for n in range(99)
    }
    image = Image(cluster_bits=21, size=1 << 50, clusters=clusters)
    image.write(path)
    assert path.stat().st_size > 300 << 20
    assert stored(path) < 4 << 20
