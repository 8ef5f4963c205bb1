"""Host side: what is asked of an image, and what the amended header must then say."""

from __future__ import annotations

from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LAZY_REFCOUNTS = 1
_AUTOCLEAR_KNOWN = 3


@record
class AmendRequest:
    """The options of one amend; None leaves the image's value."""

    version: int | None
    """2 or 3."""
    lazy_refcounts: bool | None
    """Whether lazy refcounts shall be on."""
    drop_bitmaps: bool = False
    """Whether a downgrade removes persistent bitmaps."""
    max_growth: int = 0
    """By how many bytes the image file may grow."""
    fixed_size: bool = False
    """Whether the image is on a block device, which cannot grow."""

    def fit(self, is_device: bool) -> AmendRequest:
        """The request as it can be for this file: a block device does not grow."""
        if not is_device:
            return self
        return AmendRequest(self.version, self.lazy_refcounts, self.drop_bitmaps, fixed_size=True)

    def satisfied_by(self, fields: Mapping[str, int]) -> bool:
        """Whether a header with these fields already is as asked."""
        lazy = bool(fields.get("compatible_features", 0) & _LAZY_REFCOUNTS)
        return self.version in (None, fields["version"]) and self.lazy_refcounts in (None, lazy)

    def expected_fields(self, before: Mapping[str, int]) -> dict[str, int]:
        """All fixed fields of the amended header but the place of the backing file name.

        qcow2 specification, "Header": an upgrade gives version 3's fields the values that version 2
        implies; whoever writes clears unknown autoclear bits.
        """
        after = dict(before)
        del after["backing_file_offset"]
        after["version"] = self.version or before["version"]
        if after["version"] == 2:
            return {name: after[name] for name in after if name in _V2_NAMES}
        if before["version"] == 2:
            after.update(incompatible_features=0, compatible_features=0, autoclear_features=0)
            after.update(refcount_order=4, header_length=112)
        after["autoclear_features"] &= _AUTOCLEAR_KNOWN
        if self.lazy_refcounts is not None:
            after["compatible_features"] &= ~_LAZY_REFCOUNTS
            after["compatible_features"] |= _LAZY_REFCOUNTS if self.lazy_refcounts else 0
        return after


_V2_NAMES = frozenset(
    (
        *("version", "backing_file_size", "cluster_bits", "size", "crypt_method", "l1_size"),
        *("l1_table_offset", "refcount_table_offset", "refcount_table_clusters"),
        *("nb_snapshots", "snapshots_offset"),
    )
)
