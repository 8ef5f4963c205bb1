"""Compares what `instar check` counts in an image with what `qemu-img check` counts. Test side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import instar
from tests.support.looks.information import why_refused
from tests.support.qemu import Qemu

NUMBERS = (
    *("check-errors", "corruptions", "leaks", "image-end-offset", "total-clusters"),
    *("allocated-clusters", "fragmented-clusters", "compressed-clusters"),
)


def ask_qemu(qemu: Qemu, image: Path) -> tuple[int, dict[str, Any] | None, str]:
    """The exit status, the document or None, and what stands on stderr."""
    run = qemu.img("check", "--output=json", "-f", "qcow2", str(image), accept=(0, 1, 2, 3))
    return run.status, (json.loads(run.stdout) if run.stdout else None), run.stderr


def differences(qemu: Qemu, image: Path) -> tuple[list[str], tuple[str, ...]]:
    """How the two differ on an image, and the names of what instar found or refused for."""
    status, theirs, why = ask_qemu(qemu, image)
    try:
        result = instar.check(str(image))
    except instar.ImageRejected as error:
        names = tuple(refusal.name for refusal in error.refusals)
        found = [] if theirs is None else [f"instar refuses: {error}"]
        return found, names
    names = tuple(dict.fromkeys(finding.name for finding in result.findings))
    if theirs is None:
        return [f"qemu-img refuses: {why_refused(why)}"], names
    ours = result.to_dict()
    found = [
        f"{key}: {theirs.get(key, 0)}, not {ours.get(key, 0)}"
        for key in NUMBERS
        if theirs.get(key, 0) != ours.get(key, 0)
    ]
    if status != result.exit_status:
        found.append(f"status: {status}, not {result.exit_status}")
    return found, names
