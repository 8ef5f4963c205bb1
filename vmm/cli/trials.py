"""Host side: what `instar doctor` tries in processes of their own, as the command would run here.

They have this process's environment, with its allocator and whatever else is loaded into every
program, and a time limit.
"""

from __future__ import annotations

import json
import subprocess
import tempfile

from ..fleet.isolation import COMMAND_CODE, child_command

SECONDS = 60.0
"""How long a trial may take, with a guest that may take 10."""

# More memory and more objects than an allocator has in store. It may take several times as much:
# jemalloc keeps what it has freed, and asks for more at a time each time.
_MEMORY = """
import os
from instar.vmm.confine import Descriptors, confine
image = os.open(sys.argv[1], os.O_RDWR)
confine(Descriptors(image=image, image_size=os.fstat(image).st_size, vcpu=0))
block = bytearray(8 << 20)
block += bytes(4 << 20)
del block
objects = [bytes(number) for number in range(5000)]
del objects
os.pwrite(image, b"x", 0)
os.fdatasync(image)
os.write(1, b"done")
os._exit(0)
"""


class TrialError(Exception):
    """A trial failed; says how."""


class TrialHangs(TrialError):
    """A trial did not end."""


def amend_by_command(image: bytes) -> bytes:
    """Have the command switch lazy_refcounts on in an image; return the image. TrialError."""
    with tempfile.NamedTemporaryFile(prefix="instar-doctor-", suffix=".qcow2") as file:
        file.write(image)
        file.flush()
        flags = ("--output=json", "--timeout=10", "-o", "lazy_refcounts=on")
        told = _run(child_command(COMMAND_CODE, isolated=False), "amend", *flags, file.name)
        if json.loads(told)["action"] != "amended":
            raise TrialError("the command did not amend a test image")
        file.seek(0)
        return file.read()


def use_memory() -> None:
    """Allocate and free memory and flush a file in a process that is confined. TrialError."""
    with tempfile.NamedTemporaryFile(prefix="instar-doctor-") as file:
        file.write(bytes(1 << 20))
        file.flush()
        if _run(child_command(_MEMORY, isolated=False), file.name) != "done":
            raise TrialError("a confined process did not come to its end")


def _run(command: list[str], *arguments: str) -> str:
    """Run a trial; return what it said."""
    try:
        done = subprocess.run(  # noqa: S603 - an argument list, and the package's own code
            [*command, *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise TrialHangs(f"it did not end within {SECONDS:g} s") from None
    if done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise TrialError(f"it ended with status {done.returncode}: {last or 'without a word'}")
    return done.stdout
