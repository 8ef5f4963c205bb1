"""Host side: the wall-clock limit of a guest, from any thread and without a signal handler.

A timer sends a signal to the thread that runs the vCPU. The thread has it blocked, but for the time
in KVM_RUN (KVM_SET_SIGNAL_MASK): so it ends KVM_RUN, or keeps the next one from starting, and is
never delivered. There is no moment at which it could be lost, and nothing of the process that calls
us, such as its handlers or timers, is touched.
"""

from __future__ import annotations

from _thread import get_native_id  # threading would cost 4 ms
from struct import Struct
from time import monotonic

from ..base.c import byref, c_int, c_uint64, syscall
from ..base.errors import HostError

# linux/time.h, asm/unistd_64.h, asm-generic/{signal,siginfo}.h
_SYS_RT_SIGPROCMASK, _SYS_RT_SIGTIMEDWAIT = 14, 128
_SYS_TIMER_CREATE, _SYS_TIMER_SETTIME, _SYS_TIMER_DELETE = 222, 223, 226
_CLOCK_MONOTONIC, _SIGEV_THREAD_ID, _SIG_BLOCK, _SIG_SETMASK = 1, 4, 0, 2
_SIGNAL = 64  # SIGRTMAX: the last one, which programs are the least likely to use
_SIGNAL_BIT = 1 << (_SIGNAL - 1)
_SIGSET_SIZE = 8

_SIGEVENT = Struct("=Qiii44x")  # value, signo, notify, thread_id
_TIMESPEC = Struct("=qq")  # seconds, nanoseconds
_ITIMERSPEC = Struct("=qqqq")  # interval, value


def _syscall(number: int, *arguments: object) -> None:
    try:
        syscall(number, *arguments)
    except OSError as error:
        raise HostError(f"no time limit for the guest: {error.strerror}") from error


class Deadline:
    """A time limit for KVM_RUN in the current thread; a context manager.

    `run_mask` is what KVM_SET_SIGNAL_MASK takes for a vCPU that runs inside the block.
    """

    def __init__(self, seconds: float) -> None:
        """Set the limit, which starts with the block."""
        self._seconds = max(seconds, 1e-6)
        self._end = 0.0
        self._timer = c_int()
        self._old_mask = c_uint64()
        self.run_mask = 0

    def __enter__(self) -> Deadline:
        """Block the signal and start the timer. HostError if the kernel refuses."""
        event = _SIGEVENT.pack(0, _SIGNAL, _SIGEV_THREAD_ID, get_native_id())
        whole = int(self._seconds)
        _syscall(_SYS_TIMER_CREATE, _CLOCK_MONOTONIC, event, byref(self._timer))
        _set_mask(_SIG_BLOCK, c_uint64(_SIGNAL_BIT), self._old_mask)
        self.run_mask = self._old_mask.value & ~_SIGNAL_BIT
        self._end = monotonic() + self._seconds
        spec = _ITIMERSPEC.pack(0, 0, whole, int((self._seconds - whole) * 1e9))
        _syscall(_SYS_TIMER_SETTIME, self._timer.value, 0, spec, None)
        return self

    def passed(self) -> bool:
        """Whether the time is up."""
        return monotonic() >= self._end

    def __exit__(self, *_exc: object) -> None:
        """Stop the timer, take the signal if it is pending, and restore the mask."""
        _syscall(_SYS_TIMER_DELETE, self._timer.value)
        wanted = c_uint64(_SIGNAL_BIT)
        # Fails with EAGAIN where nothing is pending, which is the usual case.
        try:  # noqa: SIM105 - contextlib is one more import
            syscall(_SYS_RT_SIGTIMEDWAIT, byref(wanted), None, _TIMESPEC.pack(0, 0), _SIGSET_SIZE)
        except OSError:
            pass
        _set_mask(_SIG_SETMASK, self._old_mask, None)


def _set_mask(how: int, mask: c_uint64, old: c_uint64 | None) -> None:
    old_pointer = None if old is None else byref(old)
    _syscall(_SYS_RT_SIGPROCMASK, how, byref(mask), old_pointer, _SIGSET_SIZE)
