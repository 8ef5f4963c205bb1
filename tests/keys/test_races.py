"""Test side: another program changes the keys while this one tries passphrases.

cryptsetup takes no lock that qemu knows. What it did must not be undone by what was read before.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.luks import change as module
from instar.vmm.luks.judge import judge_keys
from instar.vmm.request.keys import AddKey, EraseKey
from tests.keys.files import FIRST, apply, change, holders
from tests.support.forge import Image
from tests.support.luks_headers import make_header

Keys = AddKey | EraseKey
MEANWHILE: dict[str, Keys] = {
    "an erasure": EraseKey(5),
    "an erasure in the second sector": EraseKey(7),
    "a replacement": AddKey(FIRST, b"other", 3, 0, force=True),
}
CHANGES: dict[str, Keys] = {"add": AddKey(FIRST, b"new", 2, 0), "erase": EraseKey(4)}


@pytest.mark.kvm
@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("name", CHANGES)
def test_what_another_program_did_meanwhile_stays(
    disk: Path, full: bytes, monkeypatch: pytest.MonkeyPatch, name: str, meanwhile: str
) -> None:
    full = apply(full, change(full, EraseKey(2)))
    changed = apply(full, change(full, MEANWHILE[meanwhile]))
    disk.write_bytes(full)

    def judge_later(*arguments: Any) -> Any:
        disk.write_bytes(changed)
        return judge_keys(*arguments)

    monkeypatch.setattr(module, "judge_keys", judge_later)
    with pytest.raises(instar.HostError, match="the LUKS header was changed meanwhile"):
        instar.amend(disk, format="luks", keys=CHANGES[name])
    assert disk.read_bytes() == changed
    monkeypatch.undo()
    instar.amend(disk, format="luks", keys=CHANGES[name])
    assert holders(disk.read_bytes(), FIRST) == {0}


@pytest.mark.kvm
@pytest.mark.parametrize("bits", [9, 10, 11, 12, 16])
def test_what_another_program_did_meanwhile_stays_wherever_the_header_is_in_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    header = bytearray(make_header("xts-plain64", 64, "sha256"))
    header = header.ljust(int.from_bytes(header[104:108], "big") * 512, b"\0")
    slot = slice(208 + 48, 208 + 48 + 8)
    header[slot] = struct.pack(">II", 0xAC71F3, 1000)  # the second keyslot is in use, too
    path = tmp_path / "image"
    image = Image(cluster_bits=bits, size=1 << 20, crypt_method=2, crypto_header=bytes(header))
    image.write(path)
    salt = image.regions()["crypto_header"].start + slot.stop
    changed = bytearray(path.read_bytes())
    changed[salt : salt + 32] = b"s" * 32

    def judge_later(*arguments: Any) -> Any:
        path.write_bytes(changed)
        return judge_keys(*arguments)

    monkeypatch.setattr(module, "judge_keys", judge_later)
    with pytest.raises(instar.HostError, match="the LUKS header was changed meanwhile"):
        instar.amend(path, keys=EraseKey(0, force=True))
    assert path.read_bytes() == changed
