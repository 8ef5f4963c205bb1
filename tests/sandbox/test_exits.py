"""Test side: every kind of exit that KVM knows is taken, even one that no guest here can cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import instar
from instar.vmm.image.image_file import ImageFile
from instar.vmm.kvm.exits import Interrupted, IoIn, IoOut, Mmio, Other, Shutdown
from instar.vmm.kvm.vcpu import Vcpu
from tests.support.forge import Data, Image

pytestmark = pytest.mark.kvm

AT_THE_START = r"at 0x11[0-9a-f]{3} \(core:core_start\+0x0\)"

EXITS = {
    "mmio write": (Mmio(0xD0000000, True), "the guest touched 0xd0000000, where nothing is, {}"),
    "mmio read": (Mmio(0x10, False), "the guest touched 0x10, where nothing is, {}"),
    "in": (IoIn(0x3F8), "the guest used port 0x3f8 against the rules {}"),
    "two bytes at once": (
        IoOut(0x3F8, 1, b"ab"),
        "the guest used port 0x3f8 against the rules {}",
    ),
    "a word": (IoOut(0xF4, 2, b"\0\0"), "the guest used port 0xf4 against the rules {}"),
    "no bytes": (IoOut(0xF4, 1, b""), "the guest used port 0xf4 against the rules {}"),
    "another port": (IoOut(0x80, 1, b"\x12"), "the guest wrote 12 to port 0x80"),
    "another port, with the number of a queue": (
        IoOut(0x80, 1, b"\0"),
        "the guest wrote 00 to port 0x80",
    ),
    "another port, with that of the other": (
        IoOut(0x80, 1, b"\1"),
        "the guest wrote 01 to port 0x80",
    ),
    "another queue": (IoOut(0xE0, 1, b"\x03"), "the guest wrote 03 to port 0xe0"),
    "a code": (IoOut(0xF4, 1, b"\xff"), "the guest gave up with code 255"),
    "a fault": (Shutdown(), "the guest faulted {}, last page fault at 0x0"),
    "hlt": (Other(5), "the guest stopped with KVM_EXIT_HLT {}"),
    "an error of KVM's": (Other(17), "the guest stopped with KVM_EXIT_INTERNAL_ERROR {}"),
    "an unknown reason": (Other(4711), "the guest stopped with exit reason 4711 {}"),
}


def fault_of(path: Path, timeout: float = 30) -> str:
    Image().write(path)
    before = path.read_bytes()
    with pytest.raises(instar.GuestFault) as caught:
        instar.amend(path, lazy_refcounts=True, timeout=timeout)
    assert path.read_bytes() == before
    return str(caught.value)


@pytest.mark.parametrize(("event", "message"), EXITS.values(), ids=EXITS)
def test_an_exit_against_the_rules_is_a_fault_that_names_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, event: object, message: str
) -> None:
    monkeypatch.setattr(Vcpu, "run", lambda _vcpu: event)
    assert re.fullmatch(message.format(AT_THE_START), fault_of(path))


def test_interruptions_are_no_exits_and_end_with_the_deadline(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instar.vmm.machine.EXIT_BUDGET", 3)
    monkeypatch.setattr(Vcpu, "run", lambda _vcpu: Interrupted())
    assert fault_of(path, 0.05) == (
        "the sandbox did not finish within 0.05 s, and nothing was written; a slow disk or a large "
        "image may take longer: allow it with --timeout"
    )


def test_the_budget_of_exits_can_be_used_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instar.vmm.machine.EXIT_BUDGET", 2)
    Image(clusters={0: Data(b"\5"), 9000: Data(b"\6")}).write(path)
    before = path.read_bytes()
    with pytest.raises(instar.GuestFault, match="the guest stopped for the host 2 times"):
        instar.amend(path, compat="0.10")
    assert path.read_bytes() == before
    monkeypatch.setattr("instar.vmm.machine.EXIT_BUDGET", 3)
    assert instar.amend(path, compat="0.10").vm_exits == 3


def test_the_budget_of_exits_grows_with_what_may_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image(clusters={0: Data(b"\5"), 9000: Data(b"\6")}).write(path)
    with ImageFile.open(str(path), writable=False) as image:
        budget = image.budget
    monkeypatch.setattr("instar.vmm.machine.EXIT_BUDGET", 1)
    monkeypatch.setattr("instar.vmm.machine.WORK_OF_EXITS", budget // 2 + 1)
    with pytest.raises(instar.GuestFault, match="the guest stopped for the host 2 times"):
        instar.amend(path, compat="0.10")
    monkeypatch.setattr("instar.vmm.machine.WORK_OF_EXITS", budget // 2)
    assert instar.amend(path, compat="0.10").vm_exits == 3


def test_an_end_without_a_word_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vcpu, "run", lambda _vcpu: IoOut(0xF4, 1, b"\0"))
    assert fault_of(path) == "the guest ended without a result"
