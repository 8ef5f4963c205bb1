"""The planner on sizes around the end of an L2 table: an L1 entry for each begun. Test side."""

from __future__ import annotations

from typing import Any

import pytest

from instar import abi
from instar.vmm.request import AmendRequest
from tests.support.disks import with_size
from tests.support.forge import Bitmap, Data, Image, RawEntry, Reader, parse_header
from tests.support.forge.model import Model
from tests.support.planner import accepted_by_contract, apply, ask

GROWTH = 1 << 30
BITS = [*((bits, False) for bits in range(9, 22)), *((bits, True) for bits in range(14, 22))]
SWITCH = [(abi.INSTAR_PHASE_SWITCH, 0, 512)]


def resize(
    planner: Any, data: bytes, size: int, *, shrink: bool = False, device: bool = False
) -> tuple[Any, bytes]:
    """The answer, and the image that it leads to."""
    growth: dict[str, Any] = {"max_growth": 0, "fixed_size": True} if device else {}
    request = AmendRequest.of(size=size, shrink=shrink, **({"max_growth": GROWTH} | growth))
    answer = ask(planner, data, request)
    assert answer.planned, answer.refusals
    accepted_by_contract(data, request, answer)
    return answer, apply(data, answer.writes)


@pytest.mark.parametrize(("bits", "extended"), BITS)
@pytest.mark.parametrize("tables", [1, 2, 3])
@pytest.mark.parametrize("more", [-512, 0, 512])
def test_an_l1_entry_is_there_for_each_table_that_is_begun(
    planner: Any, bits: int, extended: bool, tables: int, more: int
) -> None:
    span = (1 << 2 * bits) // (16 if extended else 8)
    clusters = {0: Data(b"d")}
    image = Image(cluster_bits=bits, size=1 << bits, extended_l2=extended, clusters=clusters)
    size = tables * span + more
    answer, after = resize(planner, image.build(), size)
    header = parse_header(after)
    assert (header.size, header.l1_size) == (size, -(-size // span))
    # An L1 table of one entry has room for more in its cluster, where nothing is.
    assert [(write.phase, write.offset, len(write.data)) for write in answer.writes] == SWITCH
    answer, again = resize(planner, after, 1 << bits, shrink=True)
    assert (parse_header(again).size, parse_header(again).l1_size) == (
        1 << bits,
        1,
    )
    assert answer.read_calls <= 4 + (1 << bits) // (1 << 16)


@pytest.mark.parametrize(
    ("bits", "extended"), [(9, 0), (16, 0), (16, 1), (17, 0), (17, 1), (18, 0)]
)
@pytest.mark.parametrize("less", [0, 512])
def test_what_hides_behind_the_end_is_found_up_to_the_end_of_the_table_and_no_further(
    planner: Any, bits: int, extended: bool, less: int
) -> None:
    """Another table follows; of large ones, parts are read that need not end with the table."""
    entries = (1 << bits) // (16 if extended else 8)
    for first in (2, 36, entries // 2 + 1, entries - 1):
        for hidden in (None, first, (first + entries) // 2, entries - 1):
            clusters = {0: Data(b"d")} | ({} if hidden is None else {hidden: Data(b"hidden")})
            image = Image(
                cluster_bits=bits,
                extended_l2=bool(extended),
                size=entries << bits,
                clusters=clusters,
            )
            regions = image.regions()
            assert regions["l2_table[0]"].stop == regions["refcount_table"].start
            data = with_size(image.build(), (first << bits) - less)
            answer, after = resize(planner, data, entries << bits)
            writes = [(write.phase, write.offset, len(write.data)) for write in answer.writes]
            assert (writes == SWITCH) == (hidden is None)
            reader = Reader(after)
            assert reader.read(0) == image.contents()[0]
            assert hidden is None or not any(reader.read(hidden))


@pytest.mark.parametrize("size", [16, 512 + 16, 1024 + 16])
@pytest.mark.parametrize("hidden", [512, 1023, 1024])
def test_nothing_hides_in_l1_entries_past_both_disks_after_a_grow(
    planner: Any, size: int, hidden: int
) -> None:
    """The L1 table has more entries than either disk needs, and one of them names a table."""
    clusters = {0: Data(b"d"), hidden: Data(b"hidden")}
    data = with_size(Image(cluster_bits=12, size=1536 << 12, clusters=clusters).build(), 8 << 12)
    _, after = resize(planner, data, size << 12)
    model = Model(after)
    assert not any(model.words(model.l1_table_offset, model.l1_size)[1:])
    assert not model.wrong_refcounts
    assert not model.wrong_flags
    assert Reader(after).read(0) == Reader(data).read(0)


def test_a_bitmap_that_is_dropped_may_be_named_by_an_entry_that_hides(planner: Any) -> None:
    """By an L1 entry that the smaller disk does not need, nor does the larger one."""
    bitmap = Bitmap(name=b"b", dirty=(1,), flags=3)
    kept: dict[str, Any] = {"cluster_bits": 12, "size": 1536 << 12, "bitmaps": [bitmap]}
    data = {n: Data(b"d") for n in (0, 1030)}
    host = Image(**kept, clusters=data).regions()["bitmap[0].data[0]"].start
    image = Image(**kept, clusters=data | {1031: RawEntry(host)}, refcounts={host >> 12: 2})
    before = with_size(image.build(), 8 << 12)
    request = AmendRequest.of(size=16 << 12, drop_bitmaps=True, max_growth=GROWTH)
    answer = ask(planner, before, request)
    accepted_by_contract(before, request, answer)
    model = Model(apply(before, answer.writes))
    assert not model.wrong_refcounts
    assert not model.wrong_flags


@pytest.mark.parametrize("bits", [9, 10, 16])
@pytest.mark.parametrize("every", [2, 3, 7])
def test_leaked_refcounts_past_the_end_of_the_file_do_not_keep_a_disk_from_growing(
    planner: Any, bits: int, every: int
) -> None:
    """The new L1 table of 8 clusters has no room between them."""
    data = bytearray(Image(cluster_bits=bits, size=1 << 18, clusters={0: Data(b"a")}).build())
    end, (block,) = len(data) >> bits, (offset for _, offset in Model(bytes(data)).blocks)
    leaks = range(end, min(end + 200, 1 << bits - 1), every)
    for cluster in leaks:
        data[block + 2 * cluster + 1] = 1
    span = 1 << 2 * bits - 3
    _, after = resize(planner, bytes(data), 8 * span << bits - 3)
    l1 = parse_header(after).l1_table_offset >> bits
    assert not any(cluster in range(l1, l1 + 8) for cluster in leaks)


def test_a_usual_grow_takes_two_reads_and_one_write(planner: Any) -> None:
    answer, _ = resize(planner, Image(size=1 << 30, clusters={0: Data(b"d")}).build(), 1 << 40)
    assert [(write.phase, write.offset, len(write.data)) for write in answer.writes] == SWITCH
    assert answer.read_calls == 2


def test_of_a_large_l1_table_only_what_holds_anything_is_staged(planner: Any) -> None:
    answer, after = resize(planner, Image(size=1 << 30, clusters={0: Data(b"d")}).build(), 1 << 46)
    assert parse_header(after).l1_size == 1 << 17
    assert sum(len(write.data) for write in answer.writes) == 5 * 512


@pytest.mark.parametrize("entries", [131_072 - 64, 131_072, 131_072 + 64, 131_072 + 100])
@pytest.mark.parametrize("device", [False, True], ids=["file", "device"])
def test_a_long_l1_table_is_copied_to_its_end_and_no_further(
    planner: Any, entries: int, device: bool
) -> None:
    """A piece has 1 MiB. On a device, zeros are written too, as anything may be there."""
    more, span = 64, 64 << 9
    clusters = {64 * n: Data(b"d") for n in (0, 5, 131_000, entries - 1)}
    data = Image(cluster_bits=9, size=entries * span, clusters=clusters).build()
    rest = b"\xff" * (4 << 20 if device else 0)
    _, after = resize(planner, data + rest, (entries + more) * span, device=device)
    old, new = parse_header(data), parse_header(after)
    assert (new.l1_size, new.l1_table_offset >= len(data)) == (entries + more, True)
    words = data[old.l1_table_offset :][: 8 * entries]
    end = new.l1_table_offset + -(-8 * (entries + more) // 512) * 512
    assert after[new.l1_table_offset : end] == words.ljust(end - new.l1_table_offset, b"\0")
    assert after[end:] == rest[end - len(data) :]


def test_tables_that_are_dropped_are_read_many_at_a_time(planner: Any) -> None:
    def reads(tables: int) -> int:
        clusters = {64 * n: Data(b"d") for n in range(1 + tables)}
        data = Image(cluster_bits=9, size=(1 + tables) * 64 << 9, clusters=clusters).build()
        return int(resize(planner, data, 64 << 9, shrink=True)[0].read_calls)

    at_once = 40
    assert reads(at_once) == reads(1)
    assert reads(at_once + 1) == reads(1) + 1


@pytest.mark.parametrize(
    ("size", "bits", "reason"),
    [
        ((1 << 37) + 512, 9, "size_limit"),
        ((1 << 63) - 512, 16, "size_limit"),
        ((1 << 61) + 512, 21, "size_limit"),
        (1 << 61, 21, ""),
        (1 << 37, 9, ""),
    ],
)
def test_the_l1_table_has_32_mib_at_most(planner: Any, size: int, bits: int, reason: str) -> None:
    data = Image(cluster_bits=bits, size=1 << 16).build()
    request = AmendRequest.of(size=size, max_growth=GROWTH)
    answer = ask(planner, data, request)
    assert answer.refusals == ((reason,) if reason else ())


@pytest.mark.parametrize("reason", ["shrink_not_allowed", "resize_v2_snapshots", "size_data_file"])
def test_what_an_image_does_not_allow_is_refused_by_name(planner: Any, reason: str) -> None:
    from tests.support.forge import Snapshot

    images = {
        "shrink_not_allowed": Image(size=1 << 20),
        "resize_v2_snapshots": Image(version=2, size=1 << 20, snapshots=[Snapshot(name=b"s")]),
        "size_data_file": Image(size=1 << 20, data_file=b"d"),
    }
    size = 1 << 19 if reason == "shrink_not_allowed" else 1 << 21
    answer = ask(planner, images[reason].build(), AmendRequest.of(size=size, max_growth=GROWTH))
    assert answer.refusals == (reason,)
    assert not answer.writes


def test_bitmaps_whose_tables_keep_their_length_may_grow_with_the_disk(planner: Any) -> None:
    data = Image(size=1 << 20, bitmaps=[Bitmap(name=b"b", dirty=(0,))]).build()
    resize(planner, data, 1 << 21)
    for size, shrink in ((1 << 50, False), (1 << 19, True)):
        request = AmendRequest.of(size=size, shrink=shrink, max_growth=GROWTH)
        assert ask(planner, data, request).refusals == ("size_bitmaps",)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("entries", [0, 2, 3])
def test_a_bitmap_whose_table_does_not_fit_its_disk_is_refused(
    planner: Any, entries: int, drop: bool
) -> None:
    """As no qemu opens it: the host would take one that stays for the guest's work."""
    data = bytearray(Image(size=1 << 20, bitmaps=[Bitmap(name=b"b", dirty=(0,))]).build())
    entry, _, _ = Model(bytes(data)).bitmap_tables[0]
    data[entry + 8 : entry + 12] = entries.to_bytes(4, "big")
    request = AmendRequest.of(size=1 << 21, drop_bitmaps=drop, max_growth=GROWTH)
    assert ask(planner, bytes(data), request).refusals == ("bitmaps",)
