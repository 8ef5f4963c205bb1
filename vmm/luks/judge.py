"""Host side: judges what is staged for keyslots, as the states that a commit passes through.

Written apart from plan.py: what matters is what the header and the areas are after each phase, and
nothing of how they came to be so.
"""

from __future__ import annotations

from itertools import pairwise

from instar.abi import INSTAR_PHASE_COUNT

from ..base.errors import HostError, ImageRejected
from ..base.luks_layout import FIRST_SLOT, HEADER_SIZE, SECTOR_SIZE, SLOT_SIZE, SLOTS
from ..request.keys import AddKey
from .crypto import wipe
from .header import read_header
from .region import HEADER_SECTORS, open_slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

    from ..image.staging import StagedWrites
    from ..request.keys import Keys
    from .header import Header, Slot
    from .region import Region

_KEY_OFFSET = slice(40, 44)
_INACTIVE = bytes.fromhex("0000dead") + bytes(36)  # a slot without iterations and salt


class PlanFault(HostError):
    """A plan is not what was asked for: a defect of this program, which keeps it from harm."""


def judge_keys(
    region: Region, staged: StagedWrites, keys: Keys, numbers: Collection[int]
) -> tuple[Header, bool]:
    """See that `staged` does to the slots of these numbers what is asked, and nothing else.

    Returns the header as it will be, and whether one sector makes all the difference. PlanFault.
    """
    before = region.header
    if staged.range_count():
        _fail("zeroes something")
    raws = _headers(region, staged)
    headers = [before, *(_read(raw, region.length) for raw in raws)]
    after, raw = headers[-1], raws[-1]
    for state in headers:  # first: then areas are those that were, none of which overlaps another
        _judge_state(before, state, numbers, keys)
        _judge_whole(before, state, after, numbers)
    areas = {header.slots[number].area for header in (before, after) for number in numbers}
    for phase in range(INSTAR_PHASE_COUNT):
        _judge_areas(region, staged, phase, headers[phase : phase + 2], areas)
    _judge_bytes(region.raw, raw, numbers)
    if isinstance(keys, AddKey):
        _judge_added(region, staged, after.slots[min(numbers)], keys)
    else:
        _judge_erased(raw, numbers)
    _judge_overwritten(region, staged, numbers, forced=not isinstance(keys, AddKey))
    return after, sum(old.active != new.active for old, new in pairwise(headers)) <= 1


def _fail(what: str) -> NoReturn:
    raise PlanFault(f"the plan for the keyslots {what}; nothing was written; please report it")


def _read(raw: bytes, length: int) -> Header:
    try:
        return read_header(raw[:HEADER_SIZE], length)
    except ImageRejected as error:
        _fail(f"leaves a bad header: {error}")


def _headers(region: Region, staged: StagedWrites) -> list[bytes]:
    """The header's sectors after each phase, which writes one of them at most."""
    first, raw, found = region.offset // SECTOR_SIZE, region.raw, []
    for phase in range(INSTAR_PHASE_COUNT):
        written = [staged.sector(phase, first + number) for number in range(HEADER_SECTORS)]
        if all(written):
            _fail("writes both sectors of the header at once")
        for number, data in enumerate(written):
            at = number * SECTOR_SIZE
            raw = raw if data is None else raw[:at] + data + raw[at + SECTOR_SIZE :]
        found.append(raw)
    return found


def _judge_areas(
    region: Region,
    staged: StagedWrites,
    phase: int,
    states: list[Header],
    areas: Collection[int],
) -> None:
    """See that a phase writes the header, and areas that nobody needs before and after it."""
    base, sectors = region.offset // SECTOR_SIZE, region.header.area_sectors
    needed = [slot.area for state in states for slot in state.active]
    for start, end in staged.runs(phase):
        first, last = start - base, end - base
        if any(first < area + sectors and area < last for area in needed):
            _fail("overwrites key material that is in use")
        own = [(0, HEADER_SECTORS), *((area, area + sectors) for area in areas)]
        inside = sum(max(min(last, high) - max(first, low), 0) for low, high in own)
        if inside != last - first:
            _fail("writes outside the header and the keyslots' areas")


def _judge_bytes(before: bytes, after: bytes, numbers: Collection[int]) -> None:
    """See that nothing differs but these slots, and the place of one that exchanged its area."""
    old, new = bytearray(before), bytearray(after)
    moved = 0
    for number in range(SLOTS):
        at = FIRST_SLOT + number * SLOT_SIZE
        part = slice(at, at + SLOT_SIZE)
        if number in numbers:
            new[part] = old[part]
        place = slice(at + _KEY_OFFSET.start, at + _KEY_OFFSET.stop)
        moved += old[place] != new[place]
        new[place] = old[place]
    if old != new or moved > 1:
        _fail("changes more of the header")


def _judge_state(before: Header, state: Header, numbers: Collection[int], keys: Keys) -> None:
    """See that after a phase all other slots hold what they held, and one is left at least."""
    for old, new in zip(before.slots, state.slots, strict=True):
        if old.number in numbers:
            continue
        kept = (old.active, old.iterations, old.salt) == (new.active, new.iterations, new.salt)
        if not kept or (old.active and old.area != new.area):
            _fail(f"changes keyslot {old.number}")
    if {slot.area for slot in before.slots} != {slot.area for slot in state.slots}:
        _fail("names another area")
    if before.active and not state.active and not keys.force:
        _fail("leaves no keyslot")
    if before.active and not state.active and isinstance(keys, AddKey):
        _fail("leaves no keyslot for a while")


def _judge_whole(before: Header, state: Header, after: Header, numbers: Collection[int]) -> None:
    """See that these slots hold what they held, or will hold, or nothing."""
    for number in numbers:
        slot = state.slots[number]
        if slot.active and slot not in (before.slots[number], after.slots[number]):
            _fail(f"leaves keyslot {number} half written")


def _judge_added(region: Region, staged: StagedWrites, slot: Slot, keys: AddKey) -> None:
    """Open the new slot with the new passphrase, from the bytes that are staged."""
    start = region.offset // SECTOR_SIZE + slot.area
    area = bytearray(region.area(slot))
    with memoryview(area) as view:
        staged.overlay(start, view, INSTAR_PHASE_COUNT)
    new = memoryview(keys.new)
    key = open_slot(region.header, slot, bytes(area), new) if slot.active else None
    if key is None:
        _fail("makes a keyslot that the new passphrase does not open")
    wipe(key)


def _judge_erased(raw: bytes, numbers: Collection[int]) -> None:
    """See that nothing is left in these slots."""
    for number in numbers:
        at = FIRST_SLOT + number * SLOT_SIZE
        if raw[at : at + len(_INACTIVE)] != _INACTIVE:
            _fail(f"leaves something in keyslot {number}")


def _judge_overwritten(
    region: Region, staged: StagedWrites, numbers: Collection[int], *, forced: bool
) -> None:
    """See that all of the areas that these slots had is overwritten."""
    for number in numbers:
        old = region.header.slots[number]
        if not (old.active or forced):
            continue
        start = region.offset // SECTOR_SIZE + old.area
        count = region.header.area_sectors
        written = sum(
            len(data)
            for phase in range(INSTAR_PHASE_COUNT)
            for _, data in staged.extents(phase, start, start + count)
        )
        if written != count * SECTOR_SIZE:
            _fail(f"leaves key material of keyslot {number}")
