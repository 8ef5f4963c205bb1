"""Host side: reads a LUKS1 header: fixed fields at fixed places, each checked, nothing followed.

Source: LUKS1 On-Disk Format Specification 1.2.3, "partition header" and "key slot". What qemu and
cryptsetup would not read, or not write, is refused with the name of the field.
"""

from __future__ import annotations

from ..base.errors import ImageRejected
from ..base.luks_layout import (
    ACTIVE,
    FIELDS,
    HEADER_SIZE,
    INACTIVE,
    MAGIC,
    SECTOR_SIZE,
    SLOT,
    SLOTS,
    STRIPES,
    place_of,
)
from ..base.record import record
from ..base.refusals import luks_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_FIRST_AREA = 4096 // SECTOR_SIZE
# Where each field is that a refusal can be about.
_PAYLOAD, _KEY_BYTES, _ITERATIONS = 104, 108, 164
_STATE, _SLOT_ITERATIONS, _KEY_OFFSET, _SLOT_STRIPES = 0, 4, 40, 44

_IVS = ("plain", "plain64", "essiv:sha256")
MODES = {
    **{f"xts-{iv}": (32, 64) for iv in _IVS},  # two keys; with AES-192 the library has none
    **{f"cbc-{iv}": (16, 24, 32) for iv in _IVS},
    **dict.fromkeys(("ecb", "ecb-plain", "ecb-plain64"), (16, 24, 32)),
}
"""The modes of AES that are known, and the bytes of key that each may have."""
HASHES = {"sha1": 20, "sha256": 32, "sha512": 64, "ripemd160": 20}
"""The hashes that are known, and the bytes of a digest."""
_CIPHERS = {b"aes".ljust(32, b"\0"): "aes"}
_MODES = {name.encode().ljust(32, b"\0"): name for name in MODES}
_HASHES = {name.encode().ljust(32, b"\0"): name for name in HASHES}


@record
class Slot:
    """One keyslot."""

    number: int
    active: bool
    iterations: int
    salt: bytes
    area: int
    """Where its key material is, in sectors from the start of the header."""


@record
class Header:
    """A LUKS1 header, all of whose fields make sense."""

    mode: str
    """One of MODES."""
    hash: str
    """One of HASHES."""
    key_bytes: int
    """Of the master key."""
    digest: bytes
    """Of the master key, by PBKDF2 with the salt and the iterations that follow."""
    salt: bytes
    iterations: int
    slots: tuple[Slot, ...]

    @property
    def area_sectors(self) -> int:
        """How many sectors the key material of a slot takes."""
        return -(-self.key_bytes * STRIPES // SECTOR_SIZE)

    @property
    def active(self) -> tuple[Slot, ...]:
        """The slots that are in use."""
        return tuple(slot for slot in self.slots if slot.active)


def read_header(raw: bytes, length: int) -> Header:
    """Read HEADER_SIZE bytes, the start of a region of `length` bytes. ImageRejected.

    The work is bounded: each byte is read about once.
    """
    if len(raw) != HEADER_SIZE:
        raise ImageRejected((luks_refusal("luks_truncated", len(raw), HEADER_SIZE),))
    magic, version, *rest = FIELDS.unpack_from(raw)
    if magic != MAGIC:
        raise ImageRejected((luks_refusal("luks_magic"),))
    if version != 1:
        raise ImageRejected((luks_refusal("luks_version", version),))
    cipher, mode, hash_name, payload, key_bytes, digest, salt, iterations, _uuid = rest
    if cipher not in _CIPHERS or mode not in _MODES or hash_name not in _HASHES:
        raise ImageRejected((luks_refusal("luks_cipher", names=(cipher, mode, hash_name)),))
    if key_bytes not in MODES[_MODES[mode]]:
        _refuse(_KEY_BYTES, key_bytes)
    if iterations < 1:
        _refuse(_ITERATIONS, iterations)
    header = Header(
        *(_MODES[mode], _HASHES[hash_name], key_bytes, digest, salt, iterations),
        slots=tuple(_read_slot(raw, number) for number in range(SLOTS)),
    )
    if payload * SECTOR_SIZE < HEADER_SIZE:
        _refuse(_PAYLOAD, payload)
    _check_areas(header, min(length // SECTOR_SIZE, payload))
    return header


def _read_slot(raw: bytes, number: int) -> Slot:
    state, iterations, salt, area, stripes = SLOT.unpack_from(raw, place_of(number))
    if state not in (ACTIVE, INACTIVE):
        _refuse(place_of(number, _STATE), state)
    if state == ACTIVE and iterations < 1:
        _refuse(place_of(number, _SLOT_ITERATIONS), iterations)
    if stripes != STRIPES:
        _refuse(place_of(number, _SLOT_STRIPES), stripes)
    return Slot(number, state == ACTIVE, iterations, salt, area)


def _check_areas(header: Header, end: int) -> None:
    """See that all areas lie between the header and `end`, in sectors, and none in another."""
    last = _FIRST_AREA
    for slot in sorted(header.slots, key=lambda slot: slot.area):
        if not last <= slot.area <= end - header.area_sectors:
            _refuse(place_of(slot.number, _KEY_OFFSET), slot.area)
        last = slot.area + header.area_sectors


def _refuse(place: int, value: int) -> NoReturn:
    raise ImageRejected((luks_refusal("luks_header", place, value),))


def pack_slot(raw: bytearray, slot: Slot) -> None:
    """Put a slot into the header's bytes."""
    state = ACTIVE if slot.active else INACTIVE
    fields = state, slot.iterations, slot.salt, slot.area, STRIPES
    SLOT.pack_into(raw, place_of(slot.number), *fields)
