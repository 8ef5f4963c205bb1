"""Host side: which differences an option allows in an image, phase by phase; a file an option."""

from __future__ import annotations

from ...base.errors import GuestFault
from .rule import Draft

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from .rule import Rule

_AUTOCLEAR_KNOWN = 3
_KNOWN: dict[str, Rule] = {}


def rules_of(request: AmendRequest) -> Iterator[Rule]:
    """The rules of the options that are asked for; the others' files are not even imported."""
    for option, _ in request.asked():
        if option.key not in _KNOWN:
            module = __import__(f"{__name__}.{option.key}", fromlist=("RULE",))
            _KNOWN[option.key] = module.RULE
        yield _KNOWN[option.key]


def is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    """Whether an image with this header already is as asked."""
    return all(rule.satisfied(request, header) for rule in rules_of(request))


def allowed(request: AmendRequest, before: HeaderView) -> Differences:
    """What a request may make different of an image that has this header."""
    return frozenset().union(*(rule.allowed(request, before) for rule in rules_of(request)))


def expected(request: AmendRequest, before: HeaderView) -> Draft:
    """The amended header: all fields but the place of the backing file name, and all else.

    qcow2 specification, "Header": whoever writes clears unknown autoclear bits.
    """
    draft = Draft(before)
    if "autoclear_features" in draft.fields:
        draft.fields["autoclear_features"] &= _AUTOCLEAR_KNOWN
    for rule in rules_of(request):
        rule.expect(request, before, draft)
    return draft


def judge_request(request: AmendRequest, before: HeaderView) -> None:
    """GuestFault if one of the options had to be refused, as far as the header tells."""
    for rule in rules_of(request):
        if fault := rule.forbid(request, before):
            raise GuestFault(fault)
