"""Test side: lists of names as other programs and other systems write them."""

from __future__ import annotations

import io
import os
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from instar.vmm.base.errors import HostError, UsageError
from instar.vmm.cli.name_list import NAME_MAX, read_names

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: bytes, *, null: bool = False) -> list[str]:
    Path("list").write_bytes(text)
    return list(read_names("list", null=null))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb c\r\n\r\n", ["a", "b c"]),
        (BOM + b"a\nb\n", ["a", "b"]),
        (BOM + b"a\r\nb\r\n", ["a", "b"]),
        (BOM, []),
        (b"a\n" + BOM + b"b\n", ["a", "\ufeffb"]),
        (b"\xff\n", ["\udcff"]),
    ],
)
def test_lines_are_names(text: bytes, names: list[str]) -> None:
    assert read(text) == names


@pytest.mark.parametrize("name", [b"a\r", BOM + b"a", BOM + b"a\r"])
def test_a_file_of_exactly_that_name_is_meant(name: bytes) -> None:
    for other in (b"a", b"a\r", BOM + b"a", name):
        Path(os.fsdecode(other)).touch()
        if other == name:
            break
    assert read(name + b"\n") == [os.fsdecode(name)]


def test_a_name_that_ends_with_a_carriage_return_wins_over_one_that_does_not() -> None:
    Path("a").touch()
    assert read(b"a\r\n") == ["a"]
    Path("a\r").symlink_to("nowhere")
    assert read(b"a\r\n") == ["a\r"]


def test_names_that_end_with_nul_are_taken_as_they_are() -> None:
    assert read(BOM + b"a\r\0b\n\0\0c", null=True) == ["\ufeffa\r", "b\n", "c"]


def test_names_that_end_with_nul_are_named_where_lines_are_expected() -> None:
    with pytest.raises(
        UsageError, match=r"^'list' has a NUL byte: add --null \(-0\) if names end with it"
    ):
        read(b"a\0b\0")


def test_lines_read_as_names_that_end_with_nul_get_a_hint() -> None:
    Path("a").touch()
    with pytest.raises(UsageError, match=r"a name on each line: leave out --null \(-0\)$"):
        read(b"a\nb\n", null=True)
    Path("a\nb").touch()
    assert read(b"a\nb\0", null=True) == ["a\nb"]


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("rest", [b"\0\0\0\3", b"\0\0\0\3" + bytes(1 << 18)], ids=len)
def test_an_image_in_place_of_the_list_is_named(rest: bytes, null: bool) -> None:
    with pytest.raises(UsageError, match=r"^'list' is an image, and not a list of names$"):
        read(b"QFI\xfb" + rest, null=null)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(codec: str) -> None:
    with pytest.raises(UsageError, match=r"^'list' is in UTF-16; write the list in UTF-8$"):
        read("\ufeffa\r\n".encode(codec))


@pytest.mark.parametrize(
    ("null", "fill", "hint"),
    [
        (False, b"x", "newline"),
        (True, b"x", "NUL byte"),
        (False, b"a\0b", "newline; names end with NUL: add --null (-0)"),
    ],
)
def test_a_file_that_is_no_list_is_refused_at_once(null: bool, fill: bytes, hint: str) -> None:
    Path("list").write_bytes(fill * (32 << 20))
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(UsageError) as caught:
        list(read_names("list", null=null))
    seconds, (_, most) = time.monotonic() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value) == f"'list' is no list of names: {2 << 16} bytes without a {hint}"
    assert seconds < 1
    assert most < 8 * NAME_MAX


def test_a_long_name_is_left_to_the_open() -> None:
    assert read(b"x" * NAME_MAX + b"\na\n") == ["x" * NAME_MAX, "a"]


def test_a_list_is_read_as_names_are_wanted() -> None:
    out, into = os.pipe()
    os.write(into, b"a\nb")
    names = read_names(f"/dev/fd/{out}", null=False)
    assert next(names) == "a"
    os.write(into, b"c\n")
    assert next(names) == "bc"
    os.close(into)
    assert list(names) == []
    os.close(out)


@pytest.mark.parametrize("closed", [None, io.StringIO()])
def test_a_standard_input_that_is_closed_is_named(
    closed: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if closed:
        closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    with pytest.raises(HostError, match=r"^could not read standard input: it is closed$"):
        list(read_names("-", null=False))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a\0b\0", "has a NUL byte"),
        (b"QFI\xfb", "is an image"),
        (b"\xff\xfea\0", "is in UTF-16"),
        (b"x" * (NAME_MAX + 1), "is no list of names"),
    ],
)
def test_standard_input_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, text: bytes, told: str
) -> None:
    Path("list").write_bytes(text)
    with Path("list").open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(UsageError, match=f"^standard input {told}"):
            list(read_names("-", null=False))


@pytest.mark.parametrize(("source", "what"), [(".", "Is a directory"), ("none", "No such file")])
def test_a_list_that_cannot_be_read_is_named(source: str, what: str) -> None:
    with pytest.raises(HostError, match=f"^could not read '{source}': {what}"):
        list(read_names(source, null=False))
