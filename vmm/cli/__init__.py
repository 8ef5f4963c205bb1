"""Host side: text in, text out: the command `instar`, a thin skin over the library.

It reads the arguments, calls amend() and reports; exit statuses are those of vmm/base/errors.py.
What a plain amend imports decides its latency, so this module and all that it imports make do with
what the interpreter has loaded anyhow, and import the rest where it is needed
(docs/decisions/0003-the-run-path-is-lean.md).
"""

from __future__ import annotations

import gc
import os
import sys

from instar import __version__

from ..base.errors import HostError, UsageError
from ..base.streams import fill_streams
from ..base.supported import check_machine
from ..request.keywords import (
    AMENDABLE_FORMAT,
    CACHE_MODES,
    KEYS_FORMAT,
    check_format,
    make_request,
)
from ..request.kinds import FLAG
from ..request.lists import options_help, parse_options, parse_size
from ..request.options import PERMISSIONS
from .arguments import OPERAND, read_line, read_seconds, read_size, scan
from .flags import AMEND, Command
from .report import Progress, Report, show_debug, tell, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any

    from ..amend.result import AmendResult
    from ..image.image_file import ImageFile
    from ..request import AmendRequest
else:
    # The builtin behind the module signal, which makes enums of all its numbers: 6 ms.
    import _signal

# Flags that make it a batch even if there is but one file.
_OF_BATCHES = ("jobs", "files-from", "null")

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
    if command == AMEND.name:
        return _change(AMEND, rest, report, own_process=own_process)
    if command == "rebase":
        from .commands import REBASE

        return _change(REBASE, rest, report, own_process=own_process)
    if command == "resize":
        return _resize(rest, report, own_process=own_process)
    if command == "info":
        from .info import run as run_info

        return run_info(rest, report, own_process=own_process)
    if command == "check":
        from .check import run as run_check

        return run_check(rest, report, own_process=own_process)
    if command == "doctor":
        check_machine()
        from .doctor import run

        return run(rest, report)
    return _help(command, arguments)


def _help(command: str, arguments: list[str]) -> int:
    """Carry out `instar help`, and what is no command. UsageError."""
    from .commands import COMMANDS, INSTAR, format_help

    if command == "help":
        if len(arguments) > 2:
            raise UsageError("help takes one command; see 'instar --help'")
        name = arguments[1] if arguments[1:] else INSTAR.name
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
    from difflib import get_close_matches

    from .commands import COMMANDS

    nearest = get_close_matches(name.lower(), [command.name for command in COMMANDS[1:]], n=1)
    guess = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return UsageError(f"unknown command '{name}'{guess}; see 'instar --help'")


