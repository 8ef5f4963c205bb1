"""Each cipher and mode with each hash, made by each program and changed by the other. Test side."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

import instar
from tests.keys.files import holders
from tests.support.luks import (
    QUICK,
    Volume,
    cryptsetup,
    cryptsetup_opens,
    make_by_cryptsetup,
    make_by_qemu,
    slots_in_use,
)
from tests.support.qemu import Qemu

WORDS = ("one", "two", "three", "four")
MODES: dict[str, dict[str, str]] = {
    "xts-plain64": {},
    "cbc-essiv:sha256": {
        "cipher_mode": "cbc",
        "ivgen_alg": "essiv",
        "ivgen_hash_alg": "sha256",
    },
    "cbc-plain64": {"cipher_mode": "cbc", "ivgen_alg": "plain64"},
    "ecb": {"cipher_mode": "ecb"},
}
HASHES = ("sha1", "sha256", "sha512", "ripemd160")
NEW = "three"
SORTS = [
    (128 << (number + number // len(HASHES)) % 2, mode, hash_name)
    for number, (mode, hash_name) in enumerate(product(MODES, HASHES))
]
"""Both lengths of a key meet each mode and each hash."""


def add(volume: Volume, unlock: str, new: str, slot: int) -> None:
    keys = instar.AddKey(unlock.encode(), new.encode(), slot, iter_time=0)
    assert instar.amend(volume.path, keys=keys, format="luks").atomic


def erase(volume: Volume, secret: str) -> None:
    keys = instar.EraseKey(secret=secret.encode())
    assert instar.amend(volume.path, keys=keys, format="luks").atomic


@pytest.mark.parametrize(("bits", "mode", "hash_name"), SORTS)
def test_qemu_and_instar_change_what_the_other_made(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...], bits: int, mode: str, hash_name: str
) -> None:
    number = SORTS.index((bits, mode, hash_name))
    qemu, other = (qemu_versions[(number + n) % len(qemu_versions)] for n in (0, 3))
    slot = 1 + number % 7
    options = {**MODES[mode], "cipher_alg": f"aes-{bits}", "hash_alg": hash_name}
    volume = make_by_qemu(tmp_path / "i", "luks", qemu=qemu, options=options)
    add(volume, "one", "two", slot)
    assert volume.opened(other, WORDS) == {"one", "two"}
    erase(volume, "one")
    assert volume.amend(qemu, "two", state="active", new_secret=NEW, iter_time="1").ok
    assert slots_in_use(volume.path) == {0, slot}
    add(volume, "three", "four", slot % 7 + 1)
    assert volume.amend(other, "four", state="inactive", keyslot=str(slot)).ok
    assert volume.opened(qemu, WORDS) == {"three", "four"}
    assert holders(volume.path.read_bytes(), b"three") == {0}


@pytest.mark.parametrize(("bits", "mode", "hash_name"), SORTS)
def test_cryptsetup_and_instar_change_what_the_other_made(
    tmp_path: Path, bits: int, mode: str, hash_name: str
) -> None:
    slot = 1 + SORTS.index((bits, mode, hash_name)) % 7
    size = str(2 * bits if mode.startswith("xts") else bits)
    flags = ("--cipher", f"aes-{mode}", "--key-size", size, "--hash", hash_name)
    volume = make_by_cryptsetup(tmp_path / "i", "one", *flags)
    path = str(volume.path)
    add(volume, "one", "two", slot)
    assert [word for word in WORDS if cryptsetup_opens(volume.path, word)] == ["one", "two"]
    erase(volume, "one")
    new = tmp_path / "three"
    new.write_text("three")
    cryptsetup("luksAddKey", *QUICK, path, str(new), word="two")
    assert slots_in_use(volume.path) == {0, slot}
    add(volume, "three", "four", slot % 7 + 1)
    kill = ("luksKillSlot", "--batch-mode", "--disable-locks", path, str(slot))
    cryptsetup(*kill, word="four")
    assert [word for word in WORDS if cryptsetup_opens(volume.path, word)] == ["three", "four"]
    assert holders(volume.path.read_bytes(), b"three") == {0}
