"""Host side: which differences an option allows in an image, phase by phase; a file an option.

The file of an option has its key for a name, and offers a Rule as RULE.
"""

from __future__ import annotations

from ...base.errors import GuestFault
from ...base.record import record
from ...qcow2 import (
    AUTOCLEAR_BITMAPS,
    AUTOCLEAR_DATA_FILE_RAW,
    AUTOCLEAR_KNOWN,
    EXTENSION_BITMAPS,
    INCOMPATIBLE_COMPRESSION,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_EXTENDED_L2,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences

_KNOWN: dict[str, Rule] = {}

_AMENDABLE = INCOMPATIBLE_DATA_FILE | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2
"""The incompatible features that an image may have which is amended."""
_EXPRESSIBLE = INCOMPATIBLE_COMPRESSION
"""Those of one that becomes version 2, or is that."""
_ZLIB, _ZSTD = b"\0", b"\1"
_SUBCLUSTER_BITS = 14  # of the smallest clusters with subclusters


class Draft:
    """A header as it is to be; what is not changed here must be as it was."""

    def __init__(self, before: HeaderView) -> None:
        """Start with the header as it is, whose place of the backing file name may be another."""
        self.fields = dict(before.fields)
        del self.fields["backing_file_offset"]
        self.extensions = before.extensions
        self.name = before.name
        self._new = 0

    def put_extension(self, kind: int, data: bytes) -> None:
        """Replace all extensions of a kind by one, or none without data; new ones come first."""
        new, kept = self.extensions[: self._new], self.extensions[self._new :]
        put = ((kind, data),) if data else ()
        self.extensions = (*new, *put, *(part for part in kept if part[0] != kind))
        self._new += len(put)

    def drop_bitmaps(self) -> None:
        """Have no bitmaps extension, nor the bit that says that it is in force."""
        kept = (part for part in self.extensions if part[0] != EXTENSION_BITMAPS)
        self.extensions = tuple(kept)
        if "autoclear_features" in self.fields:
            self.fields["autoclear_features"] &= ~AUTOCLEAR_BITMAPS


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


def rules_of(request: AmendRequest) -> list[Rule]:
    """The rules of the options that are asked for; the others' files are not even imported."""
    return [_KNOWN.get(option.key) or _load(option.key) for option, _ in request.asked()]


def _load(key: str) -> Rule:
    rule: Rule = __import__(f"{__name__}.{key}", fromlist=("RULE",)).RULE
    _KNOWN[key] = rule
    return rule


def is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    """Whether an image with this header already is as asked."""
    return all(rule.satisfied(request, header) for rule in rules_of(request))


def allowed(request: AmendRequest, before: HeaderView) -> Differences:
    """What a request may make different of an image that has this header."""
    return frozenset().union(*[rule.allowed(request, before) for rule in rules_of(request)])


def expected(request: AmendRequest, before: HeaderView) -> Draft:
    """The amended header: all fields but the place of the backing file name, and all else.

    qcow2 specification, "Header": whoever writes clears unknown autoclear bits.
    """
    draft = Draft(before)
    if "autoclear_features" in draft.fields:
        draft.fields["autoclear_features"] &= AUTOCLEAR_KNOWN
    for rule in rules_of(request):
        rule.expect(request, before, draft)
    return draft


def judge_features(before: HeaderView, version: int) -> None:
    """GuestFault if an image with this header may not be amended, or not have this version."""
    features = before.fields.get("incompatible_features", 0)
    if features & ~_AMENDABLE or (version == 2 and features & ~_EXPRESSIBLE):
        raise GuestFault("the guest amends an image whose features forbid it")
    if _is_contradictory(before):
        raise GuestFault("the guest amends an image whose header contradicts itself")


def _is_contradictory(header: HeaderView) -> bool:
    """Whether a feature bit of the header lacks what goes with it, or has what it forbids."""
    fields = header.fields
    if fields["version"] == 2:
        return False
    features = fields["incompatible_features"]
    # compression_type is zlib, or not there, if and only if the feature is not there.
    compression = header.unknown[:1] or _ZLIB
    return bool(
        compression != (_ZSTD if features & INCOMPATIBLE_COMPRESSION else _ZLIB)
        or (features & INCOMPATIBLE_EXTENDED_L2 and fields["cluster_bits"] < _SUBCLUSTER_BITS)
        or (
            fields["autoclear_features"] & AUTOCLEAR_DATA_FILE_RAW
            and not features & INCOMPATIBLE_DATA_FILE
        )
    )


def judge_request(request: AmendRequest, before: HeaderView) -> None:
    """GuestFault if one of the options had to be refused, as far as the header tells."""
    for rule in rules_of(request):
        if fault := rule.forbid(request, before):
            raise GuestFault(fault)
