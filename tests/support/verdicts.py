"""Asks instar and qemu-img for the same amend; says in a word what each did. Test side."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import instar
from instar.vmm.request.options import Compat
from tests.support.qemu import Qemu, Run

PAGE = 4096

ACCEPTED = frozenset({"amended", "noop"})
"""What instar can say but the names of its reasons."""

MIRROR = {"changed": "amended", "unchanged": "noop", "refused": "refused"}
"""What instar says if it does as qemu-img does. "refused, changed" has no counterpart."""


@dataclass(frozen=True)
class Request:
    """One amend, as both understand it."""

    compat: Compat | None = None
    lazy_refcounts: bool | None = None
    format: str | None = None
    drop_bitmaps: bool = False
    """Whether instar removes bitmaps; qemu-img cannot be asked."""

    @classmethod
    def parse(cls, words: str) -> Request:
        """Read a list of options, behind "-f FORMAT" or "--drop-bitmaps" if there is one."""
        *flags, options = words.split()
        drops = flags[:1] == ["--drop-bitmaps"]
        flags = flags[drops:]
        pairs: dict[str, Any] = dict(pair.split("=", 1) for pair in options.split(","))
        lazy = pairs.pop("lazy_refcounts", None)
        assert not pairs.keys() - {"compat"}, words
        assert not flags or flags[0] == "-f", words
        return cls(
            compat=pairs.get("compat"),
            lazy_refcounts=None if lazy is None else lazy == "on",
            format=flags[1] if flags else None,
            drop_bitmaps=drops,
        )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line but for the verb and the file name."""
        pairs = [] if self.compat is None else [f"compat={self.compat}"]
        if self.lazy_refcounts is not None:
            pairs.append(f"lazy_refcounts={'on' if self.lazy_refcounts else 'off'}")
        return (*(("-f", self.format) if self.format else ()), "-o", ",".join(pairs))


def amend(path: Path, request: Request) -> instar.AmendResult:
    """Let instar amend an image. ImageRejected if it refuses."""
    return instar.amend(
        path,
        compat=request.compat,
        lazy_refcounts=request.lazy_refcounts,
        format=request.format,
        drop_bitmaps=request.drop_bitmaps,
    )


def ask_instar(path: Path, request: Request) -> str:
    """ "amended", "noop", or the names of all reasons to refuse.

    What instar does not amend it must not touch either: AssertionError if the file changed.
    """
    before = fingerprint(path)
    try:
        verdict: str = amend(path, request).action
    except instar.ImageRejected as error:
        verdict = " ".join(dict.fromkeys(refusal.name for refusal in error.refusals))
    if verdict != "amended":
        assert fingerprint(path) == before, f"{verdict}, yet the file was touched"
    return verdict


def ask_qemu(qemu: Qemu, path: Path, request: Request) -> str:
    """ "changed" or "unchanged"; "refused", or "refused, changed" if it wrote nevertheless."""
    before = contents_hash(path)
    run = amend_by_qemu(qemu, path, request)
    touched = contents_hash(path) != before
    if run.ok:
        return "changed" if touched else "unchanged"
    return "refused, changed" if touched else "refused"


def amend_by_qemu(qemu: Qemu, path: Path, request: Request) -> Run:
    """Let qemu-img amend an image; a refusal is no error, nor is a crash (SIGABRT)."""
    return qemu.img("amend", *request.arguments, str(path), accept=(0, 1, -6))


def contents_hash(path: Path) -> str:
    """The SHA-256 of a file's length and of what in it is not zero; holes are not read."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        for start, stop in _data_segments(file.fileno(), path.stat().st_size):
            file.seek(start)
            for at in range(start, stop, PAGE):
                page = file.read(min(PAGE, stop - at)).rstrip(b"\0")
                if page:
                    digest.update(b"%d:" % at + page)
    return digest.hexdigest()


def _data_segments(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a file has no holes, in whole pages: what is a hole and what zeros is up to chance."""
    at = 0
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA) // PAGE * PAGE
        except OSError:
            return
        at = -(-os.lseek(descriptor, start, os.SEEK_HOLE) // PAGE) * PAGE
        yield start, min(at, end)


def fingerprint(path: Path) -> tuple[str, int, int]:
    """What must stay as it is where nothing is to be done."""
    status = path.stat()
    return contents_hash(path), status.st_mtime_ns, status.st_size


def copy(path: Path, name: str) -> Path:
    """A copy of an image beside it, where its backing file and data file are found too."""
    return Path(shutil.copyfile(path, path.with_name(name)))
