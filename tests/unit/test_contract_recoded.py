"""Test side: what a guest may not do with refcounts of another width, and what the judge says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.reader.widths import Width
from instar.vmm.contract.recoded import Recoded, Structures
from instar.vmm.contract.terms import Original
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Data, Extension, Image, Snapshot, parse_header
from tests.support.forge.model import Model
from tests.support.planner import Answer, Write, accepted_by_contract, ask
from tests.support.project import load_planner

SECTOR = 512
IMAGE = Image(cluster_bits=9, size=400 << 9, clusters={n: Data(b"d") for n in range(300)})
REQUEST = AmendRequest.of(refcount_bits=64, max_growth=1 << 30)
DEVICE = AmendRequest.of(refcount_bits=64, fixed_size=True)


class Plan:
    """An honest plan, to be changed sector by sector."""

    def __init__(self, image: bytes, request: AmendRequest = REQUEST) -> None:
        self.image, self.request = image, request
        self.answer: Answer = ask(load_planner(), image, request)
        assert self.answer.planned, self.answer.refusals
        self.sectors = {
            (write.phase, write.offset + at): write.data[at : at + SECTOR]
            for write in self.answer.writes
            for at in range(0, len(write.data), SECTOR)
        }
        header = parse_header(self.sectors[abi.INSTAR_PHASE_SWITCH, 0])
        self.table = header.refcount_table_offset
        old = parse_header(image)
        self.old_table, self.l1 = old.refcount_table_offset, old.l1_table_offset

    def number(self, offset: int, size: int = 8, phase: int = 0) -> int:
        sector = self.sectors.get((phase, offset & -SECTOR), bytes(SECTOR))
        return int.from_bytes(sector[offset % SECTOR :][:size], "big")

    def put(self, offset: int, value: int, size: int = 8, phase: int = 0) -> None:
        key = (phase, offset & -SECTOR)
        sector = bytearray(self.sectors.get(key, bytes(SECTOR)))
        sector[offset % SECTOR : offset % SECTOR + size] = value.to_bytes(size, "big")
        self.sectors[key] = bytes(sector)

    def blocks(self) -> list[int]:
        """Where the new blocks are."""
        found = [self.number(self.table + 8 * n) for n in range(64)]
        return [block for block in found if block]

    def judge(self, request: AmendRequest | None = None) -> None:
        writes = tuple(Write(phase, at, data) for (phase, at), data in self.sectors.items())
        answer = replace(self.answer, writes=writes)
        accepted_by_contract(self.image, request or self.request, answer)


def test_the_honest_plan_is_accepted() -> None:
    Plan(IMAGE.build()).judge()
    Plan(IMAGE.build().ljust(600 << 9, b"\xaa"), DEVICE).judge()


def one_more(plan: Plan, block: int) -> None:
    at = plan.blocks()[block]
    plan.put(at, plan.number(at) + 1)


def another_width(plan: Plan) -> None:
    plan.put(96, 5, 4, abi.INSTAR_PHASE_SWITCH)


def old_block(plan: Plan) -> None:
    entry = int.from_bytes(plan.image[plan.old_table :][:8], "big")
    plan.put(plan.table, entry)


def over_the_l1_table(plan: Plan) -> None:
    plan.put(plan.table, plan.l1)


def block_twice(plan: Plan) -> None:
    plan.put(plan.table + 8, plan.blocks()[0])


def block_left_out(plan: Plan) -> None:
    """The last one, which counts itself: without it nothing else is wrong."""
    last = plan.blocks()[-1]
    index = next(n for n in range(64) if plan.number(plan.table + 8 * n) == last)
    assert index == last // SECTOR // 64
    plan.put(plan.table + 8 * index, 0)
    del plan.sectors[0, last]


def empty_block(plan: Plan) -> None:
    """It is counted, and follows all others."""
    cluster = plan.blocks()[-1] // SECTOR + 1
    plan.put(plan.table + 8 * 40, cluster * SECTOR)
    plan.put(plan.number(plan.table + 8 * (cluster // 64)) + 8 * (cluster % 64), 1)
    plan.sectors[0, cluster * SECTOR] = bytes(SECTOR)


def block_within_a_cluster(plan: Plan) -> None:
    plan.put(plan.table, plan.blocks()[0] + 8)


def larger_table(plan: Plan) -> None:
    plan.put(56, plan.number(56, 4, abi.INSTAR_PHASE_SWITCH) + 1, 4, abi.INSTAR_PHASE_SWITCH)


def further_away(plan: Plan) -> None:
    """An honest plan, but for a file that is longer."""
    longer = Plan(plan.image.ljust(len(plan.image) + 64 * SECTOR, b"\0"))
    plan.sectors = longer.sectors


def another_sector(plan: Plan) -> None:
    plan.sectors[0, 20 * SECTOR] = b"x" * SECTOR


def first_sector_after_the_header(plan: Plan) -> None:
    plan.sectors[0, SECTOR] = b"x" * SECTOR


def l1_table_moves(plan: Plan) -> None:
    plan.put(40, plan.l1 + SECTOR, 8, abi.INSTAR_PHASE_SWITCH)


def release(plan: Plan) -> None:
    plan.sectors[abi.INSTAR_PHASE_RELEASE, plan.old_table] = bytes(SECTOR)


def early_switch(plan: Plan) -> None:
    sector = plan.sectors[abi.INSTAR_PHASE_SWITCH, 0]
    plan.sectors[abi.INSTAR_PHASE_REFCOUNT_TABLE, 0] = sector


ROGUES: dict[str, Callable[[Plan], None]] = {
    "one refcount is off by one in block 0": lambda plan: one_more(plan, 0),
    "one refcount is off by one in the last block": lambda plan: one_more(plan, -1),
    "a width that nobody asked for": another_width,
    "an old block is kept in the new table": old_block,
    "a block lies over the L1 table": over_the_l1_table,
    "two entries name a block": block_twice,
    "a block is left out": block_left_out,
    "a block counts nothing": empty_block,
    "a block lies within a cluster": block_within_a_cluster,
    "the table is too large": larger_table,
    "all lies further away than it must": further_away,
    "another sector is written": another_sector,
    "the sector after the header cluster is written": first_sector_after_the_header,
    "the L1 table moves too": l1_table_moves,
    "the old table is released": release,
    "the switch comes early": early_switch,
}


@pytest.mark.parametrize("change", ROGUES.values(), ids=ROGUES)
def test_anything_else_is_a_guest_fault(change: Callable[[Plan], None]) -> None:
    plan = Plan(IMAGE.build())
    change(plan)
    with pytest.raises(GuestFault):
        plan.judge()


def test_a_cluster_that_is_taken_though_it_is_in_use_is_named() -> None:
    plan = Plan(IMAGE.build().ljust(600 << 9, b"\xaa"), DEVICE)
    over_the_l1_table(plan)
    with pytest.raises(
        GuestFault, match=f"^the guest takes cluster {plan.l1:#x}, which is in use$"
    ):
        plan.judge()


@pytest.mark.parametrize(
    ("index", "message"), [(60, "makes empty ones"), (7, "in a row")], ids=["empty", "far away"]
)
def test_blocks_that_cannot_be_are_refused_before_their_windows_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, index: int, message: str
) -> None:
    """Each costs a look at all that it would count, up to 256 windows, and is not paid for."""
    looked: list[int] = []
    monkeypatch.setattr(Recoded, "_judge_window", lambda _, first, **__: looked.append(first))
    plan = Plan(IMAGE.build())
    assert not plan.number(plan.table + 8 * index)
    place = max(plan.blocks()) + (512 if index == 60 else 1 << 40)
    plan.put(plan.table + 8 * index, place)
    with pytest.raises(GuestFault, match=message):
        plan.judge()
    assert looked == []


def test_structures_are_taken_in_windows_that_ascend_and_leave_none_out() -> None:
    disk = Disk(Original(lambda *_: b"", 1 << 20, 1 << 20), 9, 0)
    structures = Structures(disk, 4, range(3, 6), {0: 9, 1: 100})
    assert structures.take(0, 5) == [3, 4]
    assert structures.take(5, 10) == [5, 9]
    assert structures.take(10, 10) == []
    with pytest.raises(GuestFault, match="leave a structure out"):
        structures.take(101, 200)


@pytest.mark.parametrize("bits", [1, 32])
def test_another_width_than_the_one_asked_for_is_a_guest_fault(bits: int) -> None:
    with pytest.raises(GuestFault):
        Plan(IMAGE.build()).judge(AmendRequest.of(refcount_bits=bits, max_growth=1 << 30))


def test_the_file_grows_by_no_more_than_it_may() -> None:
    with pytest.raises(GuestFault, match="grow by more than it may"):
        Plan(IMAGE.build()).judge(AmendRequest.of(refcount_bits=64, max_growth=SECTOR))


def test_on_a_device_no_part_of_a_block_is_left_as_it_was() -> None:
    plan = Plan(IMAGE.build().ljust(600 << 9, b"\xaa"), DEVICE)
    del plan.sectors[0, plan.blocks()[-1]]
    with pytest.raises(GuestFault):
        plan.judge()


@pytest.mark.parametrize("layer", ["active", "snapshot"])
def test_on_a_device_a_cluster_that_wrong_refcounts_hide_is_found(layer: str) -> None:
    """By its refcount it is free, and an entry of some layer names it."""
    clusters = {n: Data(b"d%d" % n) for n in range(20)}
    snapshots = [Snapshot(name=b"s", clusters={n: Data(b"s%d" % n) for n in range(20)})]
    image = Image(cluster_bits=9, size=64 << 9, clusters=clusters, snapshots=snapshots)
    built = image.build()
    data = built.index(b"d7" if layer == "active" else b"s7") >> 9
    wrong = replace(image, refcounts={data: 0}).build().ljust(400 << 9, b"\0")
    plan = Plan(wrong, DEVICE)
    with pytest.raises(ImageRejected) as caught:
        plan.judge()
    assert caught.value.refusals[0].name == "overlap"
    assert caught.value.refusals[0].detail["offset"] == data << 9


@pytest.mark.parametrize("request_", [REQUEST, DEVICE], ids=["file", "device"])
@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
def test_data_in_an_external_file_are_in_no_cluster_of_the_image(
    request_: AmendRequest, extended: bool
) -> None:
    """Their entries name places in that file, which may have the numbers of the new clusters."""
    bits = 14 if extended else 9
    clusters = {n: Data(b"d") for n in range(64)}
    image = Image(
        cluster_bits=bits,
        size=64 << bits,
        clusters=clusters,
        data_file=b"d.raw",
        extended_l2=extended,
    )
    plan = Plan(image.build().ljust(100 << bits, b"\0"), request_)
    assert request_ is REQUEST or all(block >> bits in clusters for block in plan.blocks())
    plan.judge()


@pytest.mark.parametrize("new", range(7))
@pytest.mark.parametrize("old", range(7))
def test_refcounts_are_recoded_a_window_at_a_time(old: int, new: int) -> None:
    before, after = Width(old), Width(new)
    most = min(before.most, after.most)
    counts = [(n * 7919) % (most + 1) for n in range(1024)]
    data = before.pack(counts)
    assert before.recode(data, after) == after.pack(counts)
    assert before.last(data) == max(n for n, count in enumerate(counts) if count)
    if before.most > after.most:
        for place in (0, 511, 1023):
            wrong = [*counts]
            wrong[place] = after.most + 1
            with pytest.raises(OverflowError):
                before.recode(before.pack(wrong), after)


@pytest.mark.parametrize("order", range(7))
def test_a_refcount_is_changed_in_its_place(order: int) -> None:
    width = Width(order)
    data = bytearray(width.pack([0, 1] * 8))
    assert not width.add(data, 0, -1)
    assert not width.add(data, 1, 1)
    assert width.add(data, 4, 1)
    assert width.add(data, 7, -1)
    counts = [0, 1] * 8
    counts[4], counts[7] = 1, 0
    assert bytes(data) == width.pack(counts)


def named(offset: int) -> bytes:
    """The image with an entry that names another cluster."""
    data, place = bytearray(IMAGE.build()), IMAGE.regions()["l2_table[4]"].start + 8 * 63
    data[place : place + 8] = offset.to_bytes(8, "big")
    return bytes(data)


def test_no_new_refcounts_lie_where_an_entry_leads_past_the_file() -> None:
    """What is there reads as zeros, and has no refcount: the guest looks at no entry."""
    end = len(IMAGE.build())
    for offset in (end, end + 1024):
        plan = Plan(named(offset))
        assert offset in {at & -SECTOR for phase, at in plan.sectors if not phase}
        with pytest.raises(ImageRejected, match="is used twice"):
            plan.judge()
    Plan(named(end + (1 << 20))).judge()


@pytest.mark.parametrize("what", ["refcount_table", "refcount_block[0]"])
def test_old_refcounts_that_are_data_too_are_not_set_free(what: str) -> None:
    with pytest.raises(ImageRejected, match="is used twice"):
        Plan(named(IMAGE.regions()[what].start)).judge()


BITMAPS_THAT_ARE_NONE = [
    *("a long name", "data within a cluster", "a longer directory"),
    *("a directory outside", "a table outside"),
]


@pytest.mark.parametrize("damage", BITMAPS_THAT_ARE_NONE)
def test_bitmaps_that_are_none_are_the_images_fault(damage: str) -> None:
    """The guest has no need to look at them, as they stay."""
    bitmaps = [Bitmap(name=b"b", dirty=(0,))]
    data = bytearray(Image(size=1 << 20, clusters={0: Data(b"d")}, bitmaps=bitmaps).build())
    model = Model(bytes(data))
    entry, table, _ = model.bitmap_tables[0]
    place, size, value = {
        "a long name": (entry + 18, 2, 2000),
        "data within a cluster": (table, 8, int.from_bytes(data[table : table + 8], "big") + 512),
        "a longer directory": (model.bitmap_directory[0] - 8, 8, model.bitmap_directory[2] + 8),
        "a directory outside": (model.bitmap_directory[0], 8, 1 << 40),
        "a table outside": (entry, 8, 1 << 40),
    }[damage]
    data[place : place + size] = value.to_bytes(size, "big")
    request = AmendRequest.of(refcount_bits=32, max_growth=1 << 30)
    with pytest.raises(ImageRejected) as caught:
        Plan(bytes(data), request).judge()
    assert [refusal.name for refusal in caught.value.refusals] == ["bitmaps"]


def test_of_several_luks_headers_the_last_one_counts() -> None:
    """As in qemu: what the others name is not looked at, and may be any length."""
    luks = 0x0537BE77
    named = [Extension(luks, struct.pack(">QQ", 1 << 16, 1 << 60)) for _ in range(3)]
    image = Image(
        size=1 << 20,
        clusters={0: Data(b"d")},
        crypt_method=2,
        crypto_header=b"L" * (1 << 16),
        first_extensions=tuple(named),
    )
    Plan(image.build(), AmendRequest.of(refcount_bits=32, max_growth=1 << 30)).judge()
