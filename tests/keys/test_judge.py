"""Test side: plans for keyslots that are right but for one thing: the judge names it.

The region is one of a larger file, as in a qcow2 image. All slots are in use but 6, which has no
area that slots 0 to 5 could take: what replaces one of them takes several steps.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack_into

import pytest

from instar import abi
from instar.vmm.base.luks_layout import SECTOR_SIZE
from instar.vmm.image.staging import StagedWrites
from instar.vmm.luks.judge import PlanFault, judge_keys
from instar.vmm.luks.plan import Write, plan_add, plan_erase
from instar.vmm.luks.region import Region, open_slot
from instar.vmm.request.keys import AddKey, EraseKey
from tests.keys.files import FIRST, apply, change

BASE = 128  # sectors
PREPARE, TABLE = abi.INSTAR_PHASE_PREPARE, abi.INSTAR_PHASE_REFCOUNT_TABLE
SWITCH, RELEASE = abi.INSTAR_PHASE_SWITCH, abi.INSTAR_PHASE_RELEASE
NEW = b"new"
Keys = AddKey | EraseKey
Writes = list[Write]
ADD = AddKey(FIRST, NEW, 6, 0)
REPLACE = AddKey(FIRST, NEW, 1, 0, force=True)
EXCHANGE = AddKey(FIRST, NEW, 3, 0, force=True)
ERASE = EraseKey(4)


@pytest.fixture(scope="session")
def region(full: bytes) -> Region:
    full = apply(full, change(full, EraseKey(6)))
    data = bytes(BASE * SECTOR_SIZE) + full
    return Region(lambda at, n: data[at : at + n], BASE * SECTOR_SIZE, len(full), len(data))


@pytest.fixture(scope="session")
def spare(full: bytes) -> Region:
    """The same, but slot 5 is not in use either: its area can be exchanged."""
    for number in (5, 6):
        full = apply(full, change(full, EraseKey(number)))
    data = bytes(BASE * SECTOR_SIZE) + full
    return Region(lambda at, n: data[at : at + n], BASE * SECTOR_SIZE, len(full), len(data))


def plan(region: Region, keys: Keys) -> Writes:
    """An honest plan."""
    assert keys.slot is not None
    slot = region.header.slots[keys.slot]
    if isinstance(keys, EraseKey):
        return plan_erase(region, [slot])
    first = region.header.slots[0]
    key = open_slot(region.header, first, region.area(first), FIRST)
    assert key is not None
    return plan_add(region, slot, key, keys.new, 1000)


def judge(region: Region, keys: Keys, writes: Writes) -> bool:
    """Whether the change is one of one sector. PlanFault."""
    staged = StagedWrites()
    for write in writes:
        staged.write(BASE + write.sector, bytes(write.data), write.phase)
    assert keys.slot is not None
    return judge_keys(region, staged, keys, [keys.slot])[1]


def put(writes: Writes, at: int, value: bytes, phase: int = SWITCH) -> Writes:
    """Other bytes in the header, where a phase writes them."""
    found = []
    for write in writes:
        data, start = bytearray(write.data), write.sector * SECTOR_SIZE
        if write.phase == phase and 0 <= at - start < SECTOR_SIZE and len(data) == SECTOR_SIZE:
            data[at - start : at - start + len(value)] = value
        found.append(Write(write.phase, write.sector, data))
    assert found != writes
    return found


def field(number: int, at: int) -> int:
    return 208 + 48 * number + at


def area(region: Region, number: int) -> int:
    return region.header.slots[number].area


def end(region: Region) -> int:
    """The sector after the last area, where the disk's data may be."""
    return max(slot.area for slot in region.header.slots) + region.header.area_sectors


def header(region: Region, sector: int) -> bytes:
    return region.raw[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE]


def sector_of(byte: int) -> bytes:
    return bytes([byte]) * SECTOR_SIZE


@pytest.mark.parametrize("keys", [ADD, REPLACE, ERASE])
def test_an_honest_plan_passes(region: Region, keys: Keys) -> None:
    assert judge(region, keys, plan(region, keys)) == (keys is not REPLACE)


