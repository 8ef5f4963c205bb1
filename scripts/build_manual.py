"""Build time: makes the man page and the completions of shells of the table in vmm/cli/commands.py.

    build_manual.py PACKAGE DIRECTORY [ADDRESS]

PACKAGE is a folder with the generated parts of the package, DIRECTORY what to fill: what is below
it belongs below an installation's prefix, share/man/man1/instar.1 and so on. ADDRESS is where the
documentation is published. The completions are shtab's, for an argparse parser that says the same
as the table.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import shtab

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instar.vmm.cli.arguments import Flag
    from instar.vmm.cli.flags import Command
    from instar.vmm.request.kinds import Option

ROOT = Path(__file__).resolve().parent.parent

COMPLETIONS = {
    "bash": "share/bash-completion/completions/instar",
    "zsh": "share/zsh/site-functions/_instar",
    "fish": "share/fish/vendor_completions.d/instar.fish",
}
MANUAL = "share/man/man1/instar.1"

STATUS = (
    (
        "0",
        "The image was amended, or was already as asked, or was described; or the help was "
        "printed.",
    ),
    ("1", "Refused, failed, or not safe; the line on stderr, or the report, says why."),
    ("2", "The command line asks for something that does not exist; or check found corruption."),
    ("3", "check found leaked clusters and nothing worse."),
)
FILES = (
    ("/dev/kvm", "The sandbox is a virtual machine: the user must be able to read and write it."),
)


def load_table(package: Path) -> Any:
    """Import the table of commands from the tree, before there is an installed package.

    Args:
        package: where instar.abi is.

    Returns:
        The module instar.vmm.cli.commands. All of `instar` in this process is from the tree then.
    """
    tree = ModuleType("instar")
    tree.__path__ = [str(package), str(ROOT)]
    vars(tree)["__version__"] = run_path(str(ROOT / "vmm" / "public.py"))["__version__"]
    sys.modules["instar"] = tree
    import instar.vmm.cli.commands

    return instar.vmm.cli.commands


def load_options() -> tuple[Option, ...]:
    """What -o knows of a qcow2 image; from the tree, once load_table() has been called."""
    from instar.vmm.request.key_options import key_options
    from instar.vmm.request.options import OPTIONS

    return (*OPTIONS, *key_options("qcow2"))


def make_parser(commands: tuple[Command, ...], files: str) -> argparse.ArgumentParser:
    """Return a parser with the flags and operands of `commands`, of which the first is instar."""
    top, *rest = commands
    parser = argparse.ArgumentParser(prog=top.name, description=top.summary, add_help=False)
    _add_flags(parser, top.flags, files)
    below = parser.add_subparsers()
    names = [command.name for command in rest]
    for command in rest:
        child = below.add_parser(command.name, help=command.summary, add_help=False)
        _add_flags(child, command.flags, files)
        if "FILENAME..." in command.usage[0]:
            _complete_files(child.add_argument("filename", nargs="*"))
        elif command.usage[0].endswith("[COMMAND]"):
            child.add_argument("command", nargs="?", choices=names)
    return parser


def _add_flags(parser: argparse.ArgumentParser, flags: tuple[Flag, ...], files: str) -> None:
    for flag in flags:
        names = flag.forms()
        if not flag.metavar:
            parser.add_argument(*names, action="store_true", help=flag.summary)
            continue
        choices = None if flag.values in ((), (files,)) else flag.values
        added = parser.add_argument(
            *names, metavar=flag.metavar, choices=choices, help=flag.summary
        )
        if flag.values == (files,):
            _complete_files(added)


def _complete_files(action: argparse.Action) -> None:
    action.complete = shtab.FILE  # type: ignore[attr-defined]


def write_manual(
    commands: tuple[Command, ...], options: Iterable[Option], docs: str, version: str
) -> str:
    """Return the man page, in the macros of man(7); `options` are what -o knows."""
    top, *rest = commands
    lines = [f'.TH INSTAR 1 "" "instar {version}" "User Commands"', ".SH NAME"]
    lines += [f"instar \\- {_escape(top.summary)}", ".SH SYNOPSIS", ".nf"]
    lines += [_escape(usage) for usage in top.usage]
    lines += [".fi", ".SH DESCRIPTION", "instar changes options of an existing qcow2 disk image in"]
    lines += ["place, as qemu\\-img amend does. The code that plans a change of the untrusted"]
    lines += ["image's tables runs in a virtual machine without an operating system; keyslots need"]
    lines += [
        "no table, and are planned outside. Whatever happens, the image is the old one or the"
    ]
    lines += ["new one, whole.", ".SH OPTIONS"]
    lines += _flag_lines(top.flags)
    for command in rest:
        lines += [f'.SH "COMMAND {command.name.upper()}"', _escape(command.text.strip())]
        lines += _flag_lines(command.flags)
        if any(flag.name == "options" for flag in command.flags):
            lines += _option_lines(options)
    lines += [".SH EXIT STATUS"]
    for term, text in STATUS:
        lines += [".TP", f".B {term}", _escape(text)]
    lines += [".SH FILES"]
    for term, text in FILES:
        lines += [".TP", f".I {term}", _escape(text)]
    lines += [".SH EXAMPLES"]
    for command in rest:
        for line, what in command.examples:
            end = "" if what.endswith("?") else ":"
            lines += [".PP", _escape(what + end), ".PP", ".nf", ".RS 4", _escape(line)]
            lines += [".RE", ".fi"]
    lines += [".SH SEE ALSO", ".BR qemu\\-img (1)"]
    lines += [".PP", _escape(docs)] if docs else []
    return "\n".join(lines) + "\n"


def _flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for flag in flags:
        forms = ", ".join(f"\\fB{_escape(form)}\\fR" for form in flag.forms())
        value = f" \\fI{_escape(flag.metavar)}\\fR" if flag.metavar else ""
        lines += [".TP", f"{forms}{value}"]
        lines += [_escape(flag.summary)]
    return lines


def _option_lines(options: Iterable[Option]) -> list[str]:
    lines = ['.SS "What \\-o can change"']
    for option in options:
        lines += [".TP", f"\\fB{_escape(option.key)}\\fR=\\fI{_escape(list_values(option))}\\fR"]
        lines += [_escape(option.meaning.replace("`", ""))]
    return lines


def list_values(option: Option) -> str:
    """What a value of an option can be, in a few words."""
    found = "|".join(spelling for alike in spellings(option) for spelling in alike)
    return found or ("on|off" if option.kind == "flag" else option.kind.upper())


def spellings(option: Option) -> list[list[str]]:
    """All values that an option can have, if these are few; those that mean the same together."""
    if option.choices:
        numbers = dict.fromkeys(option.choices.values())
        return [[k for k, n in option.choices.items() if n == number] for number in numbers]
    if option.only is not None:
        return [["on" if option.only else "off"]]
    return [[str(number)] for number in option.numbers]


def _escape(text: str) -> str:
    """Text as roff takes it: no escapes, no hyphens for minus signs, no line that is a macro."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def build_manual(package: Path, directory: Path, docs: str = "") -> list[Path]:
    """Make all files below `directory`, and return their paths."""
    table = load_table(package)
    files = sys.modules[f"{table.__package__}.arguments"].FILES
    parser = make_parser(table.COMMANDS, files)
    texts = {path: shtab.complete(parser, shell) for shell, path in COMPLETIONS.items()}
    version = sys.modules["instar"].__version__
    texts[MANUAL] = write_manual(table.COMMANDS, load_options(), docs, version)
    made = []
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        made.append(path)
    return made


if __name__ == "__main__":
    reader = argparse.ArgumentParser(description="Make the man page and the completions.")
    for name in ("package", "directory"):
        reader.add_argument(name, type=Path)
    reader.add_argument("docs", nargs="?", default="", metavar="address")
    print(*build_manual(**vars(reader.parse_args())), sep="\n")
