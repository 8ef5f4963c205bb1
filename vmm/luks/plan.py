"""Host side: which sectors to write in which phase, so that a crash leaves the old keys or the new.

The header's states are packed whole, and a phase writes the sectors in which two of them differ.
Slots 0 to 5 lie in its first sector, 7 in the second, and 6 across both, its state in the first.
"""

from __future__ import annotations

import os

from instar.abi import (
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_MAPPING,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_RELEASE,
    INSTAR_PHASE_SWITCH,
)

from ..base.luks_layout import SALT_SIZE, SECTOR_SIZE, SLOT_SIZE, place_of
from ..base.record import record
from .crypto import derive, encrypt, split, wipe
from .header import Slot, pack_slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .header import Header
    from .region import Region, Secret

KEY_OFFSET = 40
"""Where a slot names its area."""


@record
class Write:
    """Whole sectors that a phase writes."""

    phase: int
    sector: int
    """From the start of the region."""
    data: bytes | bytearray


def plan_add(
    region: Region, slot: Slot, key: bytearray, new: Secret, iterations: int
) -> list[Write]:
    """Have `slot` hold the master key for a new passphrase.

    The only one that is in use must have a spare one (find_spare).
    """
    spare = find_spare(region.header, slot) if slot.active else None
    area = slot.area if spare is None else spare.area
    made = Slot(slot.number, True, iterations, os.urandom(SALT_SIZE), area)
    material = _Area(area, _seal(region.header, made, key, new))
    if spare is not None:
        return _exchange(region, slot, spare, made, material)
    if slot.active:
        return _replace(region, slot, made, material)
    old, after = bytes(region.raw), _with(region.raw, made)
    switch = _sector_of(slot.number)
    before = [sector for sector in _differing(old, after) if sector != switch]
    return [
        material.write(INSTAR_PHASE_PREPARE),
        *_write(INSTAR_PHASE_PREPARE, after, before),
        *_write(INSTAR_PHASE_SWITCH, after, [switch]),
    ]


def plan_erase(region: Region, slots: Sequence[Slot]) -> list[Write]:
    """Have these slots hold nothing, and their areas nothing that was there."""
    after = _with(region.raw, *map(_erased, slots))
    sectors = {_sector_of(slot.number) for slot in slots if slot.active}
    differing = _differing(region.raw, after)
    first = min(sectors or differing, default=None)  # what is not in use may have remains too
    rest = [sector for sector in differing if sector != first]
    last = INSTAR_PHASE_FLAGS if len(sectors) > 1 else INSTAR_PHASE_RELEASE
    return [
        *_write(INSTAR_PHASE_SWITCH, after, [] if first is None else [first]),
        *_write(INSTAR_PHASE_RELEASE, after, rest),
        *(_noise(region.header, slot.area).write(last) for slot in slots),
    ]


def _exchange(region: Region, slot: Slot, spare: Slot, made: Slot, material: _Area) -> list[Write]:
    """Have the slot take the area of one that is not in use, which gets its own, at once."""
    after = _with(region.raw, made, _moved(spare, slot.area))
    return [
        material.write(INSTAR_PHASE_PREPARE),
        *_write(INSTAR_PHASE_SWITCH, after, _differing(region.raw, after)),
        _noise(region.header, slot.area).write(INSTAR_PHASE_RELEASE),
    ]


def _replace(region: Region, slot: Slot, made: Slot, material: _Area) -> list[Write]:
    """Have the slot hold nothing for a while, as there is no other area to be had."""
    none, after = _with(region.raw, _erased(slot)), _with(region.raw, made)
    switch = _sector_of(slot.number)
    others = [sector for sector in _differing(region.raw, after) if sector != switch]
    return [
        *_write(INSTAR_PHASE_REFCOUNT_TABLE, none, [switch]),
        material.write(INSTAR_PHASE_MAPPING),
        *_write(INSTAR_PHASE_MAPPING, after, others),
        *_write(INSTAR_PHASE_SWITCH, after, [switch]),
    ]


def find_spare(header: Header, slot: Slot) -> Slot | None:
    """A slot whose area can be exchanged with this one's by writing one sector."""
    sector = _sector_of(slot.number)
    if _sector_of(slot.number, SLOT_SIZE - 1) != sector:
        return None
    for other in header.slots:
        if not other.active and _sector_of(other.number, KEY_OFFSET) == sector:
            return other
    return None


@record
class _Area:
    """What is to be in an area."""

    sector: int
    data: bytes | bytearray

    def write(self, phase: int) -> Write:
        return Write(phase, self.sector, self.data)


def _seal(header: Header, slot: Slot, key: bytearray, passphrase: Secret) -> bytearray:
    """The key material of a slot for a passphrase."""
    own = material = bytearray()
    try:
        own = derive(header.hash, passphrase, slot.salt, slot.iterations, header.key_bytes)
        material = split(header.hash, key)
        material += bytes(-len(material) % SECTOR_SIZE)
        return encrypt(header.mode, own, material)
    finally:
        wipe(own, material)


def _noise(header: Header, sector: int) -> _Area:
    return _Area(sector, os.urandom(header.area_sectors * SECTOR_SIZE))


def _erased(slot: Slot) -> Slot:
    return Slot(slot.number, False, 0, bytes(SALT_SIZE), slot.area)


def _moved(slot: Slot, area: int) -> Slot:
    return Slot(slot.number, slot.active, slot.iterations, slot.salt, area)


def _with(raw: bytes, *slots: Slot) -> bytes:
    changed = bytearray(raw)
    for slot in slots:
        pack_slot(changed, slot)
    return bytes(changed)


def _sector_of(number: int, field: int = 0) -> int:
    """The sector of a slot's state, or of another byte of it."""
    return place_of(number, field) // SECTOR_SIZE


def _differing(before: bytes, after: bytes) -> list[int]:
    return [
        at // SECTOR_SIZE
        for at in range(0, len(before), SECTOR_SIZE)
        if before[at : at + SECTOR_SIZE] != after[at : at + SECTOR_SIZE]
    ]


def _write(phase: int, raw: bytes, sectors: Iterable[int]) -> list[Write]:
    return [
        Write(phase, sector, raw[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE])
        for sector in sectors
    ]
