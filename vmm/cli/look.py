"""Host side: what `instar info` and `instar check` have in common: files, documents, reports.

One image is looked at by the command's own process, which confines itself; of many, each by a child
of its own (children.py), and a repair takes three of them.
"""

from __future__ import annotations

import gc
import time

from ..base.errors import ImageLocked, UsageError
from ..base.record import record
from ..confine import Descriptors, confine
from ..request import TIMEOUT
from ..request.keywords import check_cache
from .arguments import read_line, read_seconds
from .commands import format_help
from .files import check_files, check_many, names_of, read_jobs
from .report import tell, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from ..image.image_file import ImageFile
    from .children import Steps
    from .counter import Counter
    from .flags import Command
    from .report import Report

    Document = dict[str, Any]
    Confine = Callable[[ImageFile, int], None]


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
    report.filename = files[0] if len(files) == 1 else None
    report.only_looks = "repair" not in flags
    check_cache(flags.get("cache", "none"))
    if "repair" in flags:
        from ..repair import EXTENTS  # which nothing else needs

        if flags["repair"] not in EXTENTS:  # an image's name, if the value was forgotten
            raise UsageError(f"-r expects 'leaks' or 'all', not '{flags['repair']}'")
    check_files(files, flags)
    if len(files) == 1 and flags.keys().isdisjoint(("jobs", "files-from")):
        return Arguments(flags, files, files, None)
    check_many(flags)
    return Arguments(flags, files, names_of(files, flags), read_jobs(flags))


def read_timeout(flags: Mapping[str, str]) -> float:
    """How many seconds the guest may run for. UsageError."""
    return read_seconds(flags["timeout"]) if "timeout" in flags else TIMEOUT


def look_at_all(
    arguments: Arguments,
    report: Report,
    look: Callable[[str], Document],
    tell: Callable[..., int],
    timeout: float,
    shape: str,
    steps: Steps | None = None,
) -> Iterator[int]:
    """Look at each image, tell of it, and yield its exit status.

    `look(name)` gives a document of this shape (shapes.py), or raises; a child does it, unless
    there is but one image. What is more than a look is `steps`. `tell(document, named=...)`
    reports a document.
    """
    many = arguments.jobs is not None
    quiet = report.is_json or "quiet" in arguments.flags
    counter, shown = None, False
    if many:
        report.use_lines()
        counter = _make_counter(None if quiet or "progress" not in arguments.flags else arguments)
    try:
        for document in _documents(arguments, look, timeout, shape, steps):
            if counter:
                counter.clear()
            report.filename = document["filename"]
            if "error" in document:
                yield report.told_error(document)
            else:
                if shown:
                    write("stdout", "\n")
                shown = not quiet
                yield tell(document, named=many)
            if counter:
                counter.update()
    finally:
        if many:
            report.filename = None
        if counter:
            counter.close()


def _documents(
    arguments: Arguments,
    look: Callable[[str], Document],
    timeout: float,
    shape: str,
    steps: Steps | None,
) -> Iterator[Document]:
    """The documents of all images, in the order of the names."""
    look = _offer_sharing(look)
    if arguments.jobs is None and steps is None:
        yield look(arguments.files[0])
        return
    from .children import carry_out, one_step  # which one image, in this process, does not need

    gc.enable()
    jobs = arguments.jobs or 1
    yield from carry_out(
        arguments.names, steps or one_step(look, shape), jobs=jobs, timeout=timeout
    )


def _offer_sharing(look: Callable[[str], Document]) -> Callable[[str], Document]:
    """The look, whose error says what helps with an image that is in use. A repair has its own."""

    def look_at(name: str) -> Document:
        try:
            return look(name)
        except ImageLocked as error:
            raise ImageLocked(f"{error} With -U it is looked at all the same") from error

    return look_at


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
