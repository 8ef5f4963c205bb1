"""Host side: what a check finds, put into the words of base/findings.py."""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would cost the command collections

from instar import abi

from ..base.errors import GuestFault
from ..base.findings import FINDINGS, phrase
from ..base.record import record
from ..base.refusals import USES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_USES = {**USES, abi.AMEND_USE_SNAPSHOT_L1_TABLE: "the L1 table of a snapshot"}


@record
class Finding:
    """One thing that is wrong with an image."""

    name: str
    """Such as "cluster_leaked"."""
    counts_as: str
    """"corruptions", "leaks", "check-errors" or "overlaps"."""
    message: str
    """In one line."""
    detail: Mapping[str, int]
    """What the message is about, by name; a use is an AMEND_USE_* of the ABI."""


def counted_as(kind: int) -> str:
    """As what a CheckFinding counts. GuestFault for a number that means nothing."""
    if kind not in FINDINGS:
        raise GuestFault(f"a finding of kind {kind}")
    return FINDINGS[kind][1]


def describe_finding(kind: int, details: Sequence[int]) -> Finding:
    """Put a CheckFinding into words; its kind is one that counted_as() knows."""
    name, counts_as, names, message, _ = FINDINGS[kind]
    detail = dict(zip(names, details, strict=False))
    uses = {key: _USES.get(detail[key], "something") for key in names if key.endswith("use")}
    return Finding(name, counts_as, phrase(message, detail, uses), detail)
