"""Records what qemu-img makes of every case of the catalogue. Test side.

    python -m tests.hostile.record

asks the oldest and the newest version at hand and rewrites qemu_verdicts.json; to be run when a
case is added or changed. For each case and request the file has one verdict, or two where versions
differ, the older one first: "accepted", or "refused: " and the message, or "no end" where there is
no verdict in time. A qemu-img that crashes has refused.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.hostile.case import Case
from tests.hostile.catalogue import CASES
from tests.support import qemu as oracle
from tests.support import sparse
from tests.support.verdicts import Request

FILE = Path(__file__).with_name("qemu_verdicts.json")
OPTIONS = ("compat=0.10", "compat=1.1", "lazy_refcounts=on")
REQUESTS = {options: Request.parse(f"-f qcow2 {options}") for options in OPTIONS}
TIMEOUT = 60.0
NO_END = "no end"
_LONGEST = 100

Verdicts = dict[str, dict[str, str | list[str]]]


def verdict(qemu: oracle.Qemu, image: Path, request: Request) -> str:
    """Let qemu-img amend an image, and say what it made of it."""
    command = [str(qemu.directory / "qemu-img"), "amend", *request.arguments, image.name]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            cwd=image.parent,
            errors="backslashreplace",
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return NO_END
    if done.returncode == 0:
        return "accepted"
    if done.returncode != 1:
        return f"refused: exit status {done.returncode}"
    return f"refused: {_message(done.stderr, image.name)}"


def _message(text: str, name: str) -> str:
    """The last thing that qemu-img said, without what names the file."""
    last = text.strip().splitlines()[-1].removeprefix("qemu-img: ")
    last = last.removeprefix(f"Could not open '{name}': ")
    return re.sub(r"[^ -~]", "?", last)[:_LONGEST]


def ask(case: Case, versions: list[oracle.Qemu], folder: Path) -> dict[str, str | list[str]]:
    """What `versions` make of a case, by request."""
    original = folder / "case.qcow2"
    case.write(original)
    found: dict[str, str | list[str]] = {}
    for options, request in REQUESTS.items():
        said = [
            verdict(version, sparse.copy(original, folder / "t.qcow2"), request)
            for version in versions
        ]
        found[options] = said[0] if len(set(said)) == 1 else said
    return found


def _record(case: Case, versions: list[oracle.Qemu]) -> dict[str, str | list[str]]:
    folder = Path(tempfile.mkdtemp(prefix="instar-hostile-"))
    try:
        return ask(case, versions, folder)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Record all verdicts, or those of the cases whose names contain an argument."""
    versions = [oracle.oldest(), oracle.newest()]
    wanted = [c for c in CASES if all(word in c.name for word in sys.argv[1:])]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(_record, wanted, [versions] * len(wanted)))
    known: Verdicts = json.loads(FILE.read_text())["verdicts"] if FILE.exists() else {}
    known.update(zip((case.name for case in wanted), answers, strict=True))
    document = {
        "versions": [version.version for version in versions],
        "verdicts": {case.name: known[case.name] for case in CASES if case.name in known},
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
