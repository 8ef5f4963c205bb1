"""Makes single system calls of a real command fail, by strace. Test side."""

from __future__ import annotations

from tests.crash.bench import Bench
from tests.crash.recorder import Call, RecordError, Run, strace, trace

_HARMLESS = "gettid"
"""Is called in place of the call that fails; confined processes are free to call it."""


def fail(bench: Bench, call: Call, error: str) -> Run:
    """Run the command on the image as it was, with one of its calls on it failing with `error`.

    Raises RecordError if it was another file's call that failed.
    """
    bench.restore()
    fault = f"inject={call.name}:error={error}:syscall={_HARMLESS}:when={call.number}"
    calls, run = trace(bench.command, bench.image, [call.name], "-s", "0", "-e", fault)
    hit = call.name == "openat" or any(
        found.number == call.number and found.result == -1 for found in calls
    )
    if not hit:
        raise RecordError(f"not the image's: {call.name} {call.number}")
    return run


def signal(bench: Bench, name: str, call: str, number: int = 1) -> Run:
    """Run the command, and send it a signal when it is about to make a call."""
    bench.restore()
    fault = f"inject={call}:signal={name}:when={number}"
    return trace(bench.command, bench.image, [call], "-s", "0", "-e", fault)[1]


def count(bench: Bench, call: str) -> int:
    """How many calls of this name the command makes."""
    bench.restore()
    lines, _ = strace(bench.command, [call])
    return sum(f" {call}(" in line for line in lines)
