"""Compares what `instar info` says of an image with what `qemu-img info` says. Test side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import instar
from tests.support.looks.divergences import explain
from tests.support.qemu import Qemu
from tests.support.sparse import settle


def ask_qemu(qemu: Qemu, image: Path, *flags: str) -> tuple[dict[str, Any] | None, str]:
    """The document of qemu-img, or None and why it has none."""
    run = qemu.img("info", "--output=json", *flags, str(image), accept=(0, 1))
    return (json.loads(run.stdout) if run.ok else None), run.stderr.strip()


def why_refused(stderr: str) -> str:
    """The last that qemu-img says, without the name of an image that it cannot open."""
    last = stderr.strip().rpartition("qemu-img: ")[2]
    return last.partition("': ")[2] if last.startswith("Could not open '") else last


def ask_instar(image: Path, **keywords: Any) -> tuple[dict[str, Any] | None, str]:
    """The document of instar as it comes out of JSON, or None and why it has none."""
    try:
        document = instar.info(str(image), **keywords).to_dict()
    except instar.ImageRejected as error:
        return None, str(error)
    parsed: dict[str, Any] = json.loads(json.dumps(document))
    return parsed, ""


def differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """The places at which a document of qemu-img says something else, or more."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key, value in theirs.items():
            if key in ours:
                yield from differences(value, ours[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}: {value!r:.80} is left out"
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, (left, right) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(left, right, f"{place}/{number}")
    elif theirs != ours or type(theirs) is not type(ours):
        yield f"{place}: {theirs!r:.80}, not {ours!r:.80}"


def additions(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What is said of the format that qemu-img does not say, where it does say something."""
    left, right = (one.get("format-specific", {}).get("data", {}) for one in (theirs, ours))
    shared = ("snapshots", "encrypted", "backing-filename", "backing-filename-format")
    found = [key for key in shared if key in ours and key not in theirs]
    return found + [key for key in right if key not in left]


def unexplained(qemu: Qemu, image: Path) -> list[str]:
    """How the two differ on an image, but for what the registry holds."""
    settle(image)
    found = findings(qemu, image)
    problems: tuple[str, ...] = ()
    if found and (ours := ask_instar(image)[0]) is not None:
        problems = tuple(problem["name"] for problem in ours["problems"])
    return [finding for finding in found if explain(finding, problems) is None]


def findings(qemu: Qemu, image: Path) -> list[str]:
    """How the two differ on an image; nothing where they agree.

    That qemu-img refuses an image is as it should be where instar names a problem with it.
    """
    theirs, why = ask_qemu(qemu, image)
    ours, our_why = ask_instar(image)
    if theirs is None and "ompression type" in why:
        return []  # this build of qemu-img lacks it
    if theirs is None:
        if ours is not None and not ours["problems"] and "qcow2" in ours["format"]:
            return [f"qemu-img refuses ({why_refused(why)}), and instar sees no problem"]
        return []
    if ours is None:
        return [f"instar refuses: {our_why}"]
    cut = [f"/{key}: cut off" for key in ours["cut"]]
    for key in ours["cut"]:
        theirs[key] = theirs[key][: len(ours[key])]
    found = list(differences(theirs, ours))
    if any(reference["role"] == "data-file" for reference in ours["references"]):
        found = [finding.replace("/actual-size:", "/actual-size, data file:") for finding in found]
    if ours["format"] not in ("qcow2", "raw"):
        return [f"{ours['format']}{finding}" for finding in found]
    return [*cut, *found, *(f"more: {key}" for key in additions(theirs, ours))]
