"""Test side: what the fuzzers have kept is run again, by all the rules that they hold it to."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.request import AmendRequest
from tests.fuzz import container, device, sandbox
from tests.fuzz.build import build_replays
from tests.fuzz.images import random_cases
from tests.support.planner import accepted_by_contract, ask

CORPUS = Path(__file__).resolve().parent / "corpus"
SANDBOX_SEED = 1
SANDBOX_CASES = 300
DENSE_MAX = 16 << 20
"""Larger images are for the sparse replay only."""


def kept(target: str) -> list[Path]:
    """The inputs kept for a target, of which there must be some."""
    found = sorted(path for path in (CORPUS / target).iterdir() if path.is_file())
    assert found
    return found


def test_inputs_under_sanitizers() -> None:
    for target, program in build_replays().items():
        command = [str(program), *map(str, kept(target))]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, (target, result.stderr[-4000:])


def dense(found: container.Input) -> bytes:
    """The whole image of an input."""
    image = bytearray(found.size)
    for offset, data in found.chunks:
        if offset < found.size:
            image[offset : offset + len(data)] = data[: found.size - offset]
    return bytes(image)


def test_plans_for_planner_inputs_keep_the_write_contract(planner: Any) -> None:
    plans = 0
    for path in kept("planner"):
        found = container.parse(path.read_bytes())
        request = container.request_of(found) if found else None
        if not found or found.size > DENSE_MAX or request is None:
            continue
        image = dense(found)
        if not image.startswith(b"QFI\xfb"):
            continue
        answer = ask(planner, image, request)
        assert not answer.misuse
        if answer.planned:
            plans += 1
            try:
                # The contract may find the image at odds with itself, which is no fault.
                with suppress(ImageRejected):
                    accepted_by_contract(image, request, answer)
            except GuestFault as error:
                pytest.fail(f"{path.name}: {error}")
    assert plans > 10


def test_device_inputs() -> None:
    endings = {device.run_input(path.read_bytes()) for path in kept("device")}
    assert {ending.split()[0] for ending in endings} == {
        *("block", "queue", "serial", "judge", "header")
    }


def test_the_cases_of_a_seed_are_always_the_same() -> None:
    one, other = random_cases(7), random_cases(7)
    for _ in range(100):
        assert next(one) == next(other)


@pytest.mark.kvm
def test_sandbox_and_library_agree(planner: Any) -> None:
    tally = sandbox.run(planner, SANDBOX_SEED, SANDBOX_CASES, seconds=600)
    assert tally.cases == SANDBOX_CASES
    assert min(tally.amended, tally.noop, tally.refused) > 20


def test_requests_survive_the_way_through_flags() -> None:
    for version in (None, 2, 3):
        for lazy in (None, False, True):
            request = AmendRequest.of(compat=version, lazy_refcounts=lazy)
            assert (
                container.request_of(container.Input(container.request_flags(request), 0, ()))
                == request
            )
