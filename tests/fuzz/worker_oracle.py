"""Test side: whether an outcome is one that an amend can come to, by rules of its own.

Written apart from vmm/fleet/document.py, which it is an oracle of.
"""

from __future__ import annotations

from typing import Any

from instar.vmm.amend.result import AmendOutcome, AmendResult
from instar.vmm.base.errors import GuestFault, HostError, ImageLocked, ImageRejected
from instar.vmm.base.reasons import REASONS
from instar.vmm.request import AmendRequest

HEADER = (
    *("version", "backing_file_offset", "backing_file_size", "cluster_bits", "size"),
    *("crypt_method", "l1_size", "l1_table_offset", "refcount_table_offset"),
    *("refcount_table_clusters", "nb_snapshots", "snapshots_offset", "incompatible_features"),
    *("compatible_features", "autoclear_features", "refcount_order", "header_length"),
)


def judge(outcome: AmendOutcome, path: str, request: AmendRequest, sha256: str, size: int) -> str:
    """Say what is wrong, or nothing."""
    if (outcome.result is None) == (outcome.error is None) or outcome.path != path:
        return "neither result nor error, or both, or of another image"
    if outcome.result is not None:
        end = size + request.max_growth
        return _judge_result(outcome.result, path, request, sha256, end)
    error = outcome.error
    if type(error) not in (HostError, ImageLocked, ImageRejected, GuestFault):
        return "a kind that no image has"
    text = str(error)
    if not all(part.isprintable() for part in text.split(path)):
        return "words that are more than words"
    known = {name for name, _, _ in REASONS.values()}
    if isinstance(error, ImageRejected) and {r.name for r in error.refusals} - known:
        return "an unknown refusal"
    return ""


def _judge_result(
    result: AmendResult, path: str, request: AmendRequest, sha256: str, end: int
) -> str:
    known = (result.filename, result.format, result.payload_sha256, result.dry_run)
    if known != (path, "qcow2", sha256, request.dry_run) or type(result.dry_run) is not bool:
        return "what the parent knows was believed"
    if (result.compat, result.lazy_refcounts) not in (
        ("0.10", False),
        ("1.1", False),
        ("1.1", True),
    ):
        return "a state that no image has"
    version = request.compat
    if version and result.compat != {2: "0.10", 3: "1.1"}[version]:
        return "another version than was asked for"
    if request.lazy_refcounts not in (None, result.lazy_refcounts):
        return "other lazy refcounts than were asked for"
    counts = (result.bytes_read, result.bytes_written, result.vm_exits, result.more_ranges)
    if any(type(n) is not int or not 0 <= n < 1 << 63 for n in counts):
        return "a count that is none"
    if any(not text.isprintable() for w in result.warnings for text in w.split(path)):
        return "a warning that is more than words"
    if result.action == "noop":
        return "a no-op that wrote" if result.changes or result.ranges or counts[1] else ""
    if result.action != "amended":
        return "an action that does not exist"
    return _judge_changes(result, end)


def _judge_changes(result: Any, end: int) -> str:
    for change in result.changes:
        values = [value for value in (change.before, change.after) if value is not None]
        if change.field not in HEADER or not values:
            return "no field of the header"
        if any(type(value) is not int or not 0 <= value < 1 << 64 for value in values):
            return "no value of a field"
    written = 0
    for part in result.ranges:
        if type(part.phase) is not int or part.phase not in range(6):
            return "a phase that does not exist"
        if type(part.zeroes) is not bool or (part.zeroes and part.phase):
            return "zeros after the first phase"
        if part.offset < 0 or part.length <= 0 or part.offset + part.length > end + 511:
            return "a range outside the file"
        if part.offset % 512 or part.length % 512:
            return "a part of a sector"
        written += 0 if part.zeroes else part.length
    if written != result.bytes_written and not result.more_ranges:
        return "other bytes than the ranges have"
    return "" if result.changes and result.ranges else "an amend that changes nothing"
