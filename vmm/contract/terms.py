"""Host side: what the parts of the write contract are told, and what they tell."""

from __future__ import annotations

from instar.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[int, int], bytes]


@record
class Original:
    """The image file as it is."""

    read: Reader
    """`read(offset, size)`: bytes of it, less at its end."""
    size: int
    """Of the file or block device, in bytes."""
    work_max: int
    """What it may cost to judge an amend of it, as contract_disk.Disk counts it."""


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
class Change:
    """A field of the header before and after."""

    field: str
    """The field's name in the qcow2 specification."""
    before: int | None
    """Its value, or None where the version has no such field."""
    after: int | None
    """Its value, or None where the version has no such field."""
