"""Host side: many images for the command: this process opens them, confined workers amend them.

A process that may open paths does not look into an image, and one that looks into images may open
nothing (docs/decisions/0009-a-batch-is-opened-by-one-process-and-amended-by-others.md). What a
worker says is judged before it becomes an outcome.
"""

from __future__ import annotations

import select
import time

from ..amend import open_image
from ..amend.result import AmendOutcome
from ..base.errors import HostError, InstarError
from ..machine.payload import load_payload
from ..request.keywords import announce
from . import MARGIN, PATIENCE
from .document import Expected, describe_unsure, read_outcome
from .interrupts import LetIn, carry_through
from .supply import Supply
from .worker import OVER, READY
from .worker_process import AHEAD, WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ..request import AmendRequest
    from ..request.keywords import PathLike
    from .supply import Taken

_SHUT_WR = 1  # sys/socket.h
NAP = 0.005
"""Seconds that this process lets answers come together while every worker has enough to do."""


def amend_batch(
    paths: Iterable[PathLike], request: AmendRequest, *, jobs: int, required: bool
) -> Generator[AmendOutcome, None, None]:
    """Amend images in `jobs` confined processes; yield what became of each as it is known.

    For a process without other threads, as it forks. `required` is that of confine(). Raises
    HostError if this machine cannot run a single worker. Whoever stops early lets images that were
    begun come to their end.

    Until the end, SIGINT and SIGTERM reach the process only while this waits or begins an image:
    anywhere else, the caller's part included, the KeyboardInterrupt that they become could cost an
    answer that was heard and not yet told. After it the outcomes of all images that were begun
    follow, and then it goes on.
    """
    batch = _Batch(Supply(paths, settles=request.settles), request, jobs, required)
    yield from carry_through(batch)


