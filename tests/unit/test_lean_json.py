"""Test side: JSON between our processes is what the package json makes of it, and no wider."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.base.lean_json import dump_line, load_text, load_told
from instar.vmm.base.record import record

NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1)
# With what a file name can hold that is no text.
TEXTS = st.text(st.characters(codec=None))
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS


def nested(plain: Any) -> Any:
    return st.recursive(plain, lambda part: st.lists(part) | st.dictionaries(TEXTS, part))


@record
class Pair:
    """What stands for a result."""

    name: str
    parts: tuple[int, ...]


@given(nested(PLAIN | st.floats(allow_nan=False)))
def test_a_document_is_written_and_read_as_the_package_does(value: Any) -> None:
    text = dump_line(value)
    assert text == json.dumps(value)
    assert load_text(text) == json.loads(text)
    assert load_text(f"\t {json.dumps(value, indent=1)}\r\n") == value


@given(st.text('{}[]":,1e.-\\nullxé \n\t'))
def test_text_is_json_where_it_is_to_the_package(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - any words will do
            load_text(text)
    else:
        assert load_text(text) == value


@given(nested(PLAIN))
def test_an_answer_is_read_as_the_package_does(value: Any) -> None:
    assert load_told(json.dumps(value).encode()) == value
    assert load_told(bytearray(json.dumps([value], indent=1).encode())) == [value]


def test_a_record_is_written_by_its_fields() -> None:
    assert dump_line({"result": Pair("a", (1, 2))}) == '{"result": {"name": "a", "parts": [1, 2]}}'


def test_an_unbounded_time_is_a_time() -> None:
    assert load_text(dump_line({"timeout": float("inf")})) == {"timeout": float("inf")}


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b" ", b"1 2", b"{} {}", b"[1,]", b"{'a': 1}", b"nul", b"\xff", b'"\xff"'),
        *(b'"a\nb"', b"\xef\xbb\xbf1", "1".encode("utf-16"), b'{"a" 1}', b'{"a": 1', b"[1", b'"'),
        *(b"1.0", b"1e3", b"NaN", b"Infinity", b"-Infinity", b"1" * 21, b"-" + b"1" * 20),
        b'{"a": [' + b"1" * 100_000 + b"]}",
    ],
    ids=repr,
)
def test_what_no_honest_process_tells_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any words will do
        load_told(text)


def test_what_is_too_deep_is_refused() -> None:
    with pytest.raises(RecursionError):
        load_told(b"[" * 200_000)


MALFORMED = (
    *("", "{", "nul", "[1,]", '{"a" 1}', '{"a": 1', '{"a": 1,}', '{"a": 1 "b": 2}', "{1: 2}"),
    *('"a', '"a\nb"', r'"\x"', r'"\u12"', '["a" "b"]', "[", '{"a"', "1 2", "-", "nu", '{"a":'),
)
WITHOUT_JSON = f"""
import sys
sys.path[:0] = {sys.path!r}
from instar.vmm.base.lean_json import load_text, load_told
from instar.vmm.cli.shapes import read_document
from instar.vmm.inspect.references import _read_json
found = []
for text in {MALFORMED!r}:
    for read in (
        load_text,
        lambda text: load_told(text.encode()),
        lambda text: read_document(text.encode(), "info"),
    ):
        assert "json" not in sys.modules or sys.version_info >= (3, 12)
        try:
            found.append(read(text))
        except ValueError:
            pass
    assert _read_json(text) == ((), ())
assert not found, found
"""


def test_malformed_text_is_a_value_error_where_json_was_never_imported() -> None:
    # As in the command; this process, which pytest is in, has imported it.
    line = [sys.executable, "-I", "-S", "-c", WITHOUT_JSON]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
