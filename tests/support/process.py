"""Test side: processes that confine themselves, and the command as it runs, for this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / ".editable"

ALL = ("privileges", "limits", "landlock", "descriptors", "seccomp")
"""The barriers, as vmm/confine/ has them."""

_LACKING = """
from instar.vmm import confine
def lack(_descriptors):
    raise OSError(38, "Function not implemented")
confine.BARRIERS = tuple(
    (name, lack if name == {name!r} else barrier) for name, barrier in confine.BARRIERS)
"""


def lacking(name: str) -> str:
    """Code after which a process finds a kernel in which this barrier cannot be raised."""
    return _LACKING.format(name=name)


# What the command is to its image and its vCPU, with plain files in their place: descriptor IMAGE
# is 4096 bytes, VCPU and OTHER are devices. call() is a system call that says what became of it.
_CONFINED = """
import ctypes, errno, mmap, os, socket, struct, sys
from instar.vmm import confine
from instar.vmm.confine import Descriptors

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *arguments):
    words = (ctypes.c_long(x) if isinstance(x, int) else x for x in arguments)
    result = libc.syscall(ctypes.c_long(number), *words)
    say("done" if result >= 0 else errno.errorcode[ctypes.get_errno()])

def attempt(function):
    try:
        say("done", function())
    except OSError as error:
        say(errno.errorcode[error.errno])

def say(*words):
    os.write(1, " ".join(map(str, words)).encode())

PATH, PARENT = sys.argv[1].encode(), os.getppid()
IMAGE = os.open(PATH, os.O_RDWR)
VCPU, OTHER = (os.open("/dev/null", os.O_RDWR) for _ in range(2))
{before}
confine.BARRIERS = tuple(barrier for barrier in confine.BARRIERS if barrier[0] in {barriers})
confine.confine(Descriptors(IMAGE, 4096, VCPU), required=True)
{code}
os._exit(0)
"""


def attempt(
    code: str, image: Path, *, before: str = "", barriers: tuple[str, ...] = ALL
) -> tuple[int, str]:
    """Run `code` in a process that raised these barriers; return its status and what it said."""
    image.write_bytes(bytes(4096))
    program = _CONFINED.format(before=before, barriers=barriers, code=code)
    done = subprocess.run(
        [sys.executable, "-c", program, str(image)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


# The command in its own process; what it, or a worker of its own, imports or opens once confined is
# named on stderr when the command ends: workers have no stderr, but memory that they share with it.
_COMMAND = """
import mmap, os, sys
sys.path.insert(0, sys.argv.pop(1))
patch = sys.argv.pop(1)
import instar.vmm.amend
from instar.vmm import confine

command, seen = os.getpid(), mmap.mmap(-1, 1 << 16)

def watch(event, arguments):
    if event in ("import", "open"):
        seen.write(repr((event, arguments[0])).encode())

def confine_and_watch(descriptors, original=confine.confine, **options):
    original(descriptors, **options)
    sys.addaudithook(watch)

def leave(status, original=os._exit):
    if os.getpid() == command and seen[0]:
        os.write(2, b"once confined: " + seen[:].strip(b"\\0"))
    original(status)

confine.confine = confine_and_watch
os._exit = leave
exec(patch)
from instar.vmm.cli import main
main()
"""


def command(
    *arguments: str | bytes | Path, patch: str = "", python: str = sys.executable
) -> list[str | bytes]:
    """The command line of `instar` with `arguments`, in which `patch` was executed beforehand."""
    start = [python, "-c", _COMMAND, str(PACKAGE), patch]
    return [*start, *(x if isinstance(x, bytes) else str(x) for x in arguments)]


def run(
    *arguments: str | bytes | Path, patch: str = "", stdout: int | IO[bytes] = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run `instar` with `arguments` to its end."""
    return subprocess.run(
        command(*arguments, patch=patch),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def guest_code(code: str) -> str:
    """A patch: the guest is this machine code, in hexadecimal, from its first instruction on."""
    return f"""
import instar.vmm.fleet.batch, instar.vmm.machine.payload
def load_payload(operation="amend", load=instar.vmm.machine.payload.load_payload, **_how):
    from instar.vmm.machine.payload import Image, Payload, Segment
    payload = load(operation)
    core, operation = payload.images
    code = bytes.fromhex({code!r})
    def put(segment):
        at = core.entry - segment.address
        if not 0 <= at < segment.size:
            return segment
        data = segment.data[:at] + code + segment.data[at + len(code):]
        return Segment(segment.address, segment.size, segment.flags, data)
    segments = tuple(map(put, core.segments))
    image = Image(core.name, core.elf, core.entry, segments, core.abi_version)
    return Payload((image, operation), payload.sha256)
for module in (instar.vmm.machine.payload, instar.vmm.fleet.batch):
    module.load_payload = load_payload
"""
