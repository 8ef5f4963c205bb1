"""Test side: a fuzzer's bytes, taken as decisions. Past their end there are only zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Takes bytes from the front, so that a mutation changes one decision and not all of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def below(self, limit: int) -> int:
        """A number below `limit`, which is at most 2^16; 0 takes no byte."""
        if limit <= 1:
            return 0
        if limit > 256:
            return self.number(2) % limit
        at, self._at = self._at, self._at + 1
        return self._data[at] % limit if at < len(self._data) else 0

    def pick(self, choices: Sequence[T]) -> T:
        """One of a few, up to 256."""
        at, self._at = self._at, self._at + 1
        return choices[self._data[at] % len(choices) if at < len(self._data) else 0]

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken
