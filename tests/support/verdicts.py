"""Asks instar and qemu-img for the same amend; says in a word what each did. Test side."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import instar
from instar.vmm.base.record import FrozenDict
from instar.vmm.cli.arguments import scan
from instar.vmm.cli.commands import REBASE
from instar.vmm.cli.rebase import read_flags
from instar.vmm.request.lists import parse_options
from instar.vmm.request.options import Compat
from tests.support.qemu import Qemu, Run
from tests.support.recipe import DEEP

PAGE = 4096
_CHUNK = 16 * PAGE

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
    more: str = ""
    """Other options, as -o has them."""
    allowed: FrozenDict[str, Any] = field(default_factory=FrozenDict)
    """What instar may do besides, by keywords; qemu-img is not asked, or need not be."""
    alone: bool = False
    """Whether only instar is asked, as qemu-img would take minutes."""
    rebase: tuple[str, ...] | None = None
    """The flags of `rebase -u`, if it is that and no amend."""
    resize: str | None = None
    """The size, if it is a resize and no amend."""

    @classmethod
    def parse(cls, words: str) -> Request:
        """Read a list of options behind flags, or what follows `rebase` or `resize`.

        Flags are "-f FORMAT", those that allow instar something, such as "--shrink", and "alone".
        """
        if words.startswith("rebase "):
            return cls(rebase=tuple(shlex.split(words.replace("@deep", DEEP))[1:]))
        *flags, options = words.replace("@long", "x" * 160).split()
        alone = flags[:1] == ["alone"]
        flags = flags[alone:]
        resizes = flags[:1] == ["resize"]
        allowed = {
            flag[2:].partition("=")[0].replace("-", "_"): int(flag.partition("=")[2] or True)
            for flag in flags[resizes:]
            if flag.startswith("--")
        }
        plain = [flag for flag in flags[resizes:] if not flag.startswith("--")]
        assert not plain or plain[0] == "-f", words
        drops = bool(allowed.pop("drop_bitmaps", False))
        if resizes:
            return cls(resize=options, allowed=_permissions(allowed), drop_bitmaps=drops)
        items = options.split(",")
        known = ("compat=", "lazy_refcounts=")
        pairs: dict[str, Any] = dict(item.split("=") for item in items if item.startswith(known))
        lazy = pairs.get("lazy_refcounts")
        return cls(
            compat=pairs.get("compat"),
            lazy_refcounts=None if lazy is None else lazy == "on",
            format=plain[1] if plain else None,
            drop_bitmaps=drops,
            more=",".join(item for item in items if not item.startswith(known)),
            allowed=_permissions(allowed),
            alone=alone,
        )

    @property
    def verb(self) -> str:
        """The command of both programs."""
        if self.resize is not None:
            return "resize"
        return "amend" if self.rebase is None else "rebase"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line between the verb and the file name."""
        if self.resize is not None:
            return ("--shrink",) if self.allowed.get("shrink") else ()
        if self.rebase is not None:
            return ("-u", *self.rebase)
        pairs = [] if self.compat is None else [f"compat={self.compat}"]
        if self.lazy_refcounts is not None:
            pairs.append(f"lazy_refcounts={'on' if self.lazy_refcounts else 'off'}")
        pairs += [self.more] if self.more else []
        return (*(("-f", self.format) if self.format else ()), "-o", ",".join(pairs))

    @property
    def last(self) -> tuple[str, ...]:
        """The command line behind the file name."""
        return () if self.resize is None else (self.resize,)

    @property
    def others(self) -> dict[str, Any]:
        """The values of the options but compat and lazy_refcounts. UsageError if one is faulty."""
        if self.rebase is not None:
            asked = read_flags(dict(scan(self.arguments, REBASE.flags, "instar rebase")))
            return {key: asked[key] for key in ("backing_file", "backing_fmt") if key in asked}
        more = parse_options([self.more]) if self.more else {}
        assert more is not None, "help is no request"
        return more

    @property
    def keywords(self) -> dict[str, Any]:
        """What instar is asked, as keywords but for a resize. UsageError if it cannot be."""
        if self.rebase is not None:
            return read_flags(dict(scan(self.arguments, REBASE.flags, "instar rebase")))
        return {
            **self.others,
            "compat": self.compat,
            "lazy_refcounts": self.lazy_refcounts,
            "format": self.format,
            "drop_bitmaps": self.drop_bitmaps,
            **self.allowed,
        }

    def size_after(self, size: int) -> int:
        """How large a disk of `size` bytes is to be."""
        if self.resize is None:
            wanted = self.others.get("size")
            return size if wanted is None else int(wanted)
        number = int(self.resize.lstrip("+-"))
        sign = {"+": 1, "-": -1}.get(self.resize[0], 0)
        return size + sign * number if sign else number


def _permissions(flags: dict[str, int]) -> FrozenDict[str, Any]:
    """Flags are true, but for those that have a number."""
    counted = {key: number if key == "backing_size" else True for key, number in flags.items()}
    return FrozenDict(counted)


def amend(path: Path, request: Request) -> instar.AmendResult:
    """Let instar amend an image. ImageRejected if it refuses."""
    if request.resize is not None:
        return instar.resize(path, request.resize, **request.allowed)
    return instar.amend(path, **request.keywords)


def ask_instar(path: Path, request: Request) -> str:
    """ "amended", "noop", or the names of all reasons to refuse; "usage" for a faulty request.

    What instar does not amend it must not touch either: AssertionError if the file changed.
    """
    before = fingerprint(path)
    try:
        verdict: str = amend(path, request).action
    except instar.ImageRejected as error:
        verdict = " ".join(dict.fromkeys(refusal.name for refusal in error.refusals))
    except instar.UsageError:
        verdict = "usage"
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
    return qemu.img(request.verb, *request.arguments, str(path), accept=(0, 1, -6))


def contents_hash(path: Path) -> str:
    """The SHA-256 of a file's length and of what in it is not zero; holes are not read."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        for start, stop in _data_segments(file.fileno(), path.stat().st_size):
            for at in range(start, stop, _CHUNK):
                chunk = os.pread(file.fileno(), min(_CHUNK, stop - at), at)
                if chunk == bytes(len(chunk)):
                    continue
                for page in range(0, len(chunk), PAGE):
                    if data := chunk[page : page + PAGE].rstrip(b"\0"):
                        digest.update(b"%d:" % (at + page) + data)
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
