"""Judges one amend by instar beside the same amend by one qemu-img. Test side.

Some rules hold whatever qemu-img does; breaking one is a finding:

* What is refused, or already as asked, is not touched: bytes and mtime.
* An amended image has the old contents in each layer, no more leaks or errors than before, and what
  was asked for; asked again, nothing is to be done.

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

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import instar
from tests.support import sparse
from tests.support.divergences import DIVERGENCES
from tests.support.grounds import founded
from tests.support.observe import Health, Seen, asked, message
from tests.support.qemu import Qemu
from tests.support.verdicts import ACCEPTED, Request, amend, fingerprint

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

    def __init__(self, qemu: Qemu, image: Path, before: Seen, request: Request) -> None:
        """Take the image, and what `qemu`, or whoever can read it, sees of it."""
        self._qemu, self._image, self._before, self._request = qemu, image, before, request
        self._ours = image.with_name("ours.qcow2")
        self._theirs = image.with_name("theirs.qcow2")

    def judge(self) -> Judgement:
        """Let both amend, and compare."""
        result = Judgement()
        sparse.copy(self._image, self._ours)
        sparse.copy(self._image, self._theirs)
        said = self._ask_instar(result)
        run = asked(self._qemu, self._theirs, self._request)
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

    def _amend(self, result: Judgement) -> tuple[str, ...]:
        try:
            return (amend(self._ours, self._request).action,)
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
            again = self._amend(result)
            if again != ("noop",) or fingerprint(self._ours) != before:
                result.findings.append(f"rule: the second time nothing is to be done -- {again}")
            ours = self._before.of(self._ours)
            for layer, contents in self._before.layers.items():
                if ours.layers[layer] != contents:
                    text = f"{layer}: {contents}, then {ours.layers[layer]}"
                    result.findings.append(f"rule: contents stay -- {text}")
            self._compare_health(ours, result)
        for key, wanted in _wanted(self._request).items():
            if "error" not in ours.info and ours.info.get(key, False) != wanted:
                result.findings.append(f"rule: it is as asked -- {key}: {ours.info.get(key)}")
        return ours

    def _compare_bytes(self, when: str, result: Judgement) -> None:
        """Look whether qemu-img wrote where nothing was to be written."""
        if sparse.digest(self._theirs) != sparse.digest(self._image):
            self._report(f"qemu writes: {when}", result)

    def _compare_health(self, ours: Seen, result: Judgement) -> None:
        before, after = self._before.health, ours.health
        if not isinstance(before, Health) or not isinstance(after, Health):
            worse = before != after
        else:
            worse = bool(after.worse_than(before))
        if worse:
            result.findings.append(f"rule: no worse than before -- {before}, then {after}")

    def _judge_theirs(self, ours: Seen, result: Judgement) -> None:
        """Compare what qemu-img left with the original, and with what instar left."""
        if self._ours.read_bytes() == self._theirs.read_bytes():
            return
        theirs = self._before.of(self._theirs)
        if "error" in theirs.info and "error" not in ours.info:
            self._report(f"qemu breaks: {theirs.info['error']}", result)
            return
        for key in sorted(ours.info.keys() | theirs.info.keys()):
            mine, other = ours.info.get(key), theirs.info.get(key)
            if mine != other:
                self._report(f"info: {key}", result, f"ours {mine!r}, theirs {other!r}")
        for layer, contents in self._before.layers.items():
            if theirs.layers[layer] != contents:
                name = layer.partition(" ")[0]
                text = f"{layer}: {contents}, by qemu {theirs.layers[layer]}"
                self._report(f"contents: {name}", result, text)
        before, after = self._before.health, theirs.health
        if isinstance(before, Health) and isinstance(after, Health):
            for kind in after.worse_than(before):
                self._report(f"check: {kind}", result, f"{before}, by qemu {after}")


def _wanted(request: Request) -> dict[str, object]:
    """What info must say in the end."""
    wanted: dict[str, object] = {}
    if request.compat is not None:
        wanted["format-specific.data.compat"] = _COMPAT[request.compat]
    if request.lazy_refcounts is not None:
        wanted["format-specific.data.lazy-refcounts"] = request.lazy_refcounts
    return wanted
