"""Test side: what ring 3 can ask the processor tells of nothing but what the host set up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import instar
from tests.sandbox.rogues import FOLDER, TOGGLED, Rogues

NOTHING = "ee" * 10
"""What is printed, the last byte first, if the instruction stored nothing."""

# Probe: all that it may print. A processor or a hypervisor may refuse any of them besides: UMIP,
# for instance, makes the first five a fault.
ALLOWED = {
    "sgdt": "00" * 10,  # no descriptor table: limit and base are 0
    "sidt": "00" * 10,  # no interrupt table
    "sldt": f"{NOTHING[:16]}0000",  # no local descriptor table
    "str": f"{NOTHING[:16]}0040",  # the task register's selector, vmm/machine/boot.py
    "smsw": f"{NOTHING[:16]}0033",  # the low half of CR0, vmm/machine/boot.py
    "segments": f"{NOTHING[:12]}002b0033",  # SS and CS, ring 3
    "rflags": "eeee0000000000000[02][0-9a-f]{2}",  # no I/O privilege
    "rdfsbase": "eeee0000000000000000",
    "cpuid": f"{NOTHING[:12]}00000000",  # no CPUID was set, so there is no vendor
    "vmmcall": "eeeeffffffffffffffff",  # -EPERM, as hypercalls are for ring 0
}


def test_every_probe_has_an_expectation_and_every_expectation_a_probe() -> None:
    assert set(ALLOWED) == {path.stem for path in (FOLDER / "probes").glob("*.c")}


@pytest.mark.kvm
@pytest.mark.parametrize("name", ALLOWED)
def test_an_instruction_gives_what_the_host_set_up_or_a_fault(
    rogues: Rogues, path: Path, name: str
) -> None:
    printed: list[str] = []
    error = rogues.run(f"probes/{name}", path, TOGGLED, debug=printed.append)
    assert isinstance(error, instar.GuestFault)
    if "faulted" in str(error):
        assert printed == []
    else:
        assert str(error) == "the guest ended without a result"
        assert re.fullmatch(ALLOWED[name], "".join(printed).strip())
