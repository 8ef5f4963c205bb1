"""Host side: the command turns arguments into one call of amend(), and its outcome into output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from instar.abi import INSTAR_ABI_VERSION
from instar.vmm import cli, doctor
from instar.vmm.errors import (
    GuestFault,
    HostError,
    ImageLocked,
    ImageRejected,
    Refusal,
    UsageError,
)
from instar.vmm.result import AmendResult, ByteRange, Change
from tests.forge.audit import faults
from tests.forge.reader import Reader

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "amend.md"

REFUSAL = Refusal(
    name="unknown_incompatible_features",
    number=6,
    code="UNSUPPORTED_FEATURE",
    code_number=14,
    message="the image uses unknown incompatible features 0x20; use a tool that knows them",
    detail={"bits": 32},
)


def make_result(**changed: Any) -> AmendResult:
    """Return the result of a lazy toggle, with some fields changed."""
    fields: dict[str, Any] = {
        "filename": "disk.qcow2",
        "format": "qcow2",
        "action": "amended",
        "compat": "1.1",
        "lazy_refcounts": True,
        "atomic": True,
        "dry_run": False,
        "bytes_read": 4096,
        "bytes_written": 512,
        "vm_exits": 4,
        "payload_sha256": "00" * 32,
        "changes": (Change("compatible_features", 0, 1),),
        "ranges": (ByteRange(1, 0, 512),),
    }
    return AmendResult(**{**fields, **changed})


class FakeAmend:
    """Stands in for instar.vmm.amend.amend: remembers its calls, does as it is told."""

    def __init__(self) -> None:
        """Start with no calls, and with success as the outcome."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.steps: list[tuple[int, int]] = []
        self.debug_text = ""
        self.error: BaseException | None = None
        self.result: AmendResult | None = None

    def __call__(self, path: str, **options: Any) -> AmendResult:
        """Be called as amend() is."""
        self.calls.append((path, options))
        for step in self.steps:
            if options.get("progress"):
                options["progress"](*step)
        if options.get("debug"):
            options["debug"](self.debug_text)
        if self.error:
            raise self.error
        return self.result or make_result(filename=path, dry_run=options.get("dry_run", False))


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command looks for amend()."""
    module = ModuleType("instar.vmm.amend")
    fake = FakeAmend()
    module.amend = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command, which is to fail with one line on stderr; return status and message."""
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("instar: ")
    assert err.endswith("\n")
    assert err.isascii()
    assert err[:-1].isprintable()
    return status, err[len("instar: ") : -1]


LAZY = ["-o", "lazy_refcounts=on"]

# What amend() is called with besides its defaults, by the names of the observed cases.
CALLS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "o-implied-on": (["-o", "lazy_refcounts", "d"], {"lazy_refcounts": True}),
    "o-nospace-attached": (["-olazy_refcounts=on", "d"], {"lazy_refcounts": True}),
    "o-repeat": (
        ["-o", "compat=v3", "-o", "lazy_refcounts=off", "d"],
        {"compat": "v3", "lazy_refcounts": False},
    ),
    "id-only": (["-o", "id=x", "d"], {}),
    "opt-after-file": (["d", *LAZY], {"lazy_refcounts": True}),
    "dashdash": ([*LAZY, "--", "d"], {"lazy_refcounts": True}),
    "f-qcow2": (["-f", "qcow2", *LAZY, "d"], {"lazy_refcounts": True, "format": "qcow2"}),
    "f-raw is for amend() to refuse": (
        ["-fraw", *LAZY, "d"],
        {"lazy_refcounts": True, "format": "raw"},
    ),
    "f-twice": (
        ["-f", "raw", "-f", "qcow2", *LAZY, "d"],
        {"lazy_refcounts": True, "format": "qcow2"},
    ),
    "t-twice": (["-t", "foo", "-t", "none", *LAZY, "d"], {"lazy_refcounts": True, "cache": "none"}),
    "force": (["--force", *LAZY, "d"], {"lazy_refcounts": True}),
    "abbrev": (["--forc", *LAZY, "d"], {"lazy_refcounts": True}),
    "long-options": (["--options", "lazy_refcounts", "d"], {"lazy_refcounts": True}),
    "long-options with an equals sign": (
        ["--options=lazy_refcounts=on", "d"],
        {"lazy_refcounts": True},
    ),
    "long-quiet": (["--quiet", *LAZY, "d"], {"lazy_refcounts": True}),
    "long-format": (
        ["--format", "qcow2", *LAZY, "d"],
        {"lazy_refcounts": True, "format": "qcow2"},
    ),
    "long-cache": (["--cache=unsafe", *LAZY, "d"], {"lazy_refcounts": True, "cache": "unsafe"}),
    "dry-run": (["--dry-run", "-q", *LAZY, "d"], {"lazy_refcounts": True, "dry_run": True}),
}


