"""Test side: the oracle. qemu-img and qemu-io in all versions at hand, one object for each.

`make qemu` unpacks the versions below $INSTAR_QEMU, or instar/qemu in the user's cache folder; a
qemu-img on PATH counts as one more. Every method runs one command to its end and raises QemuError
if that ends other than the method's description says, so that no test goes on from a set-up that
did not come about.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TIMEOUT = 120.0
BUSY = "Unable to get accurate CPU usage"
NONE_FETCHED = 'no qemu-img to compare with: run "make qemu"'

# What `info` says about where and how an image is stored, rather than what it is.
STORAGE_KEYS = frozenset({"filename", "actual-size", "children", "full-backing-filename"})


class QemuError(Exception):
    """A command of qemu's failed, or ended in a way that it never should."""


class QemuTimeout(QemuError):
    """A command of qemu's did not end in TIMEOUT seconds."""


@dataclass(frozen=True)
class Run:
    """How one command ended."""

    command: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the exit status is 0."""
        return self.status == 0


@dataclass(frozen=True)
class CheckResult:
    """What qemu-img check says of an image."""

    clean: bool
    corruptions: int
    leaks: int
    errors: int
    """Things that it could not check, such as tables that cannot be read."""
    text: str
    """Its findings, one a line."""


@dataclass(frozen=True)
class Qemu:
    """One version of qemu's tools.

    Options of an image format are keyword arguments: `create(path, "1G", compat="0.10")`. For a
    name that Python cannot spell, `**{"encrypt.format": "luks"}`.
    """

    version: str
    """Such as "10.0.2"."""
    directory: Path
    """Where qemu-img and qemu-io are."""

    def __str__(self) -> str:
        return f"qemu {self.version}"

    @property
    def number(self) -> tuple[int, ...]:
        """The version as numbers, for comparing."""
        return tuple(int(part) for part in self.version.split("."))

    def create(self, path: Path, size: str | int | None, *flags: str, **options: str) -> None:
        """Make a qcow2 image; with flags "-b", NAME, "-F", FORMAT one that has a backing file.

        Args:
            path: the image.
            size: in bytes, or with a suffix; None to take the backing file's.
            *flags: put before the path.
            **options: qcow2's own options.
        """
        sizes = () if size is None else (str(size),)
        self.img("create", "-q", "-f", "qcow2", *_o(options), *flags, str(path), *sizes)

    def amend(self, path: Path, *flags: str, check: bool = True, **options: str) -> Run:
        """Change options of a qcow2 image.

        Args:
            path: the image.
            *flags: put before the path.
            check: whether a refusal raises QemuError.
            **options: what to change.
        """
        accept = (0,) if check else (0, 1)
        command = ("amend", "-f", "qcow2", *_o(options), *flags, str(path))
        return self.img(*command, accept=accept)

    def info(self, path: Path) -> dict[str, Any]:
        """What an image is: qemu-img info, without what depends on where it is stored."""
        run = self.img("info", "--output=json", "-f", "qcow2", str(path))
        facts: dict[str, Any] = json.loads(run.stdout)
        return {key: value for key, value in facts.items() if key not in STORAGE_KEYS}

    def check(self, path: Path) -> CheckResult:
        """Look for errors in an image, repairing none. QemuError if it cannot be opened."""
        run = self.img("check", "--output=json", "-f", "qcow2", str(path), accept=(0, 1, 2, 3))
        if not run.stdout:
            raise QemuError(_describe(run))
        facts = json.loads(run.stdout)
        return CheckResult(
            clean=run.ok,
            corruptions=facts.get("corruptions", 0),
            leaks=facts.get("leaks", 0),
            errors=facts["check-errors"],
            text=run.stderr,
        )

    def compare(self, a: Path, b: Path, *, strict: bool = False) -> bool:
        """Whether two images have the same contents for a guest, backing files included.

        Args:
            a: a qcow2 image.
            b: another.
            strict: whether they must be of the same size, and allocated alike.
        """
        flags = ("-s",) if strict else ()
        command = ("compare", "-q", *flags, "-f", "qcow2", "-F", "qcow2", str(a), str(b))
        return self.img(*command, accept=(0, 1)).ok

    def compare_snapshot(self, a: Path, b: Path, name: str) -> bool:
        """Whether the snapshots called `name` in two images have the same contents."""
        with tempfile.TemporaryDirectory(prefix="instar-snapshots-") as folder:
            copies = [Path(folder, side) for side in ("a", "b")]
            for image, copy in zip((a, b), copies, strict=True):
                self.convert(image, copy, "-l", f"snapshot.name={name}")
            return self.compare(*copies)

    def convert(
        self, source: Path, destination: Path, *flags: str, to: str = "qcow2", **options: str
    ) -> None:
        """Copy the contents of a qcow2 image, or with "-l" a snapshot's, into a new image."""
        formats = ("-q", "-f", "qcow2", "-O", to)
        self.img("convert", *formats, *_o(options), *flags, str(source), str(destination))

    def io(self, path: Path, *commands: str, flags: tuple[str, ...] = ()) -> str:
        """Run qemu-io's `commands`, such as "write -P 1 0 64k", and return what they print.

        A read that does not find the pattern that it was told to expect raises QemuError.
        """
        asked = [part for command in commands for part in ("-c", command)]
        return self.run("qemu-io", *flags, "-f", "qcow2", *asked, str(path)).stdout

    def snapshot(self, path: Path, *arguments: str) -> str:
        """Run qemu-img snapshot, say with "-c", NAME, and return what it prints."""
        return self.img("snapshot", "-q", *arguments, str(path)).stdout

    def bitmap(self, path: Path, name: str, *flags: str) -> None:
        """Run qemu-img bitmap, say with "--add", on the bitmap `name`."""
        self.img("bitmap", "-f", "qcow2", *flags, str(path), name)

    def img(
        self,
        *arguments: str,
        accept: Collection[int] = (0,),
        preload: Path | None = None,
        longest: int | None = None,
    ) -> Run:
        """Run qemu-img."""
        return self.run("qemu-img", *arguments, accept=accept, preload=preload, longest=longest)

    def run(
        self,
        program: str,
        *arguments: str,
        accept: Collection[int] = (0,),
        preload: Path | None = None,
        longest: int | None = None,
    ) -> Run:
        """Run one of this version's programs.

        Args:
            program: its name.
            *arguments: its arguments.
            accept: the exit statuses that are no error.
            preload: a library that is loaded into it before its own (ld.so(8)).
            longest: no file may get longer, in bytes, holes included; EFBIG where one would.

        Raises:
            QemuError: if it ends with another one, by a signal, or not at all.
        """
        command = (str(self.directory / program), *arguments)
        run = self._run(command, preload, longest)
        # Where LUKS measures how fast the machine is, a busy one fails by chance.
        for _ in range(10):
            if run.ok or BUSY not in run.stderr:
                break
            run = self._run(command, preload, longest)
        if run.status not in accept:
            raise QemuError(_describe(run))
        return run

    def _run(self, command: tuple[str, ...], preload: Path | None, longest: int | None) -> Run:
        more = {} if preload is None else {"LD_PRELOAD": str(preload)}
        try:
            with files_up_to(longest):
                done = subprocess.run(
                    command,
                    check=False,
                    capture_output=True,
                    encoding="utf-8",
                    errors="backslashreplace",
                    env={**os.environ, "LC_ALL": "C", **more},
                    stdin=subprocess.DEVNULL,
                    timeout=TIMEOUT,
                )
        except subprocess.TimeoutExpired as error:
            raise QemuTimeout(f"{' '.join(command)}\nno end after {TIMEOUT} s") from error
        return Run(command, done.returncode, done.stdout, done.stderr)


