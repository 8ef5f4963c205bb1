"""Test side: images in which structures overlap, through the payload: amended right, or refused.

Right means: every layer, snapshot and bitmap, the LUKS header and the extensions say what they
said, no refcount or flag is wrong that was not, and the same request again changes nothing. Refused
means that no byte has moved. Anything else is a finding, above all a fault of the honest guest.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from instar import AmendResult, ImageRejected, InstarError, Sandbox
from instar.vmm.image.image_file import ImageFile
from tests.fuzz.alias_images import BACKING, Case, is_sound, random_cases
from tests.fuzz.contract_states import FindingError
from tests.fuzz.limits import Limits
from tests.support.forge.model import Model
from tests.support.forge.reader import Reader, UnreadableError
from tests.support.qemu import Qemu

TIMEOUT = 60.0
AGAIN, BY_PHASE, BY_READER, BY_QEMU = 10, 4, 41, 400
"""Of so many images one is amended again, looked at between phases, by another reader, by qemu."""


@dataclass
class Tally:
    """What a run came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: int = 0
    by_reader: int = 0
    by_qemu: int = 0

    @property
    def cases(self) -> int:
        """How many images there were."""
        return self.outcomes.total()


class Aliases:
    """Amends images by a sandbox that is kept; a context manager."""

    def __init__(self, qemu: Qemu | None = None) -> None:
        """Take a qemu, if one is to look at some results too."""
        self._qemu = qemu
        self._folder = TemporaryDirectory(prefix="instar-alias-", dir="/dev/shm")
        self._path = Path(self._folder.name, "image")
        self._sandbox = Sandbox()
        (Path(self._folder.name) / "backing").write_bytes(BACKING)
        self.tally = Tally()
        self._states: list[bytes] = []
        self._barrier = patch.object(ImageFile, "barrier", self._note_state)

    def __enter__(self) -> Aliases:
        self._barrier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._barrier.stop()
        self._sandbox.close()
        self._folder.cleanup()

    def judge(self, case: Case) -> None:
        """Amend one image. FindingError says what is wrong with what came of it."""
        before = case.model
        sound = is_sound(before)
        self._path.write_bytes(case.data)
        looked_at = self._qemu and self.tally.outcomes["sound amended"] % BY_QEMU == 0
        shown = self._show(case) if looked_at and sound else None
        self._states.clear()
        outcome = self._amend(case)
        name = outcome.action if isinstance(outcome, AmendResult) else outcome.refusals[0].name
        self.tally.outcomes[f"{'sound' if sound else 'wrong'} {name}"] += 1
        data = self._path.read_bytes()
        if name != "amended":
            if data != case.data:
                raise FindingError(f"changed, though the outcome is {name}")
            return
        after = Model(data, backing=before.backing)
        compare(before, after, sound=sound)
        if self.tally.outcomes.total() % BY_PHASE == 0:
            for state in self._states:
                compare_contents(before, Model(state, backing=before.backing))
        if self.tally.outcomes.total() % BY_READER == 0:
            self.tally.by_reader += 1
            compare_by_reader(before, after)
        if self.tally.outcomes.total() % AGAIN == 0:
            again = self._amend(case)
            if not isinstance(again, AmendResult) or again.action != "noop":
                raise FindingError(f"the same again: {again}")
        if shown is not None:
            self.tally.by_qemu += 1
            self._path.write_bytes(data)
            clean, contents = self._show(case)
            # What it found wrong by rules of its own may have gone.
            if shown[0] and not clean:
                raise FindingError("qemu-img check finds something wrong now")
            if shown[1] is not None and shown[1] != contents:
                raise FindingError("qemu-img reads something else now")

    def _note_state(self, *_: object) -> None:
        """Keep what the file holds after a phase, as a crash could leave it."""
        self._states.append(self._path.read_bytes())

    def _amend(self, case: Case) -> AmendResult | ImageRejected:
        try:
            return self._sandbox.amend(self._path, timeout=TIMEOUT, **case.request)
        except ImageRejected as error:
            return error
        except InstarError as error:
            raise FindingError(f"{type(error).__name__}: {error}") from error

    def _show(self, case: Case) -> tuple[bool, bytes | None]:
        """Whether qemu-img finds the image clean, and what it reads, if it does."""
        model = Model(self._path.read_bytes())
        image: dict[str, Any] = {"driver": "qcow2", "file.filename": str(self._path)}
        if model.crypt_method or model.has_data_file:
            return False, None  # for want of a secret, or of a file
        if case.backed:
            image |= {"backing.driver": "raw", "backing.file.driver": "file"}
            image["backing.file.filename"] = str(Path(self._folder.name) / "backing")
        described, raw = f"json:{json.dumps(image)}", Path(self._folder.name) / "raw"
        clean = self._run("check", described) == 0
        read = self._run("convert", "-O", "raw", described, str(raw)) == 0
        return clean, raw.read_bytes() if read else None

    def _run(self, *arguments: str) -> int:
        assert self._qemu
        return self._qemu.img(*arguments, accept=range(256)).status


