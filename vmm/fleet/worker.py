"""Host side: a confined process that amends the images which its parent sends, one by one.

The parent opens paths and never looks into an image; this process looks into images and can open
nothing. It was forked from the parent, shares nothing with it but a socket, and keeps a virtual
machine from image to image. When that had to be given up, this process ends, for it can make no
other, and the parent forks another one.
"""

from __future__ import annotations

import gc
import os
import select
from struct import Struct

from ..amend import preload_steps
from ..amend.sandbox import Sandbox
from ..base.c import keep_heap
from ..base.errors import HostError, InstarError, error_fields
from ..base.lean_json import dump_line
from ..base.streams import open_null
from ..confine import Descriptors, confine
from ..image.image_file import ImageFile
from .interrupts import begin_as_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from typing import NoReturn

    from ..machine.payload import Payload
    from ..request import AmendRequest
else:  # signal and socket make enums of their constants, which takes as long as ten images
    import _signal as signal
    import _socket as socket

NAME_MAX = 4096 + 256
"""Bytes of a path that can be opened, and more: longer ones do not come here."""
REGULAR, DEVICE = b"f", b"b"
"""What kind of file an image is."""
IMAGE = Struct("=cQQQ")
"""What a message begins with: an image's kind, its work_max as ImageFile has it, its size when it
was opened, and its size_limit."""
DESCRIPTOR = Struct("=i")
"""What passes an image's descriptor, beside the message."""
READY = b"ready"
"""What a worker says first, unless it says in JSON what is wrong."""
OVER = b"over"
"""What it says last: it ends, and has begun none of the images that it was not heard of."""
MORE, LAST = b"+", b"."
"""How a piece of an answer begins: whether another one follows, without which it is not whole."""
PIECE = 32 << 10
"""Bytes of an answer in one message, but for the last; the kernel takes no message of any size."""

_CHANNEL = 3  # after the standard streams
_RIGHTS_SIZE = socket.CMSG_LEN(DESCRIPTOR.size)  # room for one
_HEAP_KEPT = 8 << 20  # bytes, for the next image: some tables of clusters of 2 MiB


def work(
    channel: socket.socket, request: AmendRequest, payload: Payload, *, required: bool
) -> NoReturn:
    """Be a worker, in a process that was just forked; ends the process.

    Each message of the parent is an image: IMAGE, its name, and its descriptor; each
    answer is JSON, the outcome, in pieces. No image is begun once the parent has shut its end down,
    whatever it has sent before. `required` is that of confine().
    """
    status = 1
    try:
        _work(channel, request, payload, required)
        status = 0
    finally:
        os._exit(status)


def _work(parent: socket.socket, request: AmendRequest, payload: Payload, required: bool) -> None:
    try:
        channel = _shed(parent)
    except (HostError, OSError) as error:
        parent.send(dump_line({"error": error_fields(error)}).encode())
        return
    try:
        _serve(channel, request, payload, required)
    finally:
        channel.close()  # left to the end of its life, a socket is worth a warning


def _serve(channel: socket.socket, request: AmendRequest, payload: Payload, required: bool) -> None:
    try:
        sandbox = Sandbox(payload=payload)
        vcpu = sandbox.prepare(request)
        preload_steps(request.steps())
        # The lowest free number, which is what the kernel gives to every image.
        image = os.dup(_CHANNEL)
        os.close(image)
        growth = request.max_growth
        keys = request.keys is not None
        used = Descriptors(image, None, vcpu, growth, channel=_CHANNEL, keys=keys)
        confine(used, required=required)
    except (InstarError, OSError) as error:
        os.write(_CHANNEL, dump_line({"error": error_fields(error)}).encode())
        return
    gc.freeze()  # what is there by now stays: the collector need not look at it again
    keep_heap(_HEAP_KEPT)
    over = select.poll()
    over.register(_CHANNEL, select.POLLRDHUP)
    os.write(_CHANNEL, READY)
    while sandbox.is_ready(request):
        message, rights, _, _ = channel.recvmsg(NAME_MAX, _RIGHTS_SIZE)
        if not rights or over.poll(0):
            break
        (descriptor,) = DESCRIPTOR.unpack_from(rights[0][2])
        try:
            answer = _amend(sandbox, descriptor, message, request)
        except Exception as error:  # a defect, after which nothing is to be trusted
            sandbox.close()
            answer = {"error": error_fields(error)}
        _tell(dump_line(answer).encode())
    os.write(_CHANNEL, OVER)


def _tell(answer: bytes) -> None:
    for at in range(0, len(answer), PIECE):
        last = at + PIECE >= len(answer)
        os.write(_CHANNEL, (LAST if last else MORE) + answer[at : at + PIECE])


def _amend(
    sandbox: Sandbox, descriptor: int, message: bytes, request: AmendRequest
) -> dict[str, object]:
    kind, work_max, size_max, size_limit = IMAGE.unpack_from(message)
    name = os.fsdecode(message[IMAGE.size :])
    growth = None if kind == DEVICE else request.max_growth
    try:
        with ImageFile.received(
            *(descriptor, name, growth, work_max), size_max=size_max, size_limit=size_limit
        ) as image:
            return {"result": sandbox.amend_open(image, request)}
    except InstarError as error:
        return {"error": error_fields(error)}


def _shed(channel: socket.socket) -> socket.socket:
    """Leave all that is the parent's, but for one end of the socket, to the parent."""
    # An interrupt is the parent's business, which lets what has begun come to its end.
    begin_as_child(signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    null = open_null()
    descriptor = channel.detach()  # above the standard streams, which the command has filled
    for stream in range(_CHANNEL):
        os.dup2(null, stream)
    if descriptor != _CHANNEL:
        os.dup2(descriptor, _CHANNEL, inheritable=False)
    _close_after(_CHANNEL)
    return socket.socket(fileno=_CHANNEL)


def _close_after(last: int) -> None:
    """Close all descriptors after this one; some may lie beyond the limit that there is now."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # where nothing is mounted there
        os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
        return
    for number in numbers:
        if number > last:
            try:  # noqa: SIM105 - contextlib is one more import
                os.close(number)
            except OSError:
                pass  # the one by which they were listed
