"""Host side: text in, text out: the command `instar`, a thin skin over the library.

It finds the command that the line names, and each command has a file here that carries it out;
exit statuses are those of vmm/base/errors.py. What a plain amend imports decides its latency, so
this module and all that it imports make do with what the interpreter has loaded anyhow, and import
the rest where it is needed (docs/decisions/0003-the-run-path-is-lean.md).
"""

from __future__ import annotations

import gc
import os
import sys

from instar import __version__

from ..base.errors import UsageError
from ..base.streams import fill_streams
from ..base.supported import check_machine
from .arguments import OPERAND, scan
from .report import Report, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any
else:
    # The builtin behind the module signal, which makes enums of all its numbers: 6 ms.
    import _signal

_INTERRUPTS = (_signal.SIGINT, _signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv`, or the process's arguments; return the exit status.

    Without `argv` the process is the command's own: an amend confines it for good, and this does
    not return but ends it (docs/decisions/0007-the-command-ends-at-once.md).
    """
    if argv is None:
        gc.disable()  # the process is soon at its end; a search for garbage takes a millisecond
    status = _main(sys.argv[1:] if argv is None else argv, own_process=argv is None)
    if argv is None:
        os._exit(status)  # all output was flushed when it was written
    return status


def _main(arguments: list[str], *, own_process: bool) -> int:
    report = Report()
    replaced: list[tuple[int, Any]] = []
    try:
        if own_process:  # else who ignores the ends of children would have it hear of none
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        _catch_interrupts(replaced)
        status = _run(arguments, report, own_process=own_process)
        if own_process:  # what is done is done: from here on an interrupt is too late
            _ignore_interrupts()
            replaced.clear()
    except KeyboardInterrupt as interrupt:
        return report.error(interrupt)
    else:
        return status
    finally:
        for number, handler in replaced:
            _signal.signal(number, handler)


def _catch_interrupts(replaced: list[tuple[int, Any]]) -> None:
    """Make SIGINT and SIGTERM a KeyboardInterrupt, unless the caller has plans for them."""
    for number in _INTERRUPTS:
        handler = _signal.getsignal(number)
        if handler in (_signal.SIG_DFL, _signal.default_int_handler):
            try:
                _signal.signal(number, _interrupt)
            except ValueError:  # only the main thread may
                return
            replaced.append((number, handler))


def _interrupt(_number: int, _frame: object) -> None:
    """Raise KeyboardInterrupt, and let no second signal disturb its report."""
    _ignore_interrupts()
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    for number in _INTERRUPTS:
        _signal.signal(number, _signal.SIG_IGN)


def _run(arguments: list[str], report: Report, *, own_process: bool) -> int:
    try:
        fill_streams()  # for good: the process is the command's own
        return _dispatch(arguments, report, own_process=own_process)
    except Exception as error:  # whatever it is, a traceback helps nobody here
        return report.error(error)


def _dispatch(arguments: list[str], report: Report, *, own_process: bool) -> int:
    command, rest = (arguments or [""])[0], arguments[1:]
    if command in ("amend", "rebase", "resize"):
        from .amend import run as run_change

        return run_change(command, rest, report, own_process=own_process)
    if command == "info":
        from .info import run as run_info

        return run_info(rest, report, own_process=own_process)
    if command == "check":
        from .check import run as run_check

        return run_check(rest, report, own_process=own_process)
    if command == "doctor":
        check_machine()
        from .doctor import run as run_doctor

        return run_doctor(rest, report)
    return _help(command, arguments)


def _help(command: str, arguments: list[str]) -> int:
    """Carry out `instar help`, and what is no command. UsageError."""
    from .commands import COMMANDS, HELP, INSTAR, format_help

    if command == "help":
        names = []
        for flag, value in scan(arguments[1:], HELP.flags, "instar help"):
            if flag != OPERAND:
                tell(format_help(HELP))
                return 0
            names.append(value)
        if len(names) > 1:
            raise UsageError("help takes one command; see 'instar --help'")
        name = names[0] if names else INSTAR.name
        found = [entry for entry in COMMANDS if entry.name == name]
        if not found:
            raise _unknown(name)
        tell(format_help(found[0]))
        return 0
    for name, _value in scan(arguments[:1], INSTAR.flags, "instar"):
        if name == OPERAND:
            raise _unknown(command)
        tell(f"instar {__version__}\n" if name == "version" else format_help(INSTAR))
        return 0
    raise UsageError("expecting a command, such as amend; see 'instar --help'")


def _unknown(name: str) -> UsageError:
    from ..base.nearest import nearest
    from .commands import COMMANDS

    meant = nearest(name, [command.name for command in COMMANDS[1:]])
    guess = f" (did you mean '{meant}'?)" if meant else ""
    return UsageError(f"unknown command '{name}'{guess}; see 'instar --help'")
