"""Test side: a hostile LUKS header is accepted or refused by name, and nothing else happens."""

from __future__ import annotations

from struct import pack_into

import pytest

from instar.vmm.amend.result import KEYSLOTS
from instar.vmm.base.errors import ImageRejected
from instar.vmm.base.luks_layout import HEADER_SIZE, SLOTS
from instar.vmm.base.refusals import is_known
from instar.vmm.luks.header import read_header
from tests.support.luks_headers import make_header

LENGTH = 4040 * 512
SLOT = 208


def header() -> bytearray:
    """A header as qemu makes it, with slot 0 in use."""
    return bytearray(make_header("xts-plain64", 64, "sha256"))


HOSTILE = {
    "another magic": (0, b"LUKT", "luks_magic"),
    "version 0": (6, b"\0\0", "luks_version"),
    "version 2": (6, b"\0\2", "luks_version"),
    "serpent": (8, b"serpent", "luks_cipher"),
    "a cipher without end": (8, b"a" * 32, "luks_cipher"),
    "more after the end of a cipher": (8, b"aes\0x", "luks_cipher"),
    "no cipher": (8, bytes(32), "luks_cipher"),
    "a mode without end": (40, b"x" * 32, "luks_cipher"),
    "an unknown mode": (40, b"xts-plain65", "luks_cipher"),
    "an unknown hash": (72, b"sha3\0\0", "luks_cipher"),
    "a payload at 0": (104, bytes(4), "luks_header"),
    "a payload among the areas": (104, b"\0\0\x0f\x00", "luks_header"),
    **{
        f"{n} bytes of key": (108, n.to_bytes(4, "big"), "luks_header") for n in (0, 16, 48, 63, 65)
    },
    "2^32 - 1 bytes of key": (108, b"\xff" * 4, "luks_header"),
    "no iterations": (164, bytes(4), "luks_header"),
    "no state": (SLOT, bytes(4), "luks_header"),
    "a slot in use without iterations": (SLOT + 4, bytes(4), "luks_header"),
    "stripes 0": (SLOT + 44, bytes(4), "luks_header"),
    "stripes 4001": (SLOT + 48 * 7 + 44, b"\0\0\x0f\xa1", "luks_header"),
    "an area over the header": (SLOT + 40, b"\0\0\0\7", "luks_header"),
    "an area over another": (SLOT + 88, b"\0\0\0\x0a", "luks_header"),
    "an area of a slot not in use after the end": (SLOT + 48 * 7 + 40, b"\xff" * 4, "luks_header"),
}


def reason(raw: bytes, length: int = LENGTH) -> str:
    """The name of the refusal, or nothing."""
    try:
        read_header(raw, length)
    except ImageRejected as error:
        (refusal,) = error.refusals
        assert is_known(refusal)
        assert refusal.code == "ENCRYPTION"
        return refusal.name
    return ""


def test_a_header_of_qemu_is_read() -> None:
    found = read_header(bytes(header()), LENGTH)
    assert (found.mode, found.hash, found.key_bytes) == ("xts-plain64", "sha256", 64)
    assert [slot.number for slot in found.active] == [0]


@pytest.mark.parametrize("name", HOSTILE)
def test_each_bad_field_is_refused_by_name(name: str) -> None:
    at, value, expected = HOSTILE[name]
    raw = header()
    raw[at : at + len(value)] = value
    assert reason(bytes(raw)) == expected


NAMED = {
    "the payload offset": (104, 4, b"\0\0\0\1"),
    "the key size in bytes": (108, 4, b"\0\0\0\1"),
    "the number of iterations": (164, 4, bytes(4)),
    "the state of keyslot 0": (SLOT, 4, bytes(4)),
    "the number of iterations of keyslot 0": (SLOT + 4, 4, bytes(4)),
    "the key offset of keyslot 7": (SLOT + 48 * 7 + 40, 4, bytes(4)),
    "the stripes of keyslot 7": (SLOT + 48 * 7 + 44, 4, bytes(4)),
}


@pytest.mark.parametrize("field", NAMED)
def test_the_field_that_is_wrong_is_named(field: str) -> None:
    at, size, value = NAMED[field]
    raw = header()
    raw[at : at + size] = value
    with pytest.raises(ImageRejected) as caught:
        read_header(bytes(raw), LENGTH)
    assert field in caught.value.refusals[0].message


def test_a_payload_after_the_header_is_right_and_the_areas_are_wrong() -> None:
    raw = header()
    pack_into(">I", raw, 104, 2)
    with pytest.raises(ImageRejected, match="the key offset of keyslot"):
        read_header(bytes(raw), LENGTH)


@pytest.mark.parametrize("size", [0, 1, 207, HEADER_SIZE - 1, HEADER_SIZE + 1])
def test_a_header_that_is_not_whole_is_refused(size: int) -> None:
    assert reason(bytes(header()).ljust(size, b"\0")[:size]) == "luks_truncated"


def test_areas_lie_in_the_region_and_before_the_payload() -> None:
    end = (8 + 504 * 7 + 500) * 512
    assert reason(bytes(header()), end) == ""
    assert reason(bytes(header()), end - 1) == "luks_header"


def test_iterations_may_be_as_many_as_a_field_holds() -> None:
    raw = header()
    pack_into(">I", raw, 164, 0xFFFFFFFF)
    pack_into(">I", raw, SLOT + 4, 0xFFFFFFFF)
    assert reason(bytes(raw)) == ""  # that they take too long is told when they are to be tried


def test_a_result_names_as_many_slots_as_there_are() -> None:
    assert len(KEYSLOTS) == SLOTS
    assert HEADER_SIZE == 592
