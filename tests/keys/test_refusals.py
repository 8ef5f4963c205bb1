"""Test side: what is refused, and in which words: qemu's, where it has any."""

from __future__ import annotations

from struct import pack_into

import pytest

from instar.vmm.base.errors import ImageRejected, UsageError
from instar.vmm.request.keys import AddKey, EraseKey, check_keys
from tests.keys.files import FIRST, apply, change

REFUSED: dict[str, AddKey | EraseKey] = {
    "luks_no_slot": AddKey(FIRST, b"x", iter_time=0),
    "luks_slot_in_use": AddKey(FIRST, b"x", 3, 0),
    "luks_password": AddKey(b"wrong", b"x", 3, 0, force=True),
    "luks_iterations": AddKey(FIRST, b"x", 3, 10**5, force=True),
    "luks_iter_time": AddKey(FIRST, b"x", 3, 10**9, force=True),
    "luks_slot_mismatch": EraseKey(0, b"k1"),
    "luks_no_match": EraseKey(secret=b"wrong"),
}
ALONE: dict[str, AddKey | EraseKey] = {
    "luks_last_slot": EraseKey(0),
    "luks_all_slots": EraseKey(secret=FIRST),
    "luks_slot_inactive": EraseKey(1),
}


def reason(data: bytes, keys: AddKey | EraseKey) -> str:
    with pytest.raises(ImageRejected) as caught:
        change(data, keys)
    return caught.value.refusals[0].name


@pytest.mark.parametrize("name", REFUSED)
def test_a_full_header_refuses_by_name(full: bytes, name: str) -> None:
    assert reason(full, REFUSED[name]) == name


@pytest.mark.parametrize("name", ALONE)
def test_the_last_keyslot_is_kept(luks: bytes, name: str) -> None:
    assert reason(luks, ALONE[name]) == name


def test_the_only_key_is_not_replaced_in_its_place(luks: bytes) -> None:
    luks = apply(luks, change(luks, AddKey(FIRST, b"six", 6, 0)))
    luks = apply(luks, change(luks, EraseKey(0)))
    assert reason(luks, AddKey(b"six", b"x", 6, 0, force=True)) == "luks_only_slot"


def test_force_erases_the_last_one(luks: bytes) -> None:
    luks = apply(luks, change(luks, EraseKey(0, force=True)))
    assert reason(luks, AddKey(FIRST, b"x", iter_time=0)) == "luks_password"


def test_iterations_that_would_take_hours_are_refused_at_once(luks: bytes) -> None:
    data = bytearray(luks)
    pack_into(">I", data, 212, 0xFFFFFFFF)
    assert reason(bytes(data), AddKey(FIRST, b"x", iter_time=0)) == "luks_iterations"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (EraseKey(), "either explicit keyslot index or the password"),
        (EraseKey(8), "Invalid keyslot 8 specified, must be between 0 and 7"),
        (AddKey(b"a", b"\0"), "not valid UTF-8, or holds a NUL"),
        (AddKey(b"\xff", b"a"), "unlock is not valid UTF-8"),
        (AddKey("a", b"a"), "unlock is bytes or a bytearray, not str"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(keys: AddKey | EraseKey, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_keys(keys)


def test_no_repr_has_a_passphrase() -> None:
    for keys in (AddKey(b"secret!", b"secret!"), EraseKey(secret=bytearray(b"secret!"))):
        assert "secret!" not in repr(keys)
        assert isinstance(hash(keys), int)
