"""Host side: keeps the numbers 0, 1 and 2 free of what this package opens.

The kernel gives a new descriptor the lowest free number. Where a program has closed a standard
stream, that is the stream's, and what anybody then prints goes to the image.
"""

from __future__ import annotations

import os

from .errors import HostError, reason_of

_STREAMS = (0, 1, 2)

MAKE_NULL = "make it, as root: mknod -m 666 /dev/null c 1 3"
"""What helps where a file system, such as that of a small chroot, has no /dev/null."""


def fill_streams() -> list[int]:
    """Put something in the place of each closed standard stream; return these descriptors.

    As with a closed one, reading and writing fail with EBADF.
    """
    filled: list[int] = []
    for number in _STREAMS:
        try:
            os.get_inheritable(number)
        except OSError:
            # The lowest free number, which is this one unless another thread was quicker.
            filled.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
    return filled


class StreamsKept:
    """Whatever is opened inside the block, by whomever, gets a number above 2."""

    def __enter__(self) -> None:
        """Fill the gaps, if there are any. OSError if no descriptor is left for that."""
        self._filled = fill_streams()

    def __exit__(self, *_exc: object) -> None:
        """Leave the standard streams as they were."""
        for number in self._filled:
            os.close(number)


def raise_above_streams(descriptor: int) -> int:
    """Own a descriptor under a number above 2: the same one, or another with the old one closed.

    OSError if there is no other.
    """
    if descriptor not in _STREAMS:
        return descriptor
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    try:
        return fcntl(descriptor, F_DUPFD_CLOEXEC, len(_STREAMS))
    finally:
        os.close(descriptor)


def open_null() -> int:
    """Open /dev/null, for what a process is not to read or to say. HostError."""
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        helps = f"; {MAKE_NULL}" if isinstance(error, FileNotFoundError) else ""
        raise HostError(f"cannot open {os.devnull}: {reason_of(error)}{helps}") from error
