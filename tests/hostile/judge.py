"""Lets instar amend a hostile image under observation. Test side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import instar
from instar.vmm import amend as use_case
from instar.vmm.machine import Machine
from tests.hostile.case import Case
from tests.support.peak import forget_peak, peak
from tests.support.verdicts import Request

TIMEOUT = 5.0
"""In seconds, for the guest; far more than any case needs on a machine that is not busy."""


@dataclass(frozen=True)
class Outcome:
    """How one amend ended, and what it took."""

    action: str
    """ "amended", "noop" or "refused"."""
    reasons: tuple[str, ...]
    """Of a refusal, by name."""
    exits: int
    bytes_read: int
    memory: int
    """By how many bytes the memory of the process grew in between, at most."""
    seconds: float
    """Of processor time, the guest's included."""
    rewrites: bool
    """Whether more than the header cluster was written."""

    @property
    def kind(self) -> str:
        """In qemu-img's terms."""
        return "accepted" if self.action in ("amended", "noop") else "refused"


class _Watched(Machine):
    """A sandbox that leaves behind what its run took."""

    taken = (0, 0)

    def run(self, image: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().run(image, *arguments, **keywords)
        finally:
            _Watched.taken = (self.vm_exits, image.bytes_read)


def amend(path: Path, case: Case, request: Request) -> Outcome:
    """Amend an image. Whatever is raised besides a refusal is a defect."""
    _Watched.taken = (0, 0)
    before = forget_peak()
    start = process_time()
    with patch.object(use_case, "Machine", _Watched):
        action, reasons, rewrites = _amend(path, case, request)
    seconds = process_time() - start
    return Outcome(action, reasons, *_Watched.taken, peak() - before, seconds, rewrites)


def _amend(path: Path, case: Case, request: Request) -> tuple[str, tuple[str, ...], bool]:
    try:
        result = instar.amend(
            path,
            compat=request.compat,
            lazy_refcounts=request.lazy_refcounts,
            format=request.format,
            timeout=TIMEOUT,
            drop_bitmaps=case.drop_bitmaps,
            max_growth=case.max_growth,
        )
    except instar.ImageRejected as error:
        return "refused", tuple(refusal.name for refusal in error.refusals), False
    header = 1 << case.image.cluster_bits
    return result.action, (), any(part.offset >= header for part in result.ranges)
