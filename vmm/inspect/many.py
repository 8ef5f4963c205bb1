"""Host side: looks at many images, here or by an executor, as a stream of outcomes in order.

Unlike amends, looks do not get into each other's way: an image may be listed, and looked at, twice
at a time.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice

from ..base.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from typing import Any, TypeVar

    from ..request.keywords import PathLike

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
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"paths are several, such as a list; for one image take [{paths!r:.60}]")
    try:
        rest = iter(paths)
    except TypeError:
        raise UsageError(f"paths are an iterable, not {paths!r:.60}") from None
    if type(chunk_size) is not int or chunk_size < 1:
        raise UsageError("chunk_size is a positive number")
    if executor is None:
        return look(rest, keywords)
    if not hasattr(executor, "submit"):
        raise UsageError(f"executor is a concurrent.futures.Executor, not {executor!r:.60}")
    return _distribute(look, rest, keywords, executor, chunk_size)


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
