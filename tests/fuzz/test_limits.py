"""Test side: a fuzzer ends when it should, and says how far it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.fuzz import limits
from tests.fuzz.limits import Limits
from tests.support.project import ROOT


def test_a_run_ends_after_its_inputs_or_its_time() -> None:
    assert [Limits(3, seconds=60).are_met(done) for done in (2, 3)] == [False, True]
    assert Limits(3, seconds=-1).are_met(0)


def test_a_run_says_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Limits(1 << 20, seconds=60, name="seed 5")
    run.are_met(1)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(limits, "EVERY", 0.0)
    run.are_met(1234, findings=2)
    told = capsys.readouterr().out
    assert told.startswith("seed 5: 1234 in 0 s, ")
    assert told.endswith("of processor time, 2 findings\n")


def test_sigterm_ends_a_run_and_nothing_else() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Limits(1 << 20, seconds=60) as run:
        assert not run.are_met(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.are_met(0)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.kvm
@pytest.mark.parametrize("target", ["alias", "contract"])
def test_a_fuzzer_that_is_told_to_end_prints_its_total(target: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "fuzz"), target, "--seed", "3"]
    program = "from tests.fuzz import limits; limits.EVERY = 0.0; "
    program += f"import runpy, sys; sys.argv = {command[1:]!r}; "
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as fuzzer:
        assert fuzzer.stdout
        lines = iter(fuzzer.stdout.readline, "")
        assert next(lines) == f"fuzz {target}: seed 3\n"
        assert "seed 3: " in next(lines)  # it is at work
        fuzzer.terminate()
        last = [line for line in lines if "processor time, 0 findings" not in line]
    assert fuzzer.returncode == 0
    assert any(line.startswith("seed 3: ") for line in last)
