"""Host side: what amend(isolation="process") starts: a process that confines itself for one amend.

What it is asked stands in its stdin, as JSON; its answer, a result or an error, goes to its stdout.
"""

from __future__ import annotations

import gc
import os
import sys

from ..amend import amend_image
from ..base.errors import error_fields, explain
from ..base.lean_json import dump_line, load_text
from ..confine import confine_to, keep_from_cores
from ..request import AmendRequest
from .interrupts import on_interrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from functools import partial
    from typing import Any, NoReturn
else:  # signal and functools would import ten others
    import _signal as signal
    from _functools import partial


def write_task(path: bytes, request: AmendRequest) -> memoryview:
    """What a child finds in its stdin; in a view, as a traceback may show what bytes hold."""
    task = {"path": os.fsdecode(path), "request": request.to_document(), "packages": []}
    if request.keys is not None:
        task["packages"] = _find_packages()
    return memoryview(dump_line(task).encode())


def _find_packages() -> list[str]:
    """Where the packages are that a change of keys needs, for a process that sees none."""
    from importlib.util import find_spec

    found = find_spec("cryptography")
    return (
        []
        if found is None or not found.origin
        else [os.path.dirname(os.path.dirname(found.origin))]
    )


def main() -> NoReturn:
    """Do what stdin says; ends the process with the status that the command would have."""
    gc.disable()  # the process is soon at its end
    on_interrupt(_interrupt)
    status = 0
    document: dict[str, Any]
    try:
        keep_from_cores()  # what is asked may have passphrases
        task = load_text(sys.stdin.buffer.read().decode())
        request = AmendRequest.from_document(task["request"])
        sys.path += task["packages"]
        confine = partial(confine_to, keys=request.keys is not None)
        document = {"result": amend_image(task["path"], request, before_read=confine)}
    except (Exception, KeyboardInterrupt) as error:
        document = {"error": error_fields(error)}
        status = explain(error)[1]
    answer = dump_line(document).encode()
    while answer:
        answer = answer[os.write(1, answer) :]
    os._exit(status)


def _interrupt(_number: int, _frame: object) -> None:
    on_interrupt(signal.SIG_IGN)
    raise KeyboardInterrupt
