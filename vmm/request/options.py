"""Host side: the options of an amend: which keys and values exist, and how -o lists are read.

The lists follow qemu-img's rules to the letter (docs/amend.md); nothing here does any I/O.
"""

from __future__ import annotations

from instar.abi import AMEND_ERROR_UNSUPPORTED_FORMAT

from ..base.errors import ImageRejected, Refusal, UsageError
from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMPAT_LEVELS = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
"""The values of compat and the header version that each stands for."""

BOOLEANS = {
    "on": True,
    "yes": True,
    "true": True,
    "y": True,
    "off": False,
    "no": False,
    "false": False,
    "n": False,
}
"""The spellings of a boolean; there are no others, and case matters."""

CACHE_MODES = {
    "none": True,
    "off": True,
    "writeback": True,
    "writethrough": True,
    "directsync": True,
    "unsafe": False,
}
"""The cache modes and whether each one flushes: the one thing in which they differ here."""

AMENDABLE_FORMAT = "qcow2"

_SIZE_SUFFIXES = "bkmgtpe"

OTHER_FORMATS = (
    "bochs",
    "cloop",
    "dmg",
    "luks",
    "parallels",
    "qcow",
    "qed",
    "raw",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
)
"""The image formats that qemu-img knows by name besides."""

OPTIONS_HELP = """\
Amend options for 'qcow2':
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
"""

_IMPLEMENTED = ("compat", "lazy_refcounts")

_NOT_YET = (
    "backing_file",
    "backing_fmt",
    "data_file",
    "data_file_raw",
    "encrypt.iter-time",
    "encrypt.keyslot",
    "encrypt.new-secret",
    "encrypt.old-secret",
    "encrypt.state",
    "refcount_bits",
    "size",
)

_CREATE_ONLY = (
    "cluster_size",
    "compression_type",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.format",
    "encrypt.hash-alg",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.key-secret",
    "encryption",
    "extended_l2",
    "keep_data_file",
    "preallocation",
)

_QUOTE_LIMIT = 60


@record
class AmendOptions:
    """What the -o lists ask for."""

    help: bool = False
    """Whether they ask for the list of options, which overrides all else."""
    compat: str | None = None
    """A key of COMPAT_LEVELS, or None where compat is not given."""
    lazy_refcounts: bool | None = None
    """None where lazy_refcounts is not given."""


def parse_options(lists: Sequence[str]) -> AmendOptions:
    """Read the arguments of all -o in order; raise one UsageError that names all their faults."""
    faults = [f"Invalid option list: {_shorten(text)}" for text in lists if not _is_list(text)]
    items = list(split_list(",".join(text for text in lists if _is_list(text))))
    if not faults and any(value is None for _key, value in items):
        return AmendOptions(help=True)
    # All values but those of compat are judged one by one, and of compat only the last.
    last = {key: value for key, value in items if value is not None}
    compat, lazy_refcounts = last.get("compat"), last.get("lazy_refcounts")
    faults += [_judge(key, value) for key, value in items if value is not None]
    if compat is not None and compat not in COMPAT_LEVELS:
        faults.append(f"Unknown compatibility level {_quote(compat)}: use 0.10 (v2) or 1.1 (v3)")
    faults = [fault for fault in dict.fromkeys(faults) if fault]
    if faults:
        raise UsageError("; ".join(faults))
    lazy = None if lazy_refcounts is None else BOOLEANS[lazy_refcounts]
    return AmendOptions(compat=compat, lazy_refcounts=lazy)


def parse_size(text: str) -> int | None:
    """Read a size in bytes as qemu-img does: 512, 1.5G, 64k, 0x1000; None if it is none.

    The suffixes b, k, M, G, T, P and E, in either case, are powers of 1024; a part of a byte is cut
    off.
    """
    if text[:2].lower() == "0x":
        digits = text[2:].lower()
        size = int(digits, 16) if digits and not digits.strip("0123456789abcdef") else None
        return size if size is None or size < 1 << 63 else None
    suffix = text[-1:].lower()
    number = text[:-1] if suffix and suffix in _SIZE_SUFFIXES else text
    whole, point, fraction = number.partition(".")
    if not whole or (whole + fraction).strip("0123456789") or len(number) > 40:
        return None
    if point and (not fraction or suffix == "b" or number == text):
        return None
    shift = 10 * _SIZE_SUFFIXES.index(suffix) if number != text else 0
    size = (int(whole + fraction) << shift) // 10 ** len(fraction)
    return size if size < 1 << 63 else None


def check_format(name: str | None) -> None:
    """Refuse every image format but qcow2; None stands for "not given".

    Raises UsageError for a name that is no format's, and ImageRejected for another format.
    """
    if name in (None, AMENDABLE_FORMAT):
        return
    if name not in OTHER_FORMATS:
        raise UsageError(f"Unknown driver '{name}'")
    refusal = Refusal(
        name="unsupported_format",
        number=0,  # the guest has no such reason: it is never asked about another format
        code="UNSUPPORTED_FORMAT",
        code_number=AMEND_ERROR_UNSUPPORTED_FORMAT,
        message=f"Format driver '{name}' does not support option amendment",
        detail={},
    )
    raise ImageRejected((refusal,))


def _is_list(text: str) -> bool:
    """Tell whether nothing of a -o argument would merge with the next one's first item."""
    trailing_commas = len(text) - len(text.rstrip(","))
    return text != "" and not text.startswith(",") and trailing_commas % 2 == 0


def split_list(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield keys and values; a value of None means that the item asks for help."""
    while text:
        item, comma, text = text.partition(",")
        key, equals, value = item.partition("=")
        # A doubled comma is a literal one, but only in a value: after a bare key it is an empty
        # item, as in qemu-img.
        while equals and comma and text.startswith(","):
            more, comma, text = text[1:].partition(",")
            value += "," + more
        if equals:
            yield key, value
        elif key in ("help", "?"):
            yield key, None
        elif key.startswith("no"):
            yield key[2:], "off"
        else:
            yield key, "on"


def _judge(key: str, value: str) -> str:
    """Say what is wrong with an item, or nothing."""
    if key in ("id", "compat"):
        return ""
    if key == "lazy_refcounts":
        fault = f"Parameter '{key}' expects 'on' or 'off', not {_quote(value)}"
        return "" if value in BOOLEANS else fault
    if key in _NOT_YET:
        return f"option '{key}' is not yet supported"
    if key in _CREATE_ONLY:
        return f"option '{key}' cannot be amended: it is set when the image is created"
    return f"unknown option {_quote(key)}{_suggest(key)}"


def _suggest(key: str) -> str:
    # Imported here because only a faulty command line needs it, and it brings in re.
    from difflib import get_close_matches

    nearest = get_close_matches(key.lower(), _IMPLEMENTED + _NOT_YET + _CREATE_ONLY, n=1)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def _quote(text: str) -> str:
    return f"'{_shorten(text)}'"


def _shorten(text: str) -> str:
    return text if len(text) <= _QUOTE_LIMIT else f"{text[:_QUOTE_LIMIT]}..."
