"""Test side: a secret is what its file or its text holds, whole, or one error says why not."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from instar.vmm.base.errors import HostError, InstarError, UsageError
from instar.vmm.cli.secrets import read_secret

MOST = 1 << 20


def read(**fields: str) -> bytes:
    return bytes(read_secret({"id": fields}, "id"))


@pytest.mark.parametrize("size", [0, 1, 4096, MOST - 1, MOST])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    text = (b"0123456789\n" * (size // 11 + 1))[:size]
    path = tmp_path / "secret"
    path.write_bytes(text)
    assert read(file=str(path)) == text


@pytest.mark.parametrize("size", [MOST + 1, MOST + 2, 2 * MOST])
def test_a_file_that_is_too_long_is_not_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"0" * size)
    for name in (str(path), "/dev/zero"):
        with pytest.raises(UsageError, match=f"{name}: it has more than {MOST} bytes$"):
            read(file=name)


@pytest.mark.parametrize("text", ["", "one", "one\n", "\u00e9\u20ac"])
def test_text_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_bytes(text.encode())
    coded = base64.encodebytes(text.encode()).decode()
    for form, word in (("raw", text), ("base64", coded), ("base64", coded.replace("\n", "\r\n"))):
        assert read(data=word, format=form) == text.encode()
    assert read(data=text) == read(file=str(tmp_path / "secret")) == text.encode()


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"data": "a", "keyid": "k"}, UsageError, "'id': keyid is not supported"),
        ({"data": "a", "iv": "aaaa"}, UsageError, "'id': iv is not supported"),
        ({"data": "a", "format": "hex"}, UsageError, "'id': the format is raw or base64"),
        ({"data": "a", "format": "base64"}, UsageError, "'id' is not valid base64"),
        ({"data": "YQ== ", "format": "base64"}, UsageError, "'id' is not valid base64"),
        ({"data": "/w==", "format": "base64"}, UsageError, "secret id is not valid UTF-8"),
        ({"data": "a\udcff"}, UsageError, "secret id is not valid UTF-8"),
        ({"file": "/no\0"}, UsageError, "it holds a NUL byte"),
        ({"file": "/no/such"}, HostError, "Unable to read /no/such: No such file or directory"),
        ({"file": "/"}, HostError, "Unable to read /: Is a directory"),
    ],
)
def test_what_is_no_secret_is_one_error(
    fields: dict[str, str], kind: type[InstarError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        read(**fields)
    assert message in str(caught.value)


def test_a_secret_is_found_by_its_id() -> None:
    with pytest.raises(UsageError, match=r"^No secret with id 'other'$"):
        read_secret({"id": {"data": "a"}}, "other")
