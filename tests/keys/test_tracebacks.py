"""Test side: no traceback shows a passphrase or a key, not even one with the frames' variables.

Programs log them so (traceback.TracebackException, pytest -l, error trackers). An error may come
from anywhere: a refusal, a disk, an interrupt within the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import TracebackException
from typing import Any

import pytest

import instar
from instar.vmm.luks import crypto, plan, region
from instar.vmm.luks.change import change_keys
from instar.vmm.luks.region import Region, open_slot
from instar.vmm.request.keys import AddKey, EraseKey, check_keys
from tests.keys.files import FIRST

SECRETS = (FIRST, b"Tr0ub4dor", b"wr0ng", b"not\xfftext", b"nul\0nul")
Keys = AddKey | EraseKey
ADD = AddKey(FIRST, b"Tr0ub4dor", iter_time=0)


def attempt(data: bytes, keys: Keys, fails_at: int | None = None) -> str:
    """The traceback of what must fail, with all variables of all frames."""

    def read(at: int, size: int) -> bytes:
        if at == fails_at:
            raise instar.HostError("could not read")
        return data[at : at + size]

    try:
        check_keys(keys)
        change_keys(read, (0, len(data)), len(data), keys, 30)
    except BaseException as error:
        del data, read
        return "".join(TracebackException.from_exception(error, capture_locals=True).format())
    raise AssertionError("nothing failed")


def assert_shows_none(text: str, *more: bytes) -> None:
    for secret in (*SECRETS, *more):
        for shown in (repr(secret)[2:-1], secret.hex()):
            if shown in text:
                pytest.fail(f"the traceback shows {shown}", pytrace=False)


def master_key(data: bytes) -> bytes:
    found = Region(lambda at, size: data[at : at + size], 0, len(data), len(data))
    key = open_slot(found.header, found.header.slots[0], found.area(found.header.slots[0]), FIRST)
    assert key is not None
    return bytes(key)


@pytest.mark.parametrize(
    "keys",
    [
        AddKey(b"wr0ng", b"Tr0ub4dor", iter_time=0),
        AddKey(FIRST, b"Tr0ub4dor", slot=0, iter_time=0),
        AddKey(FIRST, b"Tr0ub4dor", iter_time=1 << 60),
        AddKey(FIRST, b"not\xfftext"),
        AddKey(b"nul\0nul", b"Tr0ub4dor"),
        AddKey(bytearray(FIRST), bytearray(b"not\xfftext")),
        EraseKey(secret=b"wr0ng"),
        EraseKey(0, b"wr0ng"),
        EraseKey(secret=FIRST),
        EraseKey(secret=b"not\xfftext"),
    ],
    ids=str,
)
def test_a_refusal_shows_none(luks: bytes, keys: Keys) -> None:
    assert_shows_none(attempt(luks, keys))


@pytest.mark.parametrize("keys", [ADD, EraseKey(secret=FIRST, force=True)], ids=str)
def test_a_disk_that_fails_shows_none(luks: bytes, keys: Keys) -> None:
    assert_shows_none(attempt(luks, keys, fails_at=8 * 512))


PLACES: tuple[tuple[Any, str], ...] = (
    (region, "derive"),
    (region, "decrypt"),
    (region, "merge"),
    (plan, "derive"),
    (plan, "split"),
    (plan, "encrypt"),
    (crypto, "_diffuse"),
    (crypto, "PBKDF2HMAC"),
    (crypto, "Cipher"),
)


@pytest.mark.parametrize("number", [0, 1, 9, 4100])
@pytest.mark.parametrize(("module", "name"), PLACES)
def test_an_interrupt_within_shows_none(
    monkeypatch: pytest.MonkeyPatch, luks: bytes, module: Any, name: str, number: int
) -> None:
    monkeypatch.setattr(module, name, interrupting(getattr(module, name), number))
    try:
        text = attempt(luks, ADD)
    except AssertionError:
        return  # it is not called so often
    assert "KeyboardInterrupt" in text
    assert_shows_none(text, master_key_of(monkeypatch, luks))


def interrupting(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    left = [number]

    def act(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        return call(*arguments)

    return act


def master_key_of(monkeypatch: pytest.MonkeyPatch, data: bytes) -> bytes:
    monkeypatch.undo()
    return master_key(data)


@pytest.mark.kvm
def test_the_parent_of_a_confined_child_shows_none(disk: Path, luks: bytes) -> None:
    disk.write_bytes(luks)
    keys = AddKey(b"wr0ng", b"Tr0ub4dor", iter_time=0)
    try:
        instar.amend(disk, format="luks", keys=keys, isolation="process")
    except instar.ImageRejected as error:
        shown = TracebackException.from_exception(error, capture_locals=True).format()
        assert_shows_none("".join(line for line in shown if "test_tracebacks" not in line))
    else:
        pytest.fail("a wrong passphrase opens it")
