"""Host side: writes what has been judged, phase by phase, with a barrier behind each."""

from __future__ import annotations

from instar.vmm.errors import HostError
from instar.vmm.image_file import UNSURE
from instar.vmm.result import SWITCH, ByteRange
from instar.vmm.staging import runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.image_file import ImageFile


def planned_ranges(phases: list[dict[int, bytes]]) -> tuple[ByteRange, ...]:
    """What commit() would write, in order; the last phase is the switch."""
    return tuple(
        ByteRange(number, offset, len(data))
        for number, phase in enumerate(phases, SWITCH + 1 - len(phases))
        for offset, data in runs(phase)
    )


def commit(image: ImageFile, phases: list[dict[int, bytes]], *, flush: bool) -> None:
    """Write all phases. With `flush`, the change is on the disk when this returns.

    Raises HostError, which says whether the image is the old one or may be the new one; a crash at
    any moment leaves one of the two if the last phase is one sector.
    """
    for number, phase in enumerate(phases):
        switching = number == len(phases) - 1
        try:
            for offset, data in runs(phase):
                image.write(offset, data)
            if flush:
                image.barrier()
        except HostError as error:
            state = UNSURE if switching else "the image reads as before"
            raise HostError(f"{error}; {state}") from error