@contextmanager
def files_up_to(longest: int | None) -> Iterator[None]:
    """Let processes that start meanwhile make no file longer, in bytes (RLIMIT_FSIZE).

    qemu's threads that write block SIGXFSZ, so its programs see EFBIG and say "File too large".
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if longest is None else longest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _o(options: dict[str, str]) -> list[str]:
    """Options as qemu-img takes them; a comma within a value is doubled."""
    pairs = [f"{name}={value.replace(',', ',,')}" for name, value in options.items()]
    return ["-o", ",".join(pairs)] if pairs else []


def _describe(run: Run) -> str:
    return f"{' '.join(run.command)}\nexit status {run.status}\n{run.stdout}{run.stderr}".rstrip()


def fetched_directory() -> Path:
    """Where `make qemu` unpacks the versions."""
    if chosen := os.environ.get("INSTAR_QEMU"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache, "instar", "qemu")


@cache
def system() -> Qemu | None:
    """The qemu-img on PATH, if there is one."""
    found = shutil.which("qemu-img")
    if found is None:
        return None
    directory = Path(found).parent
    banner = Qemu("0", directory).img("--version").stdout
    version = re.match(r"qemu-img version (\d+(?:\.\d+)*)", banner)
    if version is None:
        raise QemuError(f"{found} --version says {banner!r}")
    return Qemu(version[1], directory)


@cache
def all_versions() -> tuple[Qemu, ...]:
    """All versions at hand, oldest first; none if none was fetched and none is installed."""
    fetched = {
        path.parent.name: Qemu(path.parent.name, path.parent)
        for path in fetched_directory().glob("[0-9]*/qemu-img")
    }
    installed = system()
    if installed is not None:
        fetched.setdefault(installed.version, installed)
    return tuple(sorted(fetched.values(), key=lambda qemu: qemu.number))


def in_turn(names: Iterable[str]) -> list[tuple[str, Qemu]]:
    """Each name with the oldest version and the newest, and with those between in turn."""
    found = all_versions()
    chosen = [{*found[:1], *found[1:-1][turn::3], *found[-1:]} for turn in range(3)]
    return [
        (name, qemu)
        for number, name in enumerate(names)
        for qemu in found
        if qemu in chosen[number % 3]
    ]


def oldest() -> Qemu:
    """The oldest version at hand. QemuError if there is none."""
    return _need(all_versions())[0]


def newest() -> Qemu:
    """The newest version at hand. QemuError if there is none."""
    return _need(all_versions())[-1]


def _need(versions: tuple[Qemu, ...]) -> tuple[Qemu, ...]:
    if not versions:
        raise QemuError(NONE_FETCHED)
    return versions
