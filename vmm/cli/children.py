"""Host side: children of `instar info` and `instar check`: each does one step for one image.

A child opens the image, locks it, confines itself, and tells what it found as a JSON document. What
it tells has the shape of what an honest one tells, is shown, and never used. All of them are
children of the command itself, so that none can outlive what began it.
"""

from __future__ import annotations

import os
import select
import time

from ..base.c import get_limits, syscall
from ..base.errors import HostError, error_fields, reason_of_fork
from ..base.lean_json import dump_line
from ..base.record import record
from ..base.streams import open_null
from ..fleet import MARGIN, PATIENCE, describe_end, end_child
from ..fleet.interrupts import LetIn, begin_as_child, carry_through
from .shapes import read_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any

    Document = dict[str, Any]
    Steps = Callable[[str], Generator["Step", Document, Document]]
else:  # as in fleet/interrupts.py
    import _signal as signal

ANSWER_MAX = 8 << 20
"""Bytes of a document. An honest one tells what came in a MiB of frames (devices/serial.py), of
which JSON may need six bytes for one; read, a hostile one takes 300 MiB."""
_SYS_PRCTL, _PR_SET_PDEATHSIG = 157, 1  # asm/unistd_64.h, linux/prctl.h
_RLIMIT_NOFILE = 7  # asm-generic/resource.h
_OTHER_FILES = 24  # standard streams, the list of names, an image, a machine; and some to spare
_LAST_WORDS = 1.0
"""Seconds that a child has to end after the last that is heard of it."""
_MUTE = "the confined process ended without a word that makes sense"
_INTERRUPTED = "the command was interrupted"


@record
class Step:
    """What a child does for an image."""

    act: Callable[[str], Document]
    """Called with the image's name; what it raises is told as an error's document."""
    shape: str
    """That of its document (shapes.py)."""
    unsure: str = ""
    """What there is to say of the image if it writes, and says nothing."""


def one_step(act: Callable[[str], Document], shape: str) -> Steps:
    """All that is done for an image is one step, which writes nothing."""

    def steps(_name: str) -> Generator[Step, Document, Document]:
        return (yield Step(act, shape))

    return steps


def carry_out(
    names: Iterable[str], steps: Steps, *, jobs: int, timeout: float
) -> Iterator[Document]:
    """Do all steps for each name; yield the documents in the order of the names.

    `steps(name)` yields a Step at a time, is sent its document or that of an error, and returns the
    image's. A guest has `timeout` seconds.

    Until the end SIGINT and SIGTERM reach the process only while this waits, for a child or for a
    name. After one no step is begun but of images that are being repaired, which have PATIENCE to
    come to their end; then the documents of all that came to it follow, and the interrupt goes on.
    """
    batch = _Batch(iter(names), steps, min(jobs, _most_children()), timeout + MARGIN)
    yield from carry_through(batch)


def _most_children() -> int:
    """How many children the limit of open files leaves room for, at least one.

    Each is one here, and has those of all before it, besides its own.
    """
    try:
        return max(get_limits(_RLIMIT_NOFILE)[0] - _OTHER_FILES, 1)
    except OSError:  # a filter of system calls may deny it
        return 1


class _Batch:
    """One call of carry_out()."""

    def __init__(self, names: Iterator[str], steps: Steps, jobs: int, seconds: float) -> None:
        self._names = names
        self._how = steps, seconds
        self._jobs = jobs
        self._images: list[_Image] = []  # in the order of the names; the first is told next

    def run(self) -> Iterator[Document]:
        while True:
            while len(self._images) < self._jobs:
                with LetIn():
                    name = next(self._names, None)
                if name is None:
                    break
                self._images.append(_Image(name, *self._how))
            if not self._images:
                return
            yield from self._take_told()
            self._wait(min((one.deadline for one in self._begun()), default=0.0))

    def finish(self) -> Iterator[Document]:
        """Let repairs come to their end, and yield what there is to tell of all images."""
        end = time.monotonic() + PATIENCE
        for image in self._begun():
            if not image.writes:
                image.child.kill()
                self._images.remove(image)
        while self._begun() and time.monotonic() < end:
            self._wait(end)
        for image in self._begun():
            image.give_up()
        yield from self._take_told()

    def stop(self) -> None:
        """End all children."""
        for image in self._begun():
            image.child.kill()

    def _begun(self) -> list[_Image]:
        return [image for image in self._images if image.document is None]

    def _take_told(self) -> Iterator[Document]:
        """Yield what is to be told next, if that is known."""
        while self._images and (document := self._images[0].document) is not None:
            del self._images[0]
            yield document

    def _wait(self, end: float) -> None:
        """Hear children until something was said, or until `end`."""
        begun = {image.child.pipe: image for image in self._begun()}
        poll = select.poll()
        for pipe in begun:
            poll.register(pipe, select.POLLIN)
        with LetIn():
            heard = poll.poll(max(end - time.monotonic(), 0) * 1000 + 1) if begun else []
        for pipe, _ in heard:
            begun[pipe].hear()
        for image in self._begun():
            if image.deadline < time.monotonic():
                image.end_step(_MUTE)


