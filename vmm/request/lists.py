"""Host side: how the command reads -o lists and sizes: to the letter as qemu-img does.

docs/amend.md has the rules. What there is to be read is in the table of options.
"""

from __future__ import annotations

from ..base.errors import UsageError
from .kinds import BOOLEANS, CHOICE, FLAG, NUMBER, SIZE, TEXT
from .options import BY_KEY, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from .kinds import Option

_SIZE_SUFFIXES = "bkmgtpe"

_CREATE_ONLY = (
    "cluster_size",
    "compression_type",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.format",
    "encrypt.hash-alg",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.key-secret",
    "encryption",
    "extended_l2",
    "keep_data_file",
    "preallocation",
)

# What -o help says that a value is.
_TYPES = {FLAG: "bool (on/off)", NUMBER: "num", SIZE: "size"}

_QUOTE_LIMIT = 60


class _Bare(str):
    """The value that a key alone stands for."""

    __slots__ = ()


def options_help(form: str = "qcow2") -> str:
    """Return the answer to -o help: the keys, as qemu-img lists them."""
    from .key_options import key_options

    options = (*(OPTIONS if form == "qcow2" else ()), *key_options(form))
    lines = [f"  {option.key}=<{_TYPES.get(option.kind, 'str')}>" for option in options]
    texts = [option.help for option in options]
    rows = (f"{line:<24} - {text}\n" for line, text in zip(lines, texts, strict=True))
    return f"Amend options for '{form}':\n" + "".join(rows)


def not_amendable() -> dict[str, tuple[str, ...]]:
    """The keys that qemu-img knows and that cannot be asked for, by what is said of them."""
    return {"option '...' cannot be amended": _CREATE_ONLY}


def parse_options(lists: Sequence[str], form: str = "qcow2") -> dict[str, Any] | None:
    """Read the arguments of all -o in order: keywords of make_request(); None if they ask for help.

    `form` is the format of the image. What is said of keyslots is under "keys", as a dict by the
    keys of key_options.py. Raises one UsageError that names all their faults.
    """
    faults = [_describe_list(text) for text in lists if not _is_list(text)]
    items = list(split_list(",".join(text for text in lists if _is_list(text))))
    if not faults and any(value is None for _key, value in items):
        return None
    given = [(key, value) for key, value in items if value is not None]
    last = dict(given)
    known = _find_known(last, form)
    faults += [_judge(known, key, value) for key, value in given]
    lasting = [row for row in known.values() if row.is_repeatable or row.kind == NUMBER]
    faults += [_fault_of(option, last[option.key]) for option in lasting if option.key in last]
    faults = [fault for fault in dict.fromkeys(faults) if fault]
    if faults:
        raise UsageError("; ".join(faults))
    found = {key: _read(known[key], value) for key, value in last.items() if key in known}
    if known is BY_KEY:
        return found
    keys = {key.rpartition(".")[2]: found.pop(key) for key in [*found] if _is_of_keys(key, form)}
    return {**found, "keys": keys} if keys else found


def _is_of_keys(key: str, form: str) -> bool:
    return form != "qcow2" or key.startswith("encrypt.")


def _find_known(last: Mapping[str, str], form: str) -> dict[str, Option]:
    """The options that an image of this format has, by their keys."""
    if not any(_is_of_keys(key, form) for key in last):
        return BY_KEY
    from .key_options import key_options

    rows = {row.key: row for row in key_options(form)}
    return {**BY_KEY, **rows} if form == "qcow2" else rows


def parse_size(text: str) -> int | None:
    """Read a size in bytes as qemu-img does: 512, 1.5G, 64k, 0x1000; None if it is none.

    The suffixes b, k, M, G, T, P and E, in either case, are powers of 1024; a part of a byte is
    rounded, as by qemu-img from 7.2 on.
    """
    if text[:2].lower() == "0x":
        digits = text[2:].lower()
        size = int(digits, 16) if digits and not digits.strip("0123456789abcdef") else None
        return size if size is None or size < 1 << 63 else None
    suffix = text[-1:].lower()
    number = text[:-1] if suffix and suffix in _SIZE_SUFFIXES else text
    whole, _, fraction = number.partition(".")
    if not whole + fraction or (whole + fraction).strip("0123456789") or len(number) > 40:
        return None
    if fraction.strip("0") and (suffix == "b" or number == text):
        return None
    shift = 10 * _SIZE_SUFFIXES.index(suffix) if number != text else 0
    parts = 10 ** len(fraction)
    size = ((int(whole + fraction) << shift + 1) + parts) // (2 * parts)
    return size if size < 1 << 63 else None


