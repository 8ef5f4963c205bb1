"""Images that use a cluster twice: amended right, or refused with both users named. Test side.

Refcounts count both users where it says so, and qemu-img check finds nothing wrong with the image.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest

from instar import abi
from instar.vmm.request import AmendRequest
from tests.planner.test_expansion import assert_sound, visible
from tests.support.forge import Bitmap, Cluster, Data, Image, Snapshot, Zero, ZeroAllocated, layout
from tests.support.forge.audit import faults
from tests.support.forge.reader import Reader
from tests.support.planner import Answer, apply, ask

GROWTH = 1 << 24
DOWN = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=GROWTH)
UP = AmendRequest.of(compat=3, max_growth=GROWTH)
KEY_SLOTS = b"LUKS\xba\xbe" + b"k" * 3000


def refused(planner: Any, data: bytes, request: AmendRequest) -> tuple[str, dict[str, int]]:
    """The one reason that the planner refuses for."""
    answer: Answer = ask(planner, data, request)
    assert not answer.planned
    assert not answer.misuse
    (reason,) = answer.refusals
    return reason, answer.details


def users(offset: int, user: int, other_user: int) -> tuple[str, dict[str, int]]:
    """A refusal that names them."""
    return "overlap", {"offset": offset, "user": user, "other_user": other_user}


def put(data: bytes, offset: int, value: int, size: int = 8) -> bytes:
    return data[:offset] + value.to_bytes(size, "big") + data[offset + size :]


def count(data: bytes, image: Image, cluster: int, refcount: int) -> bytes:
    """Say that a cluster has this refcount."""
    block = image.regions()[f"refcount_block[{cluster // (1 << image.cluster_bits - 1)}]"].start
    return put(data, block + cluster % (1 << image.cluster_bits - 1) * 2, refcount, 2)


class TestRefcountTable:
    """A new refcount block needs an entry in the table's unused part, which is used."""

    BITS, BLOCKS, PLACE = 9, 64, 100 << 9

    def full(self) -> tuple[Image, bytes, int]:
        """An image without a free cluster, and its table's last cluster, which has room."""
        image = Image(
            cluster_bits=self.BITS,
            size=1 << 14,
            backing_file=b"base",
            clusters={0: Zero(), 1: Data(b"d")},
            snapshots=[Snapshot(name=b"s")],
            holes=range(40, self.BLOCKS * 256 - self.BLOCKS - 1),
        )
        data = image.build()
        first, last = (image.regions()[f"refcount_block[{n}]"] for n in (0, self.BLOCKS - 1))
        words = memoryview(data[first.start : last.stop]).cast("H")
        counts = b"".join(word.to_bytes(2, "little") if word else b"\0\1" for word in words)
        data = data[: first.start] + counts + data[last.stop :]
        # The table moves to where it has a second cluster.
        table = image.regions()["refcount_table"]
        moved = data[table.start : table.stop]
        data = data[: self.PLACE] + moved + data[self.PLACE + len(moved) :]
        data = put(put(data, 48, self.PLACE), 56, 2, 4)
        return image, data, self.PLACE + (1 << self.BITS)

    def test_it_is_written_where_nothing_else_is(self, planner: Any) -> None:
        _, data, last = self.full()
        answer = ask(planner, data, DOWN)
        assert answer.planned, answer.refusals
        assert any(last <= w.offset < last + 512 and w.phase == 1 for w in answer.writes)

    @pytest.mark.parametrize("counted", [False, True], ids=["not counted", "counted"])
    @pytest.mark.parametrize(
        ("field", "use"),
        [(40, abi.AMEND_USE_L1_TABLE), (64, abi.AMEND_USE_SNAPSHOT_TABLE)],
        ids=["the L1 table", "the snapshot table"],
    )
    def test_it_is_a_table_that_the_header_names(
        self, planner: Any, field: int, use: int, counted: bool
    ) -> None:
        image, data, last = self.full()
        data = put(data, field, last)
        if counted:
            data = count(data, image, last >> self.BITS, 2)
        expected = users(last, abi.AMEND_USE_REFCOUNT_TABLE, use)
        assert refused(planner, data, DOWN) == expected

    @pytest.mark.parametrize("refcount", [2, 3])
    def test_it_has_another_user(self, planner: Any, refcount: int) -> None:
        image, data, last = self.full()
        data = count(data, image, last >> self.BITS, refcount)
        expected = users(last, abi.AMEND_USE_REFCOUNT_TABLE, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, DOWN) == expected

    def test_it_counts_as_free(self, planner: Any) -> None:
        image, data, last = self.full()
        data = count(data, image, last >> self.BITS, 0)
        reason, details = refused(planner, data, DOWN)
        assert reason in ("refcount", "overlap")
        assert details["offset"] == last


