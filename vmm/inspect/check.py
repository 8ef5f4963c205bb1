"""Host side: one `check`: the guest's findings and numbers, as `qemu-img check` tells them."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    CHECK_COUNT_BYTES,
    CHECK_COUNT_UNIT,
    CHECK_MEMORY_RESERVED,
    CHECK_RESULT_MAGIC,
    CHECK_WIDE_COUNT_BYTES,
    FRAME_CHECK,
    FRAME_CHECK_FINDINGS,
    FRAME_PROGRESS,
    FRAME_REFUSALS,
    INSTAR_RAM_MAX,
    INSTAR_RAM_SIZE,
    REFUSAL_CORRUPT,
    REFUSAL_DIRTY,
    REFUSAL_MAX,
    AmendProgress_FORMAT,
    AmendRefusal_FORMAT,
    CheckFinding_FORMAT,
    CheckResult_FORMAT,
)

from ..base.errors import GuestFault, ImageRejected
from ..base.findings import CORRUPTION, ERROR, LEAK, OVERLAP
from ..base.record import record, to_dict
from ..base.refusals import Circumstances, translate
from ..image.budgets import count_budget
from ..qcow2 import INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY
from ..qcow2.probe import PROBE_SIZE, header_fields, other_format, parse_fixed_header
from .findings import Finding, counted_as, describe_finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..image.image_file import ImageFile
    from .looker import Looker

_RESULT = Struct(CheckResult_FORMAT)
_REFUSAL = Struct(AmendRefusal_FORMAT)
_FINDING = Struct(CheckFinding_FORMAT)
_PROGRESS = Struct(AmendProgress_FORMAT)
_NUMBERS = (
    *("check_errors", "corruptions", "leaks", "overlaps", "total_clusters", "allocated_clusters"),
    *("fragmented_clusters", "compressed_clusters", "image_end_offset"),
)


@record
class CheckResult:
    """What is wrong with an image, in the numbers of `qemu-img check`; the guest's word."""

    filename: str
    """The path as it was given."""
    check_errors: int
    """What could not be looked at."""
    corruptions: int
    """Refcounts that are too low, wrong flags, entries that cannot be."""
    leaks: int
    """Clusters whose refcount is higher than the number of their users."""
    overlaps: int
    """Clusters with two uses that exclude each other, which qemu-img does not look for."""
    total_clusters: int
    """Of the disk."""
    allocated_clusters: int
    """Of the disk, by the active tables."""
    fragmented_clusters: int
    """Of those, the ones that do not follow the one before."""
    compressed_clusters: int
    """Of those, the compressed ones."""
    image_end_offset: int
    """Where the last cluster ends that is in use, in bytes."""
    findings: tuple[Finding, ...]
    """What was found: the first 12288, in the order of the check."""
    leaks_fixed: int = 0
    """Leaks that a repair has mended."""
    corruptions_fixed: int = 0
    """Corruptions that it has."""
    is_dirty: bool = False
    """Whether the image was not closed."""
    is_corrupt: bool = False
    """Whether qemu has marked the image corrupt."""
    payload_sha256: str = ""
    """Of the payload that read the image, in hexadecimal."""
    vm_exits: int = 0
    """How many times the virtual machine stopped for the host."""

    @property
    def exit_status(self) -> int:
        """The command's: 0 sound, 1 not checked to the end, 2 corrupt, 3 leaks and no more."""
        if self.check_errors:
            return 1
        if self.corruptions or self.overlaps:
            return 2
        return 3 if self.leaks else 0

    def repaired_from(self, before: CheckResult) -> CheckResult:
        """The same, of an image that was repaired, of which this was told before."""
        fixed = {
            "leaks_fixed": max(before.leaks - self.leaks, 0),
            "corruptions_fixed": max(before.corruptions - self.corruptions, 0),
        }
        return CheckResult(**{**vars(self), **fixed})

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document: that of `qemu-img check`, and more."""
        document: dict[str, Any] = {
            "filename": self.filename,
            "format": "qcow2",
            "check-errors": self.check_errors,
            "overlaps": self.overlaps,
            "dirty": self.is_dirty,
            "corrupt": self.is_corrupt,
            "findings": to_dict(self.findings),
            "payload-sha256": self.payload_sha256,
        }
        optional = {
            "image-end-offset": self.image_end_offset,
            "total-clusters": self.total_clusters,
            "allocated-clusters": self.allocated_clusters,
            "fragmented-clusters": self.fragmented_clusters,
            "compressed-clusters": self.compressed_clusters,
            "corruptions": self.corruptions,
            "leaks": self.leaks,
            "corruptions-fixed": self.corruptions_fixed,
            "leaks-fixed": self.leaks_fixed,
        }
        return {**document, **{key: value for key, value in optional.items() if value}}


class CheckFrames:
    """Takes the frames of one run."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Start with nothing told; `progress` is called as progress(done, total)."""
        self._progress = progress
        self._found: list[tuple[int, ...]] = []  # kinds, each with its details
        self.refusals: tuple[tuple[int, ...], ...] = ()
        self.numbers: tuple[int, ...] = ()

    def receive(self, kind: int, payload: bytes) -> None:
        """Take one frame. GuestFault if it is malformed or out of order."""
        if kind == FRAME_CHECK_FINDINGS and len(payload) % _FINDING.size == 0:
            for number, _, *details in _FINDING.iter_unpack(payload):
                counted_as(number)
                self._found.append((number, *details))
        elif kind == FRAME_REFUSALS and payload and len(payload) % _REFUSAL.size == 0:
            self.refusals = tuple(_REFUSAL.iter_unpack(payload))
        elif kind == FRAME_CHECK and len(payload) == _RESULT.size:
            magic, refusals, *numbers, told = _RESULT.unpack(payload)
            if magic != CHECK_RESULT_MAGIC or told != len(self._found):
                raise GuestFault(f"a result with {told} findings, of {len(self._found)}")
            if refusals != len(self.refusals) or refusals > REFUSAL_MAX:
                raise GuestFault(f"a result with {refusals} refusals")
            self.numbers = tuple(numbers)
            self._compare()
        elif kind == FRAME_PROGRESS and len(payload) == _PROGRESS.size:
            done, total = _PROGRESS.unpack(payload)
            if self._progress and 0 < done <= total:
                self._progress(done, total)
        else:
            raise GuestFault(f"frame of type {kind} with {len(payload)} bytes")

    def _compare(self) -> None:
        """See that no more was found than was counted."""
        counted = dict(zip((ERROR, CORRUPTION, LEAK, OVERLAP), self.numbers, strict=False))
        for counts_as, number in counted.items():
            if sum(counted_as(kind) == counts_as for kind, *_ in self._found) > number:
                raise GuestFault(f"fewer {counts_as} than were told")

    def findings(self) -> tuple[Finding, ...]:
        """What was found, in words; there may be thousands, of an image that is then refused."""
        return tuple(describe_finding(kind, details) for kind, *details in self._found)


