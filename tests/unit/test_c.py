"""Test side: system calls by number take what C would, and the heap keeps what it is told to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm.base.c import byref, c_int, prepare_syscall, syscall

# asm/unistd_64.h
LSEEK, PIPE2, PREAD64, PWRITE64, GETPID = 8, 293, 17, 18, 39


def test_numbers_are_64_bits_wide_and_bytes_are_an_address(tmp_path: Path) -> None:
    path = tmp_path / "file"
    far = (1 << 40) + 3
    with path.open("w+b") as stream:
        assert syscall(PWRITE64, stream.fileno(), b"abc", 3, far) == 3
        assert syscall(LSEEK, stream.fileno(), far, os.SEEK_SET) == far
    assert path.stat().st_size == far + 3


def test_what_is_written_to_goes_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1\2\0\0")
    value = c_int()
    with path.open("rb") as stream:
        assert syscall(PREAD64, stream.fileno(), byref(value), 4, 0) == 4
    assert value.value == 0x201


def test_none_is_a_null_pointer() -> None:
    with pytest.raises(OSError, match="Bad address") as caught:
        syscall(PIPE2, None, 0)
    assert caught.value.errno == errno.EFAULT


def test_a_prepared_call_can_be_made_again_and_again() -> None:
    get_pid = prepare_syscall(GETPID)
    assert [get_pid(), get_pid()] == [os.getpid()] * 2


INTERRUPTED = """
import signal, sys
from instar.vmm.base.c import prepare_syscall, syscall

def fail(number, frame):
    try:
        syscall(3, 1 << 20)  # close(2)
    except OSError as error:
        print(error.strerror)

signal.signal(signal.SIGALRM, fail)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try:
    prepare_syscall(34)() if sys.argv[1] == "prepared" else syscall(34)  # pause(2)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("kind", ["prepared", "once"])
def test_an_error_is_that_of_the_call_whatever_a_signal_handler_calls(kind: str) -> None:
    """In a process of its own: an audit hook in Python is a step of the interpreter in between."""
    line = [sys.executable, "-c", INTERRUPTED, kind]
    told = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    assert told == "Bad file descriptor\nInterrupted system call\n"


FAULTS = """
import resource, sys
from instar.vmm.base.c import keep_heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [bytes(100_000) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_heap(8 << 20)
faults()
print(faults())
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="is about glibc")
def test_a_heap_that_is_kept_costs_no_faults_again() -> None:
    def faults(kind: str) -> int:
        line = [sys.executable, "-c", FAULTS, kind]
        return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 100
    assert faults("given back") > 1000
