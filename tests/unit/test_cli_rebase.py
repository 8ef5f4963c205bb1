"""Host side: the command `instar rebase`, which takes the flags of `qemu-img rebase -u`."""

from __future__ import annotations

from typing import Any

import pytest

import instar
from instar.vmm import cli
from instar.vmm.request.keywords import make_request
from tests.unit.command import FakeAmend, fake_amend

CHANGE: dict[str, Any] = {"change_backing": True}
NEW: dict[str, Any] = {"backing_file": "new", "backing_fmt": "qcow2", **CHANGE}
UNSAFE = ["-u", "-b", "new", "-F", "qcow2"]


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    return fake_amend(monkeypatch)


GOOD: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": ([*UNSAFE, "d"], NEW),
    "attached": (["-ubnew", "-Fqcow2", "d"], NEW),
    "long": (["--unsafe", "--backing=new", "--backing-format", "qcow2", "d"], NEW),
    "after the file": (["d", *UNSAFE], NEW),
    "raw": (["-u", "-b", "new", "-F", "raw", "d"], {**NEW, "backing_fmt": "raw"}),
    "none": (["-u", "-b", "", "d"], {"backing_file": "", **CHANGE}),
    "none, with a format": (["-u", "-b", "", "-F", "raw", "d"], {"backing_file": "", **CHANGE}),
    "a protocol": (
        ["-u", "-b", "json:{}", "-F", "raw", "d"],
        {**NEW, "backing_file": "json:{}"} | {"backing_fmt": "raw"},
    ),
    "as VDSM calls it": (
        ["-t", "none", "-T", "none", "-f", "qcow2", *UNSAFE, "d"],
        {**NEW, "cache": "none", "format": "qcow2"},
    ),
    "as later versions have it": (
        ["--backing-unsafe", "--backing-cache", "none", "-b", "new", "-B", "qcow2", "d"],
        NEW,
    ),
    "unsafe cache": (["-t", "unsafe", *UNSAFE, "d"], {**NEW, "cache": "unsafe"}),
    "dry run": (["--dry-run", *UNSAFE, "-q", "d"], {**NEW, "dry_run": True}),
    "timeout": (["--timeout", "2", *UNSAFE, "d"], {**NEW, "timeout": 2.0}),
    "compress": (["-c", *UNSAFE, "d"], NEW),
    "image options": (["--image-opts", *UNSAFE, "driver=qcow2,file.filename=d"], NEW),
    "the last one counts": (["-b", "old", "-F", "raw", *UNSAFE, "d"], NEW),
}


@pytest.mark.parametrize(("arguments", "keywords"), GOOD.values(), ids=GOOD)
def test_a_rebase_is_an_amend_of_the_backing_file(
    amend: FakeAmend, arguments: list[str], keywords: dict[str, Any]
) -> None:
    assert cli.main(["rebase", *arguments]) == 0
    assert amend.calls == [("d", make_request(keywords))]


NO_FORMAT = (
    "a backing file needs its format, which a guest could choose if programs had to guess it; give "
    "it with"
)
BAD: dict[str, tuple[list[str], str]] = {
    "safe": (["-b", "new", "-F", "qcow2", "d"], "rebase without -u is not supported"),
    "nothing": ([], "rebase without -u is not supported"),
    "no backing file": (["-u", "d"], "Must specify the backing file"),
    "a format alone": (["-u", "-F", "raw", "d"], "Must specify the backing file"),
    "no format": (["-u", "-b", "new", "d"], f"{NO_FORMAT} -F\n"),
    "an empty format": (["-u", "-b", "new", "-F", "", "d"], f"{NO_FORMAT} -F\n"),
    "an unknown format": (["-u", "-b", "new", "-F", "foo", "d"], "Invalid format name: 'foo'"),
    "an unknown format of none": (["-u", "-b", "", "-F", "foo", "d"], "Invalid format name"),
    "force-share": (["-U", *UNSAFE, "d"], "--force-share is not supported"),
    "another cache": (["-t", "x", *UNSAFE, "d"], "Invalid cache option: x"),
    "another source cache": (["-T", "x", *UNSAFE, "d"], "Invalid source cache option: x; use none"),
    "no file": (UNSAFE, "Expecting one image file name"),
    "options": (["-o", "compat=1.1", *UNSAFE, "d"], "invalid option -- 'o'"),
    "a permission": (["--change-backing", *UNSAFE, "d"], "unrecognized option"),
    "a long name": (["-u", "-b", "n" * 1024, "-F", "raw", "d"], "backing_file has 1024 bytes"),
    "another format": (["-f", "raw", *UNSAFE, "d"], "'d': Format driver 'raw' does not support"),
}


@pytest.mark.parametrize("form", ["raw", "vmdk"])
@pytest.mark.parametrize(
    ("arguments", "purpose"),
    [
        (("amend", "-o", "compat=1.1", "d"), "option amendment"),
        (("rebase", *UNSAFE, "d"), "rebase"),
        (("resize", "d", "1G"), "resizing in a sandbox"),
        (("resize", "d", "+1G"), "resizing in a sandbox"),
        (("check", "d"), "checks"),
    ],
)
def test_another_format_is_said_not_to_support_what_the_command_does(
    capsys: pytest.CaptureFixture[str], form: str, arguments: tuple[str, ...], purpose: str
) -> None:
    command, *others = arguments
    assert cli.main([command, "-f", form, *others]) == 1
    told = f"instar: 'd': Format driver '{form}' does not support {purpose}\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_what_is_no_such_rebase_is_refused_by_name(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["rebase", *arguments]) in (1, 2)
    out, err = capsys.readouterr()
    assert err.startswith(f"instar: {message}")
    assert (out, err.count("\n"), amend.calls) == ("", 1, [])


def test_a_fault_in_the_flags_points_to_the_help_of_rebase(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["rebase", "--nonsense"]) == 2
    assert "see 'instar rebase --help'" in capsys.readouterr().err
    assert cli.main(["rebase", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: instar rebase -u -b ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new",), f"{NO_FORMAT} backing_format$"),
        (("new", ""), "a backing file needs its format"),
        ((None,), "backing_file is a str or bytes, '' for none, not None"),
        ((None, "raw"), "backing_file is a str or bytes, '' for none, not None"),
        (("new", b"raw"), "backing_format is a str, not b'raw'"),
        (("new", "foo"), "Invalid format name: 'foo'"),
        (("n\0", "raw"), "backing_file holds a NUL byte"),
        (("n" * 1024, "raw"), "backing_file has 1024 bytes, and can have 1023"),
    ],
)
def test_the_function_takes_what_the_command_takes(arguments: Any, message: str) -> None:
    with pytest.raises(instar.UsageError, match=f"^{message}"):
        instar.rebase_unsafe("missing.qcow2", *arguments)
