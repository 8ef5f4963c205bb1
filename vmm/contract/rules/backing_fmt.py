"""Host side: the rules of `backing_fmt`: the backing file's format; see those of backing_file."""

from __future__ import annotations

from . import Rule
from .backing_file import allow, expect_format, forbid, is_satisfied

RULE = Rule(is_satisfied, allow, expect_format, forbid)
