"""Test side: a write or a flush fails while keyslots change: what is said is true of the file.

Each call of a commit fails once, before it did anything or when half of it was written, and all
keys that should be there are.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.request.keys import AddKey, EraseKey
from tests.keys.files import FIRST, apply, change, holders

NEW, TWICE = b"new", b"twice"
WORDS = (FIRST, NEW, TWICE, *(b"k%d" % number for number in range(1, 8)))
Keys = AddKey | EraseKey
Opened = dict[bytes, set[int]]


def opened(data: bytes) -> Opened:
    return {word: found for word in WORDS if (found := holders(data, word))}


# What is said of the file at the end: whether that is so, of which keys open it before, after all,
# and as it is.
SAID: dict[str, Callable[[Opened, Opened, Opened], bool]] = {
    "the keyslots are as before": lambda old, _, found: found == old,
    "the keyslot may be erased, and the others are as before": lambda old, new, found: (
        found in (old, common(old, new))
    ),
    "the keyslot may be as asked or erased, and the others are as before": lambda old, new, found: (
        found in (new, common(old, new))
    ),
    "the keyslots may be as asked or as before, see with instar info": lambda old, new, found: (
        found in (old, new)
    ),
    "the keyslots may be as before, or some erased as asked, see with instar info": (
        lambda old, new, found: common(old, new) == common(found, new) and contains(old, found)
    ),
    "the keyslots are as asked, or some are; old key material may be left: repeat it with --force, "
    "by the number of each keyslot": lambda _, new, found: contains(found, new),
}


def common(one: Opened, other: Opened) -> Opened:
    both = {word: one[word] & other[word] for word in one.keys() & other.keys()}
    return {word: found for word, found in both.items() if found}


def contains(most: Opened, least: Opened) -> bool:
    return all(found <= most.get(word, set()) for word, found in least.items())


class Broken:
    """A disk of which one call fails, and all work after it."""

    def __init__(self, number: int, name: str, part: float) -> None:
        self.left, self.name, self.part = number, name, part

    def put(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("pwrite", "fdatasync"):
            monkeypatch.setattr(os, name, self._breaking(name, getattr(os, name)))

    def _breaking(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(fd: int, *rest: Any) -> Any:
            if name == self.name:
                self.left -= 1
                if self.left == -1:
                    if name == "pwrite":
                        data, at = rest
                        call(fd, bytes(data)[: int(len(data) * self.part) // 512 * 512], at)
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(fd, *rest)

        return act


CHANGES: dict[str, tuple[Keys, list[Keys]]] = {
    "add": (AddKey(FIRST, NEW, 1, 0), [EraseKey(1)]),
    "add to slot 6": (AddKey(FIRST, NEW, 6, 0), [EraseKey(6)]),
    "erase": (EraseKey(4), []),
    "erase slot 6": (EraseKey(6), []),
    "erase slots in both sectors": (
        EraseKey(secret=TWICE),
        [AddKey(FIRST, TWICE, number, 0, force=True) for number in (2, 6, 7)],
    ),
    "replace by an exchange": (AddKey(FIRST, NEW, 1, 0, force=True), [EraseKey(3)]),
    "replace in place": (AddKey(FIRST, NEW, 1, 0, force=True), []),
    "replace slot 6 in place": (AddKey(FIRST, NEW, 6, 0, force=True), []),
}
FAULTS = {
    "no byte": ("pwrite", 0.0),
    "half": ("pwrite", 0.5),
    "all": ("pwrite", 1.0),
    "flush": ("fdatasync", 0.0),
}


@pytest.mark.kvm
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_said_is_true(
    disk: Path, full: bytes, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    keys, first = CHANGES[name]
    for prepared in first:
        full = apply(full, change(full, prepared))
    before = opened(full)
    found: list[tuple[str, Opened]] = []
    done = False
    while not done:
        disk.write_bytes(full)
        with monkeypatch.context() as patched:
            Broken(len(found), *FAULTS[fault]).put(patched)
            try:
                instar.amend(disk, format="luks", keys=keys)
            except instar.HostError as error:
                found.append((str(error), opened(disk.read_bytes())))
            else:
                done = True
    after = opened(disk.read_bytes())
    assert len(found) >= 2
    for text, state in found:
        fault_text, _, said = text.partition("; ")
        assert fault_text.endswith("Input/output error")
        assert SAID[said](before, after, state), (said, before, after, state)
        assert contains(state, common(before, after))
