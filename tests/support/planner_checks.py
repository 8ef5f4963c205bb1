"""The planner's promises, checked on one image and one answer. Test side."""

from __future__ import annotations

from typing import Any

from instar.vmm.base.errors import ImageRejected
from instar.vmm.request import AmendRequest
from tests.support.forge import layout
from tests.support.planner import (
    HEADER_LIMIT,
    SECTOR,
    Answer,
    Cluster,
    accepted_by_contract,
    apply,
    ask,
    read_cluster,
)

END_MARKER = 8


def assert_promises(planner: Any, image: bytes, request: AmendRequest, answer: Answer) -> None:
    """A verdict, or a plan that the host would commit and that does what was asked."""
    assert not answer.misuse
    if not answer.planned:
        assert answer.refusals
        assert not answer.writes
        return
    assert not answer.refusals
    try:
        accepted_by_contract(image, request, answer)
    except ImageRejected:  # at odds with itself, which the host alone can notice
        return
    assert answer.amended == bool(answer.writes)
    before = read_cluster(image)
    after = apply(image, answer.writes)
    assert_as_asked(before, read_cluster(after), request)
    assert_order_of_writes(image, before, answer)
    again = ask(planner, after, request)
    assert (again.planned, again.amended, again.refusals) == (True, False, ())


def assert_as_asked(before: Cluster, after: Cluster, request: AmendRequest) -> None:
    """The header says what was asked for, and all else as before."""
    assert after.name == before.name
    assert after.extensions == before.extensions
    version, old_version = after.fields["version"], before.fields["version"]
    assert version == (request.compat or old_version)
    for name in ("size", "crypt_method", "l1_size", "l1_table_offset", "snapshots_offset"):
        assert after.fields[name] == before.fields[name]
    if version == 2:
        assert request.lazy_refcounts is not True
        return
    lazy = before.fields.get("compatible_features", 0) & layout.COMPATIBLE_LAZY_REFCOUNTS
    lazy = lazy if request.lazy_refcounts is None else int(request.lazy_refcounts)
    others = before.fields.get("compatible_features", 0) & ~layout.COMPATIBLE_LAZY_REFCOUNTS
    assert after.fields["compatible_features"] == others | lazy
    for name, implied in (("incompatible_features", 0), ("refcount_order", 4)):
        assert after.fields[name] == before.fields.get(name, implied)


def assert_order_of_writes(image: bytes, before: Cluster, answer: Answer) -> None:
    """First where the old header refers to nothing; then, in one write, the switch."""
    assert all(write.offset + len(write.data) <= before.size for write in answer.writes)
    if not answer.amended:
        return
    *slack, switch = answer.writes
    assert all(write.phase < switch.phase for write in slack)
    half = apply(image, slack)
    assert all(
        half[part.start : part.stop] == image[part.start : part.stop] for part in before.referred()
    )
    assert switch.offset == 0
    assert answer.atomic == (len(switch.data) == SECTOR)
    if not answer.atomic:
        assert not slack
        assert not fits_beside(before)


def fits_beside(old: Cluster) -> bool:
    """Whether a version 3 header can stand beside this one, but for sector 0, which changes last.

    Sector 0 takes the fields and the first extensions, as many as there is room for. The rest must
    be in one piece where the old header has nothing, before the backing file name or behind it; in
    the latter case the name must come behind them, and so be copied.
    """
    limit = min(old.size, HEADER_LIMIT)
    name = old.name_range if old.name is not None else range(limit, limit)
    first = max(old.extensions_end, SECTOR)
    gap_before = name.start - _aligned(first)
    gap_behind = limit - _aligned(max(first, name.stop)) - len(name)
    sizes = [len(extension.pack()) for extension in old.extensions]
    in_sector = layout.HEADER_LENGTH + sum(sizes) + END_MARKER
    if in_sector <= SECTOR and (
        name.start >= in_sector or in_sector + len(name) <= SECTOR or gap_behind >= 0
    ):
        return True
    for count in range(len(sizes) + 1):
        # What is left out is skipped by one more extension, whose head is as long as an end marker.
        if layout.HEADER_LENGTH + sum(sizes[:count]) + END_MARKER > SECTOR:
            break
        rest = sum(sizes[count:]) + END_MARKER
        if rest <= max(min(gap_before, limit - _aligned(first)), gap_behind):
            return True
    return False


def size_in_place(old: Cluster) -> int:
    """How long the header of version 3 is that replaces this one in the same place."""
    end = layout.HEADER_LENGTH + sum(len(extension.pack()) for extension in old.extensions)
    end += END_MARKER
    moved = old.name is not None and old.name_range.start < end
    return end + (len(old.name_range) if moved else 0)


def _aligned(offset: int) -> int:
    return -(-offset // 8) * 8