class TestHeaderCluster:
    """Compressed data lie in the header's cluster, behind the header."""

    @staticmethod
    def image(bits: int, version: int, **more: Any) -> tuple[Image, bytes]:
        fields: dict[str, Any] = {"backing_file": b"b" * 100, "backing_format": b"raw", **more}
        image = Image(version=version, cluster_bits=bits, size=8 << bits, **fields)
        data = replace(image, clusters={0: Data(b"d"), 3: Data(b"e")})
        return data, data.build()

    def with_compressed(
        self, bits: int, version: int, at: int, refcount: int
    ) -> tuple[bytes, bytes]:
        """An image and what guest cluster 3 reads."""
        image, data = self.image(bits, version)
        content = (b"Z" * 40 + bytes(range(10))) * (1 << bits)
        content = content[: 1 << bits]
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        packed = packer.compress(content) + packer.flush()
        sectors = (at % 512 + len(packed) - 1) // 512
        word = 1 << 62 | sectors << 62 - (bits - 8) | at
        data = data[:at] + packed + data[at + len(packed) :]
        data = put(data, image.regions()["l2_table[0]"].start + 24, word)
        dropped = image.regions()["data[3]"].start >> bits
        data = count(count(data, image, dropped, 0), image, 0, refcount)
        if at + len(packed) > 1 << bits:
            raise AssertionError("it does not fit")
        return data, content

    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize(("bits", "at"), [(9, 400), (10, 400), (10, 600), (12, 700), (16, 512)])
    @pytest.mark.parametrize("refcount", [0, 1, 2, 3])
    def test_a_change_of_version_refuses(
        self, planner: Any, version: int, bits: int, at: int, refcount: int
    ) -> None:
        data, content = self.with_compressed(bits, version, at, refcount)
        assert visible(data)[0][3] == content
        assert (faults(Reader(data)) == []) == (refcount == 2)
        expected = users(0, abi.AMEND_USE_HEADER, abi.AMEND_USE_COMPRESSED)
        answer = ask(planner, data, DOWN if version == 3 else UP)
        if answer.planned:
            # Counted for the header alone, and what is overwritten was empty.
            assert (version, refcount) == (2, 1)
            assert visible(apply(data, answer.writes))[0][3] == content
            return
        assert (answer.refusals, answer.details) == (("overlap",), expected[1])

    @pytest.mark.parametrize("at", [400, 512])
    def test_a_toggle_leaves_them(self, planner: Any, at: int) -> None:
        data, content = self.with_compressed(16, 3, at, 2)
        request = AmendRequest.of(lazy_refcounts=True)
        answer = ask(planner, data, request)
        assert answer.planned
        assert visible(assert_sound(data, request, answer))[0][3] == content

    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize("refcount", [0, 2, 7])
    def test_a_refcount_that_is_wrong_is_no_reason(
        self, planner: Any, version: int, refcount: int
    ) -> None:
        image, data = self.image(16, version)
        data = count(data, image, 0, refcount)
        request = DOWN if version == 3 else UP
        answer = ask(planner, data, request)
        assert answer.planned, answer.refusals

    @pytest.mark.parametrize("version", [2, 3])
    def test_nor_are_bytes_that_nobody_uses(self, planner: Any, version: int) -> None:
        _, data = self.image(16, version)
        at = 300
        data = data[:at] + b"garbage" * 40 + data[at + 280 :]
        request = DOWN if version == 3 else UP
        answer = ask(planner, data, request)
        assert answer.planned, answer.refusals
        assert_sound(data, request, answer)

    def test_an_l1_table_of_a_snapshot_that_cannot_be_followed_is_refused(
        self, planner: Any
    ) -> None:
        image, data = self.image(12, 2, snapshots=[Snapshot(name=b"s")])
        snapshot = image.regions()["snapshot_table"].start
        data = count(put(data, snapshot, 1 << 40), image, 0, 2)
        assert refused(planner, data, UP)[0] == "snapshot_table"


