"""Test side: hostile text becomes one line that shows what is in it."""

from __future__ import annotations

import sys

from instar.vmm.base.escape import escape


def test_all_that_is_not_printable_is_escaped_as_the_codec_does_it() -> None:
    surrogates = range(0xDC80, 0xDD00)
    for number in set(range(sys.maxunicode + 1)) - set(surrogates):
        char = chr(number)
        kept = char.isprintable()
        assert escape(char) == (char if kept else char.encode("unicode_escape").decode("ascii"))


def test_a_byte_that_is_no_text_is_shown_as_that_byte() -> None:
    assert escape(b"a\xff\n".decode("utf-8", "surrogateescape")) == r"a\xff\n"
