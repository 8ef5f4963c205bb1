"""An image that a real command amends again and again, from the same bytes. Test side."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.crash.cases import Case
from tests.crash.recorder import Call, Run, environment, instar, run, trace
from tests.crash.verdict import Judge, Verdict
from tests.support import qemu as oracle


class Bench:
    """One case, with all that it takes to repeat it and to judge what came of it."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Write the image, amend it once, and look at how it is done."""
        self.case = case
        self.image = case.write(folder)
        self.before = self.image.read_bytes()
        self.command = [*instar(*case.transition.arguments), str(self.image)]
        self.calls = self._calls()
        self.after = self.image.read_bytes()
        original = folder / "original.qcow2"
        original.write_bytes(self.before)
        self.judge = Judge(original, self.after, [oracle.newest()])

    def _calls(self) -> list[Call]:
        """All calls on the image that the command makes, from open to close."""
        calls, ended = trace(self.command, self.image, ["all"], "-s", "0")
        assert ended.status == 0, ended
        closed = next(n for n, call in enumerate(calls) if call.name == "close")
        return calls[: closed + 1]

    def calls_of(self, name: str) -> list[Call]:
        """The calls of one name, in order."""
        return [call for call in self.calls if call.name == name]

    def restore(self) -> None:
        """Undo the last amend."""
        self.image.write_bytes(self.before)

    def identify(self) -> Verdict:
        """What the image is now."""
        assert self.image.stat().st_size == len(self.before)
        return self.judge.identify(self.image)

    def duration(self) -> float:
        """How long the command takes, in seconds."""
        times = []
        for _ in range(3):
            self.restore()
            start = time.monotonic()
            assert run(self.command).status == 0
            times.append(time.monotonic() - start)
        return sorted(times)[1]

    def start(self) -> subprocess.Popen[str]:
        """Start the command on the image as it was."""
        self.restore()
        return subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            env=environment(),
        )

    def assert_promise_is_kept(self, ended: Run) -> None:
        """Success and the new image, or one line on stderr and one of the two images."""
        found = self.identify()
        assert found.whole, (found, ended)
        if ended.status == 0:
            assert found is Verdict.NEW
            assert self.image.read_bytes() == self.after
            return
        assert ended.status == 1, ended
        assert ended.stdout == ""
        assert ended.stderr.startswith("instar: ")
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.endswith("\n")
        assert "internal error" not in ended.stderr
