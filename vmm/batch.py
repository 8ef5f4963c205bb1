"""Host side: many images for the command: this process opens them, confined workers amend them.

A process that may open paths does not look into an image, and one that looks into images may open
nothing (docs/decisions/0009-a-batch-is-opened-by-one-process-and-amended-by-others.md). What a
worker says is judged before it becomes an outcome.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, prlimit

from instar.vmm.document import ANSWER_MAX, EITHER, read_error, read_result
from instar.vmm.errors import HostError, InstarError
from instar.vmm.image_file import ImageFile
from instar.vmm.record import record
from instar.vmm.result import AmendOutcome
from instar.vmm.supply import Supply
from instar.vmm.worker import DEVICE, IMAGE, LAST, MORE, PIECE, READY, REGULAR, work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instar.vmm.order import Order, PathLike

MARGIN = 30.0
"""Seconds that a worker has for all of an image but its guest: the locks, the commit."""
AHEAD = 16
"""Images that a worker has been sent at a time, so that it need not wait for this process."""
NAP = 0.002
"""Seconds that this process lets answers come together while every worker has enough to do."""
PATIENCE = 2.0
"""Seconds that workers have to end the image at hand when the batch is given up."""


def amend_batch(
    paths: Iterable[PathLike], order: Order, *, jobs: int, required: bool
) -> Iterator[AmendOutcome]:
    """Amend images in `jobs` confined processes; yield what became of each as it is known.

    For a process without other threads, as it forks. `required` is that of confine(). Raises
    HostError if this machine cannot run workers; whoever stops early lets images that were begun
    come to their end.
    """
    batch = _Batch(Supply(paths), order, jobs, required)
    try:
        yield from batch.run()
    finally:
        batch.stop()


@record
class _Sent:
    """An image that a worker has."""

    path: PathLike
    name: str
    size: int
    """In bytes, that it may have at the end."""


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, order: Order, stop: mmap.mmap, required: bool) -> None:
        """Fork it; it says READY, or what is wrong, before anything else. HostError."""
        # An interrupt must not find the child before it knows that it is one.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.pid = os.fork()
            if self.pid == 0:
                work(other, order, stop, required=required)
        except OSError as error:
            raise HostError(f"cannot start a worker: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        other.close()
        self.sent: deque[_Sent] = deque()
        self.told = bytearray()
        """The pieces of an answer so far."""
        self.ready = False
        self.gave_up = False
        """Whether its last answer was an error, behind which it may have to end."""
        self.deadline = time.monotonic() + MARGIN
        self._limit = -1

    @property
    def room(self) -> bool:
        """Whether it may be sent another image."""
        return len(self.sent) < AHEAD

    def send(self, path: PathLike, image: ImageFile) -> None:
        """Pass an image on; that the worker is no more shows when its answer is waited for."""
        self.sent.append(_Sent(path, image.name, image.size + image.max_growth))
        self._allow(max(sent.size for sent in self.sent))
        with suppress(OSError):
            kind = DEVICE if image.is_device else REGULAR
            message = IMAGE.pack(kind, image.work_max) + os.fsencode(image.name)
            socket.send_fds(self.channel, [message], [image.fd])

    def _allow(self, size: int) -> None:
        """Have the kernel refuse what would make a file larger than the largest image at hand."""
        limit = min(size + 511 & ~511, 1 << 62)  # the limit is a signed number to some
        own, most = getrlimit(RLIMIT_FSIZE)
        if limit != self._limit and own == RLIM_INFINITY:
            self._limit = limit
            with suppress(ProcessLookupError):
                prlimit(self.pid, RLIMIT_FSIZE, (limit, most))

    def receive(self) -> bytes | None:
        """The next answer; empty if the worker is no more, None if it has not said anything."""
        try:
            return self.channel.recv(PIECE + 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # It ended with images unread, which is told once, before what it said last.
            return self.channel.recv(PIECE + 1)

    def takes_piece(self, piece: bytes) -> bool:
        """Keep a piece of an answer; whether another one must follow. Nonsense is the last one."""
        if piece[:1] not in (MORE, LAST) or len(self.told) > ANSWER_MAX:
            self.told.clear()
            return False
        self.told += piece[1:]
        return piece[:1] == MORE

    def end(self, patience: float) -> str:
        """Wait for its end, and enforce it after so many seconds; say what that was."""
        self.channel.close()
        end = time.monotonic() + patience
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        while pid == 0 and time.monotonic() < end:
            time.sleep(0.002)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"ended with status {code}" if code >= 0 else f"was killed ({_name_signal(-code)})"


class _Batch:
    """One call of amend_batch()."""

    def __init__(self, supply: Supply, order: Order, jobs: int, required: bool) -> None:
        self._supply = supply
        self._order = order
        self._jobs = jobs
        self._required = required
        self._stop = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the workers
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()

    def run(self) -> Iterator[AmendOutcome]:
        while True:
            yield from self._feed()
            if not any(worker.sent for worker in self._workers.values()):
                return
            for descriptor in self._wait():
                yield from self._take_answers(descriptor)

    def stop(self) -> None:
        """End all workers, of which each may end the image at hand."""
        self._stop[0] = 1
        end = time.monotonic() + PATIENCE
        for worker in self._workers.values():
            worker.channel.close()
        for worker in self._workers.values():
            worker.end(end - time.monotonic())
        self._workers.clear()

    def _feed(self) -> Iterator[AmendOutcome]:
        """Give the workers as much as they may have; images that cannot be opened are done."""
        while len(self._workers) < self._jobs or self._least_busy().room:
            path = self._supply.take()
            if path is None:
                return
            try:
                with self._open(path) as image:
                    self._choose_worker().send(path, image)
            except InstarError as error:
                yield self._end(path, error)

    def _open(self, path: PathLike) -> ImageFile:
        growth = self._order.request.max_growth
        return ImageFile(os.fspath(path), writable=not self._order.dry_run, max_growth=growth)

    def _least_busy(self) -> _Worker:
        return min(self._workers.values(), key=lambda worker: len(worker.sent))

    def _choose_worker(self) -> _Worker:
        if self._workers and (len(self._workers) == self._jobs or not self._least_busy().sent):
            worker = self._least_busy()
            if not worker.sent:
                worker.deadline = self._new_deadline()
            return worker
        worker = _Worker(self._order, self._stop, self._required)
        worker.deadline = self._new_deadline()
        self._workers[worker.channel.fileno()] = worker
        self._poll.register(worker.channel, select.POLLIN)
        return worker

    def _new_deadline(self) -> float:
        return time.monotonic() + self._order.timeout + MARGIN

    def _wait(self) -> list[int]:
        """The channels with an answer, or whose worker has ended or has to."""
        busy = [worker.deadline for worker in self._workers.values() if worker.sent]
        if all(len(worker.sent) > AHEAD // 2 for worker in self._workers.values()):
            time.sleep(NAP)
        seconds = max(min(busy) - time.monotonic(), 0)
        found = [descriptor for descriptor, _ in self._poll.poll(seconds * 1000 + 1)]
        now = time.monotonic()
        late = (fd for fd, worker in self._workers.items() if worker.sent and worker.deadline < now)
        return found or list(late)

    def _take_answers(self, descriptor: int) -> Iterator[AmendOutcome]:
        """Take all that a worker has said by now, or end it if it should have said something."""
        worker = self._workers[descriptor]
        heard = False
        while (answer := worker.receive()) is not None:
            heard = True
            if not answer:
                yield from self._bury(descriptor, PATIENCE)
                return
            if not worker.ready:
                if answer != READY:
                    raise read_error(json.loads(answer))
                worker.ready = True
            elif worker.takes_piece(answer):
                continue
            elif (outcome := _read(worker.told, worker.sent)) is None:
                worker.gave_up = False
                yield from self._bury(descriptor, 0)
                return
            else:
                worker.told.clear()
                self._supply.done(worker.sent.popleft().path)
                worker.gave_up = outcome.error is not None
                yield outcome
        if heard:
            worker.deadline = self._new_deadline()
        elif worker.sent and worker.deadline < time.monotonic():
            yield from self._bury(descriptor, 0)

    def _bury(self, descriptor: int, patience: float) -> Iterator[AmendOutcome]:
        """Have what a worker had not begun done by another, and say what became of it."""
        worker = self._workers.pop(descriptor)
        self._poll.unregister(descriptor)
        how = worker.end(patience)
        if not worker.ready:
            raise HostError(f"a confined worker {how} before its first image")
        # Every worker's life ends at least one image, so that there is an end to all of them.
        if worker.sent and not worker.gave_up:
            sent = worker.sent.popleft()
            yield self._end(sent.path, HostError(f"the confined worker {how}; {EITHER}"))
        for sent in reversed(worker.sent):
            self._supply.put_back(sent.path)

    def _end(self, path: PathLike, error: InstarError) -> AmendOutcome:
        self._supply.done(path)
        return AmendOutcome(path, None, error)


def _read(answer: bytearray, sent: deque[_Sent]) -> AmendOutcome | None:
    """What a worker says of the first image that it was sent; None if that makes no sense."""
    try:
        image = sent[0]
        document = json.loads(answer)
        if "result" in document:
            return AmendOutcome(image.path, read_result(document["result"], image.name), None)
        return AmendOutcome(image.path, None, read_error(document["error"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _name_signal(number: int) -> str:
    return signal.strsignal(number) or str(number)
