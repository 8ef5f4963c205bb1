"""Host side: `instar amend`, `rebase` and `resize`: one request of what the line asks, carried out.

One image is amended by this process, which confines itself for it if it is the command's own; many
are by the workers of a batch (batch.py). A plain amend runs through this file, so what it imports
counts (docs/decisions/0003-the-run-path-is-lean.md).
"""

from __future__ import annotations

from os.path import lexists

from ..base.errors import HostError, UsageError
from ..base.supported import check_machine
from ..request.keywords import (
    AMENDABLE_FORMAT,
    AMENDMENT,
    KEYS_FORMAT,
    check_cache,
    check_format,
    make_request,
)
from ..request.kinds import FLAG
from ..request.lists import options_help, parse_options, parse_size
from ..request.options import PERMISSIONS
from .arguments import MissingValueError, read_line, read_seconds, read_size
from .flags import AMEND, Command
from .report import Progress, Report, show_debug, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..amend.result import AmendResult
    from ..image.image_file import ImageFile
    from ..request import AmendRequest

# Flags that make it a batch even if there is but one file.
_OF_BATCHES = ("jobs", "files-from", "null")


def run(command: str, arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out the command of this name; return the exit status."""
    if command == "resize":
        return _resize(arguments, report, own_process=own_process)
    if command == "rebase":
        from .commands import REBASE

        return _change(REBASE, arguments, report, own_process=own_process)
    return _change(AMEND, arguments, report, own_process=own_process)


def _tell_help(command: Command) -> int:
    from .commands import format_help

    tell(format_help(command))
    return 0


def _change(command: Command, arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out a command that changes images."""
    secrets: dict[str, dict[str, str]] = {}
    flags, lists, files = _read_arguments(command, arguments, report, secrets)
    if "help" in flags:
        return _tell_help(command)
    form = flags.get("format", AMENDABLE_FORMAT)
    options = _read_options(command, form, flags, lists)
    purpose = AMENDMENT if command is AMEND else command.name
    if options is None:
        check_format(form, keys=True)
        tell(options_help(form))
        return 0
    report.asked = options.keys()

    def make() -> AmendRequest:
        return make_request({**options, **_read_keywords(flags)}, purpose)

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
    try:
        flags, _, files = _read_arguments(RESIZE, arguments[: -1 if is_size else None], report)
    except MissingValueError as error:
        if not is_size:
            raise
        raise UsageError(f"{error}; the last argument, '{size}', is the size") from None
    if not is_size and files[0 if "files-from" in flags else 1 :]:
        size, is_size = files.pop(), True  # and make_resize() says what is wrong with it
        report.filename = files[0] if len(files) == 1 else None
    if "help" in flags:
        return _tell_help(RESIZE)
    if flags.get("preallocation", "off") != "off":
        raise UsageError(
            "--preallocation: only off is supported, as nothing new is allocated; allocate the "
            "disk by writing to it, or with qemu-img resize --preallocation"
        )
    if not is_size:
        raise UsageError("Expecting image file name and size, such as 10G, +1G or -512M")
    for name in files[1:]:  # of a slip no image must get the size that was typed last
        if parse_size(name.lstrip("+-")) is not None and not lexists(name):
            raise UsageError(f"Expecting one size, after the images: '{name}' is another one")
    report.asked = {"size"}
    report.success = "Image resized."

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
        from .files import check_files

        check_files(files, flags)
    result = _call_amend(files[0], make, flags, report, own_process=own_process)
    report.result(result, quiet="quiet" in flags)
    report.end(quiet="quiet" in flags, dry_run=result.dry_run)
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
        from ..confine import confine_to

        confine_to(image, vcpu, runs, keys=request.keys is not None, required=required)

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
    check_cache(cache)
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
