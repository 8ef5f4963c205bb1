"""Host side: the flags that commands share, and the command amend, whose line is read most often.

The other commands are in commands.py, the table of all, which only they and a help need.
"""

from __future__ import annotations

from ..base.record import record
from ..request.keywords import AMENDABLE_FORMAT, CACHE_MODES, KEYS_FORMAT, list_choices
from ..request.kinds import FLAG
from ..request.options import OPTIONS, PERMITTED
from .arguments import FILES, Flag
from .report import OUTPUT_FORMATS


@record
class Command:
    """One command; `instar` itself, without any, is the first."""

    name: str
    """As it is typed."""
    usage: tuple[str, ...]
    """The forms of its command line."""
    summary: str
    """What it does, in one sentence without an end."""
    text: str
    """What to know besides: one paragraph, in lines."""
    flags: tuple[Flag, ...]
    """Its flags, in the order of the help."""
    examples: tuple[tuple[str, str], ...]
    """Command lines, and what each of them does."""


SIZES = "SIZE is a number of bytes, or has a suffix k, M, G, T, P or E (powers of 1024).\n"
HELP_FLAG = Flag("help", "print this help", short="h")
OUTPUT = Flag("output", "human or json", metavar="FORMAT", values=OUTPUT_FORMATS)
_OPTION_VALUES = (
    "help",
    *(
        f"{row.key}={value}"
        for row in OPTIONS
        for value in row.choices or row.numbers or (("on", "off") if row.kind == FLAG else ("",))
    ),
    # Those of key_options.py, which only who changes keys imports; a test compares them.
    *(f"encrypt.{key}=" for key in ("iter-time", "keyslot", "new-secret", "old-secret")),
    *("encrypt.state=active", "encrypt.state=inactive"),
)

FORMAT = Flag(
    "format",
    "the format of the image (only qcow2)",
    short="f",
    metavar="FMT",
    values=(AMENDABLE_FORMAT,),
)
_CACHE = Flag(
    "cache",
    f"{list_choices(CACHE_MODES)}; only unsafe leaves out the flushes",
    short="t",
    metavar="CACHE",
    values=tuple(CACHE_MODES),
)
IMAGE = (FORMAT, _CACHE)
REPORT = (
    Flag("quiet", "print nothing but errors", short="q"),
    Flag("verbose", "say on stderr what was done to each image", short="v"),
    Flag("progress", "show the progress", short="p"),
    Flag("dry-run", "say what would change, and change nothing"),
    OUTPUT,
)
LISTED = (
    Flag(
        "files-from",
        "take the names of images from FILE, or from stdin if '-'",
        metavar="FILE",
        values=(FILES,),
    ),
    Flag("null", "names in that file end with a NUL byte, not a newline", short="0"),
    Flag("debug", "show the debug text of the sandbox on stderr"),
)
MANY = (Flag("jobs", "change many images in N processes, 1 by default", "j", "N"), *LISTED)
LIMITS = (
    Flag("timeout", "how long the sandbox may take, by default 30", metavar="SECONDS"),
    Flag("require-confinement", "fail where the kernel cannot confine this process fully"),
)
_IMAGE_OPTS = Flag("image-opts", "FILENAME is driver=qcow2,file.filename=F,encrypt.key-secret=ID")
ACCEPTED = (
    Flag("object", "accepted for a secret, which is not needed", metavar="OBJDEF"),
    _IMAGE_OPTS,
)


def permitted(*keys: str) -> tuple[Flag, ...]:
    """The flags of these permissions of the table of options."""
    rows = [(PERMITTED[key], "" if PERMITTED[key].kind == FLAG else "SIZE") for key in keys]
    return tuple(Flag(row.name, row.help, "", value, yields=True) for row, value in rows)


AMEND = Command(
    name="amend",
    usage=(
        "instar amend -o OPTIONS [-o OPTIONS...] [FLAG...] FILENAME...",
        "instar amend --repair [FLAG...] FILENAME...",
    ),
    summary="change options of qcow2 images in place, in a sandbox",
    text="""\
Change options of the qcow2 image FILENAME, or of each of many, in place, in a sandbox.
"""
    + SIZES,
    flags=(
        Flag(
            "options",
            "what to change; '-o help' lists the keys",
            short="o",
            metavar="KEY=VALUE,...",
            values=_OPTION_VALUES,
        ),
        Flag(
            "format",
            "the format of the image: qcow2, or luks, of which only keys change",
            short="f",
            metavar="FMT",
            values=(AMENDABLE_FORMAT, KEYS_FORMAT),
        ),
        _CACHE,
        *REPORT,
        *MANY,
        *permitted(*PERMITTED),
        *LIMITS,
        Flag("force", "replace a keyslot that is in use, or erase the last one"),
        Flag("object", "a passphrase: secret,id=ID,file=NAME or data=TEXT", metavar="OBJDEF"),
        _IMAGE_OPTS,
        Flag("key-secret", "the secret that opens the image, to add a key", metavar="ID"),
        HELP_FLAG,
    ),
    examples=(
        ("instar amend -o compat=1.1 disk.qcow2", "upgrade an image to version 3"),
        ("instar amend -o compat=0.10 --dry-run disk.qcow2", "what would a downgrade write?"),
        (
            "find /images -name '*.qcow2' -print0 |\n"
            "    instar amend -o lazy_refcounts=on --jobs 4 --files-from - --null",
            "amend all images of a folder, four at a time",
        ),
    ),
)
