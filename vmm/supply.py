"""Host side: hands out the paths of a batch, and none that is in work under the same name already.

Two workers that had one image at a time would find it locked by each other.
"""

from __future__ import annotations

import os
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from instar.vmm.order import PathLike

_HELD_BACK = 1024
"""Paths that may wait for one of their name; more than that wait where they come from."""


class Supply:
    """The paths of one batch, each taken when it is wanted."""

    def __init__(self, paths: Iterable[PathLike]) -> None:
        """Take the paths, of which there may be any number."""
        self._paths = iter(paths)
        self._waiting: deque[PathLike] = deque()
        self._in_work: set[str | bytes] = set()

    def take(self) -> PathLike | None:
        """Return the next path, which is then in work, or None: there is none, at present or ever.

        There may be one again after done(); where nothing is in work, None is the end.
        """
        for _ in range(len(self._waiting)):
            path = self._waiting.popleft()
            if _name(path) not in self._in_work:
                return self._start(path)
            self._waiting.append(path)
        while len(self._waiting) < _HELD_BACK:
            try:
                path = next(self._paths)
            except StopIteration:
                return None
            if _name(path) not in self._in_work:
                return self._start(path)
            self._waiting.append(path)
        return None

    def take_some(self, count: int) -> list[PathLike]:
        """Return up to `count` paths, none of them twice."""
        some: list[PathLike] = []
        while len(some) < count and (path := self.take()) is not None:
            some.append(path)
        return some

    def done(self, path: PathLike) -> None:
        """Say that a path which was taken is no longer in work."""
        self._in_work.remove(_name(path))

    def put_back(self, path: PathLike) -> None:
        """Give back a path which was taken, to be taken again."""
        self.done(path)
        self._waiting.appendleft(path)

    def _start(self, path: PathLike) -> PathLike:
        self._in_work.add(_name(path))
        return path


def _name(path: PathLike) -> str | bytes:
    try:
        return os.fspath(path)
    except TypeError:
        return b""  # the amend says what is wrong with it
