"""Host side: JSON by the builtin module behind json, which would import re and enum: 5 ms.

For documents of our own processes, in one line, and for those that images have for names.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_DIGITS = 20  # of a number of 64 bits, with a sign

# In the order of json.JSONEncoder: no search for circles, records by their fields, one line.
_encode = make_encoder(None, vars, encode_basestring_ascii, None, ": ", ", ", False, False, True)


def dump_line(value: object) -> str:
    """Make JSON of records and of what JSON knows itself, as json.dumps() does of the latter."""
    return "".join(_encode(value, 0))


class _Context:
    """What json.JSONDecoder is to the scanner."""

    strict = True
    object_hook = object_pairs_hook = None

    def __init__(self, parse_int: object, parse_float: object, parse_constant: object) -> None:
        self.parse_int, self.parse_float = parse_int, parse_float
        self.parse_constant = parse_constant
        self.memo: dict[str, str] = {}


def _load(scan: Callable[[str, int], tuple[Any, int]], text: str) -> Any:
    text = text.strip(" \t\n\r")
    try:
        value, end = scan(text, 0)
    except (ValueError, RecursionError, MemoryError):
        raise
    except Exception:
        # The scanner wants the error that json.decoder has. Where that was not imported, Python up
        # to 3.11 has it fail without one (SystemError), and later ones import it, which a confined
        # process cannot. StopIteration means that nothing begins here.
        raise ValueError("no JSON") from None
    if end != len(text):
        raise ValueError("more than JSON")
    return value


def _int(digits: str) -> int:
    """Read a number that nothing of ours exceeds; to read a longer one would take long."""
    return int(digits) if len(digits) <= _DIGITS else _refuse(digits)


def _refuse(_text: str) -> NoReturn:
    raise ValueError("a number that no honest process tells")


# Any object with these fields will do.
_scan_any = make_scanner(_Context(int, float, float))  # type: ignore[arg-type]
_scan_told = make_scanner(_Context(_int, _refuse, _refuse))  # type: ignore[arg-type]


def load_text(text: str) -> Any:
    """Read what json.loads() reads. ValueError, or RecursionError for what is too deep."""
    return _load(_scan_any, text)


def load_told(text: bytes | bytearray) -> Any:
    """Read what a process tells that may have been taken over: whole numbers of 64 bits only.

    ValueError, or RecursionError for what is too deep.
    """
    return _load(_scan_told, text.decode())
