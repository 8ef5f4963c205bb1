"""Host side: looks at many images, here or by an executor, as a stream of outcomes in order.

Unlike amends, looks do not get into each other's way: an image may be listed, and looked at, twice
at a time.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from ..base.errors import InstarError, UsageError
from ..request.keywords import check_executor, check_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from typing import Any, TypeVar

    from ..request.keywords import PathLike
    from .looker import Looker

    T = TypeVar("T")
    Look = Callable[[Iterable[PathLike], dict[str, Any]], Iterator[T]]

CHUNKS = 64
"""Pieces that an executor has to do at a time."""


def look_at_many(
    look: Look[T],
    paths: Iterable[PathLike],
    keywords: dict[str, Any],
    executor: Executor | None,
    chunk_size: int,
) -> Iterator[T]:
    """Have `look` done for all paths, some at a time. UsageError for what is no list of paths."""
    rest = check_paths(paths)
    if type(chunk_size) is not int or chunk_size < 1:
        raise UsageError("chunk_size is a positive number")
    check_executor(executor)
    if executor is None:
        return look(rest, keywords)
    return _distribute(look, rest, keywords, executor, chunk_size)


def look_in_turn(
    make_looker: Callable[[], Looker],
    look: Callable[..., object],
    outcome: Callable[[PathLike, Any, InstarError | None], T],
    paths: Iterable[PathLike],
    keywords: dict[str, Any],
) -> Iterator[T]:
    """Have `look` done for each path by one looker."""
    with make_looker() as looker:
        for path in paths:
            try:
                yield outcome(path, look(path, looker, **keywords), None)
            except InstarError as error:
                yield outcome(path, None, error.with_traceback(None))


def _distribute(
    look: Look[T],
    rest: Iterator[PathLike],
    keywords: dict[str, Any],
    executor: Executor,
    chunk_size: int,
) -> Iterator[T]:
    running: deque[Future[list[T]]] = deque()
    try:
        while True:
            while len(running) < CHUNKS and (chunk := list(islice(rest, chunk_size))):
                running.append(executor.submit(look_at_chunk, look, chunk, keywords))
            if not running:
                return
            yield from running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def look_at_chunk(look: Look[T], paths: list[PathLike], keywords: dict[str, Any]) -> list[T]:
    """What an executor's worker does."""
    return list(look(paths, keywords))
