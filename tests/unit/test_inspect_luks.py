"""Test side: what `info` says of encryption by LUKS, field by field."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from instar.vmm.inspect.luks import describe_luks
from tests.support.luks_headers import PAYLOAD, SECTOR, SORTS, make_header

UUID = 168


@pytest.mark.parametrize(("mode", "key_bytes", "hash_name"), SORTS)
def test_each_field_of_a_header_is_told(mode: str, key_bytes: int, hash_name: str) -> None:
    header = bytearray(make_header(mode, key_bytes, hash_name))
    header[UUID : UUID + 4] = b"uuid"
    told = describe_luks(bytes(header))
    slots: list[dict[str, Any]] = told.pop("slots")
    cipher_mode, _, generator = mode.partition("-")
    names = dict(
        zip(("ivgen-alg", "ivgen-hash-alg"), filter(None, generator.split(":")), strict=False)
    )
    (payload,) = struct.unpack_from(">I", header, PAYLOAD)
    assert told == {
        "format": "luks",
        "cipher-alg": f"aes-{key_bytes * (4 if cipher_mode == 'xts' else 8)}",
        "cipher-mode": cipher_mode,
        "hash-alg": hash_name,
        "detached-header": False,
        "uuid": "uuid",
        "payload-offset": payload * SECTOR,
        "master-key-iters": 1000,
        **names,
    }
    assert slots[0] == {"active": True, "key-offset": 8 * SECTOR, "iters": 1000, "stripes": 4000}
    assert [slot["active"] for slot in slots] == [True, *[False] * 7]
    assert all(slot.keys() == {"active", "key-offset"} for slot in slots[1:])
    assert sorted(slot["key-offset"] for slot in slots) == [slot["key-offset"] for slot in slots]


@pytest.mark.parametrize(("at", "value"), [(0, b"SKUL\xba\xbe"), (6, b"\0\2"), (6, b"\0\0")])
def test_of_another_header_no_more_than_the_name_is_told(at: int, value: bytes) -> None:
    header = bytearray(make_header("xts-plain64", 64, "sha256"))
    header[at : at + len(value)] = value
    assert describe_luks(bytes(header)) == {"format": "luks"}
