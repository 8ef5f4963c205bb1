"""Test side: what an honest guest would stage for an image in memory, by the planner itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from instar import abi
from instar.vmm.amend.messages import pack_config
from instar.vmm.amend.result import SWITCH
from instar.vmm.base.errors import GuestFault
from instar.vmm.contract.judge import judge
from instar.vmm.contract.terms import Change, Claim, Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.staging import StagedWrites
from instar.vmm.qcow2.probe import parse_fixed_header
from instar.vmm.request import AmendRequest
from tests.support.forge import Extension, Image
from tests.support.planner import Answer
from tests.support.project import load_planner

Phases = list[dict[int, bytes]]
SECTOR = 512


@dataclass
class Case:
    """An image, what is asked of it, and what a guest staged and claims."""

    data: bytes
    request: AmendRequest
    phases: Phases
    """As many as the ABI has; a phase without writes is empty."""
    claim: Claim
    zeroes: list[tuple[int, int]] = field(default_factory=list)
    """Ranges to be zeroed: first sector, and how many."""
    reads: list[tuple[int, int]] = field(default_factory=list)
    work_max: int = WORK_MIN

    def judge(self) -> tuple[Change, ...]:
        """What the write contract says."""

        def read(offset: int, size: int) -> bytes:
            self.reads.append((offset, size))
            return self.data[offset : offset + size]

        original = Original(read, len(self.data), self.work_max)
        return judge(original, self.request, self.staged(), self.claim).changes

    def staged(self) -> StagedWrites:
        """What the guest wrote."""
        staged = StagedWrites()
        for number, phase in enumerate(self.phases):
            for first, data in _runs(phase):
                staged.write(first, data, number)
        for start, count in self.zeroes:
            staged.zero(start, count)
        return staged

    def amended(self) -> bytes:
        """The image with all that was staged."""
        end = self.staged().end() * SECTOR
        image = bytearray(self.data.ljust(end, b"\0"))
        for start, count in self.zeroes:
            image[start * SECTOR : (start + count) * SECTOR] = bytes(count * SECTOR)
        for phase in self.phases:
            for number, data in phase.items():
                image[number * SECTOR : (number + 1) * SECTOR] = data
        return bytes(image)

    def stage(self, switch: dict[int, bytes] | None = None) -> None:
        """Stage only these sectors, in the switch."""
        self.phases = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
        self.phases[SWITCH] = switch or {}

    def put(self, offset: int, data: bytes, phase: int = SWITCH) -> None:
        """Stage bytes besides, in a phase that may not hold their sectors yet."""
        sectors = self.phases[phase]
        for at, byte in enumerate(data, offset):
            number = at // SECTOR
            start = number * SECTOR
            now = self.amended()[start : start + SECTOR].ljust(SECTOR, b"\0")
            sector = bytearray(sectors.get(number, now))
            sector[at - start] = byte
            sectors[number] = bytes(sector)

    def number(self, offset: int, value: int, size: int = 8) -> None:
        """Stage a big-endian number besides."""
        self.put(offset, value.to_bytes(size, "big"))

    def claims(self, *, amended: bool | None = None, atomic: bool | None = None) -> None:
        """Change what the guest says it did."""
        self.claim = Claim(
            self.claim.amended if amended is None else amended,
            self.claim.atomic if atomic is None else atomic,
            self.claim.fields,
        )

    def says(self, word: str, value: int) -> None:
        """Change what the guest says the image now has."""
        fields = {**self.claim.fields, word: value}
        self.claim = Claim(self.claim.amended, self.claim.atomic, fields)


def _runs(phase: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Sectors in a row as one piece, in the order in which they were staged."""
    first, pieces = 0, list[bytes]()
    for sector, data in phase.items():
        if pieces and sector != first + len(pieces):
            yield first, b"".join(pieces)
            pieces = []
        if not pieces:
            first = sector
        pieces.append(data)
    if pieces:
        yield first, b"".join(pieces)


def plan(data: bytes, compat: int | None = None, lazy: bool | None = None) -> Case:
    """What the planner makes of an image that it must not refuse."""
    return plan_request(data, AmendRequest.of(compat=compat, lazy_refcounts=lazy))


def plan_request(data: bytes, request: AmendRequest) -> Case:
    """The same for any request."""
    planner = load_planner()
    header = parse_fixed_header(data[:SECTOR])
    assert header is not None
    raw = pack_config(header, request, len(data), WORK_MIN, progress=False, debug=False)
    outcome = planner.ffi.new("struct host_outcome *")
    planner.lib.host_plan(raw, data, len(data), 0, outcome)
    result = outcome.result
    assert outcome.planned, [
        refusal.reason for refusal in outcome.refusals[0 : result.refusal_count]
    ]
    phases: Phases = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
    for write in outcome.writes[0 : outcome.write_count]:
        first = write.offset // SECTOR
        assert not write.zeroes
        written = bytes(planner.ffi.buffer(write.data, write.length))
        for at in range(0, write.length, SECTOR):
            phases[write.phase][first + at // SECTOR] = written[at : at + SECTOR]
    claim = Claim(
        result.action == abi.AMEND_ACTION_AMENDED,
        bool(result.atomic),
        {
            "version": result.resulting_version,
            "incompatible_features": result.resulting_incompatible_features,
            "compatible_features": result.resulting_compatible_features,
            "autoclear_features": result.resulting_autoclear_features,
        },
    )
    return Case(data, request, phases, claim)


def extension(kind: int, data: bytes) -> bytes:
    """A header extension with its padding."""
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


UNKNOWN = (Extension(0x11111111, b"first!!!"), Extension(0x22222222, b"second!!"))
DESCRIPTION: dict[str, Any] = {
    "backing_file": b"base",
    "backing_format": b"qcow2",
    "extensions": UNKNOWN,
}
MANY: dict[str, Any] = {"version": 2, "backing_file": b"base", "extensions": UNKNOWN * 25}
"""An upgrade of this takes slack: the extensions reach behind the first sector."""


def upgrade() -> Case:
    return plan(Image(version=2, **DESCRIPTION).build(), 3)


def downgrade() -> Case:
    return plan(Image(**DESCRIPTION).build(), 2)


def toggle() -> Case:
    return plan(Image(**DESCRIPTION).build(), None, True)


def upgrade_in_two_phases() -> Case:
    case = plan(Image(**MANY).build(), 3)
    assert case.phases[abi.INSTAR_PHASE_PREPARE]
    return case


def noop() -> Case:
    return plan(Image(**DESCRIPTION).build(), 3)


ALL = {"upgrade": upgrade, "downgrade": downgrade, "toggle": toggle}


def fault_of(case: Case) -> str:
    """The message of the fault that the write contract finds."""
    with pytest.raises(GuestFault) as caught:
        case.judge()
    return str(caught.value)


def case_of(data: bytes, request: AmendRequest, answer: Answer) -> Case:
    """What the planner answered as a case that can be judged."""
    phases: list[dict[int, bytes]] = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
    zeroes = []
    for write in answer.writes:
        first, count = write.offset // SECTOR, len(write.data) // SECTOR
        if write.zeroes:
            zeroes.append((first, count))
            continue
        for at in range(count):
            phases[write.phase][first + at] = write.data[at * SECTOR : (at + 1) * SECTOR]
    return Case(data, request, phases, answer.claim, zeroes)


def copy_of(case: Case) -> Case:
    """A case that can be changed."""
    phases = [dict(phase) for phase in case.phases]
    return Case(case.data, case.request, phases, case.claim, list(case.zeroes))
