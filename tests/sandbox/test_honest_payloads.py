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
from tests.sandbox.rogues import TOGGLED, UPGRADED, Rogues, Set
from tests.support.forge import parse_header

pytestmark = pytest.mark.kvm


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


@pytest.mark.parametrize("size", [8, 4096 - 127, 0xFFFFFFFF])
def test_the_operation_does_nothing_about_options_that_it_cannot_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def pack_nonsense(*arguments: Any, **keywords: Any) -> bytes:
        config = bytearray(pack_config(*arguments, **keywords)[: abi.AmendConfig_SIZE])
        struct.pack_into("<I", config, 88, size)
        return bytes(config.ljust(abi.OPERATION_CONFIG_SIZE, b"\xff"))

    monkeypatch.setattr(amend, "pack_config", pack_nonsense)
    TOGGLED.image.write(path)
    before = path.read_bytes()
    with pytest.raises(instar.GuestFault, match="without a result"):
        instar.amend(path, **TOGGLED.request)
    assert path.read_bytes() == before
