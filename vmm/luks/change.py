"""Host side: changes keyslots: finds out what is asked, plans it, and judges the plan."""

from __future__ import annotations

from time import monotonic

from ..base.errors import HostError, ImageRejected
from ..base.luks_layout import SECTOR_SIZE
from ..base.record import record
from ..base.refusals import luks_refusal
from ..image.staging import StagedWrites
from ..request.keys import ITERATIONS_LEAST, AddKey
from .crypto import check_primitives, rounds, wipe
from .judge import judge_keys
from .plan import find_spare, plan_add, plan_erase
from .region import Region, Trials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ..request.keys import EraseKey, Keys
    from .header import Header, Slot
    from .plan import Write
    from .region import Reader, Secret

    Progress = Callable[[int, int], None]

_ITERATIONS_MOST = (1 << 32) - 1


@record
class Changed:
    """What is to be written, which may be committed."""

    staged: StagedWrites
    atomic: bool
    """Whether all slots change with the write of one sector."""
    slots: tuple[tuple[int, int | None, int | None], ...]
    """Of each slot that changes, its number, and the iterations before and after; None where it
    is not in use."""


def change_keys(
    read: Reader,
    place: tuple[int, int],
    size: int,
    keys: Keys,
    seconds: float,
    progress: Progress | None = None,
) -> Changed:
    """Plan and judge a change of keyslots.

    Args:
        read: reads so many bytes of the image file from an offset on.
        place: offset and length of the LUKS region in it.
        size: bytes of the image file.
        keys: what is asked for; checked (check_keys).
        seconds: how long it may take.
        progress: called as progress(done, total).

    Raises:
        ImageRejected: the image, or the passphrase, is not one for this.
        HostError: this machine's OpenSSL is not, or another program has changed the header.
        PlanFault: a defect, for which nothing may be written.
    """
    end = monotonic() + seconds
    region = Region(read, *place, size)
    check_primitives(region.header.hash, region.header.mode, region.header.key_bytes)
    trials = Trials(region, lambda: end - monotonic(), progress)
    if isinstance(keys, AddKey):
        slot = _choose(region.header, keys)
        writes, numbers = _add(region, trials, slot, keys), [slot.number]
    else:
        slots = _find_erased(region, trials, keys)
        writes, numbers = plan_erase(region, slots), [slot.number for slot in slots]
    staged = StagedWrites(sum(len(write.data) for write in writes))
    for write in writes:
        staged.write(place[0] // SECTOR_SIZE + write.sector, bytes(write.data), write.phase)
    after, atomic = judge_keys(region, staged, keys, numbers)
    if not region.is_as_read():
        raise HostError(
            "the LUKS header was changed meanwhile, by a program that does not heed the image's "
            "lock; nothing was written, try again when it is done"
        )
    trials.end()
    return Changed(staged, atomic, _compare(region.header, after))


def _choose(header: Header, keys: AddKey) -> Slot:
    """The slot that gets the new passphrase. ImageRejected."""
    if keys.slot is None:
        free = next((slot for slot in header.slots if not slot.active), None)
        return free or _refuse("luks_no_slot")
    slot = header.slots[keys.slot]
    if slot.active and not keys.force:
        _refuse("luks_slot_in_use", slot.number)
    if header.active == (slot,) and find_spare(header, slot) is None:
        _refuse("luks_only_slot", slot.number)
    return slot


def _add(region: Region, trials: Trials, slot: Slot, keys: AddKey) -> list[Write]:
    header = region.header
    trials.expect_slots(header.active)
    digest = rounds(header.hash, 1, header.key_bytes)
    iterations = int(trials.rate / digest * keys.iter_time / 1000) if keys.iter_time else 0
    if iterations > _ITERATIONS_MOST:
        _refuse("luks_iter_time", min(iterations, (1 << 64) - 1))
    iterations = max(iterations, ITERATIONS_LEAST)
    cost = digest * iterations
    trials.expect(2 * cost)  # to make it, and to see that it opens
    key = next(
        filter(None, (trials.open(one, memoryview(keys.unlock)) for one in header.active)), None
    )
    if key is None:
        _refuse("luks_password")
    try:
        writes = plan_add(region, slot, key, memoryview(keys.new), iterations)
        trials.did(cost)
        return writes
    finally:
        wipe(key)


def _find_erased(region: Region, trials: Trials, keys: EraseKey) -> list[Slot]:
    """The slots that are to be erased, in qemu's order of what is refused. ImageRejected."""
    header = region.header
    if keys.slot is None:
        return _find_matching(header, trials, keys)
    slot = header.slots[keys.slot]
    if keys.secret is not None and not (
        slot.active and _opens(trials, slot, memoryview(keys.secret))
    ):
        _refuse("luks_slot_mismatch", slot.number)
    if not slot.active and not keys.force:
        _refuse("luks_slot_inactive", slot.number)
    if header.active == (slot,) and not keys.force:
        _refuse("luks_last_slot", slot.number)
    return [slot]


def _find_matching(header: Header, trials: Trials, keys: EraseKey) -> list[Slot]:
    assert keys.secret is not None  # noqa: S101 - check_keys() sees to it
    secret = memoryview(keys.secret)
    trials.expect_slots(header.active)
    found = [slot for slot in header.active if _opens(trials, slot, secret, expected=True)]
    if not found:
        _refuse("luks_no_match")
    if len(found) == len(header.active) and not keys.force:
        _refuse("luks_all_slots")
    return found


def _opens(trials: Trials, slot: Slot, secret: Secret, *, expected: bool = False) -> bool:
    if not expected:
        trials.expect_slots((slot,))
    key = trials.open(slot, secret)
    if key is None:
        return False
    wipe(key)
    return True


def _compare(before: Header, after: Header) -> tuple[tuple[int, int | None, int | None], ...]:
    return tuple(
        (old.number, _iterations(old), _iterations(new))
        for old, new in zip(before.slots, after.slots, strict=True)
        if (old.active, old.salt, old.iterations) != (new.active, new.salt, new.iterations)
    )


def _iterations(slot: Slot) -> int | None:
    return slot.iterations if slot.active else None


def _refuse(name: str, *details: int) -> NoReturn:
    raise ImageRejected((luks_refusal(name, *details),))
