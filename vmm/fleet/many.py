"""Host side: instar.amend_many: many images, here or by an executor, as a stream of outcomes."""

from __future__ import annotations

import os

from ..amend.result import AmendOutcome
from ..amend.sandbox import Sandbox
from ..base.errors import HostError, InstarError, UsageError
from ..request.order import TIMEOUT, Cache, Compat, Order, PathLike, make_order
from .supply import Supply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor, Future

    from .supply import Taken

CHUNK_SIZE = 16
"""Images that go to an executor's worker in one piece, by default."""
CHUNKS = 256
"""Pieces that an executor has to do at a time, by default."""


def amend_many(
    paths: Iterable[PathLike],
    *,
    compat: Compat | None = None,
    lazy_refcounts: bool | None = None,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: Cache = "writeback",
    timeout: float = TIMEOUT,
    drop_bitmaps: bool = False,
    max_growth: int | None = None,
    reuse: bool = True,
    executor: Executor | None = None,
    chunk_size: int = CHUNK_SIZE,
    chunks: int = CHUNKS,
) -> Iterator[AmendOutcome]:
    """Amend all images alike, and yield what became of each as soon as that is known.

    An image that fails is an outcome like the others. One that is listed twice is amended once, and
    is as asked the second time; if that is under another name, a warning in the result says so.
    Paths are taken as they are needed and outcomes are not kept, so there may be any number. Who
    stops early stops what has not begun.

    Args:
        paths: the images.
        compat: as for instar.amend(), like those up to `max_growth`.
        lazy_refcounts: see there.
        format: see there.
        dry_run: see there.
        cache: see there.
        timeout: see there; for each image.
        drop_bitmaps: see there.
        max_growth: see there; for each image.
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
    order = make_order(
        compat, lazy_refcounts, format, dry_run, cache, timeout, drop_bitmaps, max_growth
    )
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"paths are several, such as a list; for one image take [{paths!r:.60}]")
    try:
        supply = Supply(paths)
    except TypeError:
        raise UsageError(f"paths are an iterable, not {paths!r:.60}") from None
    if not all(type(count) is int and count > 0 for count in (chunk_size, chunks)):
        raise UsageError("chunk_size and chunks are positive numbers")
    if executor is not None and not hasattr(executor, "submit"):
        raise UsageError(f"executor is a concurrent.futures.Executor, not {executor!r:.60}")
    if executor is None:
        return _amend_in_turn(supply, order, reuse)
    return _Distribution(supply, order, reuse, executor, chunk_size, chunks).run()


def _amend_in_turn(supply: Supply, order: Order, reuse: bool) -> Iterator[AmendOutcome]:
    with Sandbox() as sandbox:
        while (taken := supply.take()) is not None:
            supply.done(taken)
            yield taken.tell(_amend_one(sandbox, taken.path, order))
            if not reuse:
                sandbox.renew()


def _amend_here(paths: Iterable[PathLike], order: Order, reuse: bool) -> Iterator[AmendOutcome]:
    with Sandbox() as sandbox:
        for path in paths:
            yield _amend_one(sandbox, path, order)
            if not reuse:
                sandbox.renew()


def _amend_one(sandbox: Sandbox, path: PathLike, order: Order) -> AmendOutcome:
    try:
        return AmendOutcome(path, sandbox.carry_out(path, order), None)
    except InstarError as error:
        return AmendOutcome(path, None, error.with_traceback(None))
    except TypeError:
        fault = UsageError(f"a path is a string, bytes or a path object, not {path!r:.60}")
        return AmendOutcome(path, None, fault)


def amend_chunk(
    paths: list[PathLike], order: Order, reuse: bool, _call: tuple[bytes, int]
) -> list[AmendOutcome]:
    """Amend a few images; what an executor's worker does.

    No two calls are alike, because of `_call`: an executor may answer a call that it has seen
    before with the old answer, as dask's does.
    """
    return list(_amend_here(paths, order, reuse))


class _Distribution:
    """One call of amend_many() with an executor."""

    def __init__(
        self,
        supply: Supply,
        order: Order,
        reuse: bool,
        executor: Executor,
        chunk_size: int,
        chunks: int,
    ) -> None:
        self._supply = supply
        self._job = order, reuse
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
                    yield from self._submit(chunk)
                if not self._running:
                    return
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    chunk = self._running.pop(future)
                    yield from self._end(chunk, _outcomes_of(future, chunk))
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

    def _end(self, chunk: list[Taken], outcomes: Iterable[AmendOutcome]) -> Iterator[AmendOutcome]:
        for taken, outcome in zip(chunk, outcomes, strict=True):
            self._supply.done(taken)
            yield taken.tell(outcome)


def _outcomes_of(future: Future[list[AmendOutcome]], chunk: list[Taken]) -> Iterator[AmendOutcome]:
    try:
        outcomes = future.result()
    except Exception as error:
        yield from _failures(chunk, error, "the image is the old one or the amended one")
    else:
        # Under the paths as they were given, whatever the way there and back made of them.
        for taken, outcome in zip(chunk, outcomes, strict=True):
            yield AmendOutcome(taken.path, outcome.result, outcome.error)


def _failures(chunk: list[Taken], error: BaseException, state: str) -> Iterator[AmendOutcome]:
    for taken in chunk:
        message = f"the executor failed ({type(error).__name__}: {error}); {state}"
        yield AmendOutcome(taken.path, None, HostError(message))
