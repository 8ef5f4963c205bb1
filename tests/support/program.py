"""What a random image is made of, in pieces that can be left out one by one. Test side.

A program is images of the forge by file name, and steps that qemu and others then take on them,
each a line as tests/support/recipe.py has it. `io` takes one command of qemu-io; further steps are

    amend OPTIONS      qemu-img amends t.qcow2
    instar OPTIONS     instar amends t.qcow2
    luks               t.qcow2 becomes an image of 64 KiB that is encrypted with LUKS

A step that fails leaves the files as they are, so that any piece can go without the others.
"""

from __future__ import annotations

import json
import lzma
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from construct import ConstructError

from instar.vmm.base.errors import InstarError
from tests.support.forge import Image
from tests.support.qemu import Qemu, QemuError
from tests.support.recipe import IMAGE, step, working_directory
from tests.support.verdicts import Request, amend

LUKS = Path(__file__).with_name("luks.qcow2.xz")
SECRET = ("--object", "secret,id=s0,data=hunter2")


@dataclass(frozen=True)
class Program:
    """An image to be made, and the version of qemu that takes the steps."""

    maker: str
    forged: tuple[tuple[str, Image], ...] = ()
    steps: tuple[str, ...] = ()

    def make(self, folder: Path, versions: tuple[Qemu, ...]) -> Path | None:
        """Make the files in an empty folder; None if there is no image in the end."""
        maker = next((qemu for qemu in versions if qemu.version == self.maker), versions[-1])
        for name, image in self.forged:
            image.write(folder / name)
        with working_directory(folder):
            for words in batches(self.steps):
                _take(maker, words)
        path = folder / IMAGE
        return path if path.exists() and path.stat().st_size else None


def batches(steps: tuple[str, ...]) -> Iterator[list[str]]:
    """The words of each step; commands of qemu-io on one file become one step."""
    split = [shlex.split(line) for line in steps]
    for (verb, file), group in groupby(split, key=lambda words: (words[0], words[-1])):
        if verb == "io":
            commands = [word for words in group for word in words[1:-1]]
            yield [verb, *commands, file]
        else:
            yield from group


def _take(maker: Qemu, words: list[str]) -> None:
    verb, *arguments = words
    try:
        if verb == "luks":
            Path(IMAGE).write_bytes(lzma.decompress(LUKS.read_bytes()))
        elif verb == "amend":
            maker.img("amend", "-o", *arguments, *target(Path(IMAGE)))
        elif verb == "instar":
            amend(Path(IMAGE), Request.parse(*arguments))
        elif verb in ("io", "snapshot") and is_encrypted(Path(arguments[-1])):
            program = ("qemu-io",) if verb == "io" else ("qemu-img", verb)
            maker.run(*program, *arguments[:-1], *target(Path(arguments[-1])))
        else:
            step(maker, verb, *arguments)
    except (QemuError, InstarError):
        return
    except (ConstructError, OSError, LookupError, ValueError, AssertionError):
        # An edit that makes no sense for this image; poke writes nothing then.
        if verb != "poke":
            raise


def is_encrypted(path: Path) -> bool:
    """Whether an image cannot be opened without a secret."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        head = stream.read(36)
    return head[:4] == b"QFI\xfb" and head[32:36] != bytes(4)


def target(path: Path) -> tuple[str, ...]:
    """The arguments of qemu-img that name a qcow2 image, with its secret if it needs one."""
    if is_encrypted(path):
        name = f"driver=qcow2,encrypt.key-secret=s0,file.filename={path}"
        return (*SECRET, "--image-opts", name)
    return ("-f", "qcow2", os.fspath(path))


def alone(path: Path) -> tuple[str, ...]:
    """The same for the image without its backing file."""
    options: dict[str, object] = {"driver": "qcow2", "file.filename": str(path), "backing": None}
    secret: tuple[str, ...] = ()
    if is_encrypted(path):
        options["encrypt.key-secret"] = "s0"
        secret = SECRET
    return (*secret, f"json:{json.dumps(options)}")
