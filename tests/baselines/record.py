"""Records what qemu-img makes of the cases, or reads the records. Test side.

A record is tests/baselines/records/CASE/VERSION.json. Beside the exit status and the messages it
says what the image was before and is afterwards; of the latter only what is different.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from construct import ConstructError

from tests.baselines.case import FAILING_FLUSH, Case
from tests.baselines.reading import normalised
from tests.support import sparse
from tests.support.forge import parse_snapshots
from tests.support.observe import Health, Seen, message
from tests.support.program import target
from tests.support.qemu import Qemu, Run
from tests.support.recipe import IMAGE, working_directory
from tests.support.scratch import scratch

_MESSAGES = 3
_BLKDEBUG = (
    "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=amended.qcow2,"
    "file.inject-error.0.event=flush_to_os,file.inject-error.0.errno=5"
)


def path_of(case: Case, version: str) -> Path:
    """Where the record of a version is."""
    return case.folder / f"{version}.json"


def load(case: Case) -> dict[str, dict[str, Any]]:
    """All records of a case, by version."""
    found = sorted(case.folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in found}


def record(case: Case, qemu: Qemu) -> str:
    """Let a version of qemu-img amend the case's image; returns the record."""
    with scratch("baseline") as folder:
        case.make(Path(folder))
        with working_directory(Path(folder)):
            found = _observe(case, qemu)
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _observe(case: Case, qemu: Qemu) -> dict[str, Any]:
    image, amended = Path(IMAGE), Path("amended.qcow2")
    sparse.copy(image, amended)
    ids = _snapshot_ids(image)
    before = _described(qemu, image, ids)
    run = _amend(case, qemu, amended)
    changed = sparse.digest(image) != sparse.digest(amended)
    after = _described(qemu, amended, ids) if changed else before
    lines = run.stderr.replace("amended.qcow2", IMAGE).splitlines()
    return {
        "exit": run.status,
        "messages": [line.removeprefix("qemu-img: ") for line in lines[-_MESSAGES:]],
        "changed": changed,
        "before": before,
        "after": {key: value for key, value in after.items() if before.get(key) != value},
    }


def _amend(case: Case, qemu: Qemu, path: Path) -> Run:
    named: tuple[str, ...] = ("-f", "qcow2", str(path))
    if case.fault == FAILING_FLUSH:
        named = ("--image-opts", _BLKDEBUG)
    elif case.secret:
        named = target(path)
    return qemu.img("amend", "-o", case.options, *named, accept=(0, 1, -6, -11))


def _described(qemu: Qemu, path: Path, ids: tuple[str, ...]) -> dict[str, Any]:
    run = qemu.img("info", "--output=json", "-f", "qcow2", str(path), accept=(0, 1))
    if not run.ok:
        return {"error": message(run, path)}
    seen = Seen(qemu, path, ids)
    info = normalised(json.loads(run.stdout))
    return {"info": info, "check": _counts(seen.health), "contents": seen.layers}


def _counts(health: Health | str) -> Any:
    if isinstance(health, str):
        return health
    return {kind: count for kind, count in vars(health).items() if count}


def _snapshot_ids(path: Path) -> tuple[str, ...]:
    try:
        entries = parse_snapshots(path.read_bytes())
    except (ConstructError, MemoryError, OverflowError):
        return ()
    return tuple(entry.id.decode("ascii", "replace") for entry in entries)
