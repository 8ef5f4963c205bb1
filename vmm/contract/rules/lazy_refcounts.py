"""Host side: what a change of `lazy_refcounts` may make different, and in which phase."""

from __future__ import annotations

from ..differences import HEADER, SWITCH

TOGGLE = frozenset({(SWITCH, HEADER)})
"""The feature words in the header's first sector: nothing else, and nothing before."""
