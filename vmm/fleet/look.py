"""Host side: looks with isolation="process": a child runs the guest, and passes on what it says.

The image is opened and locked here, and its fixed fields and signatures are read here, as they are
without a child. The child gets the descriptor, by which nothing can be written, and confines itself
before it reads from it. What it passes on is judged here as a guest's own words are: so a child
that was taken over can do what such a guest can, which is to lie about the image.
"""

from __future__ import annotations

import signal
import subprocess
import time

from instar.abi import FRAME_CHECK, FRAME_INFO, FRAME_PAYLOAD_MAX

from ..base.errors import GuestFault, HostError
from ..base.escape import escape_around
from ..base.lean_json import dump_line, load_told
from ..inspect.looker import Looker
from . import MARGIN, describe_end
from .isolation import hear, start_child
from .look_child import END, HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..image.image_file import ImageFile

LOOK_CODE = "from instar.vmm.fleet.look_child import main; main()"
"""The code of a process that looks at one image."""
ANSWER_MAX = 2 << 20
"""Bytes that a child may say: all that a guest may, and more."""
_WORDS_MAX = 1 << 16
_LAST = (FRAME_INFO, FRAME_CHECK)


class ChildLooker(Looker):
    """Looks at images as a Looker does, each in a child of its own."""

    def __init__(self, operation: str) -> None:
        """Take the name of the operation. HostError if there is no payload for it."""
        super().__init__(operation)
        self._operation = operation

    def prepare(self) -> int:
        """Do nothing: the machine is the child's."""
        return -1

    def look(
        self,
        image: ImageFile,
        receive: Callable[[int, bytes], None],
        timeout: float,
        *,
        progress: bool = False,
        debug: Callable[[str], None] | None = None,
        work_max: int | None = None,
    ) -> None:
        """Have a child run the guest, as Looker.look() does here; there is no debug text."""
        task = {
            "operation": self._operation,
            "ram_size": self._ram_size,
            "fd": image.fd,
            "name": image.name,
            "max_growth": None if image.is_device else 0,
            "budget": image.work_max,
            "work_max": work_max,
            "timeout": timeout,
            "progress": progress,
        }
        child = start_child(LOOK_CODE, dump_line(task).encode(), (image.fd,))
        with child:
            try:
                self.vm_exits = _pass_on(child, receive, timeout + MARGIN, image.name)
            finally:
                child.kill()  # does nothing to one that ended


def _pass_on(
    child: subprocess.Popen[bytes],
    receive: Callable[[int, bytes], None],
    seconds: float,
    name: str,
) -> int:
    """Judge the order of frames as SerialPort does; how often the guest stopped for the host."""
    finished = False
    for kind, payload in _frames(child, seconds):
        if kind == END:
            exits = _read_end(payload, name)
            if not finished:
                raise GuestFault("the guest ended without a result")
            return exits
        if finished or len(payload) > FRAME_PAYLOAD_MAX:
            raise GuestFault(f"frame of type {kind} with {len(payload)} bytes")
        finished = kind in _LAST
        receive(kind, payload)
    raise HostError(_end(child))


def _frames(child: subprocess.Popen[bytes], seconds: float) -> Iterator[tuple[int, bytes]]:
    """What the child says, until it says no more, or too much. HostError if it takes too long."""
    told, heard = bytearray(), 0
    try:
        for data in hear(child, time.monotonic() + seconds):
            heard += len(data)
            if heard > ANSWER_MAX:
                break
            told += data
            while len(told) >= HEADER.size:
                kind, size = HEADER.unpack_from(told)
                if len(told) < HEADER.size + size:
                    break
                payload = bytes(told[HEADER.size : HEADER.size + size])
                del told[: HEADER.size + size]
                yield kind, payload
    except subprocess.TimeoutExpired:
        raise HostError(
            f"the confined process did not end within {seconds:g} s and was killed"
        ) from None


def _end(child: subprocess.Popen[bytes]) -> str:
    """End a child from which nothing more is heard, and say what became of it."""
    child.kill()  # one that has closed its stdout, or says too much
    code = child.wait()
    if code < 0 and code != -signal.SIGKILL:
        return f"the confined process {describe_end(code)}"
    return "the confined process ended without an outcome"


def _read_end(payload: bytes, name: str) -> int:
    """How often the guest stopped for the host. GuestFault, HostError: what else became of it."""
    try:
        document: Any = load_told(payload)
        if "error" in document:
            kind, message = document["error"]["kind"], document["error"]["message"]
            words = escape_around(message[:_WORDS_MAX], name)
            raise (GuestFault if kind == GuestFault.__name__ else HostError)(words)
        exits = document["vm_exits"]
        if type(exits) is int and 0 <= exits < 1 << 63:
            return exits
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise HostError("the confined process ended without an outcome")
