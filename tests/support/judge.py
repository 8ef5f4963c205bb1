"""Judges one amend by instar beside the same amend by one qemu-img. Test side.

Some rules hold whatever qemu-img does; breaking one is a finding:

* What is refused, or already as asked, is not touched: bytes and mtime.
* An amended image has the old contents in each layer, no more leaks or errors than before, and what
  was asked for; asked again, nothing is to be done. A disk of another size is the old one, cut or
  extended by zeros, and so is each of its bitmaps; snapshots keep their size.
* What the forge reads of it is what qemu reads, where both are asked.

Where the two differ, that is put into words, the symptoms:

    instar refuses: REASON   qemu-img amends; one symptom for each reason
    qemu refuses: MESSAGE    instar amends, or finds it done
    qemu crashes
    qemu breaks: MESSAGE     the image cannot be opened after qemu-img's amend
    qemu writes: WHEN        "refused" or "noop": it changes the file all the same
    info: KEY                of the amended images
    contents: LAYER          qemu-img's amend changes the contents of "active" or "snapshot"
    check: KIND              qemu-img's amend makes "leaks", "corruptions" or "errors"

and a symptom is a finding too, unless an entry of tests/support/divergences.py has it among its own
and the image gives the ground for it, see grounds.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import instar
from tests.support import sparse
from tests.support.divergences import DIVERGENCES
from tests.support.forge import layout
from tests.support.forge.model import Model
from tests.support.grounds import founded
from tests.support.layers import cut, keeps_tail
from tests.support.observe import LONGEST, Health, Seen, asked, message, outgrew
from tests.support.qemu import Qemu
from tests.support.verdicts import ACCEPTED, Request, amend, fingerprint

_NO_WAY_BACK = "error: Could not apply snapshot"
_INFO = {
    "refcount_bits": "format-specific.data.refcount-bits",
    "backing_file": "backing-filename",
    "backing_fmt": "backing-filename-format",
    "data_file": "format-specific.data.data-file",
    "data_file_raw": "format-specific.data.data-file-raw",
}
"""Options, and where info has them; an empty one is missing there."""
_COMPAT = {"0.10": "0.10", "v2": "0.10", "1.1": "1.1", "v3": "1.1"}


@dataclass
class Judgement:
    """What became of one request."""

    verdict: str = ""
    """What instar said, and behind a slash what qemu-img did."""
    findings: list[str] = field(default_factory=list)
    """A symptom, or "rule: " and the rule that is broken, each with its particulars behind "--"."""
    divergences: list[str] = field(default_factory=list)
    """The names of the deliberate divergences that showed."""


def explanation(
    symptom: str, version: tuple[int, ...], image: Path, request: Request
) -> str | None:
    """The name of the divergence that explains a symptom, if the registry has one.

    `image` is the image before the amend.
    """
    for entry in DIVERGENCES:
        listed = any(fnmatchcase(symptom, pattern) for pattern in entry.symptoms)
        if listed and entry.is_in(version) and founded(entry.name, image, request):
            return entry.name
    return None


class Trial:
    """One request, on a copy for each of the two."""

    def __init__(
        self, qemu: Qemu, image: Path, before: Seen, request: Request, *, thorough: bool = True
    ) -> None:
        """Take the image, and what `qemu`, or whoever can read it, sees of it.

        `thorough` says whether qemu reads all layers even where the forge can, and checks the image
        that it amended itself.
        """
        self._qemu, self._image, self._before, self._request = qemu, image, before, request
        self._thorough = thorough
        self._size = _size_after(image, request)
        self._ours = image.with_name("ours.qcow2")
        self._theirs = image.with_name("theirs.qcow2")

    def judge(self) -> Judgement:
        """Let both amend, and compare."""
        result = Judgement()
        sparse.copy(self._image, self._ours)
        sparse.copy(self._image, self._theirs)
        said = self._ask_instar(result)
        if self._request.alone:
            return self._judge_alone(said, "not asked", result)
        run = asked(self._qemu, self._theirs, self._request, self._longest)
        if outgrew(run, self._theirs):
            return self._judge_alone(said, "gave up for size", result)
        crashed = run.status < 0
        did = "crashed" if crashed else "accepted" if run.ok else "refused"
        result.verdict = f"{' '.join(said)} / {did}"
        accepted = set(said) <= ACCEPTED
        if crashed:
            self._report("qemu crashes", result)
        elif accepted and not run.ok:
            self._report(f"qemu refuses: {message(run, self._theirs)}", result)
        elif not accepted and run.ok:
            for reason in said:
                self._report(f"instar refuses: {reason}", result)
        if not run.ok or said == ("noop",):
            self._compare_bytes("noop" if run.ok else "refused", result)
        if accepted:
            ours = self._judge_ours(said, result)
            if run.ok:
                self._judge_theirs(ours, result)
        return result

    @cached_property
    def _longest(self) -> int:
        """How long qemu-img may make a file: it gives a data file the disk's length, by a hole."""
        with self._image.open("rb") as stream:
            split = Model(stream.read(layout.HEADER_LENGTH)).has_data_file
        return LONGEST + (min(self._size, 1 << 62) if split else 0)

    def _judge_alone(self, said: tuple[str, ...], why: str, result: Judgement) -> Judgement:
        """Hold instar against the rules where qemu-img came to no verdict."""
        result.verdict = f"{' '.join(said)} / {why}"
        self._theirs.unlink()
        if set(said) <= ACCEPTED:
            self._judge_ours(said, result)
        return result

    def _report(self, symptom: str, result: Judgement, particulars: str = "") -> None:
        name = explanation(symptom, self._qemu.number, self._image, self._request)
        if name is None:
            result.findings.append(f"{symptom} -- {particulars or self._qemu}")
        else:
            result.divergences.append(name)

    def _ask_instar(self, result: Judgement) -> tuple[str, ...]:
        """ "amended", "noop", or the names of all reasons."""
        before = fingerprint(self._ours)
        said = self._amend(result)
        if said != ("amended",) and fingerprint(self._ours) != before:
            result.findings.append(f"rule: untouched -- {said}, yet the file changed")
        for reason in said:
            if not founded(reason, self._image, self._request):
                result.findings.append(f"rule: refusals have a ground -- {reason}")
        return said

    def _amend(self, result: Judgement, request: Request | None = None) -> tuple[str, ...]:
        try:
            return (amend(self._ours, request or self._request).action,)
        except instar.ImageRejected as error:
            return tuple(dict.fromkeys(refusal.name for refusal in error.refusals))
        except Exception as error:
            result.findings.append(f"rule: instar does not fail -- {error!r}")
            return (type(error).__name__,)

    def _judge_ours(self, said: tuple[str, ...], result: Judgement) -> Seen:
        """Hold what instar left against the rules; returns what qemu sees of it."""
        if said == ("noop",):
            ours = self._before
        else:
            before = fingerprint(self._ours)
            again = self._amend(result, self._again())
            if again != ("noop",) or fingerprint(self._ours) != before:
                result.findings.append(f"rule: the second time nothing is to be done -- {again}")
            ours = self._before.of(self._ours)
            for layer, contents, then in self._differences(ours):
                text = f"{layer}: {contents}, then {then}"
                result.findings.append(f"rule: contents stay -- {text}")
            self._compare_bitmaps(ours, result)
            self._compare_health(ours, result)
        (facts,) = self._facts(ours)
        if not facts.get("backing-filename"):  # else info does not tell the format
            facts = {**facts, "backing-filename-format": self._backing_format()}
        for key, wanted in _wanted(self._request, self._size).items():
            if "error" not in facts and (facts.get(key) or None) != (wanted or None):
                result.findings.append(f"rule: it is as asked -- {key}: {facts.get(key)}")
        return ours

    def _backing_format(self) -> str:
        """What the header has of it; "" if it has nothing."""
        with self._ours.open("rb") as stream:
            extensions = Model(stream.read(1 << 16)).extensions
        kind = layout.EXTENSION_BACKING_FORMAT
        return next(
            (data.decode("utf-8", "replace") for number, _, data in extensions if number == kind),
            "",
        )

    def _again(self) -> Request:
        """What is asked the second time: a size without a sign."""
        if self._request.resize is None:
            return self._request
        return replace(self._request, resize=str(self._size))

    def _differences(self, after: Seen) -> Iterator[tuple[str, str, str]]:
        """The layers that are not as they were to stay: what was wanted, and what is read."""
        size = self._size if self._resizes else None
        mine, other = self._before.inside, after.inside
        if mine is not None and other is not None:
            read = other.digests()
            yield from _unlike(mine.digests(size, backed=not self._unbacks), read)
            if self._thorough and not self._odd:
                seen = after.resized(applied=self._sized_snapshots)
                first = self._before.resized(applied=self._sized_snapshots)
                for layer, inside, by_qemu in _unlike(read, seen):
                    # What qemu could not read before it need not read afterwards. To go back to a
                    # snapshot takes larger refcounts, and qemu zeroes no subclusters of a
                    # compressed cluster, which those after the disk's end may be.
                    stuck = self._narrows or (other.model.extended and other.kept_tail)
                    if not (_failed(first[layer]) or (by_qemu.startswith(_NO_WAY_BACK) and stuck)):
                        yield f"by qemu, {layer}", inside, by_qemu
        elif not self._unbacks:
            applied = self._resizes
            wanted = dict(self._before.resized(size, applied=applied))
            if keeps_tail(self._image) and self._size > _disk_size(self._image):
                del wanted["active"]
            if self._renames:
                wanted = {layer: read for layer, read in wanted.items() if not _failed(read)}
            yield from _unlike(wanted, after.resized(applied=applied))

    @cached_property
    def _resizes(self) -> bool:
        return self._size != _disk_size(self._image)

    @cached_property
    def _odd(self) -> bool:
        """Whether the disk ends within a sector, which qemu does not show."""
        return self._size % 512 != 0

    @cached_property
    def _narrows(self) -> bool:
        return int(self._request.others.get("refcount_bits", 64)) < 16

    @cached_property
    def _renames(self) -> bool:
        """Whether a file that the image named, and that is missing, may not be so afterwards."""
        return bool(self._request.others.keys() & {"data_file", "backing_file"})

    @cached_property
    def _unbacks(self) -> bool:
        """Whether the backing file is taken away."""
        return self._request.others.get("backing_file") == ""

    @cached_property
    def _sized_snapshots(self) -> bool:
        """Whether a snapshot's disk has another size than the active one."""
        inside = self._before.inside
        return inside is not None and set(inside.sizes) != {self._size}

    def _facts(self, *images: Seen) -> list[Mapping[str, object]]:
        """What qemu says of images, or the forge if that will do for all of them."""
        if self._thorough:
            return [seen.info for seen in images]
        told = [seen.inside.facts() for seen in images if seen.inside is not None]
        return [*told] if len(told) == len(images) else [seen.info for seen in images]

    def _compare_bitmaps(self, ours: Seen, result: Judgement) -> None:
        """See that bitmaps are those of the old disk, cut or extended, as far as both disks go.

        What one says of bytes after the disk's end means nothing, and qemu-img may clear it.
        """
        mine, other = self._before.inside, ours.inside
        if mine is None or other is None or _COMPAT.get(self._request.compat or "") == "0.10":
            return
        end = min(self._size, mine.size)
        wanted = [cut(bitmap, end) for bitmap in mine.bitmaps()]
        found = [cut(bitmap, end) for bitmap in other.bitmaps()]
        if found != wanted:
            text = f"{wanted}, then {found}"
            result.findings.append(f"rule: bitmaps stay -- {text}")

    def _compare_bytes(self, when: str, result: Judgement) -> None:
        """Look whether qemu-img wrote where nothing was to be written."""
        if sparse.digest(self._theirs) != sparse.digest(self._image):
            self._report(f"qemu writes: {when}", result)

    def _compare_health(self, ours: Seen, result: Judgement) -> None:
        before, after = self._before.health, ours.health
        if self._renames and isinstance(after, Health) and not isinstance(before, Health):
            before = self._before.health_alone
        if isinstance(before, Health) and isinstance(after, Health):
            worse = bool(after.worse_than(before))
        else:
            found_again = self._renames and after == Health(0, 0, 0)
            worse = before != after and not found_again
        if worse:
            result.findings.append(f"rule: no worse than before -- {before}, then {after}")

    def _judge_theirs(self, ours: Seen, result: Judgement) -> None:
        """Compare what qemu-img left with the original, and with what instar left."""
        if self._ours.read_bytes() == self._theirs.read_bytes():
            return
        theirs = self._before.of(self._theirs)
        told, their_own = self._facts(ours, theirs)
        if "error" in their_own and "error" not in told:
            self._report(f"qemu breaks: {their_own['error']}", result)
            return
        for key in sorted(told.keys() | their_own.keys()):
            mine, other = told.get(key), their_own.get(key)
            if mine != other:
                self._report(f"info: {key}", result, f"ours {mine!r}, theirs {other!r}")
        for layer, contents, then in self._differences(theirs):
            name = layer.removeprefix("by qemu, ").partition(" ")[0]
            self._report(f"contents: {name}", result, f"{layer}: {contents}, by qemu {then}")
        if not self._thorough:
            return
        before, after = self._before.health, theirs.health
        if isinstance(before, Health) and isinstance(after, Health):
            for kind in after.worse_than(before):
                self._report(f"check: {kind}", result, f"{before}, by qemu {after}")


def _unlike(wanted: dict[str, str], found: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for layer in wanted:
        if found.get(layer) != wanted[layer]:
            yield layer, wanted[layer], found.get(layer, "nothing")


def _failed(read: str) -> bool:
    return read.startswith("error: ")


def _disk_size(image: Path) -> int:
    with image.open("rb") as stream:
        return int.from_bytes(stream.read(32)[24:], "big")


def _size_after(image: Path, request: Request) -> int:
    return request.size_after(_disk_size(image))


def _wanted(request: Request, size: int) -> dict[str, object]:
    """What info must say in the end."""
    wanted: dict[str, object] = {}
    if request.compat is not None:
        wanted["format-specific.data.compat"] = _COMPAT[request.compat]
    if request.lazy_refcounts is not None:
        wanted["format-specific.data.lazy-refcounts"] = request.lazy_refcounts
    others = request.others
    if "size" in others or request.resize is not None:
        wanted["virtual-size"] = size
    wanted.update({_INFO[key]: value for key, value in others.items() if key in _INFO})
    return wanted
