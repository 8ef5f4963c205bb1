"""Host side: interrupts cost nothing that was heard, also where two of them come at once."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from instar.vmm.fleet.interrupts import INTERRUPTS

# Work on three images, of which two were begun when it lets interrupts in. In a process without
# other threads, where one of them might take what is held back here.
CODE = """
import os, signal, sys
from instar.vmm.fleet.interrupts import INTERRUPTS, LetIn, carry_through

class Batch:
    def run(self):
        yield 1
        for number in sys.argv[1:]:
            os.kill(os.getpid(), int(number))
        with LetIn():
            pass
        yield 3

    def finish(self):
        os.kill(os.getpid(), signal.SIGINT)  # from someone who has no patience
        yield 2

    def stop(self):
        print("stopped")

def interrupt(number, frame):
    raise KeyboardInterrupt(number)

for number in INTERRUPTS:
    signal.signal(number, interrupt)
try:
    for told in carry_through(Batch()):
        print(told)
except KeyboardInterrupt:
    print("interrupted")
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def told(*interrupts: int) -> list[str]:
    """What is told of the images, and what comes of the rest."""
    command = [sys.executable, "-c", CODE, *(str(int(number)) for number in interrupts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    "interrupts", [(signal.SIGINT,), (signal.SIGTERM,), INTERRUPTS, INTERRUPTS[::-1]]
)
def test_what_was_begun_is_told_whatever_interrupts_come(interrupts: tuple[int, ...]) -> None:
    assert told(*interrupts) == ["1", "2", "stopped", "interrupted", "set()"]


def test_without_an_interrupt_all_is_told() -> None:
    assert told() == ["1", "3", "stopped", "set()"]