def _change(command: Command, arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out a command that changes images."""
    secrets: dict[str, dict[str, str]] = {}
    flags, lists, files = _read_arguments(command, arguments, report, secrets)
    if "help" in flags:
        return _help("help", ["help", command.name])
    form = flags.get("format", AMENDABLE_FORMAT)
    options = _read_options(command, form, flags, lists)
    if options is None:
        check_format(form, keys=True)
        write("stdout", options_help(form))
        return 0
    report.asked = options.keys()

    def make() -> AmendRequest:
        return make_request({**options, **_read_keywords(flags)})

    if "keys" not in options:
        return _carry_out(files, make, flags, report, own_process=own_process)
    from .secrets import forget, make_keys

    if own_process:
        from ..confine import keep_from_cores

        keep_from_cores()
    options["keys"] = make_keys(options["keys"], secrets, flags, form)
    try:
        return _carry_out(files, make, flags, report, own_process=own_process)
    finally:
        forget(options["keys"])


def _resize(arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out `instar resize`, whose last argument is a size, whatever it begins with."""
    from ..request.resize import make_resize
    from .commands import RESIZE

    size = arguments[-1] if arguments else ""
    is_size = size[:1] in ("+", "-") and size[1:2].isdigit()  # whatever follows: no flag is so
    is_size = is_size or parse_size(size.lstrip("+-")) is not None
    flags, _, files = _read_arguments(RESIZE, arguments[: -1 if is_size else None], report)
    if not is_size and files[0 if "files-from" in flags else 1 :]:
        size, is_size = files.pop(), True  # and make_resize() says what is wrong with it
        report.filename = files[0] if len(files) == 1 else None
    if "help" in flags:
        return _help("help", ["help", RESIZE.name])
    if flags.get("preallocation", "off") != "off":
        raise UsageError(
            "--preallocation: only off is supported, as nothing new is allocated; allocate the "
            "disk by writing to it, or with qemu-img resize --preallocation"
        )
    if not is_size:
        raise UsageError("Expecting image file name and size, such as 10G, +1G or -512M")
    report.asked = {"size"}

    def make() -> AmendRequest:
        return make_resize(size, _read_keywords(flags))

    return _carry_out(files, make, flags, report, own_process=own_process)


def _carry_out(
    files: list[str],
    make: Callable[[], AmendRequest],
    flags: dict[str, str],
    report: Report,
    *,
    own_process: bool,
) -> int:
    """Amend one image, or many; `make` makes the request, when there is an image."""
    check_machine()
    if len(files) > 1 or not flags.keys().isdisjoint(_OF_BATCHES):
        from .batch import amend_files

        return amend_files(files, make, flags, report)
    if not files:
        raise UsageError("Expecting one image file name")
    result = _call_amend(files[0], make, flags, report, own_process=own_process)
    report.result(result, quiet="quiet" in flags)
    return 0


def _read_options(
    command: Command, form: str, flags: dict[str, str], lists: list[str]
) -> dict[str, Any] | None:
    """What is asked, as keywords of make_request(); None for help about options. UsageError."""
    if command is not AMEND:
        from .rebase import read_flags

        return read_flags(flags)
    if not lists and "repair" in flags:
        return {}
    if not lists:
        raise UsageError("Must specify options (-o); '-o help' lists them")
    return parse_options(lists, form if form == KEYS_FORMAT else AMENDABLE_FORMAT)


def _read_arguments(
    command: Command,
    arguments: list[str],
    report: Report,
    secrets: dict[str, dict[str, str]] | None = None,
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return what read_line() does, for a command whose report is about these images."""
    name = f"instar {command.name}"
    flags, lists, files = read_line(arguments, command.flags, name, report.use, secrets)
    if "help" not in flags:
        report.filename = files[0] if len(files) == 1 else None
        report.expect(verbose="verbose" in flags, dry_run="dry-run" in flags)
    return flags, lists, files


def _call_amend(
    filename: str,
    make: Callable[[], AmendRequest],
    flags: dict[str, str],
    report: Report,
    *,
    own_process: bool,
) -> AmendResult:
    request = make()
    required = "require-confinement" in flags
    if required and not own_process:
        raise HostError("a process that only calls the command is not confined")
    # Imported here because neither the help nor a usage error needs any of it.
    from ..amend import amend_image

    def confine_process(image: ImageFile, vcpu: int, runs: int) -> None:
        from ..confine import Descriptors, confine

        used = Descriptors(
            *(image.fd, image.size, vcpu, image.max_growth, image.tables),
            runs=runs,
            keys=request.keys is not None,
        )
        confine(used, required=required)

    shows_progress = "progress" in flags and "quiet" not in flags and not report.is_json
    progress = Progress() if shows_progress else None
    result: AmendResult | None = None
    try:
        result = amend_image(
            filename,
            request,
            progress=progress,
            debug=show_debug if "debug" in flags else None,
            before_read=confine_process if own_process else None,
            hashed=report.is_json or report.verbose,
        )
    finally:
        if progress is not None:
            progress.end(succeeded=result is not None)
    return result


def _read_keywords(flags: dict[str, str]) -> dict[str, Any]:
    """What the flags say of a request, as keywords of make_request(). UsageError."""
    cache = flags.get("cache", "writeback")
    if cache not in CACHE_MODES:
        raise UsageError(f"Invalid cache option: {cache}")
    keywords: dict[str, Any] = {"cache": cache, "dry_run": "dry-run" in flags}
    if "format" in flags:
        keywords["format"] = flags["format"]
    for permission in PERMISSIONS:
        if permission.name in flags:
            text = flags[permission.name]
            allowed = permission.kind == FLAG or read_size(permission.name, text)
            keywords[permission.key] = allowed
    if "timeout" in flags:
        keywords["timeout"] = read_seconds(flags["timeout"])
    return keywords