class TestFlags:
    """Whoever is left alone with a cluster gets OFLAG_COPIED, or the image is refused."""

    BITS = 12

    def image(self, **more: Any) -> Image:
        clusters: dict[int, Cluster] = {0: Data(b"d"), 1: ZeroAllocated(b"z"), 2: Data(b"e")}
        fields: dict[str, Any] = {"cluster_bits": self.BITS, "size": 1 << 16, "clusters": clusters}
        return Image(**{**fields, **more})

    def shared(self, image: Image, region: str, entry: int = 1) -> tuple[bytes, int]:
        """The entry's host cluster is that of something else, and both count."""
        host = image.regions()[region].start
        old = image.regions()[f"data[{entry}]"].start
        data = image.build()
        table = image.regions()["l2_table[0]"].start
        flags = int.from_bytes(data[table + 8 * entry :][:8], "big") & 1
        data = put(data, table + 8 * entry, host | flags)
        data = count(data, image, old >> self.BITS, 0)
        return count(data, image, host >> self.BITS, 2), host

    def test_an_active_entry_that_is_left_alone_gets_its_flag(self, planner: Any) -> None:
        image = self.image()
        data, host = self.shared(image, "data[0]")
        table = image.regions()["l2_table[0]"].start
        data = put(data, table, host)
        assert faults(Reader(data)) == []
        answer = ask(planner, data, DOWN)
        assert answer.planned, answer.refusals
        amended = assert_sound(data, DOWN, answer)
        assert int.from_bytes(amended[table:][:8], "big") == host | layout.COPIED

    @pytest.mark.parametrize("cut", [True, False], ids=["in a table that is cut", "in another"])
    @pytest.mark.parametrize("kept", range(3))
    def test_a_kept_entry_cannot_get_it_when_the_other_one_is_cut_off(
        self, planner: Any, kept: int, cut: bool
    ) -> None:
        first = 600 if cut else 0
        clusters: dict[int, Cluster] = {n: Data(b"%d" % n) for n in (0, 1, 2, 600, 601, 602, 700)}
        image = self.image(size=4 << 20, clusters=clusters)
        regions = image.regions()
        host, old = (regions[f"data[{n}]"].start for n in (first + kept, 700))
        places = [regions[f"l2_table[{n // 512}]"].start + n % 512 * 8 for n in (first + kept, 700)]
        data = count(count(image.build(), image, old >> self.BITS, 0), image, host >> self.BITS, 2)
        for place in places:
            data = put(data, place, host)
        assert faults(Reader(data)) == []
        request = AmendRequest.of(size=603 << self.BITS, shrink=True, max_growth=GROWTH)
        expected = users(host, abi.AMEND_USE_DATA, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, request) == expected

    def test_an_l1_entry_cannot_get_it(self, planner: Any) -> None:
        clusters: dict[int, Cluster] = {1: ZeroAllocated(b"z"), 600: Data(b"d")}
        image = self.image(size=4 << 20, clusters=clusters)
        data, host = self.shared(image, "l2_table[1]")
        data = put(data, image.regions()["l1_table"].start + 8, host)
        assert faults(Reader(data)) == []
        expected = users(host, abi.AMEND_USE_L2_TABLE, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, DOWN) == expected

    @pytest.mark.parametrize("first", [1, 601])
    def test_a_table_is_not_counted_by_a_zero_cluster_that_gives_it_up(
        self, planner: Any, first: int
    ) -> None:
        clusters: dict[int, Cluster] = {
            first: ZeroAllocated(b"z"),
            600 - first // 600 * 599: Zero(),
        }
        image = self.image(size=4 << 20, clusters=clusters, backing_file=b"base")
        given, taken = (1, 0) if first > 600 else (0, 1)
        host = image.regions()[f"l2_table[{taken}]"].start
        old = image.regions()[f"data[{first}]"].start
        place = image.regions()[f"l2_table[{given}]"].start + 8 * (first % 512)
        data = put(image.build(), place, host | 1)
        data = count(count(data, image, old >> self.BITS, 0), image, host >> self.BITS, 2)
        data = put(data, image.regions()["l1_table"].start + 8 * taken, host)
        assert faults(Reader(data)) == []
        expected = users(host, abi.AMEND_USE_L2_TABLE, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, DOWN) == expected

    def test_a_zero_cluster_is_not_filled_in_its_own_table(self, planner: Any) -> None:
        image = self.image()
        data, host = self.shared(image, "l2_table[0]")
        data = put(data, image.regions()["l1_table"].start, host)
        assert faults(Reader(data)) == []
        expected = users(host, abi.AMEND_USE_ZERO_CLUSTER, abi.AMEND_USE_L2_TABLE)
        assert refused(planner, data, DOWN) == expected

    def test_data_in_a_bitmap_that_is_given_up_get_it(self, planner: Any) -> None:
        image = self.image(bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)])
        data, host = self.shared(image, "bitmap[0].data[0]", entry=2)
        assert faults(Reader(data)) == []
        answer = ask(planner, data, DOWN)
        assert answer.planned, answer.refusals
        amended = assert_sound(data, DOWN, answer)
        table = image.regions()["l2_table[0]"].start
        assert int.from_bytes(amended[table + 16 :][:8], "big") == host | layout.COPIED

    def test_a_zero_cluster_in_a_snapshot_table_that_moves_cannot(self, planner: Any) -> None:
        clusters: dict[int, Cluster] = {0: Data(b"d"), 2: Data(b"e")}
        old = [Snapshot(name=b"s", extra_data_size=0, clusters={})]
        image = self.image(version=2, clusters=clusters, snapshots=old)
        data, host = self.shared(image, "snapshot_table", entry=2)
        data = put(data, image.regions()["l2_table[0]"].start + 16, host | 1)
        expected = users(host, abi.AMEND_USE_DATA, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, UP) == expected

    def test_data_in_a_snapshot_table_that_moves_cannot(self, planner: Any) -> None:
        clusters: dict[int, Cluster] = {0: Data(b"d"), 2: Data(b"e")}
        old = [Snapshot(name=b"s", extra_data_size=0, clusters={})]
        image = self.image(version=2, clusters=clusters, snapshots=old)
        data, host = self.shared(image, "snapshot_table", entry=2)
        assert faults(Reader(data)) == []
        expected = users(host, abi.AMEND_USE_DATA, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, UP) == expected
        # A refcount that is too high, and nothing else, is no reason.
        leaked = count(image.build(), image, host >> self.BITS, 2)
        answer = ask(planner, leaked, UP)
        assert answer.planned, answer.refusals


