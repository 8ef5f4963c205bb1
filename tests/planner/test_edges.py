"""The planner at the edges of what it takes, and where it has to go on in the middle. Test side."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from instar import abi
from instar.vmm.request import AmendRequest
from tests.support.forge import (
    Bitmap,
    Cluster,
    Data,
    Extension,
    Image,
    Snapshot,
    Zero,
    ZeroAllocated,
    layout,
)
from tests.support.forge.model import ZERO, Model
from tests.support.planner import HEADER_LIMIT, SECTOR, Answer, accepted_by_contract, apply, ask

TOGGLE = AmendRequest.of(lazy_refcounts=True)
DOWN = AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=1 << 40)
BACKING = bytes(range(1, 252)) * 40_000
UNKNOWN = 0x11111111
FIRST_READ = abi.INSTAR_AHEAD_HEAD_SIZE


def verdict(planner: Any, data: bytes, request: AmendRequest) -> tuple[str, ...]:
    """Why it is refused; nothing if it is not."""
    answer: Answer = ask(planner, data, request)
    assert answer.planned == (not answer.refusals)
    assert not answer.misuse
    return answer.refusals


class TestHeader:
    @pytest.mark.parametrize(
        "image",
        [
            Image(cluster_bits=9, size=1 << 14, extensions=[Extension(UNKNOWN, b"x" * 384)]),
            Image(cluster_bits=9, size=1 << 14, header_length=504),
        ],
        ids=["an extension and the end marker", "fields and the end marker"],
    )
    def test_a_header_that_fills_its_cluster_exactly_is_taken(
        self, planner: Any, image: Image
    ) -> None:
        assert verdict(planner, image.build(), TOGGLE) == ()

    @pytest.mark.parametrize(("more", "refusals"), [(0, ()), (1, ("header_extension",))])
    def test_an_extension_may_end_where_the_cluster_does(
        self, planner: Any, more: int, refusals: tuple[str, ...]
    ) -> None:
        data = bytearray(Image(cluster_bits=9, size=1 << 14).build())
        data[112:120] = UNKNOWN.to_bytes(4, "big") + (512 - 120 + more).to_bytes(4, "big")
        assert verdict(planner, bytes(data), TOGGLE) == refusals

    @pytest.mark.parametrize(("version", "shortest"), [(2, 72), (3, 104)])
    def test_a_file_is_not_shorter_than_the_fields(
        self, planner: Any, version: int, shortest: int
    ) -> None:
        data = Image(version=version, size=1 << 14).build()
        assert "truncated_header" in verdict(planner, data[: shortest - 1], DOWN)
        assert "truncated_header" not in verdict(planner, data[:shortest], DOWN)

    @pytest.mark.parametrize(("length", "refusals"), [(512, ()), (520, ("header_length",))])
    def test_fields_may_fill_the_cluster(
        self, planner: Any, length: int, refusals: tuple[str, ...]
    ) -> None:
        data = bytearray(Image(cluster_bits=9, size=1 << 14).build())
        data[100:104] = length.to_bytes(4, "big")
        assert verdict(planner, bytes(data), TOGGLE) == refusals

    @pytest.mark.parametrize(("offset", "refusals"), [(502, ()), (503, ("backing_file",))])
    def test_a_name_may_end_where_the_cluster_does(
        self, planner: Any, offset: int, refusals: tuple[str, ...]
    ) -> None:
        image = Image(cluster_bits=9, size=1 << 14, backing_file=b"base.qcow2")
        data = bytearray(image.build())
        data[8:16] = offset.to_bytes(8, "big")
        assert verdict(planner, bytes(data), TOGGLE) == refusals

    @pytest.mark.parametrize(
        ("at", "value", "refusals"),
        [
            (0, 0x51464900, ("not_qcow2",)),
            (4, 1, ("version",)),
            (4, 4, ("version",)),
            (20, 8, ("cluster_bits",)),
            (20, 22, ("cluster_bits",)),
            (100, 108, ("header_length", "unknown_incompatible_features")),
            (12, 111, ("backing_file", "unknown_incompatible_features")),
            (24, 1 << 31, ("virtual_size", "unknown_incompatible_features")),
        ],
    )
    def test_of_a_header_that_makes_no_sense_nothing_is_said_that_depends_on_it(
        self, planner: Any, at: int, value: int, refusals: tuple[str, ...]
    ) -> None:
        """Neither of its tables, nor of its extensions, nor of what the host has seen of it."""
        image = Image(
            cluster_bits=9,
            size=1 << 14,
            incompatible_features=1 << 40,
            backing_file=b"b",
            extensions=[Extension(UNKNOWN, b"x")],
            header={"l1_table_offset": 8, "snapshots_offset": 8},
        )
        sense = bytearray(image.build())
        sense[116:120] = b"\xff" * 4  # how long the extension is
        others = ("unknown_incompatible_features", "l1_table", "snapshot_table")
        assert verdict(planner, bytes(sense), TOGGLE) == (*others, "header_extension")
        assert ask(planner, bytes(sense[:103]), TOGGLE).refusals == ("truncated_header",)
        data = bytearray(sense)
        data[at : at + 4] = value.to_bytes(4, "big")
        answer = ask(planner, bytes(data), TOGGLE, seen=bytes(sense))
        assert (answer.refusals, answer.read_calls) == (refusals, 1)

    @pytest.mark.parametrize("number", [1, 2])
    def test_a_header_that_cannot_be_read_is_refused_for_that_alone(
        self, planner: Any, number: int
    ) -> None:
        data = Image(extensions=[Extension(UNKNOWN, b"x" * FIRST_READ)]).build()
        assert ask(planner, data, TOGGLE).read_calls == 2
        answer = ask(planner, data, TOGGLE, fail_read=number)
        assert (answer.refusals, answer.read_calls) == (("read_failed",), number)

    @pytest.mark.parametrize(
        ("end", "reads", "refusals"),
        [
            (FIRST_READ, 1, ()),
            (FIRST_READ + 8, 2, ()),
            (HEADER_LIMIT, 2, ()),
            (HEADER_LIMIT + 8, 2, ("header_too_large",)),
        ],
    )
    def test_a_header_is_read_on_if_it_is_longer_than_the_first_read(
        self, planner: Any, end: int, reads: int, refusals: tuple[str, ...]
    ) -> None:
        length = end - layout.HEADER_LENGTH - 2 * 8  # heads: of the extension, and the end marker
        image = Image(cluster_bits=17, extensions=[Extension(UNKNOWN, b"x" * length)])
        data = image.build()
        assert data[end - 9 : end + 1] == b"x" + bytes(9)
        answer = ask(planner, data, TOGGLE)
        assert (answer.read_calls, answer.refusals) == (reads, refusals)
        if refusals:
            assert answer.details == {"end": end, "limit": HEADER_LIMIT}
        else:
            after = apply(data, answer.writes)
            assert after[SECTOR:] == data[SECTOR:]

    @pytest.mark.parametrize(
        ("field", "reason"),
        [("l1_table_offset", "l1_table"), ("snapshots_offset", "snapshot_table")],
    )
    @pytest.mark.parametrize("request_", [TOGGLE, DOWN], ids=["toggle", "downgrade"])
    def test_a_table_without_entries_lies_below_2_to_the_63(
        self, planner: Any, field: str, reason: str, request_: AmendRequest
    ) -> None:
        def at(offset: int) -> bytes:
            return Image(size=0, header={field: offset, "l1_size": 0}).build()

        assert verdict(planner, at((1 << 63) - (1 << 16)), request_) == ()
        for offset in (1 << 63, (1 << 64) - (1 << 16)):
            assert verdict(planner, at(offset), request_) == (reason,)


class TestBitmaps:
    IMAGE = Image(
        cluster_bits=12,
        size=1 << 16,
        bitmaps=[Bitmap(name=b"one", dirty=(0,), granularity_bits=9)],
    )

    def moved(self, offset: int) -> bytes:
        """The image with a bitmap directory there."""
        data = self.IMAGE.build()
        place = data.index(self.IMAGE.regions()["bitmap_directory"].start.to_bytes(8, "big"))
        return data[:place] + offset.to_bytes(8, "big") + data[place + 8 :]

    @pytest.mark.parametrize("request_", [TOGGLE, DOWN], ids=["toggle", "downgrade"])
    def test_a_directory_begins_a_cluster(self, planner: Any, request_: AmendRequest) -> None:
        start = self.IMAGE.regions()["bitmap_directory"].start
        assert verdict(planner, self.moved(start), request_) == ()
        for apart in (-8, 8, 512):
            data = self.moved(start + apart)
            assert verdict(planner, data, request_) == ("bitmaps_extension",)

    @pytest.mark.parametrize(
        ("size", "names"),
        [
            (31, b""),
            (32, b"\3\0one"),
            (55, b"\3\0one"),
            (56, b"\3\0one"),
            (63, b"\3\0one"),
            (64, b"\3\0one\3\0two"),
            (72, b"\3\0one\3\0two"),
        ],
    )
    def test_an_entry_ends_with_the_directory_at_the_latest(
        self, planner: Any, size: int, names: bytes
    ) -> None:
        one, two = (Bitmap(name=name, granularity_bits=9) for name in (b"one", b"two"))
        data = bytearray(replace(self.IMAGE, bitmaps=[one, two]).build())
        place = data.index((64).to_bytes(8, "big"))
        data[place : place + 8] = size.to_bytes(8, "big")
        answer = ask(planner, bytes(data), AmendRequest.of(compat=2))
        assert (answer.refusals, answer.names) == (("downgrade_bitmaps",), names)
        assert verdict(planner, bytes(data), DOWN) == (() if size == 64 else ("bitmaps",))

    @pytest.mark.parametrize(
        ("at", "value", "is_taken"),
        [
            (0, b"\0\0\0\1", True),
            (0, b"\0\0\0\0", False),
            (0, b"\0\1\0\0", False),
            *((4 + n, b"\1", False) for n in range(4)),  # reserved
            (0, b"\0\0\xff\xff", True),
            (8, (65535 << 10).to_bytes(8, "big"), True),
            (8, ((65535 << 10) + 1).to_bytes(8, "big"), False),
        ],
    )
    def test_an_extension_says_how_many_bitmaps_there_are_and_no_more_than_can_be(
        self, planner: Any, at: int, value: bytes, is_taken: bool
    ) -> None:
        """A toggle has nothing to do with the directory itself."""
        data = bytearray(self.IMAGE.build())
        extension = data.index((0x23852875).to_bytes(4, "big") + (24).to_bytes(4, "big")) + 8
        assert data[extension : extension + 8] == b"\0\0\0\1" + bytes(4)
        data[extension + at : extension + at + len(value)] = value
        expected = () if is_taken else ("bitmaps_extension",)
        assert verdict(planner, bytes(data), TOGGLE) == expected

    @pytest.mark.parametrize("length", [16, 23, 25, 32])
    def test_an_extension_of_another_length_is_refused(self, planner: Any, length: int) -> None:
        data = bytearray(self.IMAGE.build())
        extension = data.index((0x23852875).to_bytes(4, "big") + (24).to_bytes(4, "big")) + 8
        data[extension - 4 : extension] = length.to_bytes(4, "big")
        assert verdict(planner, bytes(data), TOGGLE) == ("bitmaps_extension",)

    def test_a_directory_behind_the_end_names_nothing(self, planner: Any) -> None:
        request = AmendRequest.of(compat=2)
        data = self.IMAGE.build()
        answer = ask(planner, data, request)
        assert (answer.refusals, answer.names) == (("downgrade_bitmaps",), b"\3\0one")
        for offset in (len(data), 1 << 40, 0):
            answer = ask(planner, self.moved(offset), request)
            assert (answer.refusals, answer.names) == (("downgrade_bitmaps",), b"")
            assert verdict(planner, self.moved(offset), DOWN) == ("bitmaps",)


class TestRefcounts:
    """A refcount is not lowered below its references, and a new block counts nothing else."""

    BITMAPS = Image(
        cluster_bits=12,
        size=1 << 16,
        bitmaps=[Bitmap(name=b"b%d" % n, dirty=(0,), granularity_bits=9) for n in (0, 1)],
    )

    @pytest.mark.parametrize("region", ["bitmap[0].data[0]", "bitmap[0].table", "bitmap_directory"])
    def test_bitmaps_that_count_as_free_are_not_given_up(self, planner: Any, region: str) -> None:
        image = self.BITMAPS
        cluster = image.regions()[region].start >> 12
        counted = replace(image, refcounts={cluster: 0})
        answer = ask(planner, counted.build(), DOWN)
        assert answer.refusals == ("refcount",)
        assert answer.details == {"offset": cluster << 12, "refcount": 0, "needed": 1}

    def test_bitmaps_with_one_cluster_that_counts_once_are_not_given_up(self, planner: Any) -> None:
        image = self.BITMAPS
        data = image.regions()["bitmap[0].data[0]"].start
        patch = ("bitmap[1].table", 0, data.to_bytes(8, "big"))
        answer = ask(planner, replace(image, patches=[patch]).build(), DOWN)
        assert answer.refusals == ("refcount",)
        assert answer.details == {"offset": data, "refcount": 0, "needed": 1}

    @pytest.mark.parametrize("count", [0, 1, 2, 3])
    def test_a_zero_cluster_has_no_fewer_users_than_its_table(
        self, planner: Any, count: int
    ) -> None:
        image = Image(
            cluster_bits=12,
            size=1 << 16,
            clusters={1: ZeroAllocated(b"z")},
            snapshots=[Snapshot(name=b"s")],
        )
        host = image.regions()["data[1]"].start
        answer = ask(planner, replace(image, refcounts={host >> 12: count}).build(), DOWN)
        if count >= 2:
            assert answer.planned
            return
        assert answer.refusals == ("refcount",)
        assert answer.details == {"offset": host, "refcount": count, "needed": 2}

    @pytest.mark.parametrize("bits", [9, 12, 17])
    @pytest.mark.parametrize("zeros", [1, 40])
    def test_a_new_block_counts_what_is_taken_and_nothing_else(
        self, planner: Any, bits: int, zeros: int
    ) -> None:
        clusters: dict[int, Cluster] = dict.fromkeys(range(zeros), Zero())
        full = ("refcount_block[0]", 0, b"\0\1" * (1 << bits - 1))
        image = Image(
            cluster_bits=bits,
            size=64 << bits,
            backing_file=b"base",
            clusters=clusters,
            patches=[full],
        )
        answer = ask(planner, image.build(), DOWN)
        assert answer.planned, answer.refusals
        per_block = 1 << bits - 1
        start = per_block << bits
        named = b"".join(w.data for w in answer.writes if w.phase == 1)[8:]
        blocks = len(named.rstrip(b"\0")) + 7 >> 3
        stored = bytearray(blocks << bits)
        for write in answer.writes:
            if write.phase == 0 and not write.zeroes and write.offset >= start:
                at = write.offset - start
                stored[at : at + len(write.data)] = write.data
        used = blocks + zeros
        assert bytes(stored) == b"\0\1" * used + bytes(len(stored) - 2 * used)


TABLES, ENTRIES = 210, 64
"""L2 tables of an image, and entries of each: more tables than are read at once, four times."""


def shuffled(image: Image, *, apart: bool = False) -> bytes:
    """The image with the entries of its L1 tables in disorder: L2 tables no longer lie in a row.

    The layers have the same disorder, or each one its own.
    """
    data = bytearray(image.build())
    for number, (offset, entries) in enumerate(Model(data).l1_tables):
        rng = random.Random(number if apart else 0)  # noqa: S311 - always the same disorder
        words = list(Model(data).words(offset, entries))
        rng.shuffle(words)
        data[offset : offset + 8 * entries] = b"".join(w.to_bytes(8, "big") for w in words)
    return bytes(data)


def tables_of(image: Image, data: bytes, answer: Answer) -> tuple[Model, Model]:
    """The image before and after a plan that the host takes."""
    accepted_by_contract(data, DOWN, answer)
    backing = BACKING if image.backing_file else b""
    return Model(data, backing=backing), Model(apply(data, answer.writes), backing=backing)


def zeros_in(model: Model) -> list[int]:
    """All zero clusters' entries that there are."""
    tables = {use.offset for use in model.uses if use.kind == "l2_table"}
    return [word for table in tables for word in model.l2_table(table) if word & ZERO]


