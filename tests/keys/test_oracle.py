"""Test side: qemu and cryptsetup open what instar made, with the right passphrase and no other."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

import instar
from instar.vmm.request.keys import AddKey, EraseKey
from tests.keys.files import FIRST, apply, change, cryptsetup, holders, make, opens
from tests.support.qemu import Qemu, newest, oldest

SORTS: dict[str, dict[str, str]] = {
    "aes-256-xts-plain64-sha256": {},
    "aes-128-xts-plain64-sha1": {"cipher-alg": "aes-128", "hash-alg": "sha1"},
    "aes-256-cbc-essiv-sha512": {
        "cipher-mode": "cbc",
        "ivgen-alg": "essiv",
        "ivgen-hash-alg": "sha256",
        "hash-alg": "sha512",
    },
    "aes-128-cbc-plain64-ripemd160": {
        "cipher-alg": "aes-128",
        "cipher-mode": "cbc",
        "hash-alg": "ripemd160",
    },
    "aes-256-ecb": {"cipher-mode": "ecb"},
}


@pytest.mark.parametrize("qemu", [oldest(), newest()], ids=lambda qemu: qemu.version)
@pytest.mark.parametrize("sort", SORTS)
def test_qemu_opens_what_instar_added_to_its_files(disk: Path, sort: str, qemu: Qemu) -> None:
    make(disk, qemu=qemu, **SORTS[sort])
    result = instar.amend(disk, keys=AddKey(FIRST, b"new", iter_time=0), format="luks")
    assert (result.format, result.action, result.atomic) == ("luks", "amended", True)
    assert [opens(disk, word, qemu) for word in (FIRST, b"new", b"no")] == [True, True, False]
    if "ecb" not in sort:
        assert [cryptsetup(disk, word) for word in (FIRST, b"new", b"no")] == [True, True, False]
    instar.amend(disk, keys=EraseKey(secret=FIRST), format="luks")
    assert [opens(disk, word, qemu) for word in (FIRST, b"new")] == [False, True]


@pytest.mark.parametrize("hash_name", ["sha1", "sha512"])
def test_instar_changes_what_cryptsetup_made(disk: Path, hash_name: str) -> None:
    disk.write_bytes(bytes(4 << 20))
    options = ("--type", "luks1", "--hash", hash_name, "--pbkdf-force-iterations", "1000")
    assert cryptsetup(disk, FIRST, "luksFormat", *options)
    for number in range(1, 8):
        keys = AddKey(FIRST, b"k%d" % number, number, 0)
        instar.amend(disk, keys=keys, format="luks")
        assert cryptsetup(disk, b"k%d" % number)
        assert opens(disk, b"k%d" % number, newest())


@pytest.mark.kvm
@pytest.mark.parametrize("qemu", [oldest(), newest()], ids=lambda qemu: qemu.version)
def test_keys_of_a_qcow2_image_change_beside_other_options(disk: Path, qemu: Qemu) -> None:
    make(disk, "qcow2", qemu=qemu)
    result = instar.amend(disk, keys=AddKey(FIRST, b"new", iter_time=0), compat="0.10")
    assert [step.asked.get("compat") for step in result.steps] == [None, "0.10"]
    words = FIRST, b"new", b"no"
    assert [opens(disk, word, qemu, "qcow2") for word in words] == [True, True, False]
    instar.amend(disk, keys=EraseKey(0), isolation="process")
    assert [opens(disk, word, qemu, "qcow2") for word in words] == [False, True, False]


@pytest.mark.kvm
def test_an_image_without_keys_is_refused(disk: Path) -> None:
    newest_img = str(newest().directory / "qemu-img")
    subprocess.run([newest_img, "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True)
    before = disk.read_bytes()
    with pytest.raises(instar.ImageRejected, match="encryption not present"):
        instar.amend(disk, keys=EraseKey(0))
    assert disk.read_bytes() == before


@pytest.mark.parametrize("seed", range(3))
def test_after_random_changes_the_expected_passphrases_open(luks: bytes, seed: int) -> None:
    seeded = random.Random(seed)  # noqa: S311 - which changes, and no secret
    slots: dict[int, bytes] = {0: FIRST}
    for step in range(12):
        if len(slots) > 1 and seeded.random() < 0.4:
            number = seeded.choice([*slots])
            luks = apply(luks, change(luks, EraseKey(number)))
            del slots[number]
            continue
        number, word = seeded.randrange(8), b"w%d" % step
        keys = AddKey(seeded.choice([*slots.values()]), word, number, 0, force=True)
        if [*slots] in ([6], [7]):
            continue  # the only one, which may have no spare area
        luks = apply(luks, change(luks, keys))
        slots[number] = word
    for number, word in slots.items():
        assert holders(luks, word) == {number}
