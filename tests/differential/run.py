"""Runs cases: makes the image of each once, and judges all its requests. Test side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from construct import ConstructError

from tests.differential.generate import Case
from tests.support import qemu as oracle
from tests.support.forge import parse_snapshots
from tests.support.judge import Trial
from tests.support.observe import LONGEST, Seen
from tests.support.recipe import IMAGE, working_directory
from tests.support.scratch import scratch
from tests.support.verdicts import Request


@dataclass
class Tally:
    """What cases came to."""

    verdicts: Counter[str] = field(default_factory=Counter)
    """How often instar / qemu-img said what."""
    divergences: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)
    """The request, and the finding."""
    set_aside: int = 0
    """Amends that were not compared, as qemu took too long with the image."""

    def update(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.verdicts.update(other.verdicts)
        self.divergences.update(other.divergences)
        self.findings += other.findings
        self.set_aside += other.set_aside

    @property
    def requests(self) -> int:
        """How many amends were compared."""
        return self.verdicts.total()


def run_case(case: Case, within: Path | None = None) -> Tally:
    """Make the image and let both amend it as each request says, in a new folder in `within`."""
    versions = oracle.all_versions()
    qemu = next(version for version in versions if version.version == case.judge)
    tally = Tally()
    with scratch("case", within) as folder:
        try:
            with oracle.files_up_to(LONGEST):
                image = case.program.make(Path(folder), versions)
            if image is not None:
                # qemu looks for data files where it is, not where the image is.
                with working_directory(Path(folder)):
                    _judge(Path(IMAGE), case, qemu, tally)
        except oracle.QemuTimeout:  # which nothing of instar's raises
            tally.set_aside = len(case.requests) - tally.requests
    return tally


def _judge(image: Path, case: Case, qemu: oracle.Qemu, tally: Tally) -> None:
    before = Seen(qemu, image, _snapshot_ids(image))
    if "error" in before.info:
        # Only another version can tell whether instar left the contents as they were.
        before = Seen(oracle.newest(), image, _snapshot_ids(image))
    kept = {path: path.read_bytes() for path in Path().glob("*.raw")}
    for words in case.requests:
        result = Trial(qemu, image, before, Request.parse(words), thorough=case.thorough).judge()
        tally.verdicts[result.verdict] += 1
        tally.divergences.update(set(result.divergences))
        tally.findings += [(words, finding) for finding in result.findings]
        _restore(kept)


def _restore(kept: dict[Path, bytes]) -> None:
    """Undo what qemu-img does to the data file when the disk gets another size."""
    for path, data in kept.items():
        if path.stat().st_size != len(data):
            path.write_bytes(data)


def _snapshot_ids(image: Path) -> tuple[str, ...]:
    """The ids of the snapshots, as far as their table can be read."""
    try:
        entries = parse_snapshots(image.read_bytes())
    except ConstructError:
        return ()
    return tuple(entry.id.decode("ascii", "replace") for entry in entries)
