"""Host side: what `instar info` and `instar check` have in common: files, children, documents.

One image is looked at by the command's own process, which confines itself. Of many, each is looked
at by a child of its own, which opens it, locks it, confines itself, and tells what it found as a
JSON document. What it tells has the shape of what an honest one tells, is shown, and never used.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time
from collections import deque

from ..base.errors import HostError, UsageError, error_fields, reason_of
from ..base.record import record, to_dict
from ..confine import Descriptors, confine
from ..fleet.interrupts import HeldBack, begin_as_child
from ..request.keywords import CACHE_MODES
from .arguments import read_line
from .batch import read_jobs
from .commands import format_help
from .report import tell, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ..image.image_file import ImageFile
    from .counter import Counter
    from .flags import Command
    from .report import Report

    Document = dict[str, Any]
    Confine = Callable[[ImageFile, int], None]

MARGIN = 30.0
"""Seconds that a child has for all but its guest."""
ANSWER_MAX = 64 << 20
"""Bytes of a document."""


@record
class Arguments:
    """A command line, read."""

    flags: dict[str, str]
    files: list[str]
    names: Iterable[str]
    """The files, and those that --files-from names."""
    jobs: int | None
    """How many children at a time; None: one image, in this process."""


def read_arguments(arguments: list[str], command: Command, report: Report) -> Arguments | None:
    """Read a command line by its table; None if the help was asked for, and was printed."""
    flags, _, files = read_line(arguments, command.flags, f"instar {command.name}", report.use)
    if "help" in flags:
        tell(format_help(command))
        return None
    if flags.get("cache", "none") not in CACHE_MODES:
        raise UsageError(f"Invalid cache option: {flags['cache']}")
    if "null" in flags and "files-from" not in flags:
        raise UsageError("--null is about the names of --files-from")
    if not files and "files-from" not in flags:
        raise UsageError("Expecting one image file name")
    if len(files) == 1 and flags.keys().isdisjoint(("jobs", "files-from")):
        report.filename = files[0]
        return Arguments(flags, files, files, None)
    if "debug" in flags:
        raise UsageError("--debug shows the text of one sandbox; name one image, without --jobs")
    return Arguments(flags, files, _names(files, flags), read_jobs(flags.get("jobs", "1")))


def _names(files: list[str], flags: dict[str, str]) -> Iterator[str]:
    yield from files
    if "files-from" in flags:
        from .name_list import read_names

        yield from read_names(flags["files-from"], null="null" in flags)


def look_at_all(
    arguments: Arguments,
    report: Report,
    look: Callable[[str], Document],
    tell: Callable[..., int],
    timeout: float,
    shape: str,
) -> Iterator[int]:
    """Look at each image, tell of it, and yield its exit status; of many, each in a child.

    `look(name)` gives a document of this shape (shapes.py), or an error's, and
    `tell(document, named=...)` reports it.
    """
    if arguments.jobs is None:
        document = look(arguments.files[0])
        failed = "error" in document
        yield report.told_error(document) if failed else tell(document, named=False)
        return
    report.use_lines()
    quiet = report.is_json or "quiet" in arguments.flags
    counter = _make_counter(None if quiet or "progress" not in arguments.flags else arguments)
    for number, document in enumerate(look_at_each(arguments, look, timeout, shape)):
        if counter:
            counter.clear()
        if number and not quiet:
            write("stdout", "\n")
        report.filename = document["filename"]
        failed = "error" in document
        yield report.told_error(document) if failed else tell(document, named=True)
        if counter:
            counter.update()
    report.filename = None
    if counter:
        counter.close()


def _make_counter(arguments: Arguments | None) -> Counter | None:
    if arguments is None:
        return None
    from .counter import Counter

    total = None if "files-from" in arguments.flags else len(arguments.files)
    return Counter(total, "stdout", stays=True)


def confiner(*, required: bool) -> Confine:
    """What confines this process to reading one image."""

    def confine_process(image: ImageFile, vcpu: int) -> None:
        time.localtime(0)  # reads the time zone, which a report may want
        used = Descriptors(image.fd, image.size, vcpu, read_only=True)
        confine(used, required=required)

    return confine_process


def look_at_each(
    arguments: Arguments, look: Callable[[str], Document], timeout: float, shape: str
) -> Iterator[Document]:
    """Have `look` done in a child for each name; yield the documents in the order of the names."""
    gc.enable()
    running: deque[_Child] = deque()
    try:
        for name in arguments.names:
            if len(running) >= (arguments.jobs or 1):
                yield running.popleft().finish(timeout + MARGIN, shape)
            running.append(_Child(name, look))
        while running:
            yield running.popleft().finish(timeout + MARGIN, shape)
    finally:
        for child in running:
            child.kill()


def look_in_child(
    name: str, look: Callable[[str], Document], timeout: float, shape: str
) -> Document:
    """Have `look` done in a child for one name; a document of this shape, or an error's."""
    child = _Child(name, look)
    try:
        return child.finish(timeout + MARGIN, shape)
    finally:
        child.kill()


class _Child:
    """A forked process that looks at one image, and a pipe from it."""

    def __init__(self, name: str, look: Callable[[str], Document]) -> None:
        self._name = name
        self._told = bytearray()
        try:
            with HeldBack():
                self._pipe, other = os.pipe2(os.O_CLOEXEC)
                self._pid = os.fork()
                if self._pid == 0:
                    _be_child(other, name, look)
        except OSError as error:
            raise HostError(f"cannot start a child: {reason_of(error)}") from error
        os.close(other)

    def finish(self, seconds: float, shape: str) -> Document:
        """Wait for its document; an error's if it has none of this shape, or takes too long."""
        from .shapes import read_document  # which one image, without a child, does not need

        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._pipe)
        try:
            while poll.poll(max(end - time.monotonic(), 0) * 1000):
                data = os.read(self._pipe, 1 << 16)
                self._told += data
                if not data or len(self._told) > ANSWER_MAX:
                    break
        finally:
            self.kill()
        try:
            document = read_document(self._told, shape)
        except (ValueError, RecursionError):
            error = HostError("the confined process ended without a word that makes sense")
            document = {"error": error_fields(error)}
        return {**document, "filename": self._name}

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._pid:
            os.close(self._pipe)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _be_child(pipe: int, name: str, look: Callable[[str], Document]) -> None:
    """Look, tell, and end this process."""
    try:
        begin_as_child(signal.SIG_DFL)
        dump = json.JSONEncoder(default=to_dict).encode
        os.dup2(pipe, 1)  # the one descriptor that a confined process may write to, and stderr
        try:
            document = look(name)
        except Exception as error:
            document = {"error": error_fields(error)}
        rest = dump(document).encode()
        while rest:
            rest = rest[os.write(1, rest) :]
    finally:
        os._exit(0)
