"""Host side: C types, and system calls by number, from the builtin module behind ctypes.

The package ctypes takes 4 to 6 ms to import, a fifth of a whole amend
(docs/decisions/0012-system-calls-by-the-module-behind-ctypes.md). These are the few types that are
used here, made as ctypes makes them.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    byref,
    dlopen,
    dlsym,
    get_errno,
)
from os import strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import c_char, c_int, c_long, c_uint64, c_void_p
else:

    class c_char(_SimpleCData):
        """A byte."""

        _type_ = "c"

    class c_int(_SimpleCData):
        """32 bits, signed."""

        _type_ = "i"

    class c_long(_SimpleCData):
        """64 bits, signed."""

        _type_ = "l"

    class c_uint64(_SimpleCData):
        """64 bits."""

        _type_ = "L"

    class c_void_p(_SimpleCData):
        """An address, or a number as wide as one."""

        _type_ = "P"


__all__ = [
    "addressof",
    "byref",
    "c_char",
    "c_int",
    "c_long",
    "c_uint64",
    "get_limits",
    "keep_heap",
    "prepare_syscall",
    "syscall",
]


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = c_long


_PROGRAM = dlopen(None, 0)  # type: ignore[arg-type] # this one, which the C library is part of
_syscall = _Function(dlsym(_PROGRAM, "syscall"))
_syscall.argtypes = (c_long, *[c_void_p] * 6)  # which take numbers, bytes and references alike
_NO_ARGUMENTS = (0,) * 6
_ERRNOS = iter(get_errno, None)  # of the thread that asks for the next one, without an end


def syscall(number: int, *arguments: object) -> int:
    """Have the kernel do what a number stands for (syscall(2)), without the GIL. OSError.

    SAFETY: callers pass what the call's manual page asks for. An integer is 64 bits wide, bytes are
    their address and must only be read, and what is written to goes by byref().
    """
    return _call(_columns(number, *arguments))


def prepare_syscall(number: int, *arguments: object) -> Callable[[], int]:
    """Return a function that does the same as often as it is called."""
    columns = _columns(number, *arguments)
    return lambda: _call(columns)


def _columns(*values: object) -> list[tuple[object]]:
    """What map() takes for one call."""
    return [(value,) for value in (*values, *_NO_ARGUMENTS[len(values) - 1 :])]


def _call(columns: list[tuple[object]]) -> int:
    # One step of the interpreter for both: between two of them a signal handler of the program may
    # run, often for the very signal that ended the call, and have calls of its own.
    outcome: tuple[int, int] = next(zip(map(_syscall, *columns), _ERRNOS))  # noqa: B905
    if outcome[0] < 0:
        raise OSError(outcome[1], strerror(outcome[1]))
    return outcome[0]


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_heap(size: int) -> None:
    """Have glibc keep up to so many bytes that are freed, to allocate them again (mallopt(3)).

    Else each table that is read and judged is given back, and every page of the next one is a fault
    of its own. Other C libraries, and other allocators, do as they do.
    """
    try:
        mallopt = _Function(dlsym(_PROGRAM, "mallopt"))
    except OSError:
        return
    mallopt(c_int(_M_MMAP_THRESHOLD), c_int(size // 2))
    mallopt(c_int(_M_TRIM_THRESHOLD), c_int(size))


SYS_PRLIMIT64 = 302  # asm/unistd_64.h
UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY, asm-generic/resource.h
_TwoNumbers = c_uint64 * 2


def get_limits(resource: int) -> tuple[int, int]:
    """The soft and the hard limit of a resource of this process (prlimit(2)); UNLIMITED is none.

    The module resource would be one more library to load.
    """
    limits = _TwoNumbers()
    syscall(SYS_PRLIMIT64, 0, resource, None, byref(limits))
    return limits[0], limits[1]
