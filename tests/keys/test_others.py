"""Keys that instar makes open by qemu and cryptsetup, and it changes what they made. Test side."""

from __future__ import annotations

from pathlib import Path

import pytest

import instar
from tests.support.luks import (
    WORDS,
    Volume,
    cryptsetup,
    cryptsetup_opens,
    make_by_cryptsetup,
    make_by_qemu,
    slots_in_use,
)
from tests.support.qemu import Qemu

QEMU_OPTIONS = {
    "aes-256-xts": {},
    "aes-128-xts, sha1": {"cipher_alg": "aes-128", "hash_alg": "sha1"},
    "aes-256-xts-plain, sha512": {"ivgen_alg": "plain", "hash_alg": "sha512"},
    "aes-256-cbc-essiv": {
        "cipher_mode": "cbc",
        "ivgen_alg": "essiv",
        "ivgen_hash_alg": "sha256",
    },
    "aes-128-cbc-plain64, ripemd160": {
        "cipher_alg": "aes-128",
        "cipher_mode": "cbc",
        "ivgen_alg": "plain64",
        "hash_alg": "ripemd160",
    },
    "aes-256-ecb": {"cipher_mode": "ecb"},
}
FOUR = {"new_secret": "four", "iter_time": "1"}
CRYPTSETUP_CIPHERS = {
    "aes-xts-plain64": ("512", "sha256"),
    "aes-xts-plain64, 256 bits": ("256", "sha1"),
    "aes-cbc-essiv:sha256": ("256", "sha256"),
    "aes-cbc-plain64": ("128", "sha512"),
    "aes-cbc-plain64, 192 bits": ("192", "ripemd160"),
}


def add(
    volume: Volume, unlock: str, new: str, slot: int | None = None, *, force: bool = False
) -> instar.AmendResult:
    keys = instar.AddKey(unlock.encode(), bytearray(new.encode()), slot, iter_time=0, force=force)
    return instar.amend(volume.path, keys=keys, format=volume.form)


def erase(
    volume: Volume, secret: str | None = None, slot: int | None = None, *, force: bool = False
) -> instar.AmendResult:
    keys = instar.EraseKey(slot, None if secret is None else secret.encode(), force=force)
    return instar.amend(volume.path, keys=keys, format=volume.form)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("form", "options"),
    [("luks", {}), *(("qcow2", options) for options in QEMU_OPTIONS.values())],
    ids=["luks", *QEMU_OPTIONS],
)
def test_a_key_is_added_to_what_qemu_made_and_the_old_one_erased(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...], form: str, options: dict[str, str]
) -> None:
    volume = make_by_qemu(tmp_path / "i", form, options=options)
    result = add(volume, "one", "two")
    assert (result.action, result.atomic) == ("amended", True)
    assert [change.field for change in result.changes] == ["keyslot_1"]
    for qemu in qemu_versions:
        assert volume.opened(qemu, WORDS[:3]) == {"one", "two"}, qemu
    assert erase(volume, "one").atomic
    for qemu in qemu_versions:
        assert volume.opened(qemu, ["one", "two", "three"]) == {"two"}, qemu
    if form == "luks":
        assert cryptsetup_opens(volume.path, "two")
        assert not cryptsetup_opens(volume.path, "one")


@pytest.mark.parametrize("name", CRYPTSETUP_CIPHERS)
def test_a_key_is_added_to_what_cryptsetup_made_and_the_old_one_erased(
    tmp_path: Path, name: str
) -> None:
    bits, hash_name = CRYPTSETUP_CIPHERS[name]
    cipher = name.partition(",")[0]
    flags = ("--cipher", cipher, "--key-size", bits, "--hash", hash_name)
    volume = make_by_cryptsetup(tmp_path / "i", "one", *flags)
    before = volume.path.read_bytes()
    payload = 512 * int.from_bytes(before[104:108], "big")
    assert add(volume, "one", "two", 5).atomic
    assert [cryptsetup_opens(volume.path, word) for word in WORDS[:3]] == [True, True, False]
    assert erase(volume, "one").atomic
    assert [cryptsetup_opens(volume.path, word) for word in WORDS[:3]] == [False, True, False]
    after = volume.path.read_bytes()
    assert (len(after), after[payload:]) == (len(before), before[payload:])


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_every_slot_is_filled_and_emptied(tmp_path: Path, qemu: Qemu, form: str) -> None:
    volume = make_by_qemu(tmp_path / "i", form)
    for number in range(1, 8):
        assert add(volume, "one", f"key{number}", number).atomic
    assert slots_in_use(volume.path) == set(range(8))
    with pytest.raises(instar.ImageRejected) as caught:
        add(volume, "one", "more")
    assert [refusal.name for refusal in caught.value.refusals] == ["luks_no_slot"]
    assert volume.opened(qemu, [f"key{number}" for number in range(1, 8)]).__len__() == 7
    for number in (7, 0, 6, 3, 1, 2, 5):
        assert erase(volume, slot=number).atomic
    assert slots_in_use(volume.path) == {4}
    assert volume.opened(qemu, ["one", *(f"key{n}" for n in range(1, 8))]) == {"key4"}


