"""Host side: which of several words somebody may have meant who wrote another one.

Only a faulty command line imports this: difflib brings in re.
"""

from __future__ import annotations

from difflib import get_close_matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX_MIN = 3  # letters: fewer begin too many words
_CUTOFF = 0.75  # of difflib's ratio: a letter too many, or two that changed places, are forgiven


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The word that `word` begins, or else the one that is near; None if none is. Case is none."""
    known, word = tuple(known), word.lower()
    begun = [one for one in known if one.startswith(word)]
    if len(word) >= _PREFIX_MIN and len(begun) == 1:
        return begun[0]
    return next(iter(get_close_matches(word, known, n=1, cutoff=_CUTOFF)), None)
