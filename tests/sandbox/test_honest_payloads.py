"""Test side: what the rogue payloads share is honest: without the lie, the amend succeeds."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import instar
from instar import abi
from instar.vmm import amend
from instar.vmm.amend.messages import pack_config
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.staging import StagedWrites
from instar.vmm.machine import Machine
from instar.vmm.machine.payload import Payload
from instar.vmm.request import AmendRequest
from tests.sandbox.rogues import TOGGLED, UPGRADED, Rogues, Set
from tests.support.forge import parse_header
from tests.support.staged import sectors

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

OPTIONS_SIZE = 104
"""Where an AmendConfig has options_size."""


@pytest.mark.parametrize(("name", "set_"), [("toggle", TOGGLED), ("upgrade", UPGRADED)])
def test_an_honest_payload_amends_the_image(
    rogues: Rogues, path: Path, name: str, set_: Set
) -> None:
    set_.image.write(path)
    result = instar.amend(path, payload=rogues.payload(f"honest/{name}"), **set_.request)
    assert result.action == "amended"
    header = parse_header(path.read_bytes())
    assert (header.version, header.compatible_features) == (3, int(name == "toggle"))


def test_it_writes_what_the_operation_writes(rogues: Rogues, path: Path) -> None:
    written = []
    for payload in (rogues.payload("honest/toggle"), None):
        TOGGLED.image.write(path)
        instar.amend(path, payload=payload, **TOGGLED.request)
        written.append(path.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["reports_then_fault", "reports_then_panic", "write_after_result"])
def test_the_run_ends_with_the_result_whatever_would_follow(
    rogues: Rogues, path: Path, name: str
) -> None:
    TOGGLED.image.write(path)
    honest = instar.amend(path, **TOGGLED.request)
    expected = path.read_bytes()
    TOGGLED.image.write(path)
    result = instar.amend(path, payload=rogues.payload(f"honest/{name}"), **TOGGLED.request)
    assert (result.action, result.ranges) == ("amended", honest.ranges)
    assert path.read_bytes() == expected


def staged_by(payload: Payload, path: Path) -> StagedWrites:
    """What a payload stages on the image of TOGGLED; nobody judges it."""
    TOGGLED.image.write(path)
    with Machine(payload) as machine, ImageFile.open(str(path), writable=False) as image:
        return amend.plan(machine, image, AmendRequest.of(timeout=10, **TOGGLED.request)).staged


def test_what_waits_for_a_doorbell_is_staged_in_order_though_its_buffer_changes(
    rogues: Rogues, path: Path
) -> None:
    staged = staged_by(rogues.payload("honest/waiting"), path)
    expected = {100 + n: n + 1 for n in range(48)}
    expected |= {100: 0x70, **{101 + n: 0x71 for n in range(8)}, 102: 0x72, 148: 0x73}
    found = sectors(staged, abi.INSTAR_PHASE_PREPARE)
    assert found == {sector: bytes([value]) * 512 for sector, value in expected.items()}
    assert staged.phases() == [abi.INSTAR_PHASE_PREPARE, abi.INSTAR_PHASE_SWITCH]


def test_sectors_that_are_put_off_are_staged_in_order_and_no_later_than_a_read(
    rogues: Rogues, path: Path
) -> None:
    staged = staged_by(rogues.payload("honest/late_scatter"), path)
    expected = {100 + n: letter for n, letter in enumerate("fgfgfghihihi")}
    expected |= dict.fromkeys((113, 115, 117), "j") | dict.fromkeys(range(120, 184), "k")
    expected |= dict.fromkeys((190, 192, 194), "l")
    found = sectors(staged, abi.INSTAR_PHASE_PREPARE)
    assert found == {sector: letter.encode() * 512 for sector, letter in expected.items()}
    assert staged.phases() == [abi.INSTAR_PHASE_PREPARE, abi.INSTAR_PHASE_SWITCH]


def test_what_was_read_ahead_is_what_a_request_reads(rogues: Rogues, path: Path) -> None:
    staged = staged_by(rogues.payload("honest/ahead"), path)
    assert staged.phases() == [abi.INSTAR_PHASE_SWITCH]


def test_frames_wait_until_they_fill_the_buffer(rogues: Rogues, path: Path) -> None:
    TOGGLED.image.write(path)
    seen: list[tuple[int, int]] = []
    result = instar.amend(
        path,
        payload=rogues.payload("honest/full_buffer"),
        progress=lambda done, total: seen.append((done, total)),
        **TOGGLED.request,
    )
    assert result.action == "amended"
    size = abi.FrameHeader_SIZE + abi.AmendProgress_SIZE
    assert seen == [(1, 2)] * (abi.INSTAR_TRANSMIT_MAX // size)


def test_a_call_takes_so_many_ranges_and_no_more(rogues: Rogues, path: Path) -> None:
    staged = staged_by(rogues.payload("honest/most_ranges"), path)
    found = sectors(staged, abi.INSTAR_PHASE_PREPARE)
    assert found == {100 + n: bytes([n + 1]) * 512 for n in range(40)}
    assert staged.phases() == [abi.INSTAR_PHASE_PREPARE, abi.INSTAR_PHASE_SWITCH]


@pytest.mark.parametrize("size", [8, 4096 - 127, 0xFFFFFFFF])
def test_the_operation_does_nothing_about_options_that_it_cannot_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def pack_nonsense(*arguments: Any, **keywords: Any) -> bytes:
        config = bytearray(pack_config(*arguments, **keywords)[: abi.AmendConfig_SIZE])
        struct.pack_into("<I", config, OPTIONS_SIZE, size)
        return bytes(config.ljust(abi.OPERATION_CONFIG_SIZE, b"\xff"))

    monkeypatch.setattr(amend, "pack_config", pack_nonsense)
    TOGGLED.image.write(path)
    before = path.read_bytes()
    with pytest.raises(instar.GuestFault, match="without a result"):
        instar.amend(path, **TOGGLED.request)
    assert path.read_bytes() == before
