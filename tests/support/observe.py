"""What a version of qemu makes of an image: info, check, and contents of every layer. Test side."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support import sparse
from tests.support.contents import raw_digest
from tests.support.layers import Layers, UnreadableError
from tests.support.program import alone, target
from tests.support.qemu import STORAGE_KEYS, Qemu, Run
from tests.support.verdicts import Request

LONGEST = 512 << 20
"""No image of the fuzzer gets as long, unless qemu-img fills what a disk gains with zeros."""

_ANY_END = (0, 1, 2, 3, -6, -11)
_NO_REPORT = {"corruptions": 0, "leaks": 0, "check-errors": 0}


@dataclass(frozen=True)
class Health:
    """What qemu-img check counts."""

    corruptions: int
    leaks: int
    errors: int

    def worse_than(self, other: Health) -> list[str]:
        """What there is more of than in `other`."""
        return [name for name, count in vars(self).items() if count > getattr(other, name)]


class Seen:
    """An image as one version of qemu sees it; each part is looked at when it is first asked for.

    The file must stay as it is meanwhile. What cannot be had is "error: " and qemu's message.
    """

    def __init__(self, qemu: Qemu, path: Path, snapshots: tuple[str, ...]) -> None:
        """Take the ids of the snapshots whose contents count."""
        self._qemu = qemu
        self._path = path
        self._snapshots = snapshots
        self._read: dict[tuple[int | None, bool], dict[str, str]] = {}

    def of(self, path: Path) -> Seen:
        """A copy of the image as the same version sees it, after an amend of it."""
        return Seen(self._qemu, path, self._snapshots)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What info says, by names joined with dots; what depends on the place left out."""
        run = self._ask("info", "--output=json")
        if not run.ok:
            return {"error": message(run, self._path)}
        facts = json.loads(run.stdout)
        return dict(flatten({key: facts[key] for key in facts if key not in STORAGE_KEYS}))

    @cached_property
    def health(self) -> Health | str:
        """What check counts."""
        return self._health_of(self._ask("check", "--output=json"))

    @cached_property
    def health_alone(self) -> Health | str:
        """What check counts without the backing file, which may not be there."""
        target = alone(self._path)
        return self._health_of(self._qemu.img("check", "--output=json", *target, accept=_ANY_END))

    def _health_of(self, run: Run) -> Health | str:
        try:
            report = {**_NO_REPORT, **json.loads(run.stdout)}
        except ValueError:
            return f"error: {message(run, self._path)}"
        return Health(report["corruptions"], report["leaks"], report["check-errors"])

    @property
    def layers(self) -> dict[str, str]:
        """The digests of the contents, the active layer's under "active"."""
        return self.resized()

    def resized(self, size: int | None = None, *, applied: bool = False) -> dict[str, str]:
        """The same.

        Args:
            size: of the active disk, cut or extended by zeros; None as it is.
            applied: whether snapshots have disks of their own size: qemu-img reads one in place
                as if it had the active disk's. A copy of the image then goes back to each.
        """
        if (size, applied) not in self._read:
            found = {"active": self._contents(self._path, size)}
            for name in self._snapshots:
                layer = f"snapshot {name}"
                flags = ("-l", f"snapshot.id={name}")
                found[layer] = (
                    self._applied(name) if applied else self._contents(self._path, None, *flags)
                )
            self._read[size, applied] = found
        return self._read[size, applied]

    @cached_property
    def inside(self) -> Layers | None:
        """The layers as the forge reads them; None where that takes a key, or qemu's errors."""
        try:
            layers = Layers.open(self._path)
            layers.digests()
        except UnreadableError:
            return None
        return layers

    def _applied(self, name: str) -> str:
        copy = sparse.copy(self._path, self._path.with_name("applied.qcow2"))
        words = ("snapshot", "-a", name, *target(copy)[-1:])
        run = self._qemu.img(*words, accept=(0, 1, -6, -11), longest=LONGEST)
        return self._contents(copy) if run.ok else f"error: {message(run, copy)}"

    def _contents(self, path: Path, size: int | None = None, *flags: str) -> str:
        raw = self._path.with_name("contents.raw")
        try:
            run = self._ask("convert", "-O", "raw", *flags, last=(str(raw),), path=path)
            # Several readers run at once: which of them fails first is up to chance.
            error = re.sub(r" at byte \d+", "", message(run, path))
            if not run.ok:
                return f"error: {error}"
            sparse.set_length(raw, raw.stat().st_size if size is None else size)
            return raw_digest(raw)
        finally:
            raw.unlink(missing_ok=True)

    def _ask(self, *arguments: str, last: tuple[str, ...] = (), path: Path | None = None) -> Run:
        return self._qemu.img(*arguments, *target(path or self._path), *last, accept=_ANY_END)


def message(run: Run, path: Path) -> str:
    """The last thing that qemu said about an image, without where that is."""
    lines = run.stderr.strip().splitlines() or [f"exit status {run.status}"]
    last = lines[-1].removeprefix("qemu-img: ")
    last = last.replace(str(path), "IMAGE")
    return last.removeprefix("Could not open 'IMAGE': ")


def outgrew(run: Run, path: Path) -> bool:
    """Whether qemu-img gave up as `path` got too long; a disk may be too large for it as well."""
    return not run.ok and "File too large" in run.stderr and path.stat().st_size > LONGEST // 2


def flatten(facts: Any, name: str = "") -> list[tuple[str, Any]]:
    """Nested facts as pairs of a dotted name and a plain value."""
    if isinstance(facts, dict):
        parts = [(f"{name}.{key}".lstrip("."), value) for key, value in facts.items()]
    elif isinstance(facts, list):
        parts = [(f"{name}.{n}", value) for n, value in enumerate(facts)]
    else:
        return [(name, facts)]
    return [pair for part, value in parts for pair in flatten(value, part)]


def asked(qemu: Qemu, path: Path, request: Request, longest: int = LONGEST) -> Run:
    """Let qemu-img amend, rebase or resize an image; any end is an answer.

    `longest` is how many bytes any file may come to have.
    """
    words = (request.verb, *request.arguments, *target(path), *request.last)
    return qemu.img(*words, accept=(0, 1, -6, -11), longest=longest)
