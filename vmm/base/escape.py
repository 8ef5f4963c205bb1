"""Host side: makes hostile text fit for one line of a terminal or a log."""

from __future__ import annotations


def escape(text: str) -> str:
    r"""Return `text` in one line, with what is not printable as \n, \xff or \u202e.

    A byte of a file name that is not UTF-8 (PEP 383) comes out as that byte.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def escape_around(text: str, name: str) -> str:
    """Return `text` as escape() does, but for the image's name, which is ours."""
    return name.join(map(escape, text.split(name))) if name else escape(text)


def _escape_char(char: str) -> str:
    raw = char.encode("utf-8", "surrogateescape") if "\udc80" <= char <= "\udcff" else b""
    if raw:
        return f"\\x{raw[0]:02x}"
    # As the codec unicode_escape does it, which is a file that a confined process could not open.
    return ascii(char)[1:-1]
