"""Host side: the seat of an option in the contract: what its file in this folder offers."""

from __future__ import annotations

from ...base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences


class Draft:
    """A header as it is to be; what is not changed here must be as it was."""

    def __init__(self, before: HeaderView) -> None:
        """Start with the header as it is, whose place of the backing file name may be another."""
        self.fields = dict(before.fields)
        del self.fields["backing_file_offset"]
        self.extensions = before.extensions
        self.name = before.name


@record
class Rule:
    """What the judge asks of an option; all of it only where the option is asked for.

    Each function gets the whole request, for what is asked of the other options, and the header as
    it was. What more an option changes stands in no header, and is judged in tables.py.
    """

    satisfied: Callable[[AmendRequest, HeaderView], bool]
    """Whether a header already is as asked."""
    allowed: Callable[[AmendRequest, HeaderView], Differences]
    """What may become different, phase by phase."""
    expect: Callable[[AmendRequest, HeaderView, Draft], None]
    """Set in the draft what must become different, where the draft has what came before."""
    forbid: Callable[[AmendRequest, HeaderView], str]
    """What is wrong if the guest amends this image, which it had to refuse; "" if nothing."""
