"""Host side: the command turns arguments into one call of amend(), and errors into one line."""

from __future__ import annotations

import importlib.metadata
import shlex
from email.message import Message
from typing import Any

import pytest

import instar
from instar.vmm import cli
from instar.vmm.base.errors import GuestFault, HostError, ImageLocked, ImageRejected, UsageError
from instar.vmm.cli import commands
from instar.vmm.cli.arguments import scan
from instar.vmm.cli.flags import AMEND, Command
from instar.vmm.request.key_options import key_options
from instar.vmm.request.keywords import make_request
from instar.vmm.request.options import BY_KEY
from tests.unit.command import LAZY, REFUSAL, FakeAmend, fail, fake_amend


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command looks for amend_image()."""
    return fake_amend(monkeypatch)


DOWN = ["-o", "compat=0.10"]

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
    "timeout": (["--timeout", "2.5", *LAZY, "d"], {"lazy_refcounts": True, "timeout": 2.5}),
    "dry-run": (["--dry-run", "-q", *LAZY, "d"], {"lazy_refcounts": True, "dry_run": True}),
    "drop-bitmaps": (
        ["--drop-bitmaps", *LAZY, "d"],
        {"lazy_refcounts": True, "drop_bitmaps": True},
    ),
    "max-growth": (
        ["--max-growth=1.5G", *DOWN, "d"],
        {"compat": "0.10", "max_growth": 3 << 29},
    ),
    "no growth": (["--max-growth", "0", *DOWN, "d"], {"compat": "0.10", "max_growth": 0}),
}


@pytest.mark.parametrize(("arguments", "expected"), CALLS.values(), ids=CALLS)
def test_calls_amend_once(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: dict[str, Any],
) -> None:
    assert cli.main(["amend", *arguments]) == 0
    assert amend.calls == [("d", make_request(expected))]
    assert amend.callbacks == [(None, None)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "mode", ["none", "off", "writeback", "writethrough", "directsync", "unsafe"]
)
def test_passes_qemus_cache_modes_on(amend: FakeAmend, mode: str) -> None:
    assert cli.main(["amend", "-t", mode, *LAZY, "d"]) == 0
    assert amend.calls[0][1].flush is (mode != "unsafe")


CACHES = "use none, off, writeback, writethrough, directsync or unsafe"
USAGE_ERRORS = {
    "none": (["amend", "d"], "Must specify options (-o)"),
    "no-args": (["amend"], "Must specify options (-o)"),
    "o-missing": (["amend", "d", "-o"], "option requires an argument -- 'o'"),
    "o-empty": (["amend", "-o", "", "d"], "Invalid option list: (it is empty)"),
    "o-comma": (["amend", "-o", ",", "d"], "Invalid option list: ,"),
    "f-missing": (["amend", *LAZY, "d", "-f"], "option requires an argument -- 'f'"),
    "t-missing": (["amend", *LAZY, "d", "-t"], "option requires an argument -- 't'"),
    "t-bad": (["amend", "-t", "foo", *LAZY, "d"], f"Invalid cache option: foo; {CACHES}"),
    "t-bad, in capitals": (["amend", "-t", "NONE", *LAZY, "d"], "Invalid cache option: NONE"),
    "jobs, no file": (["amend", *LAZY, "-j2"], "Expecting one image file name"),
    "jobs-0": (["amend", *LAZY, "--jobs=0", "d"], "--jobs: expected a number from 1 to 4096"),
    "jobs-text": (["amend", *LAZY, "-jx", "d", "e"], "--jobs: expected a number from 1 to 4096"),
    "debug": (["amend", *LAZY, "--debug", "d", "e"], "--debug shows the text of one sandbox"),
    "null": (["amend", *LAZY, "--null", "d"], "--null is about the names of --files-from"),
    "files-from, two": (
        ["amend", *LAZY, "--files-from=a", "--files-from=b"],
        "--files-from: one list is read, and two are named; join them",
    ),
    "many, t-bad": (["amend", *LAZY, "-t", "foo", "d", "e"], "Invalid cache option: foo"),
    "no-file": (["amend", *LAZY], "Expecting one image file name or more"),
    "U": (["amend", "-U", *LAZY, "d"], "invalid option -- 'U'"),
    "badopt": (["amend", "-Z", *LAZY, "d"], "invalid option -- 'Z'"),
    "force-share": (["amend", "--force-share", *LAZY, "d"], "unrecognized option '--force-share'"),
    "badlong": (["amend", "--foo", *LAZY, "d"], "unrecognized option '--foo'"),
    "ambiguous": (["amend", "--o", "compat=1.1", "d"], "option '--o' is ambiguous"),
    "image-opts-f": (
        ["amend", "--image-opts", "-f", "qcow2", *LAZY, "file.filename=x"],
        "--image-opts and --format are mutually exclusive",
    ),
    "image-opts-list": (
        ["amend", "--image-opts", *LAZY, "--files-from=x"],
        "--image-opts and --files-from are mutually exclusive",
    ),
    "output": (
        ["amend", "--output", "xml", *LAZY, "d"],
        "--output: expected human or json, not 'xml'",
    ),
    **{
        f"timeout, {value}": (
            ["amend", f"--timeout={value}", *LAZY, "d"],
            f"--timeout: expected a number of seconds above 0 and below 1e6, not '{value}'",
        )
        for value in ("1s", "", "0", "-1", "1e6", "inf", "nan")
    },
    "timeout of a look": (
        ["info", "--timeout=0", "d"],
        "--timeout: expected a number of seconds above 0 and below 1e6, not '0'",
    ),
    "max-growth": (
        ["amend", "--max-growth=1 G", *LAZY, "d"],
        "--max-growth: expected a size such as 512M or 1.5G, of less than 8E, not '1 G'",
    ),
    "max-growth, empty": (
        ["amend", "--max-growth=", *LAZY, "d"],
        "--max-growth: expected a size such as 512M or 1.5G, of less than 8E, not ''",
    ),
    "newline": (["amend", "-o", "compat=1.1\n", "d"], r"Unknown compatibility level '1.1\n'"),
    "escape sequence": (["amend", "-o", "\x1b[2J=1", "d"], r"unknown option '\x1b[2J'"),
    "not UTF-8": (["amend", "-o", "\udcff=1", "d"], r"unknown option '\xff'"),
    "not ASCII": (["amend", "-o", "a\u202e=1", "d"], r"unknown option 'a\u202e'"),
    "help-f-bad": (
        ["amend", "-f", "nosuchfmt", "-o", "help"],
        "Unknown driver 'nosuchfmt'; use qcow2 or luks",
    ),
    "bad-verb": (["frobnicate", "d"], "unknown command 'frobnicate'; see 'instar --help'"),
    "mistyped verb": (
        ["Amned", "d"],
        "unknown command 'Amned' (did you mean 'amend'?); see 'instar --help'",
    ),
    "mistyped verb for help": (
        ["help", "rebuse"],
        "unknown command 'rebuse' (did you mean 'rebase'?); see 'instar --help'",
    ),
    "a verb of qemu-img": (["create", "d"], "unknown command 'create'; see 'instar --help'"),
    "a verb cut short": (
        ["reb", "d"],
        "unknown command 'reb' (did you mean 'rebase'?); see 'instar --help'",
    ),
    "a bad flag for help": (["help", "-x"], "invalid option -- 'x'; see 'instar help --help'"),
    "no verb": ([], "expecting a command, such as amend"),
    "bad verb for help": (["help", "x"], "unknown command 'x'; see 'instar --help'"),
    "two verbs for help": (["help", "amend", "x"], "help takes one command; see 'instar --help'"),
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
    assert out.splitlines()[:3] == [
        "Amend options for 'qcow2':",
        "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])",
        "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates",
    ]
    keys = [*BY_KEY, *(row.key for row in key_options("qcow2"))]
    assert [line.split("=")[0] for line in out.splitlines()[1:]] == [f"  {key}" for key in keys]
    assert err == ""
    assert not amend.calls


def test_option_help_for_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, line = fail(capsys, "amend", "-f", "raw", "-o", "help")
    assert (status, line) == (1, "Format driver 'raw' does not support option amendment")


@pytest.mark.parametrize(
    ("arguments", "first_line", "flags"),
    [
        (["amend", "-h"], "Usage: instar amend -o OPTIONS", AMEND.flags),
        (["amend", "--help", "--foo"], "Usage: instar amend -o OPTIONS", AMEND.flags),
        (["amend", "d", "-qh"], "Usage: instar amend -o OPTIONS", AMEND.flags),
        (["doctor", "-h"], "Usage: instar doctor", commands.DOCTOR.flags),
        (["help", "amend"], "Usage: instar amend -o OPTIONS", AMEND.flags),
        (["help", "doctor"], "Usage: instar doctor", commands.DOCTOR.flags),
        (["help"], "Usage: instar amend", commands.INSTAR.flags),
        (["help", "help"], "Usage: instar help", ()),
        (["--help"], "Usage: instar amend", commands.INSTAR.flags),
        (["-h", "amend"], "Usage: instar amend", commands.INSTAR.flags),
    ],
)
def test_help_names_every_flag(
    capsys: pytest.CaptureFixture[str], arguments: list[str], first_line: str, flags: Any
) -> None:
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(first_line)
    assert all(f"--{flag.name}" in out for flag in flags)
    assert "Documentation: instar(1), and docs/ of the source\n" in out
    assert err == ""


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["Source, https://s", "Documentation, https://d"], "https://d"),
        (["Source, https://s"], "instar(1), and docs/ of the source"),
        (None, "instar(1), and docs/ of the source"),
    ],
)
def test_help_names_the_address_that_the_installed_package_has(
    monkeypatch: pytest.MonkeyPatch, urls: list[str] | None, said: str
) -> None:
    def metadata(name: str) -> Message:
        if urls is None:
            raise importlib.metadata.PackageNotFoundError(name)
        message = Message()
        for url in urls:
            message["Project-URL"] = url
        return message

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    assert commands.format_help(AMEND).endswith(f"\nDocumentation: {said}\n")


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.name)
def test_the_examples_in_the_help_are_command_lines_that_exist(command: Command) -> None:
    for line, _what in command.examples:
        arguments = shlex.split(line.rpartition("|")[2])
        assert arguments.pop(0) == "instar"
        (entry,) = (entry for entry in commands.COMMANDS if entry.name == arguments[0])
        assert list(scan(arguments[1:], entry.flags, "instar")) or len(arguments) == 1
    assert command.examples or command is commands.HELP


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.name)
def test_the_help_says_what_a_size_is_and_which_cache_modes_have_an_effect(
    command: Command,
) -> None:
    told = commands.format_help(command)
    assert ("SIZE is a number of bytes" in told) == (" SIZE\n" in told)
    cache = "none, off, writeback, writethrough, directsync or unsafe; only unsafe leaves out"
    assert (cache in told) == (command.name in ("amend", "rebase", "resize"))


def test_a_resize_speaks_of_bitmaps_that_do_not_fit_and_of_no_downgrade() -> None:
    told = commands.format_help(commands.RESIZE)
    assert "remove persistent bitmaps if the size does not fit them" in told
    assert "downgrade" not in told


@pytest.mark.parametrize("argument", ["--version", "--vers", "-V"])
def test_version(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    assert cli.main([argument]) == 0
    assert capsys.readouterr() == (f"instar {instar.__version__}\n", "")


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


def test_a_caller_of_main_cannot_require_that_it_is_confined(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = fail(capsys, "amend", "--require-confinement", *LAZY, "d")
    assert (status, line) == (1, "a process that only calls the command is not confined")
    assert not amend.calls


RESIZES: dict[str, tuple[list[str], int, int, dict[str, Any]]] = {
    "to a size": (["d", "10G"], 10 << 30, 0, {}),
    "by more": (["d", "+1.5G"], 3 << 29, 1, {}),
    "by less": (["--shrink", "d", "-512"], 512, -1, {"shrink": True}),
    "flags after the file": (["d", "--shrink", "1M"], 1 << 20, 0, {"shrink": True}),
    "backing": (["--backing-size=1G", "d", "2G"], 2 << 30, 0, {"backing_size": 1 << 30}),
    "preallocation off": (["--preallocation", "off", "-q", "d", "1G"], 1 << 30, 0, {}),
    "format": (["-f", "qcow2", "d", "0x1000"], 4096, 0, {}),
}


@pytest.mark.parametrize(
    ("arguments", "size", "relative", "allowed"), RESIZES.values(), ids=RESIZES
)
def test_resize_is_an_amend_of_the_size(
    amend: FakeAmend, arguments: list[str], size: int, relative: int, allowed: dict[str, Any]
) -> None:
    assert cli.main(["resize", *arguments]) == 0
    ((path, request),) = [call[:2] for call in amend.calls]
    assert path == "d"
    assert (request.options, request.relative) == ({"size": size}, relative)
    for name, value in allowed.items():
        assert getattr(request, name) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Expecting image file name and size"),
        (["d"], "Expecting image file name and size"),
        (["big"], "Expecting image file name and size"),
        *(
            (["d", size], f"expected a size below 8 EiB, such as 10G, +1G or -512M, not '{size}'")
            for size in ("big", "", "+", "-", "1Z", "8E", "-8E", "+9223372036854775808", "128MB")
        ),
        (["--files-from", "l", "1Z"], "not '1Z'"),
        (["d", "7.9E"], "a positive multiple of 512, and less than 8 EiB, not '7.9E'"),
        (["10G"], "Expecting one image file name"),
        (["d", "1G", "2G"], "Expecting one size, after the images: '1G' is another one"),
        (["d", "+1M", "-t", "1G"], "--help'; the last argument, '1G', is the size"),
        (["d", "+1M", "--timeout", "60"], "--help'; the last argument, '60', is the size"),
        (["d", "+1M", "--timeout"], "option '--timeout' requires an argument; see 'instar resize"),
        (["d", "e", "+1G", "+2G"], "Expecting one size, after the images: '+1G' is another one"),
        (["d", "+-1G"], "such as 10G, +1G or -512M, not '+-1G'"),
        (["d", "1000"], "a positive multiple of 512, and less than 8 EiB, not '1000'"),
        (["d", "0"], "a positive multiple of 512, and less than 8 EiB, not '0'"),
        (["--preallocation=full", "d", "1G"], "--preallocation: only off is supported"),
        (["-o", "size=1G", "d", "1G"], "invalid option -- 'o'"),
    ],
)
def test_resize_refuses_by_name_what_it_cannot_do(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, line = fail(capsys, "resize", *arguments)
    assert status == 2
    assert words in line
    assert not amend.calls


@pytest.mark.parametrize("arguments", [("info", "-t", "x", "d"), ("check", "-T", "x", "d")])
def test_a_cache_mode_without_effect_is_one_all_the_same(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert fail(capsys, *arguments) == (2, f"Invalid cache option: x; {CACHES}")


def test_the_help_names_the_suffixes_of_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("amend", "resize"):
        assert cli.main([command, "--help"]) == 0
        assert "a suffix k, M, G, T, P or E (powers of 1024)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("info",), ""),
        (("check",), ""),
        (("check", "-r", "all"), "; no image is left half-changed"),
    ],
)
def test_an_interrupt_says_nothing_of_changes_where_none_are_made(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    what: str,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"instar.vmm.cli.{command[0]}.check_machine", interrupt)
    assert fail(capsys, *command, "d") == (1, f"interrupted{what}")


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), ("amend", "-h")])
def test_help_has_a_help_of_its_own(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert cli.main(["help", *arguments]) == 0
    assert capsys.readouterr().out.startswith("Usage: instar help [COMMAND]\n")


@pytest.mark.parametrize("arguments", [("d",), ("some", "d")])
def test_a_repair_without_its_extent_is_said_to_lack_it(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, line = fail(capsys, "check", "-r", *arguments)
    assert (status, line) == (2, f"-r expects 'leaks' or 'all', not '{arguments[0]}'")
