"""Host side: what is in the way of a chain of steps, all of it that can be known.

A step after one that is refused is planned on an image that lacks what the refused one would have
done. Of its reasons those are told that hold whatever that would have been.
"""

from __future__ import annotations

from instar.abi import REFUSAL_MAX

from ..base.errors import ImageRejected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..base.errors import Refusal
    from ..request import AmendRequest

_REPAIR = "repair"

_CURES: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            *("shrink_not_allowed", "size_limit", "size_difference", "size_data_file"),
            *("size_bitmaps", "no_data_file", "data_file_raw", "backing_change", "backing_raw"),
            *("backing_fmt_missing", "backing_file_missing"),
            *("downgrade_data_file", "downgrade_extended_l2", "downgrade_bitmaps"),
            *("downgrade_snapshot_vm_state", "not_encrypted", "not_luks"),
            *("luks_version", "luks_cipher", "luks_password", "luks_no_slot", "luks_slot_in_use"),
            *("luks_slot_inactive", "luks_slot_mismatch", "luks_no_match", "luks_last_slot"),
            *("luks_all_slots", "luks_only_slot"),
        ),
        frozenset[str](),
    ),
    **dict.fromkeys(
        ("refcount_overflow", "bitmap_in_use", "resize_snapshot_size"), frozenset({_REPAIR})
    ),
    "lazy_needs_v3": frozenset({"compat"}),
    "refcount_bits_v2": frozenset({"compat"}),
    "resize_v2_snapshots": frozenset({"compat"}),
    "grow_over_backing_v2": frozenset({"compat", "backing_file"}),
    "grow_head_over_backing": frozenset({"backing_file"}),
    "downgrade_refcount_width": frozenset({"refcount_bits"}),
    "downgrade_snapshot_size": frozenset({"size"}),
    "downgrade_compressed_clusters": frozenset({_REPAIR, "size"}),
    "downgrade_encrypted_zeroes": frozenset({_REPAIR, "size", "backing_file"}),
}
"""Reasons that an earlier step cannot be the cause of, each with what could have cured it.

All others are of damage, of limits, or of room, of which nothing is known in another state.
"""


def needs_parts(error: ImageRejected) -> bool:
    """Whether a step is refused, for this or more, as it cannot be one with this image."""
    return any(refusal.name == "refcount_bits_apart" for refusal in error.refusals)


class Reasons:
    """What is in the way of the steps of an amend."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._refusals: list[Refusal] = []
        self._lacks: set[str] = set()

    def add(self, step: AmendRequest, refusals: Iterable[Refusal]) -> None:
        """Note that a step is refused: all reasons of the first one, of others those that hold."""
        for refusal in refusals:
            could_be_cured = _CURES.get(refusal.name, self._lacks) & self._lacks
            if not could_be_cured and refusal not in self._refusals:
                self._refusals.append(refusal)
        self._lacks |= step.options.keys() | ({_REPAIR} if step.repairs else {"keys"})

    def end(self) -> None:
        """Raise ImageRejected if there is anything."""
        if self._refusals:
            raise ImageRejected(tuple(self._refusals[:REFUSAL_MAX]))
