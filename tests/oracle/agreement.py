"""Holds instar against qemu-img for one row: they agree, or the row says why not. Test side."""

from __future__ import annotations

from pathlib import Path

from tests.oracle.compare import differences
from tests.support.divergences import diverges
from tests.support.qemu import Qemu
from tests.support.recipe import make, working_directory
from tests.support.rows import Row
from tests.support.verdicts import ACCEPTED, MIRROR, ask_instar, ask_qemu, copy


def assert_as_recorded(row: Row, folder: Path, versions: tuple[Qemu, ...]) -> None:
    """Both do as the row says, and if they differ, then in the way that the row names."""
    image = make(versions[-1], folder, row.recipe)
    ours = copy(image, "ours.qcow2")
    assert ask_instar(ours, row.request) == row.instar
    for version in versions:
        theirs = copy(image, "theirs.qcow2")
        with working_directory(folder):
            verdict = ask_qemu(version, theirs, row.request)
            assert (str(version), verdict) == (str(version), row.qemu_verdict(version))
            # Where the verdicts are the same, two versions are enough to tell the images apart.
            if version in (versions[0], versions[-1]):
                _assert_agreement(row, version, ours, theirs)


def same_verdict(qemu_says: str, instar_says: str) -> bool:
    """Whether the two did the same, as far as their words tell."""
    return MIRROR.get(qemu_says) == (instar_says if instar_says in ACCEPTED else "refused")


def _assert_agreement(row: Row, qemu: Qemu, ours: Path, theirs: Path) -> None:
    found = [] if same_verdict(row.qemu_verdict(qemu), row.instar) else ["the verdict"]
    if row.instar in ACCEPTED and row.qemu_verdict(qemu) in ("changed", "unchanged"):
        found += differences(qemu, ours, theirs)
    if name := row.divergence_from(qemu):
        assert found, f"{qemu}: {diverges(name).name} does not show"
    else:
        assert found == []