@pytest.mark.parametrize(("arguments", "expected"), CALLS.values(), ids=CALLS)
def test_calls_amend_once(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: dict[str, Any],
) -> None:
    assert cli.main(["amend", *arguments]) == 0
    defaults = {
        "compat": None,
        "lazy_refcounts": None,
        "format": None,
        "dry_run": False,
        "cache": "writeback",
        "progress": None,
        "debug": None,
    }
    assert amend.calls == [("d", {**defaults, **expected})]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "mode", ["none", "off", "writeback", "writethrough", "directsync", "unsafe"]
)
def test_passes_qemus_cache_modes_on(amend: FakeAmend, mode: str) -> None:
    assert cli.main(["amend", "-t", mode, *LAZY, "d"]) == 0
    assert amend.calls[0][1]["cache"] == mode


USAGE_ERRORS = {
    "none": (["amend", "d"], "Must specify options (-o)"),
    "no-args": (["amend"], "Must specify options (-o)"),
    "o-missing": (["amend", "d", "-o"], "option requires an argument -- 'o'"),
    "o-empty": (["amend", "-o", "", "d"], "Invalid option list: "),
    "o-comma": (["amend", "-o", ",", "d"], "Invalid option list: ,"),
    "f-missing": (["amend", *LAZY, "d", "-f"], "option requires an argument -- 'f'"),
    "t-missing": (["amend", *LAZY, "d", "-t"], "option requires an argument -- 't'"),
    "t-bad": (["amend", "-t", "foo", *LAZY, "d"], "Invalid cache option: foo"),
    "t-bad, in capitals": (["amend", "-t", "NONE", *LAZY, "d"], "Invalid cache option: NONE"),
    "two-files": (["amend", *LAZY, "d", "e"], "Expecting one image file name"),
    "no-file": (["amend", *LAZY], "Expecting one image file name"),
    "U": (["amend", "-U", *LAZY, "d"], "invalid option -- 'U'"),
    "badopt": (["amend", "-Z", *LAZY, "d"], "invalid option -- 'Z'"),
    "force-share": (["amend", "--force-share", *LAZY, "d"], "unrecognized option '--force-share'"),
    "badlong": (["amend", "--foo", *LAZY, "d"], "unrecognized option '--foo'"),
    "ambiguous": (["amend", "--o", "compat=1.1", "d"], "option '--o' is ambiguous"),
    "image-opts": (["amend", "--image-opts", *LAZY, "x"], "--image-opts is not yet supported"),
    "image-opts-f": (
        ["amend", "--image-opts", "-f", "qcow2", *LAZY, "x"],
        "--image-opts is not yet supported",
    ),
    "object": (
        ["amend", "--object", "secret,id=s0,data=x", *LAZY, "d"],
        "--object is not yet supported",
    ),
    "output": (
        ["amend", "--output", "xml", *LAZY, "d"],
        "--output: expected human or json, not 'xml'",
    ),
    "newline": (["amend", "-o", "compat=1.1\n", "d"], r"Unknown compatibility level '1.1\n'"),
    "escape sequence": (["amend", "-o", "\x1b[2J=1", "d"], r"unknown option '\x1b[2J'"),
    "not UTF-8": (["amend", "-o", "\udcff=1", "d"], r"unknown option '\xff'"),
    "not ASCII": (["amend", "-o", "a\u202e=1", "d"], r"unknown option 'a\u202e'"),
    "help-f-bad": (["amend", "-f", "nosuchfmt", "-o", "help"], "Unknown driver 'nosuchfmt'"),
    "bad-verb": (["amendx", "d"], "unknown command 'amendx'; see 'instar --help'"),
    "no verb": ([], "expecting a command, amend or doctor"),
    "bad global flag": (["-T", "foo", "amend"], "invalid option -- 'T'; see 'instar --help'"),
    "doctor with an operand": (["doctor", "d"], "unexpected argument 'd'"),
    "doctor with a bad flag": (["doctor", "-x"], "invalid option -- 'x'; see 'instar doctor"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS.values(), ids=USAGE_ERRORS)
def test_usage_errors_are_one_line_and_exit_2(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, line = fail(capsys, *arguments)
    assert status == UsageError.exit_status == 2
    assert line.startswith(message)
    assert not amend.calls


HELP = {
    "help": ["-o", "help", "d"],
    "help-q": ["-o", "?", "d"],
    "help-f": ["-f", "qcow2", "-o", "help"],
    "help-f-nofile": ["-f", "qcow2", "-o", "help", "nosuch"],
    "help without a file": ["-o", "help"],
    "help-mixed": ["-o", "help,foo=bar", "d"],
    "help-mixed3": ["-o", "lazy_refcounts=on", "-o", "help", "d"],
    "help-two-files": ["-f", "qcow2", "-o", "help", "a", "b"],
    "help and a bad cache": ["-t", "foo", "-o", "help"],
}


@pytest.mark.parametrize("arguments", HELP.values(), ids=HELP)
def test_option_help_lists_the_options_and_opens_nothing(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(["amend", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "Amend options for 'qcow2':",
        "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])",
        "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates",
    ]
    assert err == ""
    assert not amend.calls


def test_option_help_for_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, line = fail(capsys, "amend", "-f", "raw", "-o", "help")
    assert (status, line) == (1, "Format driver 'raw' does not support option amendment")


@pytest.mark.parametrize(
    ("arguments", "first_line", "flags"),
    [
        (["amend", "-h"], "Usage: instar amend -o OPTIONS", cli.AMEND_FLAGS),
        (["amend", "--help", "--foo"], "Usage: instar amend -o OPTIONS", cli.AMEND_FLAGS),
        (["amend", "d", "-qh"], "Usage: instar amend -o OPTIONS", cli.AMEND_FLAGS),
        (["doctor", "-h"], "Usage: instar doctor", doctor.FLAGS),
        (["--help"], "Usage: instar amend", cli.GLOBAL_FLAGS),
        (["-h", "amend"], "Usage: instar amend", cli.GLOBAL_FLAGS),
    ],
)
def test_help_names_every_flag(
    capsys: pytest.CaptureFixture[str], arguments: list[str], first_line: str, flags: Any
) -> None:
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(first_line)
    assert all(f"--{flag.name}" in out for flag in flags)
    assert err == ""


@pytest.mark.parametrize("argument", ["--version", "--vers"])
def test_version(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    assert cli.main([argument]) == 0
    assert capsys.readouterr() == (f"instar {doctor.installed_version()}\n", "")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (HostError("no /dev/kvm"), 1, "no /dev/kvm"),
        (ImageLocked('Failed to get "write" lock'), 1, 'Failed to get "write" lock'),
        (GuestFault("triple fault"), 1, "'d': triple fault"),
        (ImageRejected((REFUSAL,)), 1, f"'d': {REFUSAL.message}"),
        (ImageRejected((REFUSAL, REFUSAL)), 1, f"'d': {REFUSAL.message}; {REFUSAL.message}"),
        (UsageError("no such cache mode"), 2, "no such cache mode"),
        (HostError("a\nb\udcff\x1b"), 1, r"a\nb\xff\x1b"),
        (KeyboardInterrupt(), 1, "interrupted; no image is left half-changed"),
        (ValueError("oops"), 1, "internal error, please report it: ValueError: oops"),
    ],
)
def test_each_error_is_one_line_with_its_exit_status(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    amend.error = error
    assert fail(capsys, "amend", "-q", *LAZY, "d") == (status, message)


def read_json(capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Return the document on stdout, which is ASCII, and stderr."""
    out, err = capsys.readouterr()
    assert out.isascii()
    return json.loads(out), err


def shape(document: Any) -> Any:
    """Return the types of a document, in its structure; details are named by their reason."""
    if isinstance(document, dict):
        return {
            key: "detail" if key == "detail" else shape(value) for key, value in document.items()
        }
    if isinstance(document, list):
        return [shape(item) for item in document[:1]]
    return type(document).__name__


def documented(index: int) -> Any:
    """Return the JSON example of this index in the documentation."""
    blocks = DOCUMENTATION.read_text(encoding="utf-8").split("```json\n")[1:]
    return json.loads(blocks[index].split("```")[0])


def test_json_result_is_as_documented(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amend", "--output", "json", *LAZY, "disk.qcow2"]) == 0
    document, err = read_json(capsys)
    assert err == ""
    assert shape(document) == shape(documented(0))
    assert list(document) == list(documented(0))
    assert document["changes"] == [{"field": "compatible_features", "before": 0, "after": 1}]
    assert document["ranges"] == [{"phase": 1, "offset": 0, "length": 512}]
    plain: dict[str, Any] = {"changes": None, "ranges": None, "warnings": []}
    assert {**document, **plain} == {**vars(make_result()), **plain}


def test_json_error_is_as_documented(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    amend.error = ImageRejected((REFUSAL,))
    assert cli.main(["amend", "--output=json", *LAZY, "disk.qcow2"]) == 1
    document, err = read_json(capsys)
    assert err == f"instar: 'disk.qcow2': {REFUSAL.message}\n"
    assert document == documented(1)


@pytest.mark.parametrize(
    ("arguments", "filename", "kind", "status"),
    [
        (["amend", "--output", "json", "d"], "d", "UsageError", 2),
        (["amend", "--output", "json", *LAZY], None, "UsageError", 2),
        (["amend", "--output", "json", "-Z"], None, "UsageError", 2),
        (["amend", "--output", "json", "-o", "foo=1", "d"], "d", "UsageError", 2),
        (["amend", "--output", "json", "-f", "raw", "-o", "help"], None, "ImageRejected", 1),
        (["doctor", "--output", "json", "d"], None, "UsageError", 2),
    ],
)
def test_usage_errors_are_json_too(
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    filename: str | None,
    kind: str,
    status: int,
) -> None:
    assert cli.main(arguments) == status
    document, err = read_json(capsys)
    assert document["filename"] == filename
    assert document["error"]["kind"] == kind
    assert document["error"]["exit_status"] == status
    assert err == f"instar: {document['error']['message']}\n"


def test_usage_errors_before_json_is_asked_for_are_not_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, line = fail(capsys, "amend", "-Z", "--output", "json")
    assert status == 2
    assert "'Z'" in line


def test_the_last_output_format_counts(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["amend", "--output=json", "--output=human", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_does_not_hide_json(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amend", "-q", "-p", "--output=json", "--dry-run", *LAZY, "d"]) == 0
    assert read_json(capsys)[0]["dry_run"] is True
    assert amend.calls[0][1]["progress"] is None


@pytest.mark.parametrize("name", ["\udcff.qcow2", "a\nb", "\u00e9\U0001f4be"])
def test_json_keeps_every_file_name(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for error in (None, HostError("no")):
        amend.error = error
        cli.main(["amend", "--output=json", *LAZY, name])
        assert read_json(capsys)[0]["filename"] == name


def test_dry_run_says_what_would_change(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.result = make_result(
        filename="\udcff\n",
        dry_run=True,
        compat="0.10",
        lazy_refcounts=False,
        changes=(
            Change("version", 3, 2),
            Change("compatible_features", 1, None),
            Change("header_length", 104, None),
        ),
        ranges=(ByteRange(0, 1024, 40), ByteRange(1, 0, 512)),
    )
    assert cli.main(["amend", "--dry-run", "-o", "compat=0.10", "d"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "\\xff\\n: would become compat 0.10, lazy_refcounts off (atomic)",
        "  version: 3 -> 2",
        "  compatible_features: 0x1 -> none",
        "  header_length: 104 -> none",
        "  before the switch: 40 bytes at 0x400",
        "  the switch: 512 bytes at 0x0",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"atomic": False}, "d: would become compat 1.1, lazy_refcounts on (not atomic)\n"),
        ({"action": "noop"}, "d: nothing to change (compat 1.1, lazy_refcounts on)\n"),
    ],
)
def test_dry_run_says_whether_and_how(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    expected: str,
) -> None:
    amend.result = make_result(filename="d", dry_run=True, changes=(), ranges=(), **changed)
    assert cli.main(["amend", "--dry-run", *LAZY, "d"]) == 0
    assert capsys.readouterr() == (expected, "")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], "0.00 100.00"),
        ([(0, 10), (10, 10)], "0.00 100.00"),
        ([(0, 0)], "0.00 100.00"),
        ([(1, 2)], "0.00 50.00 100.00"),
        ([(0, 200), (1, 200), (2, 200), (3, 200), (4, 200)], "0.00 1.50 100.00"),
        ([(999, 1000)], "0.00 99.90 100.00"),
        ([(30, 10), (40, 10)], "0.00 100.00"),
    ],
)
def test_progress_is_shown_as_qemu_img_shows_it(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    steps: list[tuple[int, int]],
    expected: str,
) -> None:
    amend.steps = steps
    assert cli.main(["amend", "-p", *LAZY, "d"]) == 0
    shown = "".join(f"    ({percent}/100%)\r" for percent in expected.split())
    assert capsys.readouterr() == (f"{shown}\n", "")


def test_progress_of_a_failure_ends_the_line_and_claims_nothing(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.steps, amend.error = [(1, 2)], HostError("no")
    assert cli.main(["amend", "--progress", *LAZY, "d"]) == 1
    assert capsys.readouterr() == (
        "    (0.00/100%)\r    (50.00/100%)\r\n",
        "instar: no\n",
    )


@pytest.mark.parametrize("flags", [["-p", "-q"], ["-qp"], ["--quiet", "--progress"]])
def test_quiet_wins_over_progress(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert cli.main(["amend", *flags, *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_warning_is_one_line_on_stderr(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.result = make_result(warnings=("no locks\nhere",))
    assert cli.main(["amend", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "instar: warning: no locks\\nhere\n")
    assert cli.main(["amend", "-q", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["amend", "--output=json", *LAZY, "d"]) == 0
    document, err = read_json(capsys)
    assert document["warnings"] == ["no locks\nhere"]
    assert err == "instar: warning: no locks\\nhere\n"


def test_debug_text_of_the_guest_is_escaped(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.debug_text = "one\n\x1b[2Jtwo\n"
    assert cli.main(["amend", "--debug", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "guest: one\nguest: \\x1b[2Jtwo\n")


@pytest.mark.parametrize(("previous", "kept"), [(signal.SIG_IGN, True), (signal.SIG_DFL, False)])
def test_signals_are_the_callers_again_afterwards(
    amend: FakeAmend, monkeypatch: pytest.MonkeyPatch, previous: signal.Handlers, kept: bool
) -> None:
    during = []
    original = signal.signal(signal.SIGTERM, previous)
    monkeypatch.setattr(
        cli, "show_debug", lambda _text: during.append(signal.getsignal(signal.SIGTERM))
    )
    try:
        assert cli.main(["amend", "--debug", *LAZY, "d"]) == 0
        assert signal.getsignal(signal.SIGTERM) == previous
        assert (during == [previous]) is kept
    finally:
        signal.signal(signal.SIGTERM, original)


# The rest needs a process of its own. The driver avoids imports that the command must avoid.
DRIVER = """
import sys
loaded = set(sys.modules)
import os
from instar.vmm.result import AmendResult, ByteRange, Change

def finish(path, dry_run=False, **_options):
    return AmendResult(
        filename=path, format="qcow2", action="amended", compat="1.1", lazy_refcounts=True,
        atomic=True, dry_run=dry_run, bytes_read=0, bytes_written=0, vm_exits=0,
        payload_sha256="", changes=(Change("version", 2, 3),), ranges=(ByteRange(1, 0, 512),))

{body}

module = type(sys)("instar.vmm.amend")
module.amend = amend
sys.modules["instar.vmm.amend"] = module
from instar.vmm.cli import main
status = main(sys.argv[1:])
{after}
sys.exit(status)
"""


def run(
    body: str, *arguments: str, redirect: str = "", after: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process with `body` as its amend()."""
    return subprocess.run(
        [
            *("sh", "-c", f'exec "$0" "$@" {redirect}'),
            *(sys.executable, "-c", DRIVER.format(body=body, after=after)),
            *arguments,
        ],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


AMEND = "amend = finish"


def test_a_plain_amend_imports_nothing_that_is_not_loaded_anyhow() -> None:
    after = "print(*sorted(set(sys.modules) - loaded), file=sys.stderr)"
    done = run(AMEND, "amend", "-t", "none", *LAZY, "--dry-run", "-p", "d", after=after)
    assert done.returncode == 0
    imported = {name for name in done.stderr.decode().split() if not name.startswith("instar")}
    assert imported <= {"__future__", "_signal"}


AUDITED = """
seen = []
sys.addaudithook(
    lambda event, _: seen.append(event) if WATCHING and event in ("import", "open") else None)
WATCHING = False

def amend(path, **options):
    global WATCHING
    WATCHING = True
    from instar.vmm.errors import HostError, ImageRejected, Refusal
    if options["progress"]:
        options["progress"](1, 2)
    if path == "host":
        raise HostError("no")
    if path == "rejected":
        raise ImageRejected((Refusal("a", 1, "B", 2, "c", {"d": 3}),))
    if path == "interrupt":
        raise KeyboardInterrupt
    if path == "bug":
        raise ZeroDivisionError
    return finish(path, **options)
"""


@pytest.mark.parametrize("path", ["fine", "host", "rejected", "interrupt", "bug", "\udcff"])
@pytest.mark.parametrize("flags", [["--dry-run"], ["--output=json"], ["-p", "--debug"]])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso8859-15"])
def test_nothing_is_imported_or_opened_once_the_process_may_be_confined(
    path: str, flags: list[str], encoding: str
) -> None:
    after = "WATCHING = False\nassert not seen, seen"
    done = run(
        AUDITED, "amend", *flags, *LAZY, path, after=after, PYTHONIOENCODING=f"{encoding}:strict"
    )
    assert done.returncode == (0 if path in ("fine", "\udcff") else 1), done.stderr
    assert b"Error" not in done.stderr.replace(b"ZeroDivisionError", b"")


@pytest.mark.parametrize(
    ("encoding", "name"), [("ascii", b"\\xe9\\xff\\x80"), ("utf-8", b"\xc3\xa9\\xff\\x80")]
)
def test_a_name_that_stdout_cannot_hold_is_escaped(encoding: str, name: bytes) -> None:
    path = "\u00e9\udcff\udc80"
    done = run(AMEND, "amend", "--dry-run", *LAZY, path, PYTHONIOENCODING=f"{encoding}:strict")
    assert done.stdout.startswith(name + b": would become")


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
@pytest.mark.parametrize("flags", [[], ["-p"], ["--dry-run"], ["--output=json"]])
def test_a_stdout_that_is_closed_or_full_does_not_make_the_amend_fail(
    redirect: str, flags: list[str]
) -> None:
    done = run(AMEND, "amend", *flags, *LAZY, "d", redirect=redirect)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_stderr_that_is_closed_or_full_does_not_change_the_exit_status(redirect: str) -> None:
    body = "def amend(path, **options): raise KeyboardInterrupt"
    done = run(body, "amend", *LAZY, "d", redirect=redirect)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_image_never_gets_the_number_of_a_standard_stream(tmp_path: Path, redirect: str) -> None:
    body = f"""
def amend(path, **options):
    number = os.open({str(tmp_path / "image")!r}, os.O_RDWR | os.O_CREAT)
    os.write(number, str(number).encode())
    return finish(path, **options)
"""
    done = run(body, "amend", "-p", *LAZY, "d", redirect=redirect)
    assert done.returncode == 0
    assert int((tmp_path / "image").read_bytes()) > 2


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_signals_end_in_one_line_even_two_of_them(first: str, second: str) -> None:
    body = f"""
import signal

def amend(path, **options):
    try:
        os.kill(os.getpid(), signal.{first})
        for _ in range(1000000):
            pass
    finally:
        os.kill(os.getpid(), signal.{second})
        for _ in range(1000):
            pass
"""
    done = run(body, "amend", *LAZY, "d")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr == b"instar: interrupted; no image is left half-changed\n"


def test_an_interrupt_is_json_too() -> None:
    body = "def amend(path, **options): raise KeyboardInterrupt"
    done = run(body, "amend", "--output=json", *LAZY, "d")
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_status"]) == ("KeyboardInterrupt", done.returncode)


def test_works_in_a_thread(amend: FakeAmend) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(cli.main, ["amend", *LAZY, "d"]).result() == 0


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instar.vmm", "amend"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"instar: Must specify options (-o)")


def test_exit_statuses_are_those_of_the_documentation() -> None:
    section = DOCUMENTATION.read_text(encoding="utf-8").split("## Exit status\n")[1].split("##")[0]
    statuses = {int(line[2]) for line in section.splitlines() if line[2:3].isdigit()}
    errors = (UsageError, HostError, ImageRejected, ImageLocked, GuestFault)
    assert statuses == {0, *(error.exit_status for error in errors)}


GOOD_CHECKS = (("first", lambda: "first is fine"), ("second", lambda: "second is fine"))


def break_check() -> str:
    """Be a check with a defect."""
    raise ZeroDivisionError("oops")


def test_doctor_is_content(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", GOOD_CHECKS)
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    headline, *lines = out.splitlines()
    assert headline.startswith(f"instar {doctor.installed_version()}, Python 3.")
    assert lines == ["ok   first is fine", "ok   second is fine"]
    assert err == ""


def test_doctor_survives_a_broken_check_and_runs_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (("broken", break_check), *GOOD_CHECKS))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "FAIL broken: ZeroDivisionError: oops: please report it",
        "ok   first is fine",
        "ok   second is fine",
    ]


def test_doctor_speaks_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (("broken", break_check), GOOD_CHECKS[0]))
    assert cli.main(["doctor", "--output", "json"]) == 1
    document, err = read_json(capsys)
    assert err == ""
    assert (list(document), document["ok"]) == (["version", "python", "ok", "checks"], False)
    assert document["checks"] == [
        {
            "check": "broken",
            "ok": False,
            "message": "broken: ZeroDivisionError: oops",
            "advice": "please report it",
        },
        {"check": "first", "ok": True, "message": "first is fine", "advice": ""},
    ]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the doctor a /dev/kvm that is a file."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(doctor, "KVM_DEVICE", str(path))
    return path


def diagnose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, check: Any
) -> str:
    """Return the line that one check results in."""
    monkeypatch.setattr(doctor, "CHECKS", (("it", check),))
    status = cli.main(["doctor"])
    out, err = capsys.readouterr()
    _headline, line = out.splitlines()
    assert (status, err) == (0 if line.startswith("ok   ") else 1, "")
    return str(line)


@pytest.mark.parametrize(
    ("machine", "expected"), [("x86_64", "ok   Linux "), ("aarch64", "FAIL Linux on aarch64: use ")]
)
def test_doctor_looks_at_the_system(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    expected: str,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert diagnose(capsys, monkeypatch, doctor.check_system).startswith(expected)


def test_doctor_looks_for_the_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: Path
) -> None:
    expected = f"ok   {device} is readable and writable"
    assert diagnose(capsys, monkeypatch, doctor.check_device) == expected
    device.unlink()
    line = diagnose(capsys, monkeypatch, doctor.check_device)
    assert line.startswith(f"FAIL {device}: No such file or directory: enable virtualisation")
    assert "sudo modprobe kvm_" in line


@pytest.mark.parametrize(
    ("mode", "gid", "advice"),
    [
        (0o660, 7, "join its group, then log in anew: sudo usermod -aG virt $USER"),
        (0o660, 8, "run the container with the additional group 8"),
        (0o660, 0, "give a group access: sudo chgrp kvm {0}; sudo chmod 660 {0}"),
        (0o640, 7, "give a group access: sudo chgrp kvm {0}; sudo chmod 660 {0}"),
        (0o600, 7, "give a group access: sudo chgrp kvm {0}; sudo chmod 660 {0}"),
    ],
)
def test_doctor_knows_who_may_open_the_device(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    device: Path,
    mode: int,
    gid: int,
    advice: str,
) -> None:
    class FakeOs:
        O_RDWR, O_CLOEXEC, close = os.O_RDWR, os.O_CLOEXEC, staticmethod(os.close)

        def open(self, path: str, _flags: int) -> int:
            raise PermissionError(13, "Permission denied", path)

        def stat(self, _path: str) -> os.stat_result:
            return os.stat_result((mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))

    monkeypatch.setattr(doctor, "os", FakeOs())
    monkeypatch.setattr("grp.getgrgid", {7: SimpleNamespace(gr_name="virt")}.__getitem__)
    line = diagnose(capsys, monkeypatch, doctor.check_device)
    assert line == f"FAIL {device}: Permission denied: {advice.format(device)}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (12, "ok   KVM API version 12"),
        (11, "FAIL KVM API version 11: use a kernel with version 12"),
    ],
)
def test_doctor_asks_for_the_api_version(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    device: Path,
    version: int,
    expected: str,
) -> None:
    monkeypatch.setattr("instar.vmm.kvm.system.Kvm.api_version", lambda _self: version)
    assert diagnose(capsys, monkeypatch, doctor.check_api) == expected
    device.unlink()
    line = diagnose(capsys, monkeypatch, doctor.check_api)
    assert line == f"FAIL KVM: No such file or directory: make {device} accessible first"


def test_doctor_looks_at_the_payload(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = SimpleNamespace(abi_version=INSTAR_ABI_VERSION, sha256="ab" * 32)
    monkeypatch.setattr("instar.vmm.payload.load_payload", lambda: payload)
    found = f"payload of ABI version {INSTAR_ABI_VERSION}, SHA-256 {'ab' * 32}"
    assert diagnose(capsys, monkeypatch, doctor.check_payload) == f"ok   {found}"
    payload.abi_version += 1
    assert diagnose(capsys, monkeypatch, doctor.check_payload) == (
        f"FAIL payload of ABI version {INSTAR_ABI_VERSION + 1}, SHA-256 {'ab' * 32}; "
        f"this host speaks version {INSTAR_ABI_VERSION}: install instar anew"
    )


def test_doctor_says_what_the_payload_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_payload() -> None:
        raise HostError("no payload")

    monkeypatch.setattr("instar.vmm.payload.load_payload", load_payload)
    line = diagnose(capsys, monkeypatch, doctor.check_payload)
    assert line == "FAIL no payload: install instar anew"


@pytest.mark.parametrize(
    ("warning", "expected"),
    [
        (None, "ok   open file description locks work"),
        ("no locks", "FAIL no locks: keep images on a file system with open file description"),
    ],
)
def test_doctor_tries_the_locks(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    warning: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr("instar.vmm.locks.lock_image", lambda _fd, _name: warning)
    assert diagnose(capsys, monkeypatch, doctor.check_locks).startswith(expected)


@pytest.mark.parametrize(
    ("action", "features", "expected"),
    [
        ("amended", 1, r"ok   the sandbox amended a test image in \d+\.\d ms, 4 exits"),
        ("amended", 0, "FAIL the sandbox did not amend a test image: please report it"),
        ("amended", 2, "FAIL the sandbox did not amend a test image: please report it"),
        ("noop", 1, "FAIL the sandbox did not amend a test image: please report it"),
    ],
)
def test_doctor_looks_whether_the_sandbox_did_its_work(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    amend: FakeAmend,
    action: str,
    features: int,
    expected: str,
) -> None:
    def write_features(path: str, **_options: Any) -> AmendResult:
        with Path(path).open("r+b") as image:
            image.seek(80)
            image.write(features.to_bytes(8, "big"))
        return make_result(action=action)

    monkeypatch.setattr(sys.modules["instar.vmm.amend"], "amend", write_features)
    assert re.fullmatch(expected, diagnose(capsys, monkeypatch, doctor.check_sandbox))


def test_doctor_repeats_what_the_sandbox_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, amend: FakeAmend
) -> None:
    amend.error = GuestFault("triple fault")
    line = diagnose(capsys, monkeypatch, doctor.check_sandbox)
    assert line == "FAIL it: triple fault: see the lines above"
    assert amend.calls[0][1] == {"lazy_refcounts": True}


def test_doctors_image_is_valid() -> None:
    image = Reader(doctor.make_image())
    assert faults(image) == []
    assert len(image.data) == 4 * image.cluster_size
    assert (image.header.version, image.header.header_length) == (3, 104)
    unused = ("backing_file_offset", "backing_file_size", "crypt_method", "nb_snapshots")
    features = ("incompatible_features", "compatible_features", "autoclear_features")
    assert not any(image.header[field] for field in unused + features)
    assert image.header.l1_size * image.l2_entries * image.cluster_size == image.header.size
    assert image.data[image.header.l1_table_offset :] == bytes(image.cluster_size)
