"""Test side: what a guest may not do in a repair, and what the judge says: it counts for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.repair.recounted import refcount_structures
from instar.vmm.contract.terms import Claim, Original
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Compressed, Data, Image, Snapshot, parse_header
from tests.support.forge.clusters import Cluster
from tests.support.planner import Answer, Write, accepted_by_contract, ask
from tests.support.project import load_planner

SECTOR = 512
PREPARE, MAPPING, SWITCH = (
    abi.INSTAR_PHASE_PREPARE,
    abi.INSTAR_PHASE_MAPPING,
    abi.INSTAR_PHASE_SWITCH,
)
CLUSTERS: dict[int, Cluster] = {**{n: Data(b"d") for n in range(40)}, 41: Compressed(b"c")}
DIRTY = Image(
    cluster_bits=9,
    size=100 << 9,
    clusters=CLUSTERS,
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
    dirty=True,
)
TABLES = {name: place.start for name, place in DIRTY.regions().items()}
ZEROS = replace(DIRTY, refcounts=dict.fromkeys(range(200), 0))
LEAKED = replace(DIRTY, refcounts=dict.fromkeys((20, 21), 2))
REPAIR = AmendRequest.of(repair=True, max_growth=1 << 30)
LEAKS = AmendRequest.of(mends="leaks", max_growth=1 << 30)


class Plan:
    """An honest plan, to be changed sector by sector."""

    def __init__(self, image: bytes, request: AmendRequest = REPAIR) -> None:
        self.image, self.request = image, request
        self.answer: Answer = ask(load_planner(), image, request)
        assert self.answer.planned, self.answer.refusals
        self.sectors = {
            (write.phase, write.offset + at): write.data[at : at + SECTOR]
            for write in self.answer.writes
            for at in range(0, len(write.data), SECTOR)
        }
        header = self.sectors.get((SWITCH, 0), image[:SECTOR])
        self.table = parse_header(header).refcount_table_offset
        self.old_table = parse_header(image).refcount_table_offset

    def put(self, offset: int, value: int, size: int, phase: int) -> None:
        """Stage a number in a sector of a phase, which otherwise stays as it is."""
        at = offset & -SECTOR
        sector = bytearray(self.sectors.get((phase, at), self.image[at : at + SECTOR]))
        sector = sector.ljust(SECTOR, b"\0")
        sector[offset - at : offset - at + size] = value.to_bytes(size, "big")
        self.sectors[phase, at] = bytes(sector)

    def entry(self, offset: int, phase: int = PREPARE) -> int:
        """A number of 8 bytes as it will be."""
        at = offset & -SECTOR
        sector = self.sectors.get((phase, at), self.image[at : at + SECTOR])
        return int.from_bytes(sector[offset - at :][:8], "big")

    def judge(self) -> None:
        writes = tuple(Write(phase, at, data) for (phase, at), data in self.sectors.items())
        accepted_by_contract(self.image, self.request, replace(self.answer, writes=writes))


@pytest.mark.parametrize("image", [DIRTY, ZEROS, LEAKED])
def test_the_honest_plan_is_accepted(image: Image) -> None:
    Plan(image.build()).judge()


def more(plan: Plan) -> None:
    block = plan.entry(plan.table)
    plan.put(block + 2 * 9, 2, 2, PREPARE)


def less(plan: Plan) -> None:
    block = plan.entry(plan.table)
    plan.put(block + 2 * 9, 0, 2, PREPARE)


def block_left_out(plan: Plan) -> None:
    plan.put(plan.table, 0, 8, PREPARE)


def block_over_data(plan: Plan) -> None:
    plan.put(plan.table, TABLES["data[0]"], 8, PREPARE)


def old_table_kept(plan: Plan) -> None:
    plan.put(48, plan.old_table, 8, SWITCH)


def books_not_written(plan: Plan) -> None:
    plan.sectors = {key: data for key, data in plan.sectors.items() if key[0] != PREPARE}


def dirty_cleared_alone(plan: Plan) -> None:
    plan.sectors = {(SWITCH, 0): plan.image[:79] + b"\0" + plan.image[80:SECTOR]}


def another_feature_bit(plan: Plan) -> None:
    plan.put(72, 8, 8, SWITCH)


def another_field(plan: Plan) -> None:
    plan.put(24, 101 << 9, 8, SWITCH)


def changed_entry(plan: Plan) -> None:
    plan.put(TABLES["l2_table[0]"], 1 << 63 | TABLES["data[1]"], 8, MAPPING)


def flag_of_another_table(plan: Plan) -> None:
    table = TABLES["snapshot[0].l1_table"]
    plan.put(table, int.from_bytes(plan.image[table : table + 8], "big") ^ 1 << 63, 8, MAPPING)


def flag_taken(plan: Plan) -> None:
    plan.put(TABLES["l2_table[0]"] + 8, TABLES["data[1]"], 8, MAPPING)


def data_written(plan: Plan) -> None:
    plan.put(TABLES["data[3]"], 7, 8, PREPARE)


def header_slack(plan: Plan) -> None:
    plan.put(400, 1, 8, SWITCH)


def late(plan: Plan) -> None:
    plan.put(TABLES["data[3]"], 7, 8, abi.INSTAR_PHASE_RELEASE)


def far_away(plan: Plan) -> None:
    plan.put(1 << 20, 1, 8, PREPARE)


ROGUES: list[Callable[[Plan], None]] = [
    *(more, less, block_left_out, block_over_data, old_table_kept, books_not_written),
    *(dirty_cleared_alone, another_feature_bit, another_field, changed_entry),
    *(flag_of_another_table, flag_taken, data_written, header_slack, late, far_away),
]


@pytest.mark.parametrize("change", ROGUES)
def test_new_refcounts_that_are_not_the_counts_are_refused(change: Callable[[Plan], None]) -> None:
    plan = Plan(ZEROS.build())
    change(plan)
    with pytest.raises(GuestFault):
        plan.judge()


def still_dirty(plan: Plan) -> None:
    del plan.sectors[SWITCH, 0]


def not_lowered(plan: Plan) -> None:
    books_not_written(plan)


def too_low(plan: Plan) -> None:
    block = int.from_bytes(plan.image[plan.old_table :][:8], "big")
    plan.put(block + 2 * 20, 0, 2, PREPARE)


def raised(plan: Plan) -> None:
    block = int.from_bytes(plan.image[plan.old_table :][:8], "big")
    plan.put(block + 2 * 22, 9, 2, PREPARE)


@pytest.mark.parametrize(
    "change",
    [
        *(still_dirty, not_lowered, too_low, raised, another_feature_bit, changed_entry),
        *(flag_taken, data_written, late, header_slack),
    ],
)
def test_refcounts_that_do_not_fall_to_the_counts_are_refused(
    change: Callable[[Plan], None],
) -> None:
    plan = Plan(LEAKED.build())
    assert plan.table == plan.old_table
    change(plan)
    with pytest.raises(GuestFault):
        plan.judge()


def test_an_image_that_stays_wrong_stays_dirty() -> None:
    counts = {20: 0, 21: 2}
    plan = Plan(replace(DIRTY, refcounts=counts).build(), LEAKS)
    plan.judge()
    plan.sectors[SWITCH, 0] = plan.image[:79] + b"\0" + plan.image[80:SECTOR]
    with pytest.raises(GuestFault, match="dirty"):
        plan.judge()


def test_a_lowered_refcount_cannot_take_a_reference_away() -> None:
    plan = Plan(replace(DIRTY, refcounts={20: 0, 21: 2}).build(), LEAKS)
    too_low(plan)
    block = int.from_bytes(plan.image[plan.old_table :][:8], "big")
    plan.put(block + 2 * 22, 0, 2, PREPARE)
    with pytest.raises(GuestFault):
        plan.judge()


def test_a_repair_of_a_clean_image_is_no_repair() -> None:
    plan = Plan(LEAKED.build())
    plan.image = plan.image[:79] + b"\0" + plan.image[80:]
    with pytest.raises(GuestFault):
        plan.judge()


def test_a_no_op_leaves_no_image_dirty() -> None:
    plan = Plan(LEAKED.build())
    plan.sectors = {}
    plan.answer = replace(plan.answer, claim=replace_claim(plan.answer))
    with pytest.raises(GuestFault, match="no-op"):
        plan.judge()


def replace_claim(answer: Answer) -> Claim:
    return Claim(False, True, answer.claim.fields)


@pytest.mark.parametrize(
    "damage",
    [
        *((9, 1 << 63 | 1 << 40), (9, 1 << 63 | 0x1201), (9, 1 << 62 | 1 << 61 | 0x200)),
        *((9, 1 << 63), (9, 1 << 63 | TABLES["l1_table"])),
    ],
)
def test_the_judge_believes_no_guest_that_accepts_what_cannot_be(damage: tuple[int, int]) -> None:
    plan = Plan(ZEROS.build())
    index, entry = damage
    at = TABLES["l2_table[0]"] + 8 * index
    image = bytearray(plan.image)
    image[at : at + 8] = entry.to_bytes(8, "big")
    plan.image = bytes(image)
    with pytest.raises(GuestFault):
        plan.judge()


STRUCTURES = (
    "l1_table",
    "l2_table[0]",
    "snapshot_table",
    "snapshot[0].l1_table",
    "bitmap[0].table",
)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_refcount_of_2_does_not_hide_a_structure_that_is_data_too(name: str) -> None:
    bitmaps = [Bitmap(name=b"b", dirty=(0,), granularity_bits=9)]
    described = replace(DIRTY, bitmaps=bitmaps)
    shared = described.regions()[name].start
    image = bytearray(replace(described, refcounts={shared >> 9: 2}).build())
    table = described.regions()["l2_table[0]"].start
    image[table + 8 * 9 : table + 8 * 10] = shared.to_bytes(8, "big")
    if name.startswith("l2_table"):
        image[described.regions()["l1_table"].start] &= 0x7F
    assert ask(load_planner(), bytes(image), REPAIR).refusals == ("overlap",)
    plan = Plan(described.build())
    plan.image = bytes(image)
    plan.sectors = {(SWITCH, 0): plan.sectors[SWITCH, 0]}
    with pytest.raises(GuestFault, match="which has another use"):
        plan.judge()


def test_autoclear_bits_that_nobody_knows_do_not_outlive_a_repair() -> None:
    image = replace(LEAKED, dirty=False, autoclear_features=0x10)
    plan = Plan(image.build(), LEAKS)
    plan.judge()
    del plan.sectors[SWITCH, 0]
    with pytest.raises(GuestFault, match="autoclear"):
        plan.judge()


@pytest.mark.parametrize("bit", [1, 5, 6, 63])
@pytest.mark.parametrize(("image", "request_"), [(ZEROS, REPAIR), (LEAKED, LEAKS)])
def test_an_image_with_a_feature_that_forbids_it_is_not_repaired(
    image: Image, request_: AmendRequest, bit: int
) -> None:
    plan = Plan(image.build(), request_)
    plan.judge()
    plan.put(72, plan.entry(72, SWITCH) | 1 << bit, 8, SWITCH)
    plan.image = plan.image[:72] + (1 | 1 << bit).to_bytes(8, "big") + plan.image[80:]
    with pytest.raises(GuestFault, match=r"repairs an image whose features forbid it$"):
        plan.judge()


def test_an_image_with_an_extension_that_nobody_knows_is_not_repaired() -> None:
    described = replace(LEAKED, backing_file=b"base", backing_format=b"raw")
    plan = Plan(described.build(), LEAKS)
    plan.judge()
    plan.put(112, plan.entry(112, SWITCH) ^ 1 << 32, 8, SWITCH)
    plan.image = plan.image[:112] + plan.sectors[SWITCH, 0][112:120] + plan.image[120:]
    with pytest.raises(GuestFault, match=r"an image with an unknown header extension$"):
        plan.judge()


def test_each_block_is_found_by_the_index_of_its_entry() -> None:
    image = replace(DIRTY, clusters={n: Data(b"d") for n in range(600)}, size=600 << 9)
    data = image.build()
    places = {name: place.start >> 9 for name, place in image.regions().items()}
    disk = Disk(Original(lambda at, size: data[at : at + size], len(data), 1 << 30), 9, 0)
    table, blocks = refcount_structures(disk, dict(parse_header(data)))
    assert table == range(places["refcount_table"], places["refcount_table"] + 1)
    assert blocks == {n: places[f"refcount_block[{n}]"] for n in range(3)}


def test_a_repair_lets_the_file_grow_by_no_more_than_it_may() -> None:
    plan = Plan(ZEROS.build())
    end = max(at + len(data) for (_, at), data in plan.sectors.items())
    plan.request = AmendRequest.of(repair=True, max_growth=end - len(plan.image))
    plan.judge()
    plan.request = AmendRequest.of(repair=True, max_growth=end - len(plan.image) - SECTOR)
    with pytest.raises(GuestFault, match=r"lets the file grow by more than it may$"):
        plan.judge()


@pytest.mark.parametrize("fault", ["twice", "and written"])
def test_sectors_that_are_zeroed_besides_are_the_guests_fault(fault: str) -> None:
    plan = Plan(DIRTY.build())
    zeroes = Write(PREPARE, max(at for _, at in plan.sectors), bytes(SECTOR), zeroes=True)
    if fault == "twice":
        zeroes = replace(zeroes, offset=zeroes.offset + SECTOR)
    more = (zeroes, zeroes) if fault == "twice" else (zeroes,)
    plan.answer = replace(plan.answer, writes=(*plan.answer.writes, *more))
    with pytest.raises(GuestFault, match=rf"^sector \d+ is to be zeroed {fault}$"):
        accepted_by_contract(plan.image, plan.request, plan.answer)