class TestCryptoHeader:
    """The LUKS header lies where only a header extension says."""

    BITS = 12

    def image(self, version: int, **more: Any) -> Image:
        clusters: dict[int, Cluster] = {0: Data(b"d")}
        if version == 3:
            clusters[1] = ZeroAllocated(b"z")
        fields = {"version": version, "cluster_bits": self.BITS, "size": 1 << 16}
        crypto = {"crypt_method": 2, "crypto_header": KEY_SLOTS * 3}
        return Image(**{**fields, **crypto, "clusters": clusters, **more})

    @pytest.mark.parametrize("part", [0, 1, 2])
    @pytest.mark.parametrize("counted", [1, 2])
    def test_it_is_not_set_free_as_a_zero_cluster_of_its_own(
        self, planner: Any, part: int, counted: int
    ) -> None:
        image = self.image(3)
        region = image.regions()["crypto_header"]
        host = region.start + (part << self.BITS)
        old = image.regions()["data[1]"].start
        table = image.regions()["l2_table[0]"].start
        data = put(image.build(), table + 8, host | (layout.COPIED if counted == 1 else 0) | 1)
        data = count(count(data, image, old >> self.BITS, 0), image, host >> self.BITS, counted)
        if counted == 1:
            expected = users(host, abi.AMEND_USE_ZERO_CLUSTER, abi.AMEND_USE_CRYPTO_HEADER)
            assert refused(planner, data, DOWN) == expected
            return
        assert faults(Reader(data)) == []
        answer = ask(planner, data, DOWN)
        assert answer.planned, answer.refusals
        amended = assert_sound(data, DOWN, answer)
        assert amended[region.start : region.stop] == KEY_SLOTS * 3

    @pytest.mark.parametrize("part", [0, 2])
    def test_it_is_not_taken_though_it_counts_as_free(self, planner: Any, part: int) -> None:
        image = self.image(2, snapshots=[Snapshot(name=b"s", extra_data_size=0)])
        host = image.regions()["crypto_header"].start + (part << self.BITS)
        data = count(image.build(), image, host >> self.BITS, 0)
        expected = users(host, abi.AMEND_USE_NEW, abi.AMEND_USE_CRYPTO_HEADER)
        assert refused(planner, data, UP) == expected

    def test_an_l2_table_or_a_refcount_block_in_it_is_not_written(self, planner: Any) -> None:
        image = self.image(3)
        pointer = image.build().index((0x0537BE77).to_bytes(4, "big")) + 8
        for region, user in (
            ("l2_table[0]", abi.AMEND_USE_L2_TABLE),
            ("refcount_block[0]", abi.AMEND_USE_REFCOUNT_BLOCK),
        ):
            host = image.regions()[region].start
            data = put(image.build(), pointer, host)
            data = put(data, pointer + 8, 1 << self.BITS)
            expected = users(host, user, abi.AMEND_USE_CRYPTO_HEADER)
            assert refused(planner, data, DOWN) == expected

    def test_it_is_not_the_header_of_the_image(self, planner: Any) -> None:
        image = self.image(3)
        pointer = image.build().index((0x0537BE77).to_bytes(4, "big")) + 8
        data = put(image.build(), pointer, 0)
        for request in (DOWN, AmendRequest.of(lazy_refcounts=True)):
            assert refused(planner, data, request)[0] == "crypto_extension"

    def test_it_must_be_named_where_the_header_says_luks(self, planner: Any) -> None:
        image = Image(crypt_method=2)
        for request in (DOWN, AmendRequest.of(lazy_refcounts=True)):
            assert refused(planner, image.build(), request)[0] == "crypto_extension"