def ram_for(image: ImageFile) -> int:
    """RAM in which all clusters of an image can be counted at once, if there can be so much."""
    header = parse_fixed_header(image.read(0, PROBE_SIZE))
    if header is None or not header.cluster_size:
        return INSTAR_RAM_SIZE
    clusters = image.size // header.cluster_size + 2
    clusters = -(-clusters // CHECK_COUNT_UNIT) * CHECK_COUNT_UNIT
    each = CHECK_COUNT_BYTES if header.refcount_order <= 4 else CHECK_WIDE_COUNT_BYTES
    size = CHECK_MEMORY_RESERVED + clusters * each
    return min(max(-(-size // INSTAR_RAM_SIZE), 1) * INSTAR_RAM_SIZE, INSTAR_RAM_MAX)


def check_open(
    looker: Looker,
    image: ImageFile,
    *,
    timeout: float,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
) -> CheckResult:
    """Check an image that is open and locked. ImageRejected, GuestFault, HostError."""
    head = image.read(0, PROBE_SIZE)
    if parse_fixed_header(head) is None:
        raise other_format(head, image.read, image.size, "only qcow2 images can be checked")
    frames = CheckFrames(progress)
    looker.look(
        *(image, frames.receive, timeout),
        progress=progress is not None,
        debug=debug,
        work_max=min(image.work_max, count_budget(image.stored)),
    )
    fields = header_fields(head.ljust(PROBE_SIZE, b"\0"))
    features = fields.get("incompatible_features", 0)
    others = tuple(one for one in frames.refusals if one[0] not in (REFUSAL_DIRTY, REFUSAL_CORRUPT))
    if others:
        raise ImageRejected(translate(others, Circumstances((), {}, image.size, fields)))
    return CheckResult(
        filename=image.name,
        **dict(zip(_NUMBERS, frames.numbers, strict=True)),
        findings=frames.findings(),
        is_dirty=bool(features & INCOMPATIBLE_DIRTY),
        is_corrupt=bool(features & INCOMPATIBLE_CORRUPT),
        payload_sha256=looker.payload_sha256,
        vm_exits=looker.vm_exits,
    )