def test_an_honest_exchange_passes(spare: Region) -> None:
    assert judge(spare, EXCHANGE, plan(spare, EXCHANGE))


def late(writes: Writes) -> Writes:
    """The half of slot 6's salt that is in the second sector comes after the switch."""
    return [Write(RELEASE, w.sector, w.data) if w.sector == 1 else w for w in writes]


def at_the_switch(writes: Writes) -> Writes:
    """The key material is written with the header."""
    return [Write(SWITCH, w.sector, w.data) if len(w.data) > 512 else w for w in writes]


def cut(writes: Writes) -> Writes:
    """The last sector of an area is left out."""
    return [Write(w.phase, w.sector, w.data[: max(len(w.data) - 512, 512)]) for w in writes]


OUTSIDE = "writes outside the header and the keyslots' areas"
IN_USE = "overwrites key material that is in use"
MORE = "changes more of the header"
# Name: what is asked, what becomes of the honest plan, what is said.
ROGUES: dict[str, tuple[Keys, Callable[[Region, Writes], Writes], str]] = {
    "before the region": (ADD, lambda _, w: [*w, Write(PREPARE, -1, sector_of(1))], OUTSIDE),
    "far before the region": (ADD, lambda _, w: [*w, Write(PREPARE, -BASE, sector_of(1))], OUTSIDE),
    "after the header": (ADD, lambda _, w: [*w, Write(PREPARE, 2, sector_of(1))], OUTSIDE),
    "after the areas": (ADD, lambda r, w: [*w, Write(PREPARE, end(r), sector_of(1))], OUTSIDE),
    "between two areas": (
        ADD,
        lambda r, w: [*w, Write(RELEASE, area(r, 6) + r.header.area_sectors, sector_of(1))],
        OUTSIDE,
    ),
    "an area that is in use": (
        ADD,
        lambda r, w: [*w, Write(PREPARE, area(r, 2), sector_of(1))],
        IN_USE,
    ),
    "the new area after the switch": (
        ADD,
        lambda r, w: [*w, Write(RELEASE, area(r, 6), sector_of(1))],
        IN_USE,
    ),
    "the new area with the switch": (ADD, lambda _, w: at_the_switch(w), IN_USE),
    "the old area before the switch": (
        ERASE,
        lambda r, w: [*w, Write(PREPARE, area(r, 4), sector_of(1))],
        IN_USE,
    ),
    "both sectors of the header": (
        ADD,
        lambda r, w: [*w, Write(SWITCH, 1, header(r, 1))],
        "writes both sectors of the header at once",
    ),
    "another cipher": (ADD, lambda _, w: put(w, 40, b"ecb\0\0\0\0\0\0\0\0"), MORE),
    "another payload": (ADD, lambda _, w: put(w, 106, b"\xff"), MORE),
    "another digest": (ADD, lambda _, w: put(w, 112, b"\0\0\0\0"), MORE),
    "another uuid": (ADD, lambda _, w: put(w, 168, b"x"), MORE),
    "more after the slots": (ERASE, lambda r, w: [*w, Write(RELEASE, 1, sector_of(1))], "leaves"),
    "a byte after the slots": (
        ERASE,
        lambda r, w: [*w, Write(RELEASE, 1, header(r, 1)[:-1] + b"x")],
        MORE,
    ),
    "no header": (ADD, lambda _, w: put(w, 0, b"x"), "leaves a bad header"),
    "other stripes": (ADD, lambda _, w: put(w, field(2, 44), bytes(4)), "leaves a bad header"),
    "another slot's iterations": (
        ADD,
        lambda _, w: put(w, field(2, 4), b"\0\0\1\0"),
        "changes keyslot 2",
    ),
    "another slot's state": (
        ADD,
        lambda _, w: put(w, field(2, 0), b"\0\0\xde\xad"),
        "changes keyslot 2",
    ),
    "another slot for a while": (
        ADD,
        lambda r, w: [*w, *put([Write(TABLE, 0, header(r, 0))], field(2, 4), b"\0\0\1\0", TABLE)],
        "changes keyslot 2",
    ),
    "another slot's area": (
        ERASE,
        lambda r, w: swap(r, w, 4, 2),
        "changes keyslot 2",
    ),
    "an area that no slot had": (
        ERASE,
        lambda r, w: put(w, field(4, 40), (area(r, 4) + 1).to_bytes(4, "big")),
        "names another area",
    ),
    "a salt after the switch": (ADD, lambda _, w: late(w), "leaves keyslot 6 half written"),
    "the salt of another passphrase": (
        ADD,
        lambda _, w: put(w, field(6, 8), b"\0\0\0\0"),
        "makes a keyslot that the new passphrase does not open",
    ),
    "one sector too few": (ERASE, lambda _, w: cut(w), "leaves key material of keyslot 4"),
    "no noise": (ERASE, lambda _, w: w[:-1], "leaves key material of keyslot 4"),
    "a salt that is left": (
        ERASE,
        lambda _, w: put(w, field(4, 8), b"\1"),
        "leaves something in keyslot 4",
    ),
    "iterations that are left": (
        ERASE,
        lambda _, w: put(w, field(4, 4), b"\0\0\1\0"),
        "leaves something in keyslot 4",
    ),
    "nothing": (ERASE, lambda _, w: [], "leaves something in keyslot 4"),
    "no key": (ADD, lambda _, w: [], "makes a keyslot that the new passphrase does not open"),
    "a replacement in place": (
        REPLACE,
        lambda _, w: [x for x in w if x.phase != TABLE],
        IN_USE,
    ),
}


