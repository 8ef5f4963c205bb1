"""A crash while keyslots change: a passphrase that should work opens the image. Test side.

Writes and barriers are those of the real command. Of each state the header is read, and each
passphrase is tried, by the host's own reader; some states qemu-io opens too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from instar.vmm.luks.header import Header, Slot
from instar.vmm.luks.region import Region, open_slot
from tests.crash.alike import chosen_states
from tests.crash.recorder import instar, record, replay
from tests.support.luks import WORDS, make_by_qemu, secret_flag
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

ADD = "encrypt.state=active,encrypt.iter-time=0,encrypt.new-secret"
ERASE = "encrypt.state=inactive,encrypt"
# Name: what is done before, then what may crash: options and flags; which passphrases must open in
# any state, and those of which one at least must.
CASES: dict[str, tuple[list[list[str]], list[str], set[str], set[str]]] = {
    "add to a slot of the first sector": ([], [f"{ADD}=two"], {"one"}, {"one"}),
    "add to slot 6": ([], [f"{ADD}=two,encrypt.keyslot=6"], {"one"}, {"one"}),
    "add to slot 7": ([], [f"{ADD}=two,encrypt.keyslot=7"], {"one"}, {"one"}),
    "erase": ([[f"{ADD}=two"]], [f"{ERASE}.keyslot=0"], {"two"}, {"two"}),
    "erase slot 6": (
        [[f"{ADD}=two,encrypt.keyslot=6"]],
        [f"{ERASE}.keyslot=6"],
        {"one"},
        {"one"},
    ),
    "erase slots in both sectors": (
        [[f"{ADD}=two,encrypt.keyslot=2"], [f"{ADD}=two,encrypt.keyslot=7"]],
        [f"{ERASE}.old-secret=two"],
        {"one"},
        {"one"},
    ),
    "replace the only one": (
        [],
        [f"{ADD}=two,encrypt.keyslot=0", "--force"],
        set(),
        {"one", "two"},
    ),
    "replace slot 6": (
        [[f"{ADD}=two,encrypt.keyslot=6"]],
        [f"{ADD}=three,encrypt.keyslot=6", "--force"],
        {"one"},
        {"one"},
    ),
}


def command(options: list[str]) -> list[str]:
    asked, *flags = options
    secrets = [part for word in WORDS for part in secret_flag(word)]
    return instar("-o", asked, *secrets, "--key-secret", "one", *flags)


@cache
def _opens(header: Header, slot: Slot, area: bytes, word: str) -> bool:
    return open_slot(header, slot, area, word.encode()) is not None


def opened(data: bytes) -> set[str]:
    """The passphrases that open the image with these bytes."""
    start = data.index(b"LUKS\xba\xbe\0\1")
    region = Region(lambda at, size: data[at : at + size], start, len(data) - start, len(data))
    header = region.header
    # What all slots have in common: so that each trial is made but once.
    common = Header(**{**vars(header), "slots": ()})
    return {
        word
        for word in WORDS
        for slot in header.active
        if _opens(common, slot, region.area(slot), word)
    }


@pytest.mark.parametrize("name", CASES)
def test_a_passphrase_that_should_work_opens_every_state(
    tmp_path: Path, qemu: Qemu, name: str
) -> None:
    first, asked, always, one_of = CASES[name]
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    for options in first:
        assert record(command(options), volume.path).run.status == 0
    before = volume.path.read_bytes()
    recording = record(command(asked), volume.path)
    assert recording.run.status == 0, recording.run.stderr
    after = volume.path.read_bytes()
    assert replay(before, recording.operations) == after
    files = [*chosen_states(before, recording.operations), after]
    assert len(files) > 4
    for data in files:
        found = opened(data)
        assert always <= found
        assert one_of & found
    for data in (files[0], files[len(files) // 2], files[-1]):
        volume.path.write_bytes(data)
        assert volume.opened(qemu, WORDS) == opened(data)


def test_the_harness_sees_a_slot_that_is_made_in_one_go(tmp_path: Path) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    before = volume.path.read_bytes()
    _, asked, _, one_of = CASES["replace the only one"]
    recording = record(command([*asked, "-t", "unsafe"]), volume.path)
    assert recording.run.status == 0
    states = chosen_states(before, recording.operations)
    assert not all(one_of & opened(data) for data in states)
