"""Host side: whether a header could have been switched by one sector, where a guest writes more.

docs/qcow2.md draws the layouts. A power cut within a larger switch can tear it, so that is for
headers without room for both layouts only.
"""

from __future__ import annotations

from ..image.staging import SECTOR_SIZE
from ..qcow2 import HEADER_LENGTH_V2
from ..qcow2.header_view import EXTENSION_HEADER, header_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..qcow2.header_view import HeaderView

_LAST = SECTOR_SIZE - EXTENSION_HEADER.size  # where an extension over the old header may start


def could_be_one(before: HeaderView, after: HeaderView) -> bool:
    """Whether what `after` says has room where one sector switches to it."""
    start = after.fields.get("header_length", HEADER_LENGTH_V2)
    sizes = [EXTENSION_HEADER.size + -(-len(data) // 8) * 8 for _, data in after.extensions]
    name = len(after.name or b"")
    end = start + sum(sizes) + EXTENSION_HEADER.size
    stays = after.name == before.name and before.fields["backing_file_offset"] >= end
    apart = _room(before, after_name=True)
    if end <= SECTOR_SIZE and (stays or end + name <= SECTOR_SIZE or name <= apart):
        return True
    kept = (before.name, before.extensions) == (after.name, after.extensions)
    if kept and after.fields["version"] < before.fields["version"]:
        return True
    if start > _LAST:  # the fields fill the sector: no extension over the old header has room
        return False
    for size in sizes:
        if start + size > _LAST:
            break
        start += size
    tail = end - start
    in_front = tail if after.name == before.name else tail + name
    return tail + name <= apart or in_front <= _room(before, after_name=False)


def _room(before: HeaderView, *, after_name: bool) -> int:
    """Bytes after the first sector that the old header does not use, on one side of its name."""
    start, limit = (
        max(len(before.raw), SECTOR_SIZE),
        header_end(before.fields["cluster_bits"]),
    )
    at = before.fields["backing_file_offset"]
    if at and after_name:
        start = max(start, at + len(before.name or b""))
    elif at:
        limit = min(limit, at)
    return limit - -(-start // 8) * 8
