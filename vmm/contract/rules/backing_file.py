"""Host side: the rules of `backing_file`, together with `backing_fmt`: names, which nobody opens.

Without leave to change them, what is given must be what is there, as qemu compares it.
"""

from __future__ import annotations

from ...qcow2 import AUTOCLEAR_DATA_FILE_RAW, EXTENSION_BACKING_FORMAT
from ...qcow2.header_view import texts_of
from ..differences import HEADER, LAYOUT, PREPARE, SLACK, SWITCH
from . import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...qcow2.header_view import HeaderView
    from ...request import AmendRequest
    from ..differences import Differences
    from . import Draft

RELAYOUT = frozenset({(PREPARE, SLACK), (SWITCH, HEADER), (SWITCH, LAYOUT)})
"""Another text in the header cluster, and what has to make room for it."""


def is_confirmed(request: AmendRequest, header: HeaderView) -> bool:
    """Whether the header has what is given; what is not given stands for none."""
    texts = texts_of(header)
    has_format = any(kind == EXTENSION_BACKING_FORMAT for kind, _ in header.extensions)
    name = texts["backing_file"] if header.name is not None else None
    form = texts["backing_fmt"] if has_format else None
    return (request.backing_file, request.backing_fmt) == (name, form)


def changed(request: AmendRequest, header: HeaderView) -> dict[str, bytes]:
    """The name and the format that are to be others, by the options' keys; b"" for none."""
    texts = texts_of(header)
    asked = {"backing_file": request.backing_file, "backing_fmt": request.backing_fmt}
    if request.backing_file == b"" and request.backing_fmt is None:
        asked["backing_fmt"] = b""
    return {key: text for key, text in asked.items() if text is not None and text != texts[key]}


def is_satisfied(request: AmendRequest, header: HeaderView) -> bool:
    """Whether there is nothing to change."""
    if not request.change_backing:
        return is_confirmed(request, header)
    return not changed(request, header)


def allow(request: AmendRequest, before: HeaderView) -> Differences:
    """Allow what a change takes, if it is one."""
    return RELAYOUT if request.change_backing and changed(request, before) else frozenset()


def expect_format(request: AmendRequest, before: HeaderView, draft: Draft) -> None:
    """Set the format, which goes with the name."""
    form = changed(request, before).get("backing_fmt") if request.change_backing else None
    if form is not None:
        draft.put_extension(EXTENSION_BACKING_FORMAT, form)


def _expect(request: AmendRequest, before: HeaderView, draft: Draft) -> None:
    name = changed(request, before).get("backing_file") if request.change_backing else None
    if name is not None:
        draft.name = name or None
        draft.fields["backing_file_size"] = len(name)
    if request.backing_fmt is None:
        expect_format(request, before, draft)


def forbid(request: AmendRequest, before: HeaderView) -> str:
    """Say what is wrong with an amend of this image."""
    if not request.change_backing:
        wrong = not is_confirmed(request, before)
        return "the guest confirms a backing file that is another one" if wrong else ""
    new = changed(request, before)
    after = {**texts_of(before), **new}
    if not new:
        return ""
    if bool(after["backing_file"]) != bool(after["backing_fmt"]):
        return "the guest leaves a backing file without a format, or a format without a file"
    raw = before.fields.get("autoclear_features", 0) & AUTOCLEAR_DATA_FILE_RAW
    if after["backing_file"] and raw and request.data_file_raw is not False:
        return "the guest gives a backing file to an image with a raw data file"
    return ""


RULE = Rule(is_satisfied, allow, _expect, forbid)
