"""Test side: signals reach Python while a guest runs, and the deadline's own never does."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.rogues import Rogues
from tests.support.forge import Image

pytestmark = pytest.mark.kvm

PRELUDE = """\
    import json, os, signal, sys, threading, time
    from pathlib import Path
    import instar
    from instar.vmm.machine.payload import load_payload

    def descriptors():
        folder = Path("/proc/self/fd")
        return sorted(str(p.readlink()) for p in folder.iterdir() if p.is_symlink())

    def soon(action):
        thread = threading.Thread(target=lambda: (time.sleep(0.3), action()))
        thread.start()
        return thread

    def amend(timeout, path=sys.argv[1]):
        started = time.monotonic()
        try:
            instar.amend(path, lazy_refcounts=True, timeout=timeout, payload=payload)
            outcome = "amended"
        except BaseException as error:
            outcome = type(error).__name__
        return outcome, time.monotonic() - started

    payload = load_payload("endless_loop", sys.argv[2])
    numbers = [n for n in range(1, 65) if n in signal.valid_signals()]
    handlers = [signal.getsignal(n) for n in numbers]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    before = descriptors()
    seen = []
    """

REPORT = """
    print(json.dumps({
        "outcome": outcome,
        "seconds": seconds,
        "seen": seen,
        "left open": [name for name in descriptors() if name not in before],
        "pending": sorted(map(int, signal.sigpending())),
        "same mask": signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask,
        "same handlers": [signal.getsignal(n) for n in numbers] == handlers,
    }))
    """


@pytest.fixture
def run(rogues: Rogues, path: Path) -> Any:
    """Run code with an endless guest in a process of its own; returns its report."""
    rogues.payload("endless_loop")
    Image().write(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)

    def run(code: str) -> dict[str, Any]:
        source = "".join(textwrap.dedent(part) for part in (PRELUDE, code, REPORT))
        command = [sys.executable, "-c", source, str(path), str(rogues.folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        report: dict[str, Any] = json.loads(done.stdout)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        assert report["left open"] == []
        assert report["pending"] == []
        assert report["same mask"]
        return report

    return run


def test_ctrl_c_ends_an_endless_guest(run: Any) -> None:
    report = run(
        """
        thread = soon(lambda: os.kill(os.getpid(), signal.SIGINT))
        outcome, seconds = amend(30)
        thread.join()
        """
    )
    assert report["outcome"] == "KeyboardInterrupt"
    assert report["seconds"] < 20
    assert report["same handlers"]


def test_a_handler_of_the_callers_runs_and_the_guest_goes_on(run: Any) -> None:
    report = run(
        """
        handlers[numbers.index(signal.SIGUSR1)] = note = lambda *_: seen.append("usr1")
        signal.signal(signal.SIGUSR1, note)
        thread = soon(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        outcome, seconds = amend(1.0)
        thread.join()
        """
    )
    assert report["outcome"] == "GuestFault"
    assert report["seen"] == ["usr1"]
    assert report["seconds"] >= 1.0
    assert report["same handlers"]


def test_the_deadlines_own_signal_is_never_delivered(run: Any) -> None:
    report = run(
        """
        handlers[numbers.index(64)] = note = lambda *_: seen.append("last")
        signal.signal(64, note)
        outcome, seconds = amend(0.2)
        time.sleep(0.05)
        """
    )
    assert report["outcome"] == "GuestFault"
    assert report["seen"] == []
    assert report["same handlers"]


def test_a_callers_alarm_goes_off_while_the_guest_runs(run: Any) -> None:
    report = run(
        """
        handlers[numbers.index(signal.SIGALRM)] = note = lambda *_: seen.append("alarm")
        signal.signal(signal.SIGALRM, note)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        outcome, seconds = amend(0.8)
        """
    )
    assert report["outcome"] == "GuestFault"
    assert report["seen"] == ["alarm"]
    assert report["same handlers"]


def test_each_thread_has_a_deadline_of_its_own(run: Any) -> None:
    report = run(
        """
        other = Path(sys.argv[1] + "-other")
        other.write_bytes(Path(sys.argv[1]).read_bytes())
        ends = {}
        def work(timeout, path):
            ends[timeout] = amend(timeout, path)
        works = ((0.2, sys.argv[1]), (0.9, other))
        threads = [threading.Thread(target=work, args=each) for each in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcome, seconds = ends[0.2]
        seen.append(ends[0.9])
        """
    )
    assert report["outcome"] == "GuestFault"
    assert report["seconds"] >= 0.2
    ((other, longer),) = report["seen"]
    assert other == "GuestFault"
    assert longer >= 0.9
    assert report["same handlers"]
