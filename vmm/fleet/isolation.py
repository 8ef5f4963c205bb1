"""Host side: amend() with isolation="process": a child does the work.

The child confines itself before it reads the image, and this process keeps its rights. What the
child says is judged before it becomes an outcome.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

from instar import abi

from ..amend.result import AmendResult
from ..base.c import syscall
from ..base.errors import HostError, InstarError, UsageError, reason_of_denied, reason_of_fork
from ..base.streams import StreamsKept, open_null
from ..machine.payload import load_payload
from ..request.keywords import announce
from . import MARGIN, describe_end
from .child import write_task
from .document import ANSWER_MAX, Expected, describe_unsure, read_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..request import AmendRequest
    from ..request.keywords import PathLike

_SYS_MEMFD_CREATE, _MFD_CLOEXEC = 319, 1  # asm/unistd_64.h, linux/memfd.h

# The package is taken from where this one is, and nothing else is on the path but the standard
# library: no site-packages, no PYTHON* variables, no current folder.
_START = "import sys; sys.path.append(sys.argv.pop(1)); "
COMMAND_CODE = "from instar.vmm.cli import main; sys.exit(main())"
"""The code of a process that is the command."""
CHILD_CODE = "from instar.vmm.fleet.child import main; main()"
"""The code of a process that amends one image, as it is told."""


def child_command(code: str, *, isolated: bool = True) -> list[str]:
    """The command line of a Python process that runs `code`; `sys` and this package are at hand.

    Unless `isolated` it heeds PYTHON* variables, and the current folder may hold modules for it.
    HostError if this process does not know its interpreter.
    """
    if not sys.executable:
        raise HostError("cannot start a child: this process does not know its Python interpreter")
    # By way of instar.abi: an editable install has a symbolic link in the place of vmm/.
    package = os.path.dirname(os.path.dirname(os.path.abspath(abi.__file__)))
    flags = ["-I", "-S"] if isolated else ["-S"]
    return [sys.executable, *flags, "-c", _START + code, os.path.dirname(package)]


def amend_in_child(path: PathLike, request: AmendRequest) -> AmendResult:
    """Amend an image as amend() does; the request is checked, the path is not.

    Raises what amend() raises, and HostError if the child cannot be started, dies, or says nothing
    that makes sense.
    """
    try:
        raw = os.fsencode(path)
    except ValueError:
        raise UsageError("the file name has characters that no file name can have") from None
    if not raw:
        raise UsageError("the file name is empty; name an image file")
    if b"\0" in raw:
        raise UsageError("the file name holds a NUL byte; name an image file")
    announce(path, request)
    task = write_task(raw, request)
    answer, status = _run(task, request)
    if status < 0:
        raise HostError(f"the confined process {describe_end(status)}; {describe_unsure(request)}")
    expected = Expected(os.fsdecode(raw), request, load_payload().sha256)
    try:
        outcome = read_outcome(answer, expected)
    except ValueError:
        outcome = None
    if isinstance(outcome, AmendResult) and status == 0:
        return outcome
    if isinstance(outcome, InstarError):  # the status may be lost: who calls may ignore SIGCHLD
        raise outcome
    state = describe_unsure(request)
    raise HostError(f"the confined process {describe_end(status)} and no outcome; {state}")


def start_child(
    code: str, task: bytes | memoryview, descriptors: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that runs `code`, finds `task` in its stdin, and has these descriptors too.

    Its stdout is a pipe from it. HostError if it cannot be started.
    """
    try:
        # A file in memory, unlike a pipe, takes all of a task whether somebody reads it or not.
        with StreamsKept(), open(_make_memory_file(), "w+b") as stdin:
            stdin.write(task)
            stdin.seek(0)
            with open(open_null(), "wb") as null:
                return subprocess.Popen(  # noqa: S603 - an argument list, and our own code
                    child_command(code),
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=null,
                    pass_fds=descriptors,
                )
    except OSError as error:
        raise HostError(f"cannot start a child: {reason_of_fork(error)}") from error


def _make_memory_file() -> int:
    """memfd_create(2), which a Python for old systems lacks. HostError."""
    try:
        return syscall(_SYS_MEMFD_CREATE, b"instar-task", _MFD_CLOEXEC)
    except OSError as error:
        reason = reason_of_denied(error, "memfd_create")
        raise HostError(f"cannot start a child: {reason}") from error


def _run(task: memoryview, request: AmendRequest) -> tuple[bytes, int]:
    """Run a child; return what it wrote to stdout, and its status as Popen has it."""
    seconds = request.timeout + MARGIN
    child = start_child(CHILD_CODE, task)
    end = time.monotonic() + seconds
    with child:
        try:
            answer = _read_all(child, end)
            return answer, child.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise HostError(
                f"the confined process did not end within {seconds:g} s and was killed; "
                f"{describe_unsure(request)}"
            ) from None
        finally:
            child.kill()  # does nothing to one that ended


def hear(child: subprocess.Popen[bytes], end: float) -> Iterator[bytes]:
    """What the child writes to its stdout, as it comes, to its end. TimeoutExpired at `end`."""
    assert child.stdout is not None  # noqa: S101 - it is a pipe, see start_child()
    descriptor = child.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(max(end - time.monotonic(), 0) * 1000):
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        yield data
    raise subprocess.TimeoutExpired(child.args, 0)


def _read_all(child: subprocess.Popen[bytes], end: float) -> bytes:
    """Read the child's stdout to its end, or to where it is too long. TimeoutExpired at `end`."""
    answer = bytearray()
    for data in hear(child, end):
        answer += data
        if len(answer) > ANSWER_MAX:
            child.kill()
            return b""
    return bytes(answer)
