"""Host side: command-line arguments, read as getopt_long does; a table says which flags exist.

argparse would cost the command more than its whole amend, and differs from getopt_long in what it
takes for an abbreviation or a negative number.
"""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.record import record
from ..request.keywords import check_timeout
from ..request.lists import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OPERAND = ""
"""The name under which scan() yields what is not a flag."""

FILES = "FILES"
"""Stands for the names of files among the values of a flag."""


@record
class Flag:
    """One flag of a command."""

    name: str
    """The long form, without its dashes."""
    summary: str
    """What it does, for the help text."""
    short: str = ""
    """The letter of the short form, or "" where there is none."""
    metavar: str = ""
    """What the help text calls its value, or "" if it takes none."""
    values: tuple[str, ...] = ()
    """The values that a shell may offer; FILES stands for the names of files."""
    aliases: tuple[str, ...] = ()
    """Other letters and long forms, as some versions of qemu-img have it."""
    yields: bool = False
    """Whether an abbreviation that means another flag as well means that one: qemu-img's."""

    def forms(self) -> list[str]:
        """How it may be written, with dashes: the letters, then the long forms."""
        names = (self.short, self.name, *self.aliases)
        letters = [f"-{name}" for name in names if len(name) == 1]
        return letters + [f"--{name}" for name in names if len(name) > 1]


def scan(
    arguments: Sequence[str], flags: Sequence[Flag], command: str
) -> Iterator[tuple[str, str]]:
    """Yield the long name and the value of each flag, and each operand under OPERAND, in order.

    Lazy: a caller acts on what came before a fault. Raises UsageError, with a pointer to the help
    of `command`.
    """
    rest = iter(arguments)
    try:
        for argument in rest:
            if argument == "--":
                yield from ((OPERAND, operand) for operand in rest)
            elif argument.startswith("--"):
                yield _read_long(argument, rest, flags)
            elif argument.startswith("-") and argument != "-":
                yield from _read_cluster(argument[1:], rest, flags)
            else:
                yield OPERAND, argument
    except _ArgumentError as fault:
        raise fault.kind(f"{fault}; see '{command} --help'") from None


def read_line(
    arguments: Sequence[str],
    table: Sequence[Flag],
    command: str,
    use: Callable[[str], None],
    secrets: dict[str, dict[str, str]] | None = None,
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the flags with their last values, the -o lists and the files; stop at --help.

    `use` is called with the value of --output at once, as a fault is reported in that form. What
    --object defines goes to `secrets`, if anybody needs it.
    """
    flags: dict[str, str] = {}
    lists: list[str] = []
    files: list[str] = []
    objects: list[str] = []
    for name, value in scan(arguments, table, command):
        if name == "options":
            lists.append(value)
        elif name == "object":
            objects.append(value)
        elif name == OPERAND:
            files.append(value)
        elif name == "files-from" and name in flags:  # the images of one list would be left out
            raise UsageError("--files-from: one list is read, and two are named; join them")
        else:
            flags[name] = value
        if name == "output":
            use(value)
        if name == "help":
            return flags, lists, files
    if objects or "image-opts" in flags:
        from .image_options import name_files

        files = name_files(files, objects, flags, {} if secrets is None else secrets)
    return flags, lists, files


def format_flags(flags: Sequence[Flag]) -> str:
    """Return the flags as lines of a help text."""
    return "".join(f"  {_spell(flag)}\n      {flag.summary}\n" for flag in flags)


class MissingValueError(UsageError):
    """The last argument is a flag that takes a value."""


class _ArgumentError(Exception):
    """What is wrong with an argument."""

    kind = UsageError
    """What it is raised as, with the command's name."""


class _NoValueError(_ArgumentError):
    """It is a flag that lacks its value."""

    kind = MissingValueError


def _spell(flag: Flag) -> str:
    return f"{', '.join(flag.forms())} {flag.metavar}".rstrip()


def _read_long(argument: str, rest: Iterator[str], flags: Sequence[Flag]) -> tuple[str, str]:
    name, equals, value = argument[2:].partition("=")
    flag = _find_long(name, flags)
    if not flag.metavar:
        if equals:
            raise _ArgumentError(f"option '--{flag.name}' doesn't allow an argument")
    elif not equals:
        value = _take_value(rest, f"option '--{flag.name}' requires an argument")
    return flag.name, value


def _find_long(name: str, flags: Sequence[Flag]) -> Flag:
    """Return the flag of this name, or else the only one whose name begins with it."""
    found = [flag for flag in flags if flag.name.startswith(name) or name in flag.aliases]
    exact = [flag for flag in found if flag.name == name or name in flag.aliases]
    meant = exact or [flag for flag in found if not flag.yields] or found
    if len(meant) == 1:
        return meant[0]
    if found:
        candidates = " ".join(f"'--{flag.name}'" for flag in found)
        raise _ArgumentError(f"option '--{name}' is ambiguous; possibilities: {candidates}")
    raise _ArgumentError(f"unrecognized option '--{name}'")


def _read_cluster(
    letters: str, rest: Iterator[str], flags: Sequence[Flag]
) -> Iterator[tuple[str, str]]:
    """Read short flags; what follows one that takes a value, if anything, is its value."""
    by_letter = {letter: flag for flag in flags for letter in (flag.short, *flag.aliases)}
    for index, letter in enumerate(letters, 1):
        flag = by_letter.get(letter)
        if flag is None:
            helps = (
                "; a size that begins with '-' goes last, after '--'" if letter.isdigit() else ""
            )
            raise _ArgumentError(f"invalid option -- '{letter}'{helps}")
        if flag.metavar:
            fault = f"option requires an argument -- '{letter}'"
            yield flag.name, letters[index:] or _take_value(rest, fault)
            return
        yield flag.name, ""


def _take_value(rest: Iterator[str], fault: str) -> str:
    value = next(rest, None)
    if value is None:
        raise _NoValueError(fault)
    return value


def read_seconds(text: str) -> float:
    """The value of --timeout. UsageError if it is none."""
    try:
        seconds = float(text)
        check_timeout(seconds)
    except (ValueError, UsageError):
        expected = "expected a number of seconds above 0 and below 1e6"
        raise UsageError(f"--timeout: {expected}, not '{text}'") from None
    return seconds


def read_size(flag: str, text: str) -> int:
    """The value of a flag in bytes. UsageError if it is none."""
    size = parse_size(text)
    if size is None:
        expected = "expected a size such as 512M or 1.5G, of less than 8E"
        raise UsageError(f"--{flag}: {expected}, not '{text}'")
    return size
