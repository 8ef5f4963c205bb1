"""Host side: the commands, their flags and their help: the one table of what a command line holds.

The command reads its arguments by it and prints it as help; the man page and the completions of
shells are made of it when the package is built (scripts/build_manual.py).
"""

from __future__ import annotations

from ..request.keywords import AMENDABLE_FORMAT, CACHE_MODES, OTHER_FORMATS
from .arguments import FILES, Flag, format_flags
from .flags import (
    ACCEPTED,
    AMEND,
    FORMAT,
    HELP_FLAG,
    IMAGE,
    LIMITS,
    LISTED,
    MANY,
    OUTPUT,
    REPORT,
    SIZES,
    Command,
    permitted,
)

REBASE = Command(
    name="rebase",
    usage=("instar rebase -u -b BACKING -F BACKING_FMT [FLAG...] FILENAME...",),
    summary="name another backing file in qcow2 images, in a sandbox",
    text="""\
Name another backing file in the qcow2 image FILENAME, or in each of many, and change nothing else.
No backing file is looked at: what a disk reads changes wherever the old and the new one differ.
Without -u qemu-img copies what differs; that is not offered here.
""",
    flags=(
        Flag(
            "unsafe",
            "change the name only; must be given",
            short="u",
            aliases=("backing-unsafe",),
        ),
        Flag("backing", "the new backing file; '' for none", "b", "BACKING", values=(FILES,)),
        Flag(
            "backing-format",
            "its format, which it must have",
            short="F",
            metavar="BACKING_FMT",
            values=(AMENDABLE_FORMAT, *OTHER_FORMATS),
            aliases=("B",),
        ),
        *IMAGE,
        Flag(
            "source-cache",
            "accepted; no backing file is read",
            short="T",
            metavar="CACHE",
            values=tuple(CACHE_MODES),
            aliases=("backing-cache",),
        ),
        *REPORT,
        *MANY,
        *LIMITS,
        Flag("compress", "accepted; nothing is copied", short="c"),
        Flag("force-share", "refused: the image is written, and locked", short="U"),
        *ACCEPTED,
        HELP_FLAG,
    ),
    examples=(
        ("instar rebase -u -b new.qcow2 -F qcow2 disk.qcow2", "the backing file was renamed"),
        ("instar rebase -u -b '' disk.qcow2", "the image stands alone"),
    ),
)

RESIZE = Command(
    name="resize",
    usage=("instar resize [--shrink] [FLAG...] FILENAME... [+|-]SIZE",),
    summary="give the disks of qcow2 images another size, in a sandbox",
    text="""\
Give the disk of the qcow2 image FILENAME, or of each of many, SIZE bytes, in place, in a sandbox;
with a sign it grows or shrinks by SIZE. It is 'instar amend -o size=SIZE' with qemu-img resize's
command line.
"""
    + SIZES,
    flags=(
        *permitted("shrink", "backing_size"),
        Flag(
            "drop-bitmaps", "remove persistent bitmaps if the size does not fit them", yields=True
        ),
        *permitted("max_growth"),
        *IMAGE,
        Flag(
            "preallocation",
            "only off: the new part of a larger disk is not allocated",
            metavar="MODE",
            values=("off",),
        ),
        *REPORT,
        *MANY,
        *LIMITS,
        *ACCEPTED,
        HELP_FLAG,
    ),
    examples=(
        ("instar resize disk.qcow2 +10G", "give the disk 10 GiB more"),
        ("instar resize --shrink disk.qcow2 1G", "shrink the disk to 1 GiB"),
    ),
)

_SHARED = (
    Flag(
        "force-share",
        "look at an image although another program may be writing to it",
        short="U",
    ),
    OUTPUT,
    Flag("jobs", "look at many images in N processes, 1 by default", "j", "N"),
    *LISTED,
    *LIMITS,
    *ACCEPTED,
    HELP_FLAG,
)
"""The flags of commands that only look at images."""

