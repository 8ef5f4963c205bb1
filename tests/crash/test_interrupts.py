"""Whatever ends the command, and whenever, leaves the old image or the new one. Test side."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.crash import injection
from tests.crash.bench import Bench
from tests.crash.cases import DOWNGRADE, LAZY_ON, REBASE, UPGRADE, Case
from tests.crash.recorder import Run
from tests.crash.states import SEED
from tests.crash.verdict import Verdict

TWO_PHASES = Case(UPGRADE, "extensions and long name", 16)
CASES = (
    TWO_PHASES,
    Case(DOWNGRADE, "as qemu makes it", 16),
    Case(LAZY_ON, "overlay", 9),
    Case(REBASE, "overlay", 16),
)
KILLS = 20
ROUNDS = {TWO_PHASES: 4, CASES[1]: 2, CASES[2]: 2, CASES[3]: 2}
"""How often KILLS runs of each case are killed: 200 in all."""

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize(
    ("bench", "seed"),
    [(case, n) for case, rounds in ROUNDS.items() for n in range(rounds)],
    indirect=["bench"],
    ids=str,
)
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_image(bench: Bench, seed: int) -> None:
    draw = random.Random(SEED + seed)  # noqa: S311 - the same in every run
    duration = bench.duration()
    for number in range(KILLS):
        # The writes are at the end: every other kill aims there.
        delay = draw.uniform(0.75 if number % 2 else 0, 1.1) * duration
        process = bench.start()
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert bench.identify().whole


@pytest.mark.parametrize("bench", CASES, ids=str, indirect=True)
def test_a_kill_before_the_switch_leaves_the_old_image_and_after_it_the_new(bench: Bench) -> None:
    switch = bench.calls.index(bench.calls_of("pwrite64")[-1])
    for position, call in enumerate(bench.calls):
        if call.name in ("pwrite64", "fdatasync", "close"):
            ended = injection.signal(bench, "KILL", call.name, call.number)
            assert ended.status == -signal.SIGKILL
            assert bench.identify() is (Verdict.OLD if position <= switch else Verdict.NEW)


@pytest.mark.parametrize("bench", [TWO_PHASES], ids=str, indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupt_is_one_line_and_leaves_the_old_or_the_new_image(
    bench: Bench, number: signal.Signals
) -> None:
    draw = random.Random(SEED + number)  # noqa: S311 - the same in every run
    duration = bench.duration()
    ended = []
    for _ in range(2 * KILLS):
        process = bench.start()
        wait_for_handler(process)
        time.sleep(draw.uniform(0, 0.6) * duration)
        process.send_signal(number)
        stdout, stderr = process.communicate()
        ended.append(Run(process.returncode, stdout, stderr))
        bench.assert_promise_is_kept(ended[-1])
    assert {run.status for run in ended} == {0, 1}


@pytest.mark.parametrize("bench", [TWO_PHASES], ids=str, indirect=True)
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_an_interrupt_after_the_change_is_too_late_to_be_a_failure(bench: Bench, name: str) -> None:
    # The last thing that the interpreter does with signals, on its way out.
    last = injection.count(bench, "rt_sigaction")
    ended = injection.signal(bench, name, "rt_sigaction", last)
    assert ended == Run(0, "", "")
    assert bench.identify() is Verdict.NEW


@pytest.mark.parametrize("bench", [TWO_PHASES], ids=str, indirect=True)
@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_an_interrupt_during_the_commit_leaves_the_old_or_the_new_image(
    bench: Bench, name: str
) -> None:
    for call in bench.calls:
        if call.name in ("pwrite64", "fdatasync", "close"):
            ended = injection.signal(bench, name, call.name, call.number)
            bench.assert_promise_is_kept(ended)


def wait_for_handler(process: subprocess.Popen[str]) -> None:
    """Return when the command has taken charge of signals; until then the interpreter has."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if int(lines["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)