class _Image:
    """One image, and the child that does a step for it."""

    document: Document | None = None
    """What there is to tell of it in the end."""
    child: _Child

    def __init__(self, name: str, steps: Steps, seconds: float) -> None:
        self._name = name
        self._steps = steps(name)
        self._seconds = seconds
        self._is_last = False
        self.writes = False
        """Whether a step was begun that writes."""
        self._go_on(None)

    def hear(self) -> None:
        """Take what the child has said, and go on once that was all."""
        if self.child.hear():
            self.end_step(_MUTE, _LAST_WORDS if len(self.child.told) <= ANSWER_MAX else 0.0)

    def give_up(self) -> None:
        """Begin no other step."""
        self._is_last = True
        self.end_step(_INTERRUPTED)

    def end_step(self, why: str, patience: float = 0.0) -> None:
        """Go on with what the child has said; if that makes no sense, the step failed, and why.

        It has so many seconds to end by itself.
        """
        killed = self.child.kill(patience)
        try:
            document = read_document(self.child.told, self._step.shape)
        except (ValueError, RecursionError):
            why = killed or why
            document = _failure(f"{why}; {self._step.unsure}" if self._step.unsure else why)
        self._go_on(document)

    def _go_on(self, document: Document | None) -> None:
        while self.document is None:
            try:
                self._step = self._steps.send(document)  # type: ignore[arg-type]
            except StopIteration as end:
                self.document = {**end.value, "filename": self._name}
                return
            if self._is_last:
                document = _failure(_INTERRUPTED)
                continue
            self.writes = self.writes or bool(self._step.unsure)
            self.deadline = time.monotonic() + self._seconds
            try:
                self.child = _Child(self._name, self._step.act)
            except OSError as error:
                document = _failure(f"cannot start a child: {reason_of_fork(error)}")
            else:
                return


def _failure(why: str) -> Document:
    return {"error": error_fields(HostError(why))}


class _Child:
    """A forked process, and a pipe from it."""

    def __init__(self, name: str, act: Callable[[str], Document]) -> None:
        """Fork it, while interrupts are held back. OSError."""
        self.told = bytearray()
        self.pipe, other = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self.pipe)
            os.close(other)
            raise
        if self._pid == 0:
            _be_child(parent, other, name, act)
        os.close(other)

    def hear(self) -> bool:
        """Take what there is to be read; whether that was all, or is too much."""
        data = os.read(self.pipe, 1 << 16)
        self.told += data
        return not data or len(self.told) > ANSWER_MAX

    def kill(self, patience: float = 0.0) -> str:
        """End it, if it has not ended in so many seconds; return what else killed it, or ""."""
        if not self._pid:
            return ""
        pid, self._pid = self._pid, 0
        os.close(self.pipe)
        status = end_child(pid, patience)
        code = os.waitstatus_to_exitcode(status) if status and patience else 0
        return f"the confined process {describe_end(code)}" if code < 0 else ""


def _lose_stderr() -> None:
    null = open_null()
    os.dup2(null, 2)
    os.close(null)


def _be_child(parent: int, pipe: int, name: str, act: Callable[[str], Document]) -> None:
    """Do the step, tell, and end this process."""
    try:
        try:  # noqa: SIM105 - contextlib is one more import
            syscall(_SYS_PRCTL, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        except OSError:
            pass  # a filter of system calls may deny it: then this goes on without the command
        if os.getppid() != parent:  # which has ended before it was asked for
            return
        begin_as_child(signal.SIG_IGN)  # an interrupt is the command's business
        os.dup2(pipe, 1)  # the one descriptor that a confined process may write to, and stderr
        try:
            _lose_stderr()  # where the terminal may be
            document = act(name)
        except Exception as error:
            document = {"error": error_fields(error)}
        rest = dump_line(document).encode()
        while rest:
            rest = rest[os.write(1, rest) :]
    finally:
        os._exit(0)