INFO = Command(
    name="info",
    usage=("instar info [FLAG...] FILENAME...",),
    summary="say what images are and what they name, and open none of it",
    text="""\
Say what the image FILENAME is, or each of many, and all that it names. A qcow2 image is read in a
sandbox; any other file is recognised by its signature. Nothing that an image names is opened.
"""
    + SIZES,
    flags=(
        Flag("safe", "exit with status 1, and all reasons, if the image should not be opened"),
        Flag(
            "max-virtual-size",
            "the largest disk for --safe, which this implies; by default 16T",
            metavar="SIZE",
        ),
        Flag(
            "format",
            "the format that the image must have",
            short="f",
            metavar="FMT",
            values=(AMENDABLE_FORMAT, *OTHER_FORMATS),
        ),
        Flag("cache", "accepted for the sake of qemu-img; has no effect", "t", "CACHE"),
        *_SHARED,
        Flag("backing-chain", "refused: it opens what images name", aliases=("b",)),
        Flag("limits", "refused: they are those of an image that qemu has opened"),
    ),
    examples=(
        ("instar info --safe upload.qcow2", "may this image be opened at all?"),
        ("instar info --output json disk.qcow2", "the same as a document"),
    ),
)

CHECK = Command(
    name="check",
    usage=("instar check [-r leaks|all] [FLAG...] FILENAME...",),
    summary="compare the refcounts and flags of qcow2 images with their tables, or repair them",
    text="""\
Compare the refcounts and flags of the qcow2 image FILENAME, or of each of many, with what its
tables refer to, in a sandbox. Without -r nothing is written; nothing that an image names is opened.
What only a guess could repair is refused. The exit status is 0 for a sound image, 1 for one that
was not checked to its end or not repaired, 2 for a corrupt one, and 3 for one that has leaked
clusters and nothing worse.
"""
    + SIZES,
    flags=(
        FORMAT,
        Flag(
            "repair",
            "repair leaks, or all that is wrong, and check the image again",
            short="r",
            metavar="leaks|all",
            values=("leaks", "all"),
        ),
        Flag("dry-run", "with -r: say what would be written, and write nothing"),
        Flag("max-growth", "with -r: how far the file may grow, by default 1G", metavar="SIZE"),
        Flag("cache", "accepted for the sake of qemu-img; has no effect", "T", "CACHE"),
        *REPORT[:1],
        Flag("progress", "show the progress, of many images how many are done", short="p"),
        *_SHARED,
    ),
    examples=(
        ("instar check disk.qcow2", "is this image sound?"),
        ("instar check -r all disk.qcow2", "repair its refcounts, and check it again"),
    ),
)

DOCTOR = Command(
    name="doctor",
    usage=("instar doctor [--output FORMAT]",),
    summary="say whether this machine can run the sandbox, and what to do if not",
    text="""\
Say whether this machine can run the sandbox, and what to do if not.
""",
    flags=(OUTPUT, HELP_FLAG),
    examples=(("instar doctor", "check /dev/kvm, the kernel and the sandbox itself"),),
)

HELP = Command(
    name="help",
    usage=("instar help [COMMAND]",),
    summary="print the help of a command",
    text="Print the help of COMMAND, or of instar.\n",
    flags=(HELP_FLAG,),
    examples=(),
)

_NAMED = (AMEND, REBASE, RESIZE, INFO, CHECK, DOCTOR, HELP)

INSTAR = Command(
    name="instar",
    usage=tuple(line for command in _NAMED for line in command.usage),
    summary="amend qcow2 images in place, with the image parser in a KVM sandbox",
    text="Commands:\n"
    + "".join(f"  {command.name}\n      {command.summary}\n" for command in _NAMED),
    flags=(HELP_FLAG, Flag("version", "print the version", short="V")),
    examples=AMEND.examples[:1] + INFO.examples[:1] + DOCTOR.examples,
)

COMMANDS = (INSTAR, *_NAMED)


_LOCAL_DOCS = "instar(1), and docs/ of the source"


def find_docs() -> str:
    """The address of the documentation, as the installed package has it, or ""."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("instar").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    return next((url.partition(", ")[2] for url in urls if url.startswith("Documentation, ")), "")


def format_help(command: Command) -> str:
    """Return the help text of a command, in whole lines."""
    usage = "\n       ".join(command.usage)
    parts = [f"Usage: {usage}\n", command.text]
    if command.flags:
        parts.append("Flags:\n" + format_flags(command.flags))
    if command.examples:
        examples = (f"# {what}\n{line}\n" for line, what in command.examples)
        lines = "".join(examples).splitlines(keepends=True)
        parts.append("Examples:\n" + "".join(f"  {line}" for line in lines))
    parts.append(f"Documentation: {find_docs() or _LOCAL_DOCS}\n")
    return "\n".join(parts)
