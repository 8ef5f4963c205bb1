"""Host side: which differences an option allows in an image, phase by phase; a file an option."""

from __future__ import annotations

from .compat import DOWNGRADE, DROP_BITMAPS, UPGRADE
from .lazy_refcounts import TOGGLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...request import AmendRequest
    from ..differences import Differences


def allowed(request: AmendRequest, version: int) -> Differences:
    """What a request may make different of an image that has this version."""
    found: Differences = frozenset()
    if request.lazy_refcounts is not None:
        found |= TOGGLE
    if request.version is not None and request.version > version:
        found |= UPGRADE
    elif request.version is not None and request.version < version:
        found |= DOWNGRADE | DROP_BITMAPS if request.drop_bitmaps else DOWNGRADE
    return found
