"""Host side: names in an image that its readers would open, taken apart as qemu takes them apart.

The names are hostile text. They are shown, never used: nothing here looks whether there is a file.
"""

from __future__ import annotations

from ..base.lean_json import load_text
from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@record
class Reference:
    """A name that a reader of the image opens, unless it is told otherwise."""

    role: str
    """"backing-file" or "data-file"."""
    name: str
    """As it stands in the image; a byte that is not UTF-8 is a surrogate escape (PEP 383)."""
    format: str | None
    """The format it is opened in; None if that is left to a probe of what is there."""
    protocol: str
    """"file", "json", or what stands before the first colon, such as "nbd"."""
    resolved: str | None
    """Where the name leads, of a file; None if it is empty.

    A relative one begins where its reader works, as that of a data file does, and what follows
    "file:"; other names of backing files, in the image's folder.
    """
    drivers: tuple[str, ...] = ()
    """The drivers that a json: name asks for."""
    names: tuple[str, ...] = ()
    """What a json: or protocol name holds besides: files, hosts, exports."""


def describe_reference(role: str, name: str, fmt: str | None, image: str) -> Reference:
    """Take a name apart; `image` is the path of the image that has it."""
    protocol, rest = split_protocol(name)
    if protocol == "json":
        drivers, names = _read_json(rest)
        return Reference(role, name, fmt, protocol, None, drivers, names)
    if protocol not in (None, "file"):
        return Reference(role, name, fmt, protocol, None, (), (rest,) if rest else ())
    is_beside = name and protocol is None and role != "data-file"
    return Reference(role, name, fmt, "file", resolve(rest, image) if is_beside else rest or None)


def split_protocol(name: str) -> tuple[str | None, str]:
    """The protocol of a name, if it has one, and the rest (QEMU, path_has_protocol)."""
    before, colon, after = name.partition(":")
    return (before, after) if colon and "/" not in before else (None, name)


def resolve(name: str, image: str) -> str:
    """Where a name of a file leads, from the image's folder on (QEMU, path_combine)."""
    if name.startswith("/"):
        return name
    return image[: image.rfind("/") + 1] + name


def full_name(name: str, image: str) -> str:
    """A backing file's name as qemu completes it: one with a protocol stays as it is."""
    return resolve(name, image) if split_protocol(name)[0] is None else name


def _read_json(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The drivers and the other strings of a json: name, in order, each once; none if malformed."""
    try:
        pairs = list(_strings(load_text(_with_double_quotes(text))))
    except (ValueError, RecursionError):
        return (), ()
    drivers = dict.fromkeys(value for key, value in pairs if _is_driver(key))
    names = dict.fromkeys(value for key, value in pairs if not _is_driver(key))
    return tuple(drivers), tuple(names)


def _with_double_quotes(text: str) -> str:
    r"""JSON whose strings may stand in single quotes, and have \' in them (QEMU, json-lexer.c)."""
    told: list[str] = []
    quote, chars = "", iter(text)
    for char in chars:
        if quote and char == "\\":
            escaped = next(chars, "")
            told.append(escaped if escaped == "'" else char + escaped)
        elif char == quote or (not quote and char in ("'", '"')):
            quote = "" if quote else char
            told.append('"')
        else:
            told.append('\\"' if char == '"' else char)
    return "".join(told)


def _is_driver(key: str) -> bool:
    return key.rpartition(".")[2] == "driver"


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings of a document, each with the key that it stands under."""
    left = [(key, value)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += reversed([(str(name), part) for name, part in value.items()])
        elif isinstance(value, list):
            left += reversed([(key, part) for part in value])
        elif isinstance(value, str):
            yield key, value
