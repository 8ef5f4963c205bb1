"""Makes the images of the oracle tests from recipes, a line a step. Test side.

A recipe is what the table of qemu's behaviour says: verbs of qemu-img without the format, `io` with
the arguments of qemu-io, `poke` with a header edit of poke.py, and a few verbs of the shell. The
image is always t.qcow2; other names are those of its backing files and data files.
"""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.poke import poke
from tests.support.qemu import Qemu

IMAGE = "t.qcow2"

DEEP = "/".join([*["d" * 200] * 5, "b" * 18])
"""The longest name that a backing file may have, 1023 bytes; no component may be that long."""


def make(qemu: Qemu, folder: Path, recipe: str) -> Path:
    """Carry out a recipe in an empty folder and return the image."""
    with working_directory(folder):
        for line in filter(None, map(str.strip, recipe.splitlines())):
            step(qemu, *shlex.split(line.replace("@deep", DEEP)))
    return folder / IMAGE


@contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Be in a folder for a while, so that the names in a recipe can be relative."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def step(qemu: Qemu, verb: str, *arguments: str) -> None:
    """Carry out one step in the working directory. QemuError if qemu does not do its part."""
    if verb == "create" and "-f" not in arguments:
        qemu.img("create", "-q", "-f", "qcow2", *arguments)
    elif verb in ("create", "snapshot", "resize", "convert"):
        qemu.img(verb, "-q", *arguments)
    elif verb == "bitmap":
        qemu.img(verb, *arguments)
    elif verb == "io":
        qemu.run("qemu-io", "-f", "qcow2", *arguments)
    elif verb == "crash":
        # What is written is not refcounted yet: the image stays dirty, or its bitmaps in use.
        qemu.run("qemu-io", "-f", "qcow2", *arguments, "-c", "abort", IMAGE, accept=(-6,))
    elif verb == "poke":
        poke(Path(IMAGE), *arguments)
    elif verb == "write":
        Path(arguments[0]).write_bytes(arguments[1].encode() * int(arguments[2]))
    elif verb == "noise":
        # Data that compress to about half, so that clusters of them begin anywhere.
        noise = random.Random(0)  # noqa: S311 - the same in every run
        pieces = (noise.randbytes(256) + bytes(256) for _ in range(int(arguments[1]) // 512))
        Path(arguments[0]).write_bytes(b"".join(pieces))
    elif verb == "truncate":
        with Path(arguments[0]).open("ab") as file:
            file.truncate(int(arguments[1], 0))
    elif verb == "deep-backing":
        Path(DEEP).parent.mkdir(parents=True)
        qemu.create(Path(DEEP), arguments[0])
    elif verb == "rm":
        Path(arguments[0]).unlink()
    else:
        raise ValueError(f"no such step: {verb}")
