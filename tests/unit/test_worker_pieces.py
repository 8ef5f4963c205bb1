"""Test side: a worker as its parent hears and ends it, and what it keeps of that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from instar.vmm.fleet.document import ANSWER_MAX
from instar.vmm.fleet.worker import LAST, MORE, PIECE
from instar.vmm.fleet.worker_process import WorkerProcess
from tests.support.process import PACKAGE

FULL = bytes(PIECE)


def take(*pieces: bytes) -> tuple[bool, bytes]:
    """Whether more must follow after some pieces, and what is kept of them."""
    worker: Any = SimpleNamespace(told=bytearray())
    more = [WorkerProcess.takes_piece(cast("WorkerProcess", worker), piece) for piece in pieces]
    return more[-1], bytes(worker.told)


def test_pieces_are_put_together() -> None:
    assert take(MORE + FULL) == (True, FULL)
    assert take(MORE + FULL, LAST + b"end") == (False, FULL + b"end")
    assert take(LAST) == (False, b"")


@pytest.mark.parametrize("piece", [b"", b"?", b"?" + FULL, b"!end", MORE, MORE + FULL[1:]])
def test_nonsense_is_the_last_piece_and_no_answer(piece: bytes) -> None:
    assert take(piece) == (False, b"")
    assert take(MORE + FULL, piece) == (False, b"")


def test_an_answer_has_no_more_bytes_than_it_may() -> None:
    """With each piece its mark counts, so that the limit is never passed."""
    most = ANSWER_MAX // PIECE
    assert take(*[MORE + FULL] * (most - 1))[0]
    assert take(*[MORE + FULL] * most) == (False, b"")
    assert take(*[MORE + FULL] * (most - 1), LAST + FULL[1:]) == (False, bytes(ANSWER_MAX - 1))
    assert take(*[MORE + FULL] * (most - 1), LAST + FULL) == (False, b"")


def receive(channel: socket.socket) -> bytes | None:
    """What is heard of a worker by its channel."""
    worker: Any = SimpleNamespace(channel=channel)
    return WorkerProcess.receive(cast("WorkerProcess", worker))


@pytest.mark.parametrize("unread", [False, True])
def test_of_a_message_no_more_is_heard_than_a_piece_has(unread: bool) -> None:
    parent, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent:
        with worker:
            assert receive(parent) is None
            for message in (LAST + b"end", MORE + FULL, MORE + FULL + b"x"):
                worker.send(message)
            if unread:  # it ends with an image that it has not begun
                parent.send(b"image")
        assert [receive(parent) for _ in range(4)] == [LAST + b"end", *[MORE + FULL] * 2, b""]
    parent, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent:
        with worker:
            worker.send(MORE + FULL + b"x")
            parent.send(b"image")
        assert [receive(parent) for _ in range(2)] == [MORE + FULL, b""]


@pytest.mark.parametrize(
    ("code", "patience", "how"),
    [
        ("time.sleep(0.1); os._exit(3)", 20.0, "ended with status 3"),
        ("os.kill(os.getpid(), 15)", 20.0, "was killed (Terminated)"),
        ("time.sleep(60)", 0.0, "was killed (Killed)"),
        ("time.sleep(60)", 0.1, "was killed (Killed)"),
        ("time.sleep(60)", -1.0, "was killed (Killed)"),
    ],
)
def test_a_worker_ends_by_itself_in_the_time_that_it_has(
    code: str, patience: float, how: str
) -> None:
    channel, other = socket.socketpair()
    child = subprocess.Popen([sys.executable, "-SsEc", f"import os, time; {code}"])
    worker: Any = SimpleNamespace(channel=channel, pid=child.pid, why_killed="")
    start = time.monotonic()
    with other:
        assert WorkerProcess.end(cast("WorkerProcess", worker), patience) == how
    taken = time.monotonic() - start
    assert patience <= taken < 15 or "Killed" not in how
    assert channel.fileno() == -1
    child.wait()  # it is no more: only to tell Popen


SHED = """
import os, socket
from instar.vmm.fleet.worker import _shed
parent, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if os.fork() == 0:
    channel = _shed(own)
    there = [number for number in range(64) if os.path.exists(f"/proc/self/fd/{number}")]
    null = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
    channel.send(repr((channel.fileno(), there, null, os.get_inheritable(3))).encode())
    os._exit(0)
print(parent.recv(1000).decode())
"""


def test_a_worker_keeps_its_channel_alone_and_leaves_it_to_no_program() -> None:
    line = [sys.executable, "-c", SHED]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{(3, [0, 1, 2, 3], ['/dev/null'] * 3, False)}\n"
