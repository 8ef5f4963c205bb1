"""Asks the planner, called as a library, and applies its plans to images in memory. Test side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar.vmm.amend.messages import pack_config
from instar.vmm.base.refusals import translate
from instar.vmm.contract.judge import judge
from instar.vmm.contract.terms import Claim, Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.staging import StagedWrites
from instar.vmm.qcow2.probe import parse_fixed_header
from instar.vmm.request import AmendRequest
from tests.support.forge import Extension, layout, parse_extensions, parse_header

SECTOR = 512
HEADER_LIMIT = 0x10000
"""How far into the header cluster the planner looks for extensions, and lays them out."""


@dataclass(frozen=True)
class Write:
    """One write of a plan."""

    phase: int
    offset: int
    data: bytes
    zeroes: bool = False
    """Whether they are zeros that are not staged as data."""


@dataclass(frozen=True)
class Answer:
    """What the planner said: a plan, or why there is none."""

    planned: bool
    amended: bool
    atomic: bool
    writes: tuple[Write, ...]
    refusals: tuple[str, ...]
    """The names of the reasons, in order."""
    details: dict[str, int]
    """Of the first reason."""
    claim: Claim
    names: bytes
    """Of the bitmaps that are in the way, each as a u16 length and its bytes."""
    read_calls: int
    progress_calls: int
    misuse: bool


def ask(
    planner: Any,
    image: bytes,
    request: AmendRequest,
    *,
    fail_read: int = 0,
    progress: bool = False,
    seen: bytes | None = None,
    work_max: int = WORK_MIN,
) -> Answer:
    """Plan `request` on `image`; `seen` is what the host saw of it, by default the truth."""
    header = parse_fixed_header((image if seen is None else seen)[:SECTOR])
    assert header is not None
    packed = pack_config(header, request, len(image), work_max, progress=progress, debug=False)
    outcome = planner.ffi.new("struct host_outcome *")
    planner.lib.host_plan(packed, planner.ffi.from_buffer(image), len(image), fail_read, outcome)
    assert outcome.understood
    return _answer(planner.ffi, outcome)


def _answer(ffi: Any, outcome: Any) -> Answer:
    result = outcome.result
    refusals = tuple(
        (refusal.reason, refusal.error, *refusal.detail)
        for refusal in outcome.refusals[0 : result.refusal_count]
    )
    words = ("incompatible_features", "compatible_features", "autoclear_features")
    fields = {word: getattr(result, f"resulting_{word}") for word in words}
    return Answer(
        planned=outcome.planned,
        amended=result.action == 1,
        atomic=bool(result.atomic),
        writes=tuple(
            Write(
                write.phase,
                write.offset,
                bytes(write.length if write.zeroes else ffi.buffer(write.data, write.length)),
                write.zeroes,
            )
            for write in outcome.writes[0 : outcome.write_count]
        ),
        refusals=tuple(refusal.name for refusal in translate(refusals)),
        details=next((dict(refusal.detail) for refusal in translate(refusals)), {}),
        claim=Claim(
            result.action == 1,
            bool(result.atomic),
            {"version": result.resulting_version, **fields},
        ),
        names=bytes(ffi.buffer(outcome.names, outcome.names_size)),
        read_calls=outcome.read_calls,
        progress_calls=outcome.progress_calls,
        misuse=outcome.misuse,
    )


def apply(image: bytes, writes: Sequence[Write]) -> bytes:
    """The image after these writes, in the order of their phases."""
    after = bytearray(image)
    for write in sorted(writes, key=lambda write: write.phase):
        assert write.offset % SECTOR == len(write.data) % SECTOR == 0
        assert write.data
        after.extend(bytes(max(write.offset - len(after), 0)))
        after[write.offset : write.offset + len(write.data)] = write.data
    return bytes(after)


def accepted_by_contract(image: bytes, request: AmendRequest, answer: Answer) -> None:
    """Let the host judge the plan, as it does before a commit; GuestFault if it would not."""
    staged = StagedWrites()
    for write in answer.writes:
        if write.zeroes:
            staged.zero(write.offset // SECTOR, len(write.data) // SECTOR)
        else:
            staged.write(write.offset // SECTOR, write.data, write.phase)

    def read(offset: int, size: int) -> bytes:
        return image[offset : offset + size]

    judge(Original(read, len(image), WORK_MIN), request, staged, answer.claim)


@dataclass(frozen=True)
class Cluster:
    """What a header cluster says and which of its bytes it takes to say it."""

    fields: dict[str, Any]
    extensions: tuple[Extension, ...]
    """All but the feature names."""
    name: bytes | None
    extensions_end: int
    name_range: range

    @property
    def size(self) -> int:
        """In bytes."""
        return 1 << int(self.fields["cluster_bits"])

    def referred(self) -> list[range]:
        """The bytes that a reader of the image depends on."""
        return [range(self.extensions_end), self.name_range]


def read_cluster(image: bytes) -> Cluster:
    """Read the header as the specification says; AssertionError if that cannot be done."""
    fields = dict(parse_header(image))
    start, size = fields["backing_file_offset"], fields["backing_file_size"]
    cluster_size = 1 << fields["cluster_bits"]
    limit = start or cluster_size
    assert limit <= cluster_size
    assert not start or (size <= 1023 and start + size <= cluster_size)
    end = fields.get("header_length", layout.HEADER_V2_LENGTH)
    assert layout.HEADER_V2_LENGTH <= end <= limit
    while end < limit:
        kind, length = (int.from_bytes(image[end + n : end + n + 4], "big") for n in (0, 4))
        end += 8
        if kind == layout.EXTENSION_END:
            break
        assert length <= limit - end, "Header extension too large"
        end += length + -length % 8
    carried = (e for e in parse_extensions(image) if e.type != layout.EXTENSION_FEATURE_NAME_TABLE)
    name = range(start, start + size) if start else range(0)
    return Cluster(
        fields=fields,
        extensions=tuple(carried),
        name=image[start : start + size] if start else None,
        extensions_end=min(end, limit),
        name_range=name,
    )
