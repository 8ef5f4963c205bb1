"""The catalogue of hostile images: all cases, by theme. Test side."""

from __future__ import annotations

import os

from tests.hostile import (
    bombs,
    contradictions,
    crowds,
    extensions,
    features,
    giants,
    header_fields,
    lengths,
    pointers,
    releases,
    snapshots,
    tables,
    zeroes,
)
from tests.hostile.case import Case

THEMES = (
    header_fields,
    features,
    extensions,
    pointers,
    tables,
    snapshots,
    lengths,
    releases,
    zeroes,
    giants,
    bombs,
    crowds,
    contradictions,
)

CASES: tuple[Case, ...] = tuple(case for theme in THEMES for case in theme.cases())

WHOLE = os.environ.get("INSTAR_WHOLE_CATALOGUE") == "1"
"""Whether what is dear is tried on all cases, not on a sample."""


def sample(step: int) -> tuple[Case, ...]:
    """Every `step`th case of each theme, the first one included; all of them if WHOLE."""
    step = 1 if WHOLE else step
    return tuple(case for theme in THEMES for case in tuple(theme.cases())[::step])
