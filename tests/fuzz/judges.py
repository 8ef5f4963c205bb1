"""Test side: fuzz targets for the write contract, and for the host's own walk over a header."""

from __future__ import annotations

from functools import cache
from typing import Any

from instar.vmm.contract.judge import judge
from instar.vmm.contract.terms import Claim, Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.staging import StagedWrites
from instar.vmm.qcow2.header_view import HEADER_LIMIT, HeaderView, MalformedHeader, view_header
from instar.vmm.request import AmendRequest
from tests.fuzz.seeds import REQUESTS, seed_images
from tests.fuzz.source import Source
from tests.support.planner import SECTOR, Answer, ask
from tests.support.project import load_planner
from tests.support.staged import all_sectors

READS_MAX = 8
"""How often view_header may read: the start, the rest and the name, with room to spare."""

_HEADS = ("empty", "data", "full", "snapshots", "far-name", "open", "over-4096", "lazy", "header-")


class JudgeError(Exception):
    """The contract let something pass that it must not, or view_header read where it must not."""


@cache
def _cases() -> list[tuple[bytes, AmendRequest, Answer]]:
    """The first 64 KiB of seed images with the planner's answer to each request."""
    planner: Any = load_planner()
    cases = []
    for name, image in seed_images():
        if any(part in name for part in _HEADS):
            data = image.build()
            for request in REQUESTS:
                answer = ask(planner, data, request)
                cases.append((data[: HEADER_LIMIT + 4096], request, answer))
    return cases


def _mutate(source: Source, data: bytes) -> bytes:
    """Change some bytes, or fields where it counts."""
    changed = bytearray(data)
    for _ in range(source.below(4)):
        where = source.pick((8, 16, 20, 24, 36, 60, 72, 80, 88, 96, 100, 104, 112, 120, -1))
        at = where if where >= 0 else source.below(min(len(data), 0x10000))
        piece = source.pick(
            (
                source.take(1),
                source.take(2),
                source.take(8),
                source.number(2).to_bytes(8, "big"),
                source.number(2).to_bytes(4, "big"),
            )
        )
        changed[at : at + len(piece)] = piece[: max(0, len(changed) - at)]
    return bytes(changed)


def run_header(source: Source) -> None:
    """view_header: any bytes; describes them or raises MalformedHeader, and reads in bounds."""
    if source.below(4):
        cases = _cases()
        data = _mutate(source, cases[source.below(len(cases))][0])
        data = data[: source.pick((len(data), len(data), source.below(5000)))]
    else:
        data = source.take(4096) + bytes(source.below(1024))
    reads = []

    def read(offset: int, size: int) -> bytes:
        reads.append((offset, size))
        return data[offset : offset + size]

    try:
        view = view_header(read)
    except MalformedHeader:
        return
    finally:
        if len(reads) > READS_MAX or any(o > 1 << 21 or s > HEADER_LIMIT for o, s in reads):
            raise JudgeError(f"view_header reads {reads}")
    _check_view(data, view)


def _check_view(data: bytes, view: HeaderView) -> None:
    if not data.startswith(view.raw) or len(view.raw) > HEADER_LIMIT:
        raise JudgeError("raw is not the start of the header")
    if view.name is not None and len(view.name) > 1023:
        raise JudgeError("a long name")
    if sum(8 + len(content) for _, content in view.extensions) > len(view.raw) + 16:
        raise JudgeError("extensions are longer than the header")


def _staged(source: Source, answer: Answer) -> StagedWrites:
    """The sectors of a plan, by phase; some of them other than planned."""
    planned = StagedWrites()
    for write in answer.writes:
        planned.write(write.offset // SECTOR, write.data, write.phase)
    found = all_sectors(planned)
    for _ in range(source.below(3)):
        phase = found[source.pick((0, 3, source.below(len(found))))]
        number = source.pick((0, 1, source.below(130), source.number(8)))
        if source.below(2) and phase:
            number = list(phase)[source.below(len(phase))]
        old = phase.get(number, bytes(SECTOR))
        phase[number] = _mutate(source, old)
    if source.below(8) == 0:
        found.reverse()
    staged = StagedWrites()
    for number, phase in enumerate(found):
        for sector, data in phase.items():
            staged.write(sector, data, number)
    for _ in range(source.below(8) // 7):
        staged.zero(source.below(4096), 1 + source.below(300))
    return staged


def _claim(source: Source, answer: Answer) -> Claim:
    fields = dict(answer.claim.fields)
    if source.below(8) == 0:
        fields["compatible_features"] = source.number(1)
    if source.below(16) == 0:
        fields["version"] = source.number(1)
    amended = answer.claim.amended if source.below(16) else not answer.claim.amended
    atomic = answer.claim.atomic if source.below(16) else not answer.claim.atomic
    return Claim(amended, atomic, fields)


def run_judge(source: Source) -> None:
    """The contract: a plan with changes; what it accepts is a plan that changes nothing else."""
    cases = _cases()
    image, request, answer = cases[source.below(len(cases))]
    if source.below(4) == 0:
        image = _mutate(source, image)
    staged, claim = _staged(source, answer), _claim(source, answer)
    original = Original(lambda at, size: image[at : at + size], len(image), WORK_MIN)
    judge(original, request, staged, claim)
    _check_accepted(image, request, staged, claim)


def _check_accepted(
    image: bytes, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> None:
    after = bytearray(image)
    for phase in all_sectors(staged):
        for number, data in phase.items():
            after[number * SECTOR : number * SECTOR + SECTOR] = data
    if len(after) != len(image) or claim.amended == staged.is_empty():
        raise JudgeError("the image grows, or the phases are not those of the claim")
    lazy = bool(after[87] & 1) and after[7] == 3
    if request.compat not in (None, after[7]) or request.lazy_refcounts not in (None, lazy):
        raise JudgeError("the image is not as asked")
    # Magic, size of the name and all from cluster_bits to the snapshot table.
    if image[:4] != after[:4] or image[16:72] != after[16:72]:
        raise JudgeError("a field changes that must not")
    if _name(image) != _name(bytes(after)):
        raise JudgeError("the name changes")


def _name(image: bytes) -> bytes | None:
    offset, size = int.from_bytes(image[8:16], "big"), int.from_bytes(image[16:20], "big")
    return image[offset : offset + size] if offset else None
