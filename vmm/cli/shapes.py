"""Host side: what documents of children can be: a child may have been taken over by its image.

A shape is a dict of shapes by their keys ("key?" may be left out), a list of the one shape that all
parts have, or a function that judges a plain value. So whatever a child says has the types and the
ranges of an honest answer, in which only what is hostile text anyway is free.
"""

from __future__ import annotations

from ..base.lean_json import load_told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def read_document(text: bytes | bytearray, shape: str) -> dict[str, Any]:
    """Read a document of this shape, by its name, or that of an error. ValueError if neither."""
    document = load_told(text)
    if isinstance(document, dict):
        document.pop("filename", None)  # is known without asking
        if fits(document, FAILURE if "error" in document else SHAPES[shape]):
            return document
    raise ValueError("not a document that an honest child makes")


def fits(value: Any, shape: Any) -> bool:
    """Whether a value from outside has this shape."""
    if isinstance(shape, list):
        return type(value) is list and all(fits(part, shape[0]) for part in value)
    if not isinstance(shape, dict):
        return bool(shape(value))
    if type(value) is not dict:
        return False
    parts = {key.removesuffix("?"): part for key, part in shape.items()}
    needed = {key for key in shape if not key.endswith("?")}
    return needed <= value.keys() <= parts.keys() and all(
        fits(part, parts[key]) for key, part in value.items()
    )


def _number(start: int, end: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and start <= value < end


def _one_of(*values: object) -> Callable[[object], bool]:
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    """Hostile text, which is escaped where people read it."""
    return type(value) is str


def _is_word(value: object) -> bool:
    """Text of this program's own, in one line."""
    return type(value) is str and value.isprintable()


def _or_none(judge: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or judge(value)


def _are_numbers(value: object) -> bool:
    return (
        type(value) is dict
        and all(map(str.isidentifier, value))
        and all(map(_count, value.values()))
    )


_count = _number(0, 1 << 64)
_signed = _number(-(1 << 63), 1 << 63)
_REFUSAL = {
    **dict.fromkeys(("name", "code"), _is_word),
    **dict.fromkeys(("number", "code_number"), _count),
    "message": _is_text,
    "detail": _are_numbers,
    "names": [_is_text],
}
FAILURE = {
    "error": {
        "kind": _is_word,
        "message": _is_text,
        "exit_status": _one_of(1, 2),
        "refusals": [_REFUSAL],
    }
}
_FINDING = {
    "name": _is_word,
    "counts_as": _one_of("corruptions", "leaks", "check-errors", "overlaps"),
    "message": _is_text,
    "detail": _are_numbers,
}
REPAIR = {
    "extent": _one_of("leaks", "all"),
    "action": _one_of("noop", "amended"),
    **dict.fromkeys(("atomic", "dry-run"), _is_flag),
    "bytes-written": _count,
}
"""What a repair has done."""
CHECK = {
    "format": _one_of("qcow2"),
    **dict.fromkeys(("check-errors", "overlaps"), _count),
    **dict.fromkeys(("dirty", "corrupt"), _is_flag),
    "findings": [_FINDING],
    "payload-sha256": _is_word,
    "exit-status": _one_of(0, 1, 2, 3),
    **dict.fromkeys(("image-end-offset?", "total-clusters?", "allocated-clusters?"), _count),
    **dict.fromkeys(("fragmented-clusters?", "compressed-clusters?"), _count),
    **dict.fromkeys(("corruptions?", "leaks?", "corruptions-fixed?", "leaks-fixed?"), _count),
    "repair?": {**REPAIR, "findings": [_FINDING]},
}
"""CheckResult.to_dict(), and what the command adds."""
_LUKS = {
    "format": _one_of("luks", "aes"),
    **dict.fromkeys(("cipher-alg?", "cipher-mode?", "hash-alg?", "uuid?"), _is_text),
    **dict.fromkeys(("ivgen-alg?", "ivgen-hash-alg?"), _is_text),
    "detached-header?": _is_flag,
    **dict.fromkeys(("payload-offset?", "master-key-iters?"), _count),
    "slots?": [
        {"active": _is_flag, **dict.fromkeys(("key-offset", "iters?", "stripes?"), _count)},
    ],
}
_DETAILS = {
    **dict.fromkeys(("compat", "compression-type"), _is_word),
    "refcount-bits": _number(1, 65),
    **dict.fromkeys(("lazy-refcounts?", "corrupt?", "extended-l2?", "data-file-raw?"), _is_flag),
    "data-file?": _is_text,
    "encrypt?": _LUKS,
    "bitmaps?": [{"name": _is_text, "granularity": _count, "flags": [_one_of("in-use", "auto")]}],
}
_SNAPSHOT = {
    **dict.fromkeys(("id", "name"), _is_text),
    **dict.fromkeys(("vm-state-size", "icount?"), _signed),
    **dict.fromkeys(("date-sec", "date-nsec"), _number(0, 1 << 32)),
    **dict.fromkeys(("vm-clock-sec", "vm-clock-nsec"), _count),
}
_FILE = {
    "children": _one_of([]),
    **dict.fromkeys(("virtual-size", "actual-size"), _count),
    "filename": _is_text,
    "format": _one_of("file", "host_device"),
    "format-specific": {"type": _one_of("file"), "data": _one_of({})},
    "dirty-flag": _one_of(False),
}
_REFERENCE = {
    "role": _one_of("backing-file", "data-file"),
    **dict.fromkeys(("name", "protocol"), _is_text),
    **dict.fromkeys(("format", "resolved"), _or_none(_is_text)),
    "drivers": [_is_text],
    "names": [_is_text],
}
_FEATURE = {
    "kind": _one_of("incompatible", "compatible", "autoclear"),
    "bit": _number(0, 64),
    "name": _or_none(_is_text),
}
INFO = {
    "format": _is_word,
    "actual-size": _count,
    "dirty-flag": _is_flag,
    "children": [{"name": _one_of("file"), "info": _FILE}],
    "contents": [_is_word],
    "cut": [_one_of("snapshots", "bitmaps")],
    "references": [_REFERENCE],
    "unknown-features": [_FEATURE],
    "problems": [_REFUSAL],
    "payload-sha256": _or_none(_is_word),
    **dict.fromkeys(("virtual-size?", "cluster-size?"), _count),
    "encrypted?": _one_of(True),
    **dict.fromkeys(("backing-filename?", "backing-filename-format?"), _is_text),
    "full-backing-filename?": _is_text,
    "snapshots?": [_SNAPSHOT],
    "format-specific?": {"type": _is_word, "data": _DETAILS},
    "violations?": [{"name": _is_word, "message": _is_text, "by_host": _is_flag}],
}
"""ImageInfo.to_dict(), and what the command adds."""
SHAPES = {"info": INFO, "check": CHECK, "repair": REPAIR}