def parse_number(text: str) -> int | None:
    """Read a number as qemu-img does, in the notation of C: 16, +16, 0x10, 020; None if it is none.

    One of more than 64 bits is none.
    """
    digits = text.lstrip(" \t\n\v\f\r")
    sign = digits[:1] if digits[:1] in ("+", "-") else ""
    digits = digits[len(sign) :].lower()
    base, known = 10, "0123456789"
    if digits[:2] == "0x":
        base, known, digits = 16, "0123456789abcdef", digits[2:]
    elif digits[:1] == "0" and digits != "0":
        base, known = 8, "01234567"
    if not digits or digits.strip(known) or len(digits) > 40:
        return None
    number = int(sign + digits, base)
    return number if -(1 << 63) <= number < 1 << 64 else None


def _is_list(text: str) -> bool:
    """Tell whether nothing of a -o argument would merge with the next one's first item."""
    trailing_commas = len(text) - len(text.rstrip(","))
    return text != "" and not text.startswith(",") and trailing_commas % 2 == 0


def _describe_list(text: str) -> str:
    """Say what is wrong with a -o argument that is no list."""
    where = "start" if text.startswith(",") else "end"
    shown = f"{_shorten(text)} (an empty entry at its {where})" if text else "(it is empty)"
    return f"Invalid option list: {shown}"


def split_list(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield keys and values; a value of None means that the item asks for help."""
    while text:
        item, comma, text = text.partition(",")
        key, equals, value = item.partition("=")
        # A doubled comma is a literal one, but only in a value: after a bare key it is an empty
        # item, as in qemu-img.
        while equals and comma and text.startswith(","):
            more, comma, text = text[1:].partition(",")
            value += "," + more
        if equals:
            yield key, value
        elif key in ("help", "?"):
            yield key, None
        elif key.startswith("no"):
            yield key[2:], _Bare("off")
        else:
            yield key, _Bare("on")


def _judge(known: Mapping[str, Option], key: str, value: str) -> str:
    """Say what is wrong with an item, or nothing; of some options only the last one matters."""
    option = known.get(key)
    if option and option.kind == TEXT and isinstance(value, _Bare):
        # qemu-img takes the name 'on', or 'off', which nobody means.
        return f"Parameter '{key}' needs a value: {key}=..., or {key}= for none"
    if key == "id" or (option and option.is_repeatable):
        return ""
    if option and option.kind == NUMBER and _read(option, value) is not None:
        return ""
    if option:
        return _fault_of(option, value)
    if key in _CREATE_ONLY and "compat" in known:
        return f"option '{key}' cannot be amended: it is set when the image is created"
    if key in BY_KEY:  # of an image that is a LUKS header with data, without qcow2
        return f"option '{key}' is one of qcow2 images: with -f luks only keyslots change"
    written = f"no{key}" if isinstance(value, _Bare) and value == "off" else key
    return f"unknown option {_quote(written)}{_suggest(known, written)}"


def _fault_of(option: Option, text: str) -> str:
    """Say what is wrong with the text of a value, or nothing."""
    value = _read(option, text)
    wrong = value is None or (option.kind == CHOICE and value not in option.choices)
    if wrong:
        return option.describe_fault(_quote(text))
    try:
        option.take(value)
    except UsageError as error:  # of a size it would say how many bytes that is
        return option.describe_fault(_quote(text)) if option.kind == SIZE else str(error)
    return ""


def _read(option: Option, text: str) -> Any:
    """The keyword's value of a text; None if it is none of the option's kind."""
    if option.kind == FLAG:
        return BOOLEANS.get(text)
    if option.kind == SIZE:
        return parse_size(text)
    if option.kind == NUMBER:
        return parse_number(text)
    return text


def _suggest(known: Mapping[str, Option], key: str) -> str:
    # Imported here because only a faulty command line needs them.
    from ..base.nearest import nearest
    from .key_options import PREFIX, key_options

    if key.removeprefix(PREFIX) in known:
        return f" (of a LUKS file it is '{key.removeprefix(PREFIX)}')"
    keys = [row.key for row in key_options("qcow2")] if "compat" in known else []
    if PREFIX + key in keys:
        return f" (of a qcow2 image it is '{PREFIX}{key}', and of a LUKS file '{key}' with -f luks)"
    flags = [f"no{row.key}" for row in known.values() if row.kind == FLAG]
    meant = nearest(key, dict.fromkeys((*known, *keys, *flags)))
    return f" (did you mean '{meant}'?)" if meant else ""


def _quote(text: str) -> str:
    return f"'{_shorten(text)}'"


def _shorten(text: str) -> str:
    return text if len(text) <= _QUOTE_LIMIT else f"{text[:_QUOTE_LIMIT]}..."
