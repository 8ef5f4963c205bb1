"""Test side: a copy of the project in memory, in which mutants are built and tested."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from build_guest import ROOT, WARNINGS, ZIG_HOST, compiler
from build_planner import CFLAGS

from tests.mutants.making import Mutant
from tests.mutants.record import resolve

COPIED = (
    *("abi", "bin", "docs", "guest", "scripts", "shared", "tests", "vmm", ".ci", ".editable"),
    *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
    *("Containerfile", "Makefile", "mkdocs.yml", "build/planner"),
)
TRACED = ("-O1", "-fsanitize-coverage=trace-pc")


def mutant_of_library(path: str) -> bool:
    """Whether a file is part of the planner that tests call."""
    return path.startswith("shared/") and not path.startswith("shared/inspect/")


class Tree:
    """The copy. Bytecode in it is made once: a file that is changed and changed back keeps its."""

    def __init__(self, folder: Path) -> None:
        """Copy what the tests need into a folder that is not there, or empty."""
        self.root = folder
        for name in COPIED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, symlinks=True, ignore=ignore)
            else:
                shutil.copy2(source, target)
        self._objects = folder / "build" / "objects"
        self._objects.mkdir()
        self._library = folder / "build" / "planner" / "libplanner.so"
        self._payload = folder / ".editable" / "instar" / "guest"
        shutil.copytree(self._payload, folder / "build" / "payload")

    def library(self, *, traced: bool = False) -> bool:
        """Compile the planner for tests: all of it, and from then on what changes."""
        more = TRACED if traced else ()
        for stale in self._objects.iterdir():
            stale.unlink()
        sources = [*(self.root / "shared").rglob("*.c")]
        if not all(self._compile(source, more) for source in sources):
            return False
        if traced and not self._compile(self.root / "tests" / "mutants" / "trace.c", ("-O2",)):
            return False
        return self._link()

    def _compile(self, source: Path, more: Sequence[str] = ()) -> bool:
        name = "-".join(source.relative_to(self.root).with_suffix(".o").parts)
        flags = (*CFLAGS, *WARNINGS, "-fno-sanitize=all", *more)
        flags = tuple(flag for flag in flags if flag != "-shared")
        command = (*compiler(ZIG_HOST), *flags, "-c", str(source), "-o", str(self._objects / name))
        return self._run((*command, "-Iabi", "-Ishared"), 60) == 0

    def _link(self) -> bool:
        objects = (*map(str, self._objects.glob("*.o")),)
        # Another file, as processes may have the old one open.
        self._library.unlink(missing_ok=True)
        command = (*compiler(ZIG_HOST), "-shared", *objects, "-o", str(self._library))
        return self._run(command, 60) == 0

    def record(self, output: Path, tests: Sequence[str]) -> bool:
        """Run tests on a traced planner, write to `output` what they run; then make it as it is."""
        if not self.library(traced=True):
            return False
        self._pytest(tests, "tests.mutants.recorder", 7200, INSTAR_MUTANTS_RECORD=str(output))
        resolve(output, self.root, self._library)
        return True

    def change(self, mutant: Mutant) -> tuple[Path, bytes, os.stat_result]:
        """Make a mutant of the tree, and return what `restore` takes."""
        path = self.root / mutant.path
        before, times = path.read_bytes(), path.stat()
        lines = before.decode().splitlines(keepends=True)
        old = lines[mutant.line - 1]
        lines[mutant.line - 1] = old[: len(old) - len(old.lstrip())] + mutant.after + "\n"
        path.write_text("".join(lines), "utf-8")
        return path, before, times

    def restore(self, changed: tuple[Path, bytes, os.stat_result]) -> None:
        """Change a file back, and its time with it."""
        path, before, times = changed
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if mutant_of_library(path.relative_to(self.root).as_posix()):
            self._compile(path)
            self._link()
        for image in (self.root / "build" / "payload").glob("*.elf"):
            shutil.copy2(image, self._payload / image.name)

    def relink(self, path: str) -> bool:
        """Compile a file of the planner anew, and link."""
        return self._compile(self.root / path) and self._link()

    def payload(self) -> bool:
        """Compile what runs in the sandbox, until what was changed is restored."""
        return self._run((sys.executable, "scripts/build_guest.py"), 300) == 0

    def failing(self, tests: Sequence[str], seconds: float) -> str | None:
        """What fails first of some tests, in their order; None if all pass. RuntimeError."""
        chosen = self.root / "build" / "chosen.json"
        chosen.write_text(json.dumps(tests), "utf-8")
        failed = chosen.with_suffix(".failed")
        failed.unlink(missing_ok=True)
        files = [*dict.fromkeys(name.partition("::")[0] for name in tests)]
        status = self._pytest(
            files, "tests.mutants.selector", seconds, INSTAR_MUTANTS_CHOSEN=str(chosen)
        )
        if status in (0, 5):  # 5: none of them is there any more
            return None
        if status in (3, 4):
            raise RuntimeError(f"pytest ends with status {status} on {files[:3]}")
        return failed.read_text("utf-8") if failed.exists() else f"status {status}"

    def _pytest(self, tests: Sequence[str], plugin: str, seconds: float, **more: str) -> int:
        options = ["-q", "-p", plugin, "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
        if plugin.endswith("selector"):
            options += ["-x", "--hypothesis-seed=1"]
        return self._run((sys.executable, "-m", "pytest", *options, *tests), seconds, **more)

    def _run(self, command: Sequence[str], seconds: float, **more: str) -> int:
        """The exit status of a command in the tree; 1 if it takes too long."""
        path = os.pathsep.join(map(str, (self.root / ".editable", self.root)))
        environment = {**os.environ, "PYTHONPATH": path, **more}
        if "INSTAR_MUTANTS_CHOSEN" in more:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                return process.wait(seconds)
            except BaseException as error:  # a time limit, or an interrupt: leave no test running
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    return 1
                raise
