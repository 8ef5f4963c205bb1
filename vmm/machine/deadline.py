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

from ..base.c import byref, c_int, syscall
from ..base.errors import EAGAIN, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, sigtimedwait
else:  # signal would cost the command enum
    from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, sigtimedwait

# linux/time.h, asm/unistd_64.h, asm-generic/{signal,siginfo}.h
_SYS_TIMER_CREATE, _SYS_TIMER_SETTIME, _SYS_TIMER_DELETE = 222, 223, 226
_CLOCK_MONOTONIC, _SIGEV_THREAD_ID = 1, 4
_SIGNAL = 64  # SIGRTMAX: the last one, which programs are the least likely to use

_SIGEVENT = Struct("=Qiii44x")  # value, signo, notify, thread_id
_ITIMERSPEC = Struct("=qqqq")  # interval, value


def _syscall(number: int, *arguments: object) -> None:
    try:
        syscall(number, *arguments)
    except OSError as error:
        told = f"no time limit for the guest: {error.strerror}"
        if error.errno == EAGAIN:
            told += "; raise the limit of pending signals (ulimit -i)"
        raise HostError(told) from error


class Deadline:
    """A time limit for KVM_RUN in the current thread; a context manager.

    `run_mask` is what KVM_SET_SIGNAL_MASK takes for a vCPU that runs inside the block.
    """

    def __init__(self, seconds: float) -> None:
        """Set the limit, which starts with the block."""
        self._seconds = max(seconds, 1e-6)
        self._end = 0.0
        self._timer = c_int()
        self._blocked: set[int] = set()
        self.run_mask = 0

    def __enter__(self) -> Deadline:
        """Block the signal and start the timer. HostError if the kernel refuses."""
        event = _SIGEVENT.pack(0, _SIGNAL, _SIGEV_THREAD_ID, get_native_id())
        whole = int(self._seconds)
        _syscall(_SYS_TIMER_CREATE, _CLOCK_MONOTONIC, event, byref(self._timer))
        self._blocked = pthread_sigmask(SIG_BLOCK, (_SIGNAL,))
        self.run_mask = sum([1 << (number - 1) for number in self._blocked if number != _SIGNAL])
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
        sigtimedwait((_SIGNAL,), 0)
        pthread_sigmask(SIG_SETMASK, self._blocked)
