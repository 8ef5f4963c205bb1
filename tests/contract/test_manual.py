"""Test side: the man page and the completions know every flag, as the command's own help does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_manual
import pytest

from instar.vmm.cli.arguments import FILES
from instar.vmm.cli.commands import COMMANDS, format_help
from instar.vmm.cli.flags import AMEND
from instar.vmm.request.key_options import key_options
from instar.vmm.request.options import OPTIONS

ROOT = build_manual.ROOT


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed below a prefix; made in a process, as the build makes it."""
    folder = tmp_path_factory.mktemp("prefix")
    script, package = ROOT / "scripts" / "build_manual.py", ROOT / ".editable" / "instar"
    subprocess.run([sys.executable, "-B", script, package, folder], check=True)
    return folder


def test_the_man_page_has_every_command_flag_and_example(prefix: Path) -> None:
    text = (prefix / build_manual.MANUAL).read_text("utf-8").replace("\\-", "-")
    for command in COMMANDS:
        assert all(usage in text for usage in command.usage)
        assert all(line in text for line, _what in command.examples)
        for flag in command.flags:
            assert f"\\fB--{flag.name}\\fR" in text
            assert not flag.short or f"\\fB-{flag.short}\\fR" in text


def test_the_man_page_says_what_each_option_means(prefix: Path) -> None:
    text = (prefix / build_manual.MANUAL).read_text("utf-8").replace("\\-", "-")
    for option in (*OPTIONS, *key_options("qcow2")):
        values = build_manual.list_values(option)
        meaning = option.meaning.replace("`", "")
        assert f"\n\\fB{option.key}\\fR=\\fI{values}\\fR\n{meaning}\n" in text
        assert not option.choices or all(choice in values for choice in option.choices)


def test_every_form_that_a_flag_may_have_is_in_the_help_and_in_the_man_page(prefix: Path) -> None:
    page = (prefix / build_manual.MANUAL).read_text("utf-8").replace("\\-", "-")
    sections = dict(re.findall(r'^\.SH "COMMAND (\w+)"\n(.*?)(?=^\.SH)', page, re.M | re.S))
    for command in COMMANDS[1:]:
        page, text = sections[command.name.upper()], format_help(command)
        for flag in command.flags:
            for name in filter(None, (flag.short, flag.name, *flag.aliases)):
                form = f"-{name}" if len(name) == 1 else f"--{name}"
                assert f"\\fB{form}\\fR" in page
                assert re.search(rf"^  (-.*, )?{form}\b", text, re.MULTILINE), form


@pytest.mark.parametrize("shell", build_manual.COMPLETIONS)
def test_completions_have_every_flag_and_value(prefix: Path, shell: str) -> None:
    text = (prefix / build_manual.COMPLETIONS[shell]).read_text("utf-8")
    for command in COMMANDS:
        assert command.name in text
        for flag in command.flags:
            assert re.search(rf"(--|-l ){flag.name}\b", text), flag.name
            assert all(value in text for value in flag.values if value != FILES)


def test_completions_offer_every_option_of_the_table() -> None:
    (flag,) = (flag for flag in AMEND.flags if flag.name == "options")
    assert {value.partition("=")[0] for value in flag.values} >= {row.key for row in OPTIONS}


def test_the_man_page_has_every_exit_status(prefix: Path) -> None:
    text = (prefix / build_manual.MANUAL).read_text("utf-8")
    statuses = text.partition(".SH EXIT STATUS")[2].partition(".SH FILES")[0]
    assert re.findall(r"^\.B (\d)$", statuses, re.MULTILINE) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("shell", build_manual.COMPLETIONS)
def test_completions_are_valid_for_their_shell(prefix: Path, shell: str) -> None:
    if program := shutil.which(shell):
        file = prefix / build_manual.COMPLETIONS[shell]
        subprocess.run([program, "-n", file], check=True)
    else:
        assert shell != "bash", "every machine that runs the tests has bash"


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p instar | sed 's/.*-F \\([^ ]*\\).*/\\1/') instar "${!#}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["am"], {"amend"}),
        (["amend", "--dr"], {"--drop-bitmaps", "--dry-run"}),
        (["amend", "-t", "write"], {"writeback", "writethrough"}),
        (["amend", "--output", ""], {"human", "json"}),
        (["amend", "-o", "lazy"], {"lazy_refcounts=on", "lazy_refcounts=off"}),
        (["amend", "-o", "refcount_bits=1"], {"refcount_bits=1", "refcount_bits=16"}),
        (["amend", "-o", "back"], {"backing_file=", "backing_fmt="}),
        (["amend", "-f", "l"], {"luks"}),
        *(
            ([name, "di"], {"disk.qcow2"})
            for name in ("amend", "rebase", "resize", "info", "check")
        ),
        (["rebase", "-b", "di"], {"disk.qcow2"}),
        (["amend", "--files-from", "di"], {"disk.qcow2"}),
        (["doctor", "--ou"], {"--output"}),
        (["help", "d"], {"doctor"}),
    ],
)
def test_bash_offers(prefix: Path, tmp_path: Path, words: list[str], offered: set[str]) -> None:
    (tmp_path / "disk.qcow2").touch()
    file = prefix / build_manual.COMPLETIONS["bash"]
    command = ["bash", "-c", COMPLETE, "bash", str(file), "instar", *words]
    done = subprocess.run(
        command,
        check=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == offered, done.stderr


def test_the_man_page_is_rendered_without_a_warning(prefix: Path) -> None:
    if program := shutil.which("groff"):
        page = prefix / build_manual.MANUAL
        command = [program, "-man", "-ww", "-Tascii", "-z", str(page)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