class TestWalks:
    """Tables that are read in many batches: none is left out, none is taken for another."""

    @staticmethod
    def image(*, backed: bool, snapshots: int, own: bool = True) -> Image:
        """Zero clusters in all tables; the layers have some tables of their own, or none."""

        def layer(number: int) -> dict[int, Cluster]:
            found: dict[int, Cluster] = {}
            for table in range(TABLES):
                found[table * ENTRIES] = Data(b"d")
                found[table * ENTRIES + 1] = Zero()
                if table % 7 == number:
                    found[table * ENTRIES + 2] = ZeroAllocated(b"%d" % number)
            return found

        return Image(
            cluster_bits=9,
            size=TABLES * ENTRIES * SECTOR,
            backing_file=b"base" if backed else None,
            clusters=layer(0),
            snapshots=[
                Snapshot(name=b"s%d" % n, clusters=layer(n + 1 if own else 0))
                for n in range(snapshots)
            ],
        )

    @pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
    @pytest.mark.parametrize("snapshots", [0, 1, 4])
    @pytest.mark.parametrize("apart", [False, True], ids=["alike", "apart"])
    def test_no_zero_cluster_is_left_in_any_table(
        self, planner: Any, backed: bool, snapshots: int, apart: bool
    ) -> None:
        image = self.image(backed=backed, snapshots=snapshots)
        data = shuffled(image, apart=apart)
        answer = ask(planner, data, DOWN, progress=apart)
        assert answer.planned, answer.refusals
        before, after = tables_of(image, data, answer)
        assert after.contents() == before.contents()
        assert not after.wrong_refcounts
        assert not after.wrong_flags
        assert not zeros_in(after)

    def test_plain_zero_clusters_go_in_the_walk_that_finds_them(self, planner: Any) -> None:
        data: dict[int, Cluster] = {table * ENTRIES: Data(b"d") for table in range(TABLES)}
        zeros: dict[int, Cluster] = {at + 1: Zero() for at in data}
        images = [
            Image(cluster_bits=9, size=TABLES * ENTRIES * SECTOR, clusters=clusters)
            for clusters in (data, data | zeros)
        ]
        without, some = (ask(planner, shuffled(image), DOWN) for image in images)
        assert some.planned
        assert some.read_calls == without.read_calls
        assert sum(write.phase == abi.INSTAR_PHASE_MAPPING for write in some.writes) == TABLES

    def test_a_table_that_is_met_again_later_is_not_read_again(self, planner: Any) -> None:
        image = self.image(backed=False, snapshots=30, own=False)
        alike, apart = (
            ask(planner, shuffled(image, apart=apart), DOWN).read_calls for apart in (False, True)
        )
        assert apart < 1.5 * alike

    def test_a_short_l1_table_is_walked_before_a_long_one(self, planner: Any) -> None:
        image = self.image(backed=False, snapshots=2)
        data = bytearray(shuffled(image))
        entry = image.regions()["snapshot_table"].start
        assert Model(data).snapshots[0].l1_size == TABLES > 192
        data[entry + 8 : entry + 12] = (100).to_bytes(4, "big")
        answer = ask(planner, bytes(data), DOWN)
        assert answer.planned, answer.refusals
        before, after = tables_of(image, bytes(data), answer)
        assert zeros_in(before)
        assert not zeros_in(after)

    def test_l1_tables_of_up_to_192_entries_are_read_together(self, planner: Any) -> None:
        def reads(tables: int) -> int:
            snapshots = [
                Snapshot(name=b"%d" % n, clusters={0: Data(b"%d" % n), 1: Zero()}) for n in range(8)
            ]
            size = tables * ENTRIES * SECTOR
            image = Image(cluster_bits=9, size=size, snapshots=snapshots)
            answer = ask(planner, image.build(), DOWN)
            assert answer.planned
            return answer.read_calls

        walks = 1
        assert reads(192) == reads(191)
        assert reads(193) == reads(192) + walks * 7

    def test_a_long_l1_table_is_walked_to_its_end(self, planner: Any) -> None:
        entries = 3 * 8192 + 5  # of an L1 table, which is read 8192 at a time
        clusters: dict[int, Cluster] = {
            n * ENTRIES: Zero() for n in (0, 8191, 8192, 20_000, entries - 1)
        }
        own = {n * ENTRIES + 1: Zero() for n in (5, 8192, entries - 1)}
        image = Image(
            cluster_bits=9,
            size=entries * ENTRIES * SECTOR,
            clusters=clusters,
            snapshots=[Snapshot(name=b"s", clusters=dict(own))],
        )
        answer = ask(planner, image.build(), DOWN)
        assert answer.planned
        written = {
            write.offset + at
            for write in answer.writes
            if write.phase == abi.INSTAR_PHASE_MAPPING
            for at in range(0, len(write.data), SECTOR)
        }
        tables = [region.start for name, region in image.regions().items() if "l2_table" in name]
        assert written == set(tables)
        assert len(tables) == 8

    def test_what_a_snapshot_shares_is_not_read_again(self, planner: Any) -> None:
        entries = 2 * 8192
        clusters: dict[int, Cluster] = {n * ENTRIES: Zero() for n in range(400)}
        image = Image(cluster_bits=9, size=entries * ENTRIES * SECTOR, clusters=clusters)
        shared = replace(image, snapshots=[Snapshot(name=b"s")])
        once, twice = (ask(planner, shuffled(each), DOWN).read_calls for each in (image, shared))
        walks, parts = 2, 2  # each part of both L1 tables is read
        assert twice <= once + walks * 2 * parts + 1


@pytest.mark.parametrize("version", [2, 3])
def test_where_the_version_stays_a_snapshot_keeps_lacking_what_it_lacks(
    planner: Any, version: int
) -> None:
    data = Image(version=version, snapshots=[Snapshot(name=b"old", extra_data_size=0)]).build()
    requests = [AmendRequest.of(compat=version), *[TOGGLE] * (version == 3)]
    for request in requests:
        answer = ask(planner, data, request)
        assert answer.planned
        assert {write.offset for write in answer.writes} <= {0}
