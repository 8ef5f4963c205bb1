"""Host side: what the user reads: results, errors and progress, for people or as JSON.

The process may be confined by the time it has something to report, so a Report imports and opens
all that it needs when it is told its format, before any image is looked at. Whatever comes from
outside is escaped; a stream that is closed or full is no reason to fail, unless what was to be told
is all that the command is for.
"""

from __future__ import annotations

import sys

from ..base.errors import GuestFault, HostError, ImageRejected, UsageError, error_fields, explain
from ..base.escape import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from ..amend.result import AmendResult

OUTPUT_FORMATS = ("human", "json")
LOST = "the result was not written: stdout is closed, full or no longer read"


class Report:
    """Where the outcome of one command goes: people read it, until told otherwise."""

    def __init__(self) -> None:
        """Start with nothing said and no file named."""
        self.filename: str | None = None
        self.asked: Collection[str] = ()
        """The keys of the options that are asked for."""
        self.only_looks = False
        """Whether the command changes no image."""
        self.verbose = False
        """Whether each amend is told of on stderr."""
        self.success = ""
        """The line on stdout for an image that is as asked, where qemu-img has one."""
        self._dump: Callable[[object], str] | None = None
        self._is_batch = False

    @property
    def is_json(self) -> bool:
        """Whether stdout is to hold one JSON document and nothing else."""
        return self._dump is not None

    def use(self, output_format: str) -> None:
        """Switch to one of OUTPUT_FORMATS; raises UsageError for another."""
        if output_format not in OUTPUT_FORMATS:
            raise UsageError(f"--output: expected human or json, not '{output_format}'")
        self._dump = None
        if output_format == "json":
            from json import JSONEncoder

            self._dump = JSONEncoder(indent=2, default=vars).encode

    def expect(self, *, verbose: bool, dry_run: bool) -> None:
        """Make ready to describe results, if that is asked for."""
        self.verbose = verbose
        if verbose or dry_run:
            from . import result_text  # noqa: F401 - which a confined process could not

    def use_lines(self) -> None:
        """Report many images: each document of JSON in one line, each error with its image."""
        self._is_batch = True
        if self._dump is not None:
            from ..base.lean_json import dump_line

            self._dump = dump_line

    def document(self, document: object) -> None:
        """Write `document` to stdout, if it is JSON that is wanted."""
        if self._dump is not None:
            write("stdout", self._dump(document) + "\n")

    def result(self, result: AmendResult, *, quiet: bool) -> None:
        """Report a success, of which people hear only what is worth it, and if quiet nothing."""
        if self.is_json:
            self.document(result.to_dict())
        if self.verbose and not quiet:
            from .result_text import describe_done

            write("stderr", f"instar: {describe_done(result, self.asked)}\n")
        if result.dry_run and not self.is_json and not quiet:
            from .result_text import describe

            write("stdout", describe(result, self.asked))
        elif self.success and not (self.is_json or self._is_batch or quiet):
            write("stdout", f"{self.success}\n")
        if not quiet:
            for warning in result.warnings:
                write("stderr", f"instar: warning: {escape(warning)}\n")

    def end(self, *, quiet: bool, dry_run: bool) -> None:
        """Say if results were lost. HostError if they are all that it was for, as of a dry run."""
        if sys.stdout is not None or not (self.is_json or (dry_run and not quiet)):
            return
        if dry_run:
            check_told()
        if not quiet:
            write("stderr", f"instar: warning: {LOST}\n")

    def error(self, error: BaseException) -> int:
        """Report a failure in one line, and as JSON if wanted; return the exit status."""
        if isinstance(error, KeyboardInterrupt) and self.only_looks:
            error = KeyboardInterrupt("interrupted")
        message, exit_status = explain(error)
        if self.is_json:
            self.document({"filename": self.filename, "error": error_fields(error)})
        prefix = f"'{self.filename}': " if self._is_about_image(error, message) else ""
        write("stderr", f"instar: {escape(prefix + message)}\n")
        return exit_status

    def told_error(self, document: dict[str, Any]) -> int:
        """Report a failure that another process tells of, as error() does; return the status."""
        self.document(document)
        kind, message = (str(document["error"].get(key, "")) for key in ("kind", "message"))
        named = self._is_batch or kind in ("ImageRejected", "GuestFault")
        prefix = f"'{self.filename}': " if named and f"'{self.filename}'" not in message else ""
        write("stderr", f"instar: {escape(prefix + message)}\n")
        return 2 if kind == "UsageError" and not self._is_batch else 1

    def _is_about_image(self, error: BaseException, message: str) -> bool:
        """Whether the message wants the image's name: these two never have it, others may."""
        if self.filename is None or isinstance(error, ImageRejected | GuestFault):
            return self.filename is not None
        return self._is_batch and f"'{self.filename}'" not in message


class Progress:
    """Progress as qemu-img shows it: at 0, at 100 and whenever it moved by more than a point."""

    def __init__(self) -> None:
        """Start with nothing shown."""
        self._shown: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done, if that is news."""
        percent = min(100.0 * done / total, 100.0) if total else 100.0
        if self._shown is None:
            self._show(0.0)
        moved = percent - (self._shown or 0.0)
        if moved > 1 or (moved > 0 and percent == 100):
            self._show(percent)

    def end(self, *, succeeded: bool) -> None:
        """Leave the line, after a last 100 if it went well."""
        if succeeded:
            self(1, 1)
        write("stdout", "\n")

    def _show(self, percent: float) -> None:
        self._shown = percent
        write("stdout", f"    ({percent:3.2f}/100%)\r")


def show_debug(text: str) -> None:
    """Show debug text of the guest, which is hostile, on stderr."""
    for line in text.splitlines():
        write("stderr", f"guest: {escape(line)}\n")


def write(stream_name: str, text: str) -> None:
    """Write `text` to sys.stdout or sys.stderr at once; failing to is no error."""
    stream = getattr(sys, stream_name)
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        # Otherwise the interpreter tries again on its way out, and makes the exit status 120.
        setattr(sys, stream_name, None)


def tell(text: str) -> None:
    """Write to stdout what is all that a command is for. HostError if that is lost."""
    write("stdout", text)
    check_told()


def check_told() -> None:
    """Raise HostError if stdout did not take what was written to it; for what only tells."""
    if sys.stdout is None:
        raise HostError(LOST)
