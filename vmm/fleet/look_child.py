"""Host side: what a look with isolation="process" starts: it runs the guest for one image.

It gets the image open, and opens none itself; what it is to do stands in its stdin, as JSON. What
the guest says it passes on to its stdout, frame by frame, for its parent to judge.
"""

from __future__ import annotations

import gc
import os
import sys
from struct import Struct

from ..base.errors import error_fields
from ..base.lean_json import dump_line, load_text
from ..confine import Descriptors, confine
from ..image.image_file import ImageFile
from ..inspect.looker import Looker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

HEADER = Struct("<QI")
"""What is before each frame: its type and the bytes of its payload."""
END = 1 << 32
"""The type of the last one, which no guest's frame has: JSON, with `vm_exits` or an `error`."""


def main() -> NoReturn:
    """Do what stdin says, and end the process."""
    gc.disable()  # the process is soon at its end
    try:
        told = _look(load_text(sys.stdin.buffer.read().decode()))
    except (Exception, KeyboardInterrupt) as error:
        told = {"error": error_fields(error)}
    _pass_on(END, dump_line(told).encode())
    os._exit(0)


def _look(task: dict[str, Any]) -> dict[str, Any]:
    image = ImageFile.received(task["fd"], task["name"], task["max_growth"], task["budget"])
    with Looker(task["operation"], ram_size=task["ram_size"]) as looker:
        vcpu = looker.prepare()
        confine(Descriptors(image.fd, image.size, vcpu, read_only=True))
        how = {"progress": task["progress"], "work_max": task["work_max"]}
        looker.look(image, _pass_on, task["timeout"], **how)
        return {"vm_exits": looker.vm_exits}


def _pass_on(kind: int, payload: bytes) -> None:
    rest = HEADER.pack(kind, len(payload)) + payload
    while rest:
        rest = rest[os.write(1, rest) :]
