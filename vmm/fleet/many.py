"""Host side: instar.amend_many: many images, here or by an executor, as a stream of outcomes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ..amend.result import AmendOutcome
from ..amend.sandbox import Sandbox
from ..base.errors import HostError, InstarError, UsageError
from ..request.keywords import (
    PathLike,
    check_executor,
    check_path,
    check_paths,
    make_request,
)
from ..request.kinds import take_flag
from ..request.signature import takes_keywords
from .document import describe_unsure
from .supply import Supply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from typing_extensions import Unpack

    from ..request import AmendRequest
    from ..request.options import Keywords
    from .supply import Taken
else:  # its module imports logging
    Executor = object

CHUNK_SIZE = 16
"""Images that go to an executor's worker in one piece, by default."""
CHUNKS = 256
"""Pieces that an executor has to do at a time, by default."""


@takes_keywords
def amend_many(
    paths: Iterable[PathLike],
    *,
    reuse: bool = True,
    executor: Executor | None = None,
    chunk_size: int = CHUNK_SIZE,
    chunks: int = CHUNKS,
    **keywords: Unpack[Keywords],
) -> Iterator[AmendOutcome]:
    """Amend all images alike, and yield what became of each as soon as that is known.

    An image that fails is an outcome like the others. One that is listed twice is amended once, and
    is as asked the second time; if that is under another name, a warning in the result says so.
    What would be done twice, as a new keyslot is, is an error the second time.
    Paths are taken as they are needed and outcomes are not kept, so there may be any number. Who
    stops early stops what has not begun.

    Args:
        paths: the images. What follows holds for each of them.
        {keywords}
        reuse: whether images share a virtual machine, as in an instar.Sandbox, or get one each.
        executor: who does the work, any concurrent.futures.Executor: threads, processes, or other
            machines, which need this package, /dev/kvm and the images under the same paths. It
            stays open. None is this thread, one image after the other.
        chunk_size: how many images an executor is given in one piece; they share a machine, and
            their outcomes come together.
        chunks: how many pieces it is given at a time.

    Raises:
        UsageError: an argument other than a path is invalid.
        ImageRejected: for a `format` that cannot be amended.
    """
    request = make_request(keywords)
    supply = Supply(check_paths(paths), settles=request.settles)
    if not all(type(count) is int and count > 0 for count in (chunk_size, chunks)):
        raise UsageError("chunk_size and chunks are positive numbers")
    check_executor(executor)
    reuse = take_flag("reuse", reuse)
    if executor is None:
        return _amend_in_turn(supply, request, reuse)
    return _Distribution(supply, request, reuse, executor, chunk_size, chunks).run()


def _amend_in_turn(supply: Supply, request: AmendRequest, reuse: bool) -> Iterator[AmendOutcome]:
    with Sandbox() as sandbox:
        while (taken := supply.take()) is not None:
            supply.done(taken)
            if taken.error:
                yield AmendOutcome(taken.path, None, taken.error)
                continue
            yield taken.tell(_amend_one(sandbox, taken.path, request))
            if not reuse:
                sandbox.renew()


def _amend_here(
    paths: Iterable[PathLike], request: AmendRequest, reuse: bool
) -> Iterator[AmendOutcome]:
    with Sandbox() as sandbox:
        for path in paths:
            yield _amend_one(sandbox, path, request)
            if not reuse:
                sandbox.renew()


def _amend_one(sandbox: Sandbox, path: PathLike, request: AmendRequest) -> AmendOutcome:
    try:
        check_path(path)
        return AmendOutcome(path, sandbox.carry_out(path, request), None)
    except InstarError as error:
        return AmendOutcome(path, None, error.with_traceback(None))


def amend_chunk(
    paths: list[PathLike], request: AmendRequest, reuse: bool, _call: tuple[bytes, int]
) -> list[AmendOutcome]:
    """Amend a few images; what an executor's worker does.

    No two calls are alike, because of `_call`: an executor may answer a call that it has seen
    before with the old answer, as dask's does.
    """
    return list(_amend_here(paths, request, reuse))


class _Distribution:
    """One call of amend_many() with an executor."""

    def __init__(
        self,
        supply: Supply,
        request: AmendRequest,
        reuse: bool,
        executor: Executor,
        chunk_size: int,
        chunks: int,
    ) -> None:
        self._supply = supply
        self._job = request, reuse
        self._call = os.urandom(8), 0
        self._executor = executor
        self._chunk_size, self._chunks = chunk_size, chunks
        self._running: dict[Future[list[AmendOutcome]], list[Taken]] = {}

    def run(self) -> Iterator[AmendOutcome]:
        # Here, as nobody else has a use for it: it imports logging and much else.
        from concurrent.futures import FIRST_COMPLETED, wait

        try:
            while True:
                while len(self._running) < self._chunks:
                    if not (chunk := self._supply.take_some(self._chunk_size)):
                        break
                    refused = [taken for taken in chunk if taken.error]
                    errors = [AmendOutcome(taken.path, None, taken.error) for taken in refused]
                    yield from self._end(refused, errors)
                    if accepted := [taken for taken in chunk if not taken.error]:
                        yield from self._submit(accepted)
                if not self._running:
                    return
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    chunk = self._running.pop(future)
                    yield from self._end(chunk, self._outcomes_of(future, chunk))
        finally:
            for future in self._running:
                future.cancel()

    def _submit(self, chunk: list[Taken]) -> Iterator[AmendOutcome]:
        self._call = self._call[0], self._call[1] + 1
        try:
            paths = [taken.path for taken in chunk]
            future = self._executor.submit(amend_chunk, paths, *self._job, self._call)
            self._running[future] = chunk
        except RuntimeError as error:  # it was shut down, or its processes died
            yield from self._end(chunk, _failures(chunk, error, "nothing was written"))

    def _outcomes_of(
        self, future: Future[list[AmendOutcome]], chunk: list[Taken]
    ) -> Iterator[AmendOutcome]:
        try:
            outcomes = future.result()
        except Exception as error:
            yield from _failures(chunk, error, describe_unsure(self._job[0]))
        else:
            # Under the paths as they were given, whatever the way there and back made of them.
            for taken, outcome in zip(chunk, outcomes, strict=True):
                yield AmendOutcome(taken.path, outcome.result, outcome.error)

    def _end(self, chunk: list[Taken], outcomes: Iterable[AmendOutcome]) -> Iterator[AmendOutcome]:
        for taken, outcome in zip(chunk, outcomes, strict=True):
            self._supply.done(taken)
            yield taken.tell(outcome)


def _failures(chunk: list[Taken], error: BaseException, state: str) -> Iterator[AmendOutcome]:
    for taken in chunk:
        message = f"the executor failed ({type(error).__name__}: {error}); {state}"
        yield AmendOutcome(taken.path, None, HostError(message))