class _Batch:
    """One call of amend_batch()."""

    def __init__(self, supply: Supply, request: AmendRequest, jobs: int, required: bool) -> None:
        self._supply = supply
        self._request = request
        self._jobs = jobs
        self._required = required
        self._payload = load_payload()
        self._proven = False  # whether this machine can run workers
        self._last = 0.0  # when all workers have to have ended
        self._held: Taken | None = None  # what no worker could be sent yet
        self._full_since = 0.0  # since when that is so while no worker has any; 0: it is not
        self._workers: dict[int, WorkerProcess] = {}
        self._poll = select.poll()

    def run(self) -> Iterator[AmendOutcome]:
        while True:
            yield from self._feed()
            if not any(worker.sent for worker in self._workers.values()):
                return
            for descriptor in self._wait():
                yield from self._take_answers(descriptor)

    def finish(self) -> Iterator[AmendOutcome]:
        """Begin no other image, and yield what becomes of those that were begun."""
        self._last = time.monotonic() + PATIENCE
        for worker in self._workers.values():
            try:  # noqa: SIM105 - contextlib is one more import
                worker.channel.shutdown(_SHUT_WR)
            except OSError:
                pass
        while self._workers and (left := self._last - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left * 1000):
                yield from self._take_answers(descriptor)
        for descriptor in list(self._workers):
            yield from self._kill(descriptor, "did not come to an end and was killed")

    def stop(self) -> None:
        """End all workers, of which each may end the image at hand."""
        end = self._last or time.monotonic() + PATIENCE
        for worker in self._workers.values():
            worker.channel.close()
        for worker in self._workers.values():
            worker.end(end - time.monotonic())
        self._workers.clear()

    def _feed(self) -> Iterator[AmendOutcome]:
        """Give the workers as much as they may have; images that cannot be opened are done."""
        while len(self._workers) < self._jobs or self._least_busy().room:
            failed: AmendOutcome | None = None
            with LetIn():
                taken = self._held or self._supply.take()
                if taken is None:
                    return
                try:
                    if taken.error:
                        raise taken.error
                    if self._held is None:
                        announce(taken.path, self._request)
                    with open_image(taken.path, self._request) as image:
                        full = self._choose_worker().send(taken, image)
                    self._held = taken if full else None
                    if not full:
                        self._full_since = 0.0
                    elif any(worker.sent for worker in self._workers.values()):
                        return
                    else:
                        self._wait_for_others(full, image.name)
                except InstarError as error:
                    self._held = None
                    failed = self._end(taken, error)
            if failed:
                yield failed

    def _wait_for_others(self, full: str, name: str) -> None:
        """Let other processes of the user receive what he has on the way, if that is all he may.

        `full` is what send() returned of the image `name`. HostError after PATIENCE.
        """
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > PATIENCE:
            advice = "raise the limit of open files (ulimit -n)"
            raise HostError(f"cannot pass '{name}' to a worker: {full}; {advice}")
        time.sleep(NAP)

    def _least_busy(self) -> WorkerProcess:
        return min(self._workers.values(), key=lambda worker: len(worker.sent))

    def _choose_worker(self) -> WorkerProcess:
        """Return the one that is to get the next image. HostError if there is none, nor can be."""
        if not self._workers or (len(self._workers) < self._jobs and self._least_busy().sent):
            try:
                worker = WorkerProcess(self._request, self._payload, self._required)
            except HostError:
                if not self._workers:
                    raise
                self._jobs = len(self._workers)  # those that there are will do
            else:
                self._workers[worker.channel.fileno()] = worker
                self._poll.register(worker.channel, select.POLLIN)
        worker = self._least_busy()
        if not worker.sent:
            worker.deadline = self._new_deadline()
        return worker

    def _new_deadline(self) -> float:
        return time.monotonic() + self._request.timeout + MARGIN

    def _wait(self) -> list[int]:
        """The channels with an answer, or whose worker has ended or has to."""
        busy = [worker.deadline for worker in self._workers.values() if worker.sent]
        with LetIn():
            if all(len(worker.sent) > AHEAD // 2 for worker in self._workers.values()):
                time.sleep(NAP)
            seconds = max(min(busy) - time.monotonic(), 0)
            found = [descriptor for descriptor, _ in self._poll.poll(seconds * 1000 + 1)]
        late = (fd for fd, worker in self._workers.items() if worker.is_late)
        return list(dict.fromkeys((*found, *late)))

    def _take_answers(self, descriptor: int) -> Iterator[AmendOutcome]:
        """Take all that a worker has said by now, or end it if it should have said something."""
        worker = self._workers[descriptor]
        while (answer := worker.receive()) is not None:
            if not answer:
                yield from self._bury(descriptor, PATIENCE)
                return
            if not worker.ready:
                if answer != READY:
                    yield from self._bury(descriptor, PATIENCE, answer)
                    return
                worker.ready = self._proven = True
            elif answer == OVER:
                worker.is_over = True
                yield from self._bury(descriptor, PATIENCE)
                return
            elif worker.takes_piece(answer):
                continue
            elif (outcome := self._read(worker)) is None:
                # Nothing that it has said since is worth more.
                worker.kill("said what makes no sense and was killed")
                yield from self._bury(descriptor, 0)
                return
            else:
                worker.told.clear()
                taken = worker.sent.popleft().taken
                self._supply.done(taken)
                worker.gave_up = outcome.error is not None
                yield taken.tell(outcome)
            worker.deadline = self._new_deadline()
        if worker.why_killed:  # that was the last of it
            yield from self._bury(descriptor, 0)
        elif worker.is_late:
            seconds = self._request.timeout + MARGIN
            yield from self._kill(descriptor, f"did not answer within {seconds:g} s and was killed")

    def _kill(self, descriptor: int, why: str) -> Iterator[AmendOutcome]:
        """End a worker, and hear what it said up to then: it may have begun another image."""
        self._workers[descriptor].kill(why)
        yield from self._take_answers(descriptor)

    def _read(self, worker: WorkerProcess) -> AmendOutcome | None:
        """What a worker says of the first image that it was sent; None if that makes no sense."""
        if not worker.sent:
            return None
        image = worker.sent[0]
        expected = Expected(image.name, self._request, self._payload.sha256, image.size)
        try:
            outcome = read_outcome(worker.told, expected)
        except ValueError:
            return None
        if isinstance(outcome, InstarError):
            return AmendOutcome(image.taken.path, None, outcome)
        return AmendOutcome(image.taken.path, outcome, None)

    def _bury(
        self, descriptor: int, patience: float, reason: bytes = b""
    ) -> Iterator[AmendOutcome]:
        """Have what a worker had not begun done by another, and say what became of the rest.

        The first image that it was not heard of counts as begun, unless the worker has said
        otherwise: to begin it again might amend it twice. `reason` is what it said instead of
        READY. Raises that if there is no other worker, and never was.
        """
        worker = self._workers.pop(descriptor)
        self._poll.unregister(descriptor)
        how = worker.end(patience)
        # Every worker's end costs an image, or a worker, so that there is an end to all of them.
        is_last = self._last > 0
        if not worker.ready and (self._workers or is_last):
            self._jobs = len(self._workers)
        elif worker.sent and not (worker.is_over and (worker.gave_up or is_last)):
            sent = worker.sent.popleft()
            yield self._end(sent.taken, self._explain(worker, sent.name, how, reason))
        for sent in reversed(worker.sent):
            self._supply.put_back(sent.taken)

    def _explain(self, worker: WorkerProcess, name: str, how: str, reason: bytes) -> InstarError:
        """Why a worker ended, as the image says that it had then."""
        if reason:
            try:
                error = read_outcome(reason, Expected(name, self._request, self._payload.sha256))
            except ValueError:
                error = None
            if isinstance(error, InstarError):
                if not self._proven:
                    raise error
                return HostError(f"no worker for '{name}': {error}")
        state = describe_unsure(self._request) if worker.ready else "nothing was written"
        return HostError(f"the confined worker for '{name}' {how}; {state}")

    def _end(self, taken: Taken, error: InstarError) -> AmendOutcome:
        self._supply.done(taken)
        return AmendOutcome(taken.path, None, error)
