"""Host side: what the user reads: results, errors and progress, for people or as JSON.

The process may be confined by the time it has something to report, so a Report imports and opens
all that it needs when it is told its format, before any image is looked at. Whatever comes from
outside is escaped; a stream that is closed or full is no reason to fail.
"""

from __future__ import annotations

import sys

from ..base.errors import GuestFault, ImageRejected, UsageError, error_fields, explain
from ..base.escape import escape
from ..base.record import load_dump
from ..request.options import BY_KEY, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any

    from ..amend.result import AmendResult, AmendStep, ByteRange
    from ..contract.terms import Change

OUTPUT_FORMATS = ("human", "json")

# In the order of the ABI's INSTAR_PHASE_*.
_PHASES = (
    *("before the switch", "before the switch: refcount table", "before the switch: mapping"),
    *("the switch", "after the switch", "after the switch: flags"),
    "when all is done: given back",
)
_ALWAYS_TOLD = ("compat", "lazy_refcounts")
_HEXADECIMAL_FIELDS = ("_features", "_offset")


class Report:
    """Where the outcome of one command goes: people read it, until told otherwise."""

    def __init__(self) -> None:
        """Start with nothing said and no file named."""
        self.filename: str | None = None
        self.asked: Collection[str] = ()
        """The keys of the options that are asked for."""
        self.verbose = False
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
        self._dump = load_dump(indent=2) if output_format == "json" else None

    def use_lines(self) -> None:
        """Report many images: each document of JSON in one line, each error with its image."""
        self._is_batch = True
        if self._dump is not None:
            self._dump = load_dump(indent=None)

    def document(self, document: object) -> None:
        """Write `document` to stdout, if it is JSON that is wanted."""
        if self._dump is not None:
            write("stdout", self._dump(document) + "\n")

    def result(self, result: AmendResult, *, quiet: bool) -> None:
        """Report a success, of which people hear only what is worth it, and if quiet nothing."""
        if self.is_json:
            self.document(result.to_dict())
        if self.verbose and not quiet:
            write("stderr", f"instar: {_describe_done(result, self.asked)}\n")
        if result.dry_run and not self.is_json and not quiet:
            write("stdout", describe(result, self.asked))
        if not quiet:
            for warning in result.warnings:
                write("stderr", f"instar: warning: {escape(warning)}\n")

    def error(self, error: BaseException) -> int:
        """Report a failure in one line, and as JSON if wanted; return the exit status."""
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


def describe(result: AmendResult, asked: Collection[str]) -> str:
    """Return what a dry run found out, as lines for people, who asked for these options."""
    state = ", ".join(f"{key} {text or 'none'}" for key, text in _spell_options(result, asked))
    name = escape(result.filename)
    if result.action == "noop":
        return f"{name}: nothing to change ({state})\n"
    lines = [f"{name}: would become {state} ({_describe_switch(result)})"]
    if not result.steps:
        lines += [f"  {line}" for line in _describe_part(result)]
    for number, step in enumerate(result.steps, 1):
        asked = ",".join(f"{key}={_spell(key, value)}" for key, value in step.asked.items())
        lines.append(f"  step {number} of {len(result.steps)}: {asked} ({_describe_switch(step)})")
        lines += [f"    {line}" for line in _describe_part(step)]
    return "\n".join(lines) + "\n"


def _describe_switch(part: AmendResult | AmendStep) -> str:
    if part.action == "noop":
        return "nothing to change"
    return "atomic" if part.atomic else "not atomic"


def _describe_part(part: AmendResult | AmendStep) -> Iterator[str]:
    """What an amend, or a step of one, changes and writes."""
    yield from map(_describe_change, part.changes)
    yield from map(_describe_range, part.ranges)
    if part.more_ranges:
        yield f"and {part.more_ranges} ranges more"
    if part.file_end is not None:
        yield f"{_PHASES[-1]}: all of the file after {part.file_end} bytes"


def _describe_done(result: AmendResult, asked: Collection[str]) -> str:
    """What is to be kept of an amend, in one line."""
    what = f"dry run, {result.action}" if result.dry_run else result.action
    written = 0 if result.dry_run else result.bytes_written
    state = ",".join(f"{key}={text}" for key, text in _spell_options(result, asked))
    payload = f", payload {result.payload_sha256}" if result.payload_sha256 else ""
    return f"'{escape(result.filename)}': {what} ({state}), {written} bytes written{payload}"


def _spell(key: str, value: str | int | None) -> str:
    """A value that was asked for, as -o has it."""
    return escape(BY_KEY[key].spell(value) if key in BY_KEY else str(value))


def _spell_options(result: AmendResult, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """What holds of the options that are asked for, and of those that people always hear of."""
    for row in OPTIONS:
        if result.format == "qcow2" and (row.key in asked or row.key in _ALWAYS_TOLD):
            yield row.key, escape(row.spell(result.options[row.key]))
    if "keys" in asked:
        changes = [change for change in result.changes if change.field.startswith("keyslot_")]
        yield from ((change.field, _describe_keyslot(change.after)) for change in changes)


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


def _describe_change(change: Change) -> str:
    values = (_describe_value(change.field, value) for value in (change.before, change.after))
    return f"{change.field}: {' -> '.join(values)}"


def _describe_keyslot(iterations: int | str | None) -> str:
    return "none" if iterations is None else f"{iterations} iterations"


def _describe_value(field: str, value: int | str | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return f"'{escape(value)}'"
    return hex(value) if field.endswith(_HEXADECIMAL_FIELDS) else str(value)


def _describe_range(byte_range: ByteRange) -> str:
    phase = _PHASES[byte_range.phase]
    is_hole = phase == _PHASES[-1]
    what = " of zeros" if byte_range.zeroes and not is_hole else ""
    return f"{phase}: {byte_range.length} bytes{what} at {byte_range.offset:#x}"
