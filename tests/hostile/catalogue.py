"""The catalogue of hostile images: all cases, by theme. Test side."""

from __future__ import annotations

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