class TestBitmaps:
    """The directory lies where only a header extension says."""

    @pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
    def test_an_l2_table_that_is_a_bitmap_is_not_written(self, planner: Any, backed: bool) -> None:
        image = Image(
            cluster_bits=12,
            size=1 << 16,
            backing_file=b"base" if backed else None,
            clusters={0: Zero()},
            bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)],
        )
        host, old = (image.regions()[r].start for r in ("l2_table[0]", "bitmap[0].data[0]"))
        data = put(image.build(), image.regions()["bitmap[0].table"].start, host)
        data = count(count(data, image, host >> 12, 2), image, old >> 12, 0)
        data = put(data, image.regions()["l1_table"].start, host)
        assert faults(Reader(data)) == []
        expected = users(host, abi.AMEND_USE_L2_TABLE, abi.AMEND_USE_UNKNOWN)
        assert refused(planner, data, DOWN) == expected

    @pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
    def test_a_refcount_block_that_is_a_bitmap_is_not_written(
        self, planner: Any, backed: bool
    ) -> None:
        image = Image(
            cluster_bits=12,
            size=1 << 16,
            backing_file=b"base" if backed else None,
            clusters={0: Zero()},
            bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)],
        )
        block, old = (image.regions()[r].start for r in ("refcount_block[0]", "bitmap[0].data[0]"))
        data = put(image.build(), image.regions()["bitmap[0].table"].start, block)
        data = count(count(data, image, block >> 12, 2), image, old >> 12, 0)
        assert faults(Reader(data)) == []
        expected = users(block, abi.AMEND_USE_BITMAP, abi.AMEND_USE_REFCOUNT_BLOCK)
        assert refused(planner, data, DOWN) == expected

    def test_nor_one_that_is_a_zero_cluster_that_gives_it_up(self, planner: Any) -> None:
        image = Image(cluster_bits=12, size=1 << 16, clusters={0: ZeroAllocated(b"z")})
        places = image.regions()
        block, old = places["refcount_block[0]"].start, places["data[0]"].start
        data = put(image.build(), places["l2_table[0]"].start, block | 1)
        data = count(count(data, image, block >> 12, 2), image, old >> 12, 0)
        assert faults(Reader(data)) == []
        expected = users(block, abi.AMEND_USE_ZERO_CLUSTER, abi.AMEND_USE_REFCOUNT_BLOCK)
        assert refused(planner, data, DOWN) == expected

    def test_a_zero_cluster_is_not_filled_where_a_bitmap_was(self, planner: Any) -> None:
        image = Image(
            cluster_bits=12,
            size=1 << 16,
            clusters={0: ZeroAllocated(b"z")},
            bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)],
        )
        host = image.regions()["bitmap[0].data[0]"].start
        entry = image.regions()["l2_table[0]"].start
        data = put(image.build(), entry, host | layout.COPIED | 1)
        name, details = refused(planner, data, DOWN)
        assert (name, details) == ("refcount", {"offset": host, "refcount": 0, "needed": 1})

    @pytest.mark.parametrize("region", ["l2_table[0]", "refcount_block[0]", "l1_table"])
    def test_a_directory_that_is_another_table_is_none(self, planner: Any, region: str) -> None:
        bitmaps = [Bitmap(name=b"b", dirty=(0,), granularity_bits=9)]
        image = Image(cluster_bits=12, size=1 << 16, clusters={0: Zero()}, bitmaps=bitmaps)
        host, data = image.regions()[region].start, image.build()
        pointer = data.index(image.regions()["bitmap_directory"].start.to_bytes(8, "big"))
        assert refused(planner, put(data, pointer, host), DOWN)[0] == "bitmaps"

    def test_a_directory_is_not_given_up_as_a_bitmap(self, planner: Any) -> None:
        bitmaps = [Bitmap(name=b"b", dirty=(0,), granularity_bits=9)]
        image = Image(cluster_bits=12, size=1 << 16, bitmaps=bitmaps)
        directory = image.regions()["bitmap_directory"].start
        data = put(image.build(), directory, directory)
        expected = users(directory, abi.AMEND_USE_BITMAP, abi.AMEND_USE_BITMAP_DIRECTORY)
        assert refused(planner, data, DOWN) == expected
