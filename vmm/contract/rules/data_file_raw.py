"""Host side: the rules of `data_file_raw`: an autoclear feature bit, which can only be cleared."""

from __future__ import annotations

from ...qcow2 import AUTOCLEAR_DATA_FILE_RAW
from . import Rule
from .lazy_refcounts import TOGGLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft


def _is_raw(header: HeaderView) -> bool:
    return bool(header.fields.get("autoclear_features", 0) & AUTOCLEAR_DATA_FILE_RAW)


def _is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    return bool(_is_raw(header) == request.data_file_raw)


def _allowed(_request: AmendRequest, _before: HeaderView) -> Differences:
    return TOGGLE


def _expect(request: AmendRequest, _before: HeaderView, draft: Draft) -> None:
    if not request.data_file_raw and "autoclear_features" in draft.fields:
        draft.fields["autoclear_features"] &= ~AUTOCLEAR_DATA_FILE_RAW


def _forbid(request: AmendRequest, before: HeaderView) -> str:
    if request.data_file_raw and not _is_raw(before):
        return "the guest reports a raw data file that was not one before"
    return ""


RULE = Rule(_is_satisfied, _allowed, _expect, _forbid)
