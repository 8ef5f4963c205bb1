"""Test side: a forked child is waited for, and ended if it takes too long."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from instar.vmm.fleet import end_child


def fork(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(3)
    return pid


def test_a_child_that_ends_in_time_is_not_ended() -> None:
    status = end_child(fork(lambda: time.sleep(0.05)), 60.0)
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == 3


def test_a_child_that_does_not_end_is_killed_when_its_time_is_over() -> None:
    begin = time.monotonic()
    status = end_child(fork(signal.pause), 0.1)
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert 0.1 <= time.monotonic() - begin < 30


def test_of_a_child_that_another_part_has_waited_for_there_is_no_status() -> None:
    pid = fork(lambda: None)
    os.waitpid(pid, 0)
    assert end_child(pid) is None
