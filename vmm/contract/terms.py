"""Host side: what the parts of the write contract are told, and what they tell."""

from __future__ import annotations

from ..base.record import FrozenDict, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..image.staging import Numbers, StagedWrites
    from ..qcow2.header_view import HeaderView

    Reader = Callable[[int, int], bytes]


@record
class Original:
    """The image file as it is."""

    read: Reader
    """`read(offset, size)`: bytes of it, less at its end."""
    size: int
    """Of the file or block device, in bytes."""
    work_max: int
    """What it may cost to judge an amend of it, as disk.Disk counts it."""
    stored: int = 0
    """How many of its bytes are stored, and not holes."""


@record
class Claim:
    """What the guest says it did."""

    amended: bool
    """Whether it says that it changed the image."""
    atomic: bool
    """Whether the switch is one sector."""
    fields: Mapping[str, int]
    """The version and feature words it says the image now has."""


@record
class Transition:
    """One step of an amend, whose header is judged already: from what image to what."""

    original: Original
    """The image file."""
    before: HeaderView
    """The header as it is."""
    after: HeaderView
    """The header as it will be; where it has tables that move is still open."""
    staged: StagedWrites
    """What the guest wrote."""
    zeroes: tuple[Numbers, Numbers]
    """The ranges to be zeroed, as StagedWrites.zeroed() gives them."""
    allowed: frozenset[tuple[int, str]]
    """What the options allow: differences.Differences."""


class OutsideError(Exception):
    """A table is not inside the image.

    Where the guest could have done without it, whoever reads it makes that a refusal. All others
    leave it to judge(), to which it is a fault of the guest.
    """

    def __init__(self, offset: int) -> None:
        """Take the table's offset."""
        super().__init__(f"the guest accepted a table at {offset:#x}, outside the image")
        self.offset = offset


SPARE_MAX = 1 << 16
"""Holes that are made at most: more of them have the room of small files each."""


@record
class Spare:
    """What of the file nothing uses any more once a change is committed."""

    ranges: tuple[range, ...]
    """Bytes that may become holes, ascending, and before `end` if that is not None."""
    end: int | None
    """Where the file may end, in bytes; None for where it does."""


@record
class Judgement:
    """What may be committed, by what the host has seen of it."""

    amended: bool
    """Whether it changes the image."""
    atomic: bool
    """Whether all of it takes effect with the write of one sector."""
    changes: tuple[Change, ...]
    """What changes in the header: its fields, in the order of the header, then its texts."""
    told: FrozenDict[str, bytes | int | None]
    """What the header that it will be says of options that an image may lack, by their keys."""
    warnings: tuple[str, ...] = ()
    """What the user should know of it."""
    work: int = 0
    """What it took to tell, as disk.Disk counts it."""
    spare: Spare = Spare((), None)
    """What may be given back to the file system."""


@record
class Change:
    """A field of the header, or a text in its cluster, before and after."""

    field: str
    """The field's name in the qcow2 specification, or the key of the option that is a text."""
    before: int | str | None
    """Its value, or None where there is none."""
    after: int | str | None
    """Its value, or None where there is none."""