def compare(before: Model, after: Model, *, sound: bool) -> None:
    """FindingError unless the amended image says what the image said, and counts its clusters."""
    compare_contents(before, after)
    if before.refcount_order == 4:
        compare_refcounts(before, after, sound=sound)


def compare_contents(before: Model, after: Model) -> None:
    """FindingError unless an image, perhaps one between two phases, says what the image said."""
    for number, (old, new) in enumerate(zip(before.contents(), after.contents(), strict=True)):
        for guest, (was, now) in enumerate(zip(old, new, strict=True)):
            if was is not None and was != now and not _is_denied(before, number, guest):
                raise FindingError(f"layer {number} reads otherwise at cluster {guest}")
    for what, (was, now) in _pairs(before.said(), after.said()):
        if was != now:
            raise FindingError(f"{what}: was {was!r:.80}, is {now!r:.80}")
    dropped = after.version == 2 and before.version == 3
    if not dropped and before.bitmaps() != after.bitmaps():
        raise FindingError("bitmaps say otherwise")


def _is_denied(image: Model, layer: int, guest: int) -> bool:
    """Whether that lies in an extension or the name, and the header's cluster is counted once.

    Then the image contradicts itself, and who looks at the header has no reason to doubt it.
    """
    return image.stored.get(0) == 1 and image.is_within_header(layer, guest)


def compare_refcounts(before: Model, after: Model, *, sound: bool) -> None:
    """FindingError if a refcount or a flag is wrong that was not."""
    was_wrong = before.wrong_refcounts
    for cluster, (stored, counted) in after.wrong_refcounts.items():
        if cluster in was_wrong:
            continue
        # Where refcounts are wrong a leak does no harm, and what is taken has as many users as its
        # table's refcount says.
        if not sound and (stored > counted or _naming(after, cluster) & was_wrong.keys()):
            continue
        raise FindingError(f"cluster {cluster}: refcount {stored}, {counted} users")
    if sound and after.wrong_flags:
        raise FindingError("an entry's COPIED flag is wrong")


def _naming(image: Model, cluster: int) -> set[int]:
    """The clusters of the tables that name a cluster."""
    return {use.place >> image.bits for use in image.uses if use.offset >> image.bits == cluster}


def _pairs(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name, value in one.items():
        yield name, (value, other[name])


def compare_by_reader(before: Model, after: Model) -> None:
    """The same for the contents, by the forge's other reader."""
    if before.has_data_file or before.crypt_method:
        return
    old, new = (Reader(model.data, backing=before.backing) for model in (before, after))
    for layer in old.layers:
        for guest in range(min(-(-before.size >> before.bits), 150)):
            was = _read(old, guest, layer)
            if was is not None and was != _read(new, guest, layer):
                raise FindingError(f"the forge's reader: layer {layer}, cluster {guest}")


def _read(reader: Reader, guest: int, layer: int | None) -> bytes | None:
    """What is read there; None where qemu reads nothing."""
    entry = reader.entry(guest, layer)
    unaligned = reader.host_range(entry).start % reader.cluster_size
    with suppress(UnreadableError, zlib.error):
        return (
            None
            if unaligned and not entry.descriptor.compressed
            else reader.read_whole(guest, layer)
        )
    return None


def run(seed: int, limits: Limits, keep: Path | None = None, qemu: Qemu | None = None) -> Tally:
    """Judge cases of this seed until the limits are met; findings are told."""
    rng = random.Random(seed)  # noqa: S311 - a seed means the same images in every run
    with Aliases(qemu) as aliases:
        tally = aliases.tally
        for number, case in enumerate(random_cases(rng)):
            if limits.are_met(number, tally.findings):
                break
            try:
                aliases.judge(case)
            except FindingError as error:
                tally.findings += 1
                print(f"seed {seed}, case {number}: {error}; {case.request}; {case.story}")
                if keep is not None and tally.findings < 20:
                    keep.with_name(f"{keep.name}-{number}.qcow2").write_bytes(case.data)
    return tally


def run_and_print(seed: int, runs: int, seconds: float, keep: Path, qemu: Qemu | None) -> int:
    """Run one job for scripts/fuzz and print what it came to; returns the number of findings."""
    with Limits(runs, seconds, f"seed {seed}") as limits:
        tally = run(seed, limits, keep, qemu)
    for outcome, count in tally.outcomes.most_common():
        print(f"{count:10} {outcome}")
    print(
        f"seed {seed}: {tally.cases} cases in {limits.took:.0f} s, {tally.by_reader} by the "
        f"forge's reader and {tally.by_qemu} by qemu-img too, {tally.findings} findings",
        flush=True,
    )
    return tally.findings
