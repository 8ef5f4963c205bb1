"""Host side: the fixed fields of a LUKS1 header, in the names of `qemu-img info`.

Source: LUKS1 On-Disk Format Specification 1.2.3, "partition header". Nothing is followed.
"""

from __future__ import annotations

from ..base.luks_layout import ACTIVE, FIELDS, MAGIC, SECTOR_SIZE, SLOT, SLOTS, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def describe_luks(header: bytes) -> dict[str, Any]:
    """What qemu says of encryption by LUKS; no more than its name without a LUKS1 header."""
    magic, version, *texts, payload, key_bytes, _, _, iterations, uuid = FIELDS.unpack_from(header)
    if magic != MAGIC or version != 1:
        return {"format": "luks"}
    cipher, mode, hash_name = map(_text, texts)
    mode, _, generator = mode.partition("-")
    generator, _, of_generator = generator.partition(":")
    told: dict[str, Any] = {
        "format": "luks",
        # Two keys, of which the cipher has but one ("XTS").
        "cipher-alg": f"{cipher}-{key_bytes * 8 // (2 if mode == 'xts' else 1)}",
        "cipher-mode": mode,
        "hash-alg": hash_name,
        "detached-header": False,
        "uuid": _text(uuid),
        "payload-offset": payload * SECTOR_SIZE,
        "master-key-iters": iterations,
        "slots": [_slot(header, place_of(number)) for number in range(SLOTS)],
    }
    if generator:
        told["ivgen-alg"] = generator
    if of_generator:
        told["ivgen-hash-alg"] = of_generator
    return told


def _slot(header: bytes, at: int) -> dict[str, Any]:
    state, iterations, _, offset, stripes = SLOT.unpack_from(header, at)
    told: dict[str, Any] = {"active": state == ACTIVE, "key-offset": offset * SECTOR_SIZE}
    if state == ACTIVE:
        told.update(iters=iterations, stripes=stripes)
    return told


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
