"""Host side: a confined worker as its parent sees it: forked, sent images, heard, ended."""

from __future__ import annotations

import os
import time
from errno import EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, prlimit

from ..base.c import UNLIMITED
from ..base.errors import HostError, reason_of, reason_of_denied, reason_of_fork
from ..base.record import record
from . import describe_end, end_child
from .document import ANSWER_MAX
from .interrupts import HeldBack
from .worker import DESCRIPTOR, DEVICE, IMAGE, LAST, MORE, PIECE, REGULAR, work

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from collections import deque

    from ..image.image_file import ImageFile
    from ..machine.payload import Payload
    from ..request import AmendRequest
    from .supply import Taken
else:  # as worker.py does; and collections would make a class with exec()
    import _signal as signal
    import _socket as socket
    from _collections import deque

_NO_ROOM = EAGAIN, ETOOMANYREFS, ENOBUFS, ENOMEM

AHEAD = 32
"""Images that a worker has been sent at a time, so that it need not wait for this process."""


@record
class Sent:
    """An image that a worker has."""

    taken: Taken
    name: str
    size: int
    """In bytes, that it may have at the end."""


class WorkerProcess:
    """A worker process as its parent sees it."""

    def __init__(self, request: AmendRequest, payload: Payload, required: bool) -> None:
        """Fork it; it says READY, or what is wrong, before anything else. HostError."""
        try:
            # An interrupt must not find the child before it knows that it is one.
            with HeldBack():
                self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self.pid = os.fork()
                if self.pid == 0:
                    work(other, request, payload, required=required)
        except OSError as error:
            raise HostError(f"cannot start a worker: {reason_of_fork(error)}") from error
        other.close()
        self.sent: deque[Sent] = deque()
        self.told = bytearray()
        """The pieces of an answer so far."""
        self.ready = False
        self.gave_up = False
        """Whether its last answer was an error, after which it may have to end."""
        self.is_over = False
        """Whether it has said that it ends, and begins no other image."""
        self.why_killed = ""
        """What kill() was told; empty while it has not been called."""
        self.deadline = 0.0
        """When it must have said what became of the first image that it has; set by the batch."""
        self._limit = -1

    @property
    def room(self) -> bool:
        """Whether it may be sent another image."""
        return len(self.sent) < AHEAD

    @property
    def is_late(self) -> bool:
        """Whether it should have said what became of an image."""
        return bool(self.sent) and self.deadline < time.monotonic()

    def send(self, taken: Taken, image: ImageFile) -> str:
        """Pass an image on, unless the kernel has no room for it at present: return why, else "".

        This never waits, whatever the worker does. A channel has room for so many bytes, and a user
        may have as many descriptors on their way as files open (unix(7)). That the worker is no
        more shows when its answer is waited for. HostError if the kernel refuses otherwise.
        """
        self.sent.append(Sent(taken, image.name, image.size + image.max_growth))
        try:
            self._allow(max(sent.size for sent in self.sent))
        except OSError as error:
            self.sent.pop()
            reason = reason_of_denied(error, "prlimit64")
            raise HostError(f"cannot limit what a worker writes: {reason}") from error
        kind = DEVICE if image.is_device else REGULAR
        size = UNLIMITED if image.is_device else image.size  # to which no limit applies
        about = IMAGE.pack(kind, image.work_max, size, image.size_limit)
        message = about + os.fsencode(image.name)
        rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, DESCRIPTOR.pack(image.fd)
        try:
            self.channel.sendmsg([message], [rights], socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            self.sent.pop()
            self._allow(max((sent.size for sent in self.sent), default=0))
            if error.errno in _NO_ROOM:
                return reason_of(error)
            raise HostError(f"cannot pass '{image.name}' on: {reason_of(error)}") from error
        return ""

    def _allow(self, size: int) -> None:
        """Have the kernel refuse what would make a file larger than the largest image at hand."""
        limit = min(size + 511 & ~511, 1 << 62)  # the limit is a signed number to some
        if limit == self._limit:
            return
        own, most = getrlimit(RLIMIT_FSIZE)
        limits = limit if own == RLIM_INFINITY else min(limit, own), most
        try:  # noqa: SIM105 - contextlib is one more import
            prlimit(self.pid, RLIMIT_FSIZE, limits)
        except ProcessLookupError:
            pass
        self._limit = limit

    def receive(self) -> bytes | None:
        """The next answer; empty if the worker is no more, None if it has not said anything."""
        try:
            return self.channel.recv(PIECE + 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # It ended with images unread, which is told once, before what it said last.
            return self.channel.recv(PIECE + 1)

    def takes_piece(self, piece: bytes) -> bool:
        """Keep a piece of an answer; whether another one must follow. Nonsense is the last one.

        All pieces but the last are full, so that there are few of them, whoever sends them.
        """
        more = piece[:1] == MORE and len(piece) == PIECE + 1
        if not (more or piece[:1] == LAST) or len(self.told) + len(piece) > ANSWER_MAX:
            self.told.clear()
            return False
        self.told += piece[1:]
        return more

    def kill(self, why: str) -> None:
        """Enforce its end, for this reason. What it has said up to then can still be received."""
        self.why_killed = why
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, and nobody hears of it (sigaction(2), SIGCHLD)

    def end(self, patience: float) -> str:
        """Wait for its end, and enforce it after so many seconds; say what that was."""
        self.channel.close()
        status = end_child(self.pid, patience)
        if self.why_killed:
            return self.why_killed
        if status is None:
            return "ended"
        return describe_end(os.waitstatus_to_exitcode(status))