def swap(region: Region, writes: Writes, one: int, other: int) -> Writes:
    """Two slots exchange their areas, and nothing is overwritten."""
    raw = bytearray(writes[0].data)
    pack_into(">I", raw, field(one, 40), area(region, other))
    pack_into(">I", raw, field(other, 40), area(region, one))
    return [Write(SWITCH, 0, raw)]


@pytest.mark.parametrize("name", ROGUES)
def test_a_rogue_plan_is_a_fault_that_is_named(region: Region, name: str) -> None:
    keys, spoil, said = ROGUES[name]
    with pytest.raises(PlanFault) as caught:
        judge(region, keys, spoil(region, plan(region, keys)))
    assert said in str(caught.value)
    assert "nothing was written" in str(caught.value)


def test_no_sector_is_zeroed(region: Region) -> None:
    staged = StagedWrites()
    for write in plan(region, ADD):
        staged.write(BASE + write.sector, bytes(write.data), write.phase)
    staged.zero(8, 8)
    with pytest.raises(PlanFault, match="zeroes something"):
        judge_keys(region, staged, ADD, [6])


def test_the_last_key_does_not_go_for_a_while(luks: bytes) -> None:
    data = bytes(BASE * SECTOR_SIZE) + luks
    region = Region(lambda at, n: data[at : at + n], BASE * SECTOR_SIZE, len(luks), len(data))
    erased = plan_erase(region, [region.header.slots[0]])
    with pytest.raises(PlanFault, match="leaves no keyslot"):
        judge(region, EraseKey(0), erased)
    keys = AddKey(FIRST, NEW, 0, 0, force=True)
    honest = plan(region, keys)
    gone = put([Write(PREPARE, 0, header(region, 0))], 208, b"\0\0\xde\xad", PREPARE)
    with pytest.raises(PlanFault, match="for a while"):
        judge(region, keys, [*gone, *honest])


def test_what_a_slot_not_in_use_has_left_is_erased(luks: bytes) -> None:
    for number in range(1, 8):
        raw = bytearray(luks)
        raw[field(number, 4) : field(number, 40)] = bytes(range(1, 37))
        changed = change(bytes(raw), EraseKey(number, force=True))
        after = apply(bytes(raw), changed)
        assert after[field(number, 4) : field(number, 40)] == bytes(36)
        assert changed.atomic
