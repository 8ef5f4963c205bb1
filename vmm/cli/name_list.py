"""Host side: the names of images in a list, from a file or from stdin, as they are needed.

Lists come from other systems too: a byte order mark and carriage returns are no part of a name,
unless a file of exactly that name is there. A list that `find -print0` wrote is taken as it is.
"""

from __future__ import annotations

import os
import sys

from ..base.errors import HostError, UsageError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_MAX = 1 << 16
"""Bytes of a name, of which the kernel takes 4096 (PATH_MAX): longer ones are no list of names."""

_BLOCK = 1 << 16
_QCOW = b"QFI\xfb"
_BOM, _UTF16_BOMS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


def read_names(source: str, *, null: bool) -> Iterator[str]:
    """The names in the file `source`, or in stdin if that is "-"; empty ones are none.

    A name ends with a NUL byte if `null`, else with a line. Raises HostError if the list cannot be
    read, UsageError if it is none.
    """
    called = "standard input" if source == "-" else f"'{source}'"
    try:
        if source != "-":
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        elif sys.stdin is None or sys.stdin.closed:
            raise HostError(f"could not read {called}: it is closed")
        else:
            descriptor = sys.stdin.fileno()
        try:
            names = _split(descriptor, called, b"\0" if null else b"\n")
            yield from map(os.fsdecode, (_see_ends if null else _clean)(names, called))
        finally:
            if source != "-":
                os.close(descriptor)
    except OSError as error:
        raise HostError(f"could not read {called}: {reason_of(error)}") from error


def _split(descriptor: int, called: str, end: bytes) -> Iterator[bytes]:
    """What stands between the ends, but for nothing. Takes no more memory than a name and a block.

    UsageError for a name that is too long to be one.
    """
    rest = b""
    first = True
    while block := os.read(descriptor, _BLOCK):
        if first and block.startswith(_QCOW):
            raise UsageError(f"{called} is an image, and not a list of names")
        first = False
        *names, rest = (rest + block).split(end)
        yield from filter(None, names)
        if len(rest) > NAME_MAX:
            what = "NUL byte" if end == b"\0" else "newline"
            other = (
                "" if end == b"\0" or b"\0" not in rest else "; names end with NUL: add --null (-0)"
            )
            raise UsageError(
                f"{called} is no list of names: {len(rest)} bytes without a {what}{other}"
            )
    if rest:
        yield rest


def _see_ends(names: Iterator[bytes], called: str) -> Iterator[bytes]:
    """Pass names on. UsageError if one is a list of lines of which the first names a file."""
    for name in names:
        line, newline, _ = name.partition(b"\n")
        if newline and not _exists(name) and _exists(line):
            raise UsageError(f"{called} has a name on each line: leave out --null (-0)")
        yield name


def _clean(names: Iterator[bytes], called: str) -> Iterator[bytes]:
    first = True
    for name in names:
        if first and name.startswith(_UTF16_BOMS) and not _exists(name):
            raise UsageError(f"{called} is in UTF-16; write the list in UTF-8")
        if b"\0" in name:
            raise UsageError(
                f"{called} has a NUL byte: add --null (-0) if names end with it, or else it is no "
                "list of names"
            )
        plain = name.removesuffix(b"\r")
        plain = plain.removeprefix(_BOM) if first else plain
        first = False
        # Of what may be meant, what is there: the name to the letter before all others.
        meant = next(filter(_exists, _spellings(name)), plain) if plain != name else name
        if meant:
            yield meant


def _spellings(name: bytes) -> tuple[bytes, ...]:
    """What a name may have been before a byte order mark and a carriage return came to it."""
    return name, name.removesuffix(b"\r"), name.removeprefix(_BOM)


def _exists(name: bytes) -> bool:
    try:
        os.lstat(name)
    except (OSError, ValueError):
        return False
    return True
