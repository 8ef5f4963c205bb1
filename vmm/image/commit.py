"""Host side: writes what has been judged, phase by phase, with a barrier after each."""

from __future__ import annotations

from instar.abi import (
    INSTAR_PHASE_COUNT,
    INSTAR_PHASE_FLAGS,
    INSTAR_PHASE_PREPARE,
    INSTAR_PHASE_REFCOUNT_TABLE,
    INSTAR_PHASE_SWITCH,
)

from ..base.errors import HostError
from .image_file import UNSURE
from .staging import SECTOR_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .image_file import ImageFile
    from .staging import StagedWrites

    Range = tuple[int, int, int, bool]  # phase, offset, length in bytes, whether of zeros

_AS_BEFORE = "the image reads as before"
_MAYBE_LEAKS = f"{_AS_BEFORE}, but may have leaked clusters, see instar check -r leaks"
_AMENDED = "the image is amended, but may have leaked clusters, see instar check -r all"

_KEYS_AS_BEFORE = "the keyslots are as before"
_KEY_GONE = "the keyslot may be erased, and the others are as before"
_KEY_REPLACED = "the keyslot may be as asked or erased, and the others are as before"
_KEYS_UNSURE = "the keyslots may be as asked or as before, see with instar info"
_KEYS_PARTLY = "the keyslots may be as before, or some erased as asked, see with instar info"
_KEYS_LEFT = (
    "the keyslots are as asked, or some are; old key material may be left: repeat it with "
    "--force, by the number of each keyslot"
)


GIVEN_BACK = INSTAR_PHASE_COUNT
"""What planned_ranges() says instead of a phase of what becomes holes when all is done."""


def planned_ranges(
    staged: StagedWrites, most: int, holes: Iterable[range] = ()
) -> tuple[tuple[Range, ...], int]:
    """What commit() would write, in order of the phases and in each of the offsets, then holes.

    Returns the first ranges, no more than `most`, and how many others there are.
    """
    ranges = _plan(staged, holes)
    first = tuple([part for _, part in zip(range(most), ranges)])  # noqa: B905 - the rest is left
    return first, sum(1 for _ in ranges)


def _plan(staged: StagedWrites, holes: Iterable[range]) -> Iterator[Range]:
    for offset, end in _zeroes(staged):
        yield INSTAR_PHASE_PREPARE, offset, end - offset, True
    for phase in staged.phases():
        for start, end in staged.runs(phase):
            yield phase, start * SECTOR_SIZE, (end - start) * SECTOR_SIZE, False
    for part in holes:
        yield GIVEN_BACK, part.start, len(part), True


def _zeroes(staged: StagedWrites) -> Iterator[tuple[int, int]]:
    """What is zeroed, in bytes: offset and end."""
    for start, end in zip(*staged.zeroed(), strict=True):
        yield start * SECTOR_SIZE, end * SECTOR_SIZE


def commit(image: ImageFile, staged: StagedWrites, *, flush: bool, keys: bool = False) -> None:
    """Write all phases. With `flush`, the change is on the disk when this returns.

    `keys` says that keyslots change, and nothing else.

    Raises HostError, which says whether the image is the old one or may be the new one; a crash at
    any moment leaves one of the two if the switch is one sector.
    """
    try:
        grows = image.prepare_writes(staged.end() * SECTOR_SIZE)
    except HostError as error:
        raise HostError(f"{error}; {_AS_BEFORE}") from error
    zeroes, phases = len(staged.zeroed()[0]) > 0, staged.phases()
    if zeroes and INSTAR_PHASE_PREPARE not in phases:
        phases.insert(0, INSTAR_PHASE_PREPARE)
    for phase in phases:
        try:
            if zeroes and phase == INSTAR_PHASE_PREPARE:
                image.zero(_zeroes(staged))
            _write(image, staged, phase)
            if flush:
                image.barrier()
        except (HostError, MemoryError) as error:
            if phase == INSTAR_PHASE_PREPARE and grows:
                _cut_back(image)
            if keys:
                state = _state_of_keys(staged, phase)
            else:
                state = _state(phase, leaks=_changes_refcounts(staged))
            raise HostError(f"{str(error) or 'out of memory'}; {state}") from error


def give_back(image: ImageFile, ranges: Iterable[range], end: int | None) -> tuple[str, ...]:
    """After a commit, give the file system back what nothing uses; returns warnings.

    These are ranges of bytes, and all from `end` on; there are none of a block device. That this
    fails is no more than room that is wasted.
    """
    try:
        image.give_back(ranges, end)
    except HostError as error:
        return (f"{error}; the image is amended, and still takes the room that was set free",)
    return ()


def _write(image: ImageFile, staged: StagedWrites, phase: int) -> None:
    # What lies after the old end comes first: a full disk is then noticed before refcounts rise.
    inside = -(-image.size // SECTOR_SIZE)
    after = None
    if staged.end() > inside:
        after = next((start for start, _ in staged.runs(phase) if start >= inside), None)
    for start, end in ((after, None), (0, after)):
        for sector, data in staged.pieces(phase, start, end) if start is not None else ():
            image.write(sector * SECTOR_SIZE, data)


def _changes_refcounts(staged: StagedWrites) -> bool:
    """Whether more than the header changes: all that does takes or releases clusters."""
    return any(
        staged.count(phase)
        for phase in range(INSTAR_PHASE_COUNT)
        if phase not in (INSTAR_PHASE_PREPARE, INSTAR_PHASE_SWITCH)
    )


def _cut_back(image: ImageFile) -> None:
    try:
        image.cut_back()
    except HostError:
        return  # a file that is longer than it need be is no worse than what is reported


def _state(phase: int, *, leaks: bool) -> str:
    if phase < INSTAR_PHASE_SWITCH:
        return _MAYBE_LEAKS if leaks else _AS_BEFORE
    return UNSURE if phase == INSTAR_PHASE_SWITCH else _AMENDED


def _state_of_keys(staged: StagedWrites, phase: int) -> str:
    """The same where keyslots change; a phase that there is tells what the others do."""
    disables = staged.count(INSTAR_PHASE_REFCOUNT_TABLE)
    if phase < INSTAR_PHASE_SWITCH:
        return _KEY_GONE if disables else _KEYS_AS_BEFORE
    if phase > INSTAR_PHASE_SWITCH:
        return _KEYS_LEFT
    if disables:
        return _KEY_REPLACED
    return _KEYS_PARTLY if staged.count(INSTAR_PHASE_FLAGS) else _KEYS_UNSURE