@pytest.mark.kvm
@pytest.mark.parametrize(("slot", "atomic"), [(0, True), (3, True), (6, False), (7, True)])
def test_a_slot_in_use_is_replaced_by_force(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...], slot: int, *, atomic: bool
) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    if slot:
        add(volume, "one", "two", slot)
    old = "two" if slot else "one"
    assert add(volume, "one", "three", slot, force=True).atomic is atomic
    expected = {"one", "two", "three"} - {old} if slot else {"three"}
    for qemu in qemu_versions:
        assert volume.opened(qemu, ["one", "two", "three"]) == expected, qemu


@pytest.mark.kvm
def test_qemu_uses_the_slot_that_gave_its_area_away(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    add(volume, "one", "three", 0, force=True)
    ran = volume.amend(qemu, "three", state="active", **FOUR)
    assert ran.ok, ran
    assert volume.opened(qemu, WORDS) == {"three", "four"}


@pytest.mark.kvm
def test_all_slots_that_a_passphrase_opens_are_erased(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    for slot in (2, 6, 7):
        add(volume, "one", "two", slot)
    result = erase(volume, "two")
    assert not result.atomic  # they are in two sectors
    assert slots_in_use(volume.path) == {0}
    assert volume.opened(qemu, WORDS) == {"one"}


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_no_key_material_of_an_erased_slot_is_left(tmp_path: Path, form: str) -> None:
    volume = make_by_qemu(tmp_path / "i", form)
    before = volume.path.read_bytes()
    start = before.index(b"LUKS\xba\xbe\0\1")
    add(volume, "one", "two", 1)
    whole = volume.path.read_bytes()
    area = 512 * int.from_bytes(whole[start + 208 + 40 :][:4], "big")
    material = whole[start + area : start + area + 64 * 4000]
    assert whole[: start + area].count(material[:512]) == 0
    erase(volume, slot=0)
    after = volume.path.read_bytes()
    assert not any(material[at : at + 512] in after for at in range(0, len(material), 512))
    assert after[start + 208 : start + 208 + 40] == bytes.fromhex("0000dead") + bytes(36)


@pytest.mark.kvm
def test_keys_change_together_with_other_options(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    keys = instar.AddKey(b"one", b"two", iter_time=0)
    result = instar.amend(volume.path, keys=keys, lazy_refcounts=True, size=2 << 20)
    assert len(result.steps) == 3
    assert (result.lazy_refcounts, result.options["size"]) == (True, 2 << 20)
    assert volume.opened(qemu, WORDS) == {"one", "two"}
    before = volume.path.read_bytes()
    keys = instar.AddKey(b"wrong", b"three", iter_time=0)
    with pytest.raises(instar.ImageRejected):  # a wrong passphrase leaves the rest undone
        instar.amend(volume.path, keys=keys, lazy_refcounts=False)
    assert volume.path.read_bytes() == before


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_a_dry_run_says_what_would_change_and_changes_nothing(tmp_path: Path, form: str) -> None:
    volume = make_by_qemu(tmp_path / "i", form)
    before, stat = volume.path.read_bytes(), volume.path.stat()
    keys = instar.AddKey(b"one", b"two", 2, iter_time=0)
    result = instar.amend(volume.path, keys=keys, format=form, dry_run=True)
    assert [(change.field, change.before) for change in result.changes] == [("keyslot_2", None)]
    assert volume.path.read_bytes() == before
    assert volume.path.stat().st_mtime_ns == stat.st_mtime_ns


def test_luks2_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_bytes(bytes(20 << 20))
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--batch-mode")
    cryptsetup("luksFormat", "--type", "luks2", *quick, "--disable-locks", str(path), word="one")
    before = path.read_bytes()
    with pytest.raises(instar.ImageRejected, match="LUKS version 2 is not supported"):
        add(Volume(path, "luks"), "one", "two")
    assert path.read_bytes() == before


def test_a_cipher_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    volume = make_by_cryptsetup(tmp_path / "i")
    data = bytearray(volume.path.read_bytes())
    data[8:40] = b"serpent".ljust(32, b"\0")
    volume.path.write_bytes(data)
    with pytest.raises(instar.ImageRejected, match="serpent") as caught:
        add(volume, "one", "two")
    assert [refusal.name for refusal in caught.value.refusals] == ["luks_cipher"]
