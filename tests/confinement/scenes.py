"""Test side: runs of the command, one for each way in which it can go on and end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.forge import Bitmap, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.process import guest_code

LAZY = ("-o", "lazy_refcounts=on")

# Guests in machine code, in hexadecimal.
HANG = guest_code("ebfe")  # jmp to itself
FLOOD = guest_code("66baf803 b01b ee ebfd")  # ESC to the transmit register, for ever


@dataclass(frozen=True)
class Scene:
    """One run, and how it ends."""

    arguments: Sequence[str]
    status: int = 0
    error: str = ""
    """What the line on stderr holds."""
    image: Image | None = None
    """By default one of version 3 without any feature."""
    patch: str = ""
    """What is executed before, as in process.command()."""


def _signals(*numbers: int) -> str:
    """A patch: another process sends these, one by one, to the command while its guest runs."""
    return f"""
import os, time
command = os.getpid()
if os.fork() == 0:
    while "Seccomp:\\t2" not in open(f"/proc/{{command}}/status").read():
        time.sleep(0.01)
    for number in {tuple(map(int, numbers))}:
        time.sleep(0.2)
        os.kill(command, number)
    os._exit(0)
"""


def _plain(**fields: object) -> Image:
    return Image(size=1 << 20, clusters={0: Data(b"\x05")}, **fields)  # type: ignore[arg-type]


ZEROES = Image(
    size=1 << 20,
    backing_file=b"base",
    clusters={0: Zero(), 1: ZeroAllocated(b"x"), 2: Data(b"a")},
    snapshots=[Snapshot(name=b"a", clusters={0: Data(b"b")})],
)
SHRUNK = Image(size=1 << 20, clusters={0: Data(b"a"), 9: Data(b"b"), 12: Data(b"c")})
BITMAPS = Image(bitmaps=[Bitmap(name=b"one", dirty=[1]), Bitmap(name=b"two\n")])
SNAPSHOTS = Image(version=2, snapshots=[Snapshot(name=b"a", extra_data_size=0)])

SCENES: dict[str, Scene] = {
    "amended": Scene(LAZY),
    "amended without flushes": Scene(("-t", "unsafe", *LAZY)),
    "downgraded": Scene(
        ("-o", "compat=0.10"),
        image=_plain(snapshots=[Snapshot(name=b"a", clusters={1: Data(b"\x04")})]),
    ),
    "upgraded": Scene(("-o", "compat=1.1"), image=_plain(version=2)),
    "zero clusters filled, and the file grown": Scene(("-o", "compat=0.10"), image=ZEROES),
    "bitmaps removed": Scene(("--drop-bitmaps", "-o", "compat=0.10"), image=BITMAPS),
    "bitmaps named": Scene(("-o", "compat=0.10"), 1, r"('one', 'two\n')", image=BITMAPS),
    "a disk made smaller": Scene(("--shrink", "-o", "size=512k"), image=SHRUNK),
    "snapshots completed": Scene(("--output=json", "-o", "compat=1.1"), image=SNAPSHOTS),
    "no growth allowed": Scene(
        ("--max-growth=512", "-o", "compat=0.10"), 1, "allow more with --max-growth", image=ZEROES
    ),
    "nothing to do": Scene(("-o", "lazy_refcounts=off")),
    "dry run": Scene(("--dry-run", *LAZY)),
    "JSON": Scene(("--output=json", *LAZY)),
    "progress": Scene(("-p", "-o", "compat=0.10")),
    "debug": Scene(("--debug", *LAZY)),
    "with Python's fault handler": Scene(LAZY, patch="import faulthandler; faulthandler.enable()"),
    "no qcow2": Scene(LAZY, 1, "this is a vmdk image", image=_plain(patches=[(0, b"KDMV")])),
    "refused": Scene(LAZY, 1, "marked dirty", image=_plain(dirty=True)),
    "refused, JSON": Scene(
        ("--output=json", *LAZY), 1, "marked dirty", image=_plain(dirty=True, corrupt=True)
    ),
    "invalid instruction": Scene(LAZY, 1, "faulted at ", patch=guest_code("0f0b")),
    "privileged instruction": Scene(
        ("--output=json", *LAZY), 1, "faulted at ", patch=guest_code("f4")
    ),
    "no memory": Scene(LAZY, 1, "page fault at 0x47000", patch=guest_code("b800700400 8a00")),
    "no port": Scene(LAZY, 1, "faulted at ", patch=guest_code("e680")),
    "input": Scene(LAZY, 1, "used port 0xe0", patch=guest_code("e4e0")),
    "gives up": Scene(LAZY, 1, "gave up with code 7", patch=guest_code("b007 e6f4")),
    "no result": Scene(LAZY, 1, "without a result", patch=guest_code("31c0 e6f4")),
    "flood of text": Scene(("--debug", *LAZY), 1, "guest: \\x1b\\x1b", patch=FLOOD),
    "deadline": Scene(("--timeout=0.2", *LAZY), 1, "did not finish within 0.2 s", patch=HANG),
    "interrupted": Scene(LAZY, 1, "interrupted", patch=HANG + _signals(signal.SIGINT)),
    "terminated": Scene(
        ("-p", "--output=json", *LAZY), 1, "interrupted", patch=HANG + _signals(signal.SIGTERM)
    ),
    "stopped for a while": Scene(
        ("--timeout=1", *LAZY),
        1,
        "did not finish within 1 s",
        patch=HANG + _signals(signal.SIGSTOP, signal.SIGCONT),
    ),
}


def write_image(scene: Scene, folder: Path) -> Path:
    """Write the scene's image, under a name that is not printable."""
    path = folder / "an image\n\u202e.qcow2"
    (scene.image or _plain()).write(path)
    return path
