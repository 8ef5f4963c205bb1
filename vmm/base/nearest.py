"""Host side: which of several words somebody may have meant who wrote another one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX_MIN = 3  # letters: fewer begin too many words
_EDITS_MAX = 2
_LONGEST = 64  # characters: no word of ours is half as long


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word that `word` begins, or else is two edits from at most; None if none is, or many are.

    Case does not count. Of a word of up to three letters one edit is as much as is forgiven.
    """
    known = tuple(known)
    word = word[:_LONGEST].lower()
    begun = [one for one in known if one.startswith(word)]
    if len(word) >= _PREFIX_MIN and len(begun) == 1:
        return begun[0]
    limit = _EDITS_MAX if len(word) > _PREFIX_MIN else 1
    edits = {one: _count_edits(word, one) for one in known}
    best = min(edits, key=edits.__getitem__, default=None)
    return best if best is not None and edits[best] <= limit else None


def _count_edits(one: str, other: str) -> int:
    """How many letters are to be added, dropped or replaced."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        last, row = row, [number]
        for at, wanted in enumerate(other):
            row.append(min(last[at] + (letter != wanted), last[at + 1] + 1, row[at] + 1))
    return row[-1]
