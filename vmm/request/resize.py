"""Host side: what `instar resize` and instar.resize() ask for: an amend of the size alone."""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.record import FrozenDict
from . import SIZE_UNIT, AmendRequest
from .keywords import make_request
from .lists import parse_size
from .options import BY_KEY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


PURPOSE = "resizing in a sandbox"
"""What another format than qcow2 is said not to support; qemu-img resizes some."""


def make_resize(size: int | str, keywords: Mapping[str, Any]) -> AmendRequest:
    """Check a size, in bytes or as qemu-img has it, and the other keywords of make_request().

    With a sign the size is by how much the disk grows or shrinks. Raises what make_request() does.
    """
    if type(size) is int:
        return make_request({**keywords, "size": size}, PURPOSE)
    if type(size) is not str:
        raise UsageError(
            f"size is a number of bytes, or a str such as '10G' or '+1G', not {size!r}"
        )
    sign = {"+": 1, "-": -1}.get(size[:1], 0)
    number = parse_size(size[1:] if sign else size)
    if number is None:
        fault = f"expected a size below 8 EiB, such as 10G, +1G or -512M, not '{size:.60}'"
        raise UsageError(fault)
    if not sign:
        option = BY_KEY["size"]
        if not option.least <= number <= option.most or number % option.multiple:
            raise UsageError(option.describe_fault(f"'{size:.60}'"))
        return make_request({**keywords, "size": number}, PURPOSE)
    request = make_request({**keywords, "size": SIZE_UNIT}, PURPOSE)
    options = FrozenDict({**request.options, "size": number})
    return AmendRequest(**{**vars(request), "options": options, "relative": sign})
