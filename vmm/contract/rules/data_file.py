"""Host side: the rules of `data_file`: the name of the external data file, which nobody opens."""

from __future__ import annotations

from ...qcow2 import EXTENSION_DATA_FILE, INCOMPATIBLE_DATA_FILE
from ...qcow2.header_view import text_of
from . import Rule
from .backing_file import RELAYOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    return bool(text_of(header, EXTENSION_DATA_FILE) == request.data_file)


def _allowed(request: AmendRequest, before: HeaderView) -> Differences:
    return frozenset() if _is_satisfied(request, before) else RELAYOUT


def _expect(request: AmendRequest, before: HeaderView, draft: Draft) -> None:
    if not _is_satisfied(request, before):
        draft.put_extension(EXTENSION_DATA_FILE, request.data_file)


def _forbid(_request: AmendRequest, before: HeaderView) -> str:
    if before.fields.get("incompatible_features", 0) & INCOMPATIBLE_DATA_FILE:
        return ""
    return "the guest names a data file of an image that has none"


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
