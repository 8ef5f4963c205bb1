"""Host side: the keywords with which Python's callers ask for an amend, checked once.

The public functions take them as `**keywords: Unpack[Keywords]`, which is what type checkers see;
signature.py spells them out for everybody else.
"""

from __future__ import annotations

import os
import sys

from instar.abi import AMEND_ERROR_UNSUPPORTED_FORMAT, INSTAR_RAM_MAX, INSTAR_RAM_SIZE

from ..base.errors import ImageRejected, Refusal, UsageError
from ..base.record import FrozenDict
from . import TIMEOUT, AmendRequest
from .kinds import CHOICE, take_flag
from .options import OPTIONS, PERMISSIONS, PERMITTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, Literal, TypeAlias

    from .kinds import Option

    Isolation: TypeAlias = Literal["process"]
else:  # typing would cost the command more than its amend
    Isolation = str

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

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
KEYS_FORMAT = "luks"
"""The other format, of which nothing but the keyslots can be changed."""

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

CONDUCT: dict[str, tuple[object, str]] = {
    "format": (
        None,
        'None or "qcow2", which the image must be in any case; or "luks", of which only keys '
        "change",
    ),
    "dry_run": (False, "do everything but the commit"),
    "cache": (
        "writeback",
        'qemu-img\'s cache mode; "unsafe" leaves out the flushes, the others are alike',
    ),
    "timeout": (TIMEOUT, "how long the guest may run, in seconds"),
}
"""How it is done: each keyword, what it is where it is not given, and what it is about."""

DEFAULTS: dict[str, Any] = {
    **{option.key: None for option in OPTIONS},
    "keys": None,
    **{name: default for name, (default, _) in CONDUCT.items()},
    **{permission.key: permission.initial for permission in PERMISSIONS},
}
"""All keywords, in order, and what each is where it is not given."""


_ALLOWED = {row.key: row.take(row.initial) for row in PERMISSIONS}
"""What the permissions are where none is given."""


AMENDMENT = "option amendment"
"""What qemu-img says that another format does not support."""


def make_request(keywords: Mapping[str, Any], purpose: str = AMENDMENT) -> AmendRequest:
    """Check the keywords of instar.amend(), which documents them.

    `purpose` is what another format is said not to support. Raises UsageError, and ImageRejected
    for a format that cannot be amended.
    """
    values = {**DEFAULTS, **keywords}
    for name in ("format", "cache"):
        if type(values[name]) not in (str, type(None)):
            raise UsageError(f"{name} is a str, not {values[name]!r:.60}")
    given = [option for option in OPTIONS if values[option.key] is not None]
    for option in given:
        if option.kind == CHOICE and type(values[option.key]) is not str:
            option.take(values[option.key])
    check_format(values["format"], purpose, keys=values["keys"] is not None)
    check_cache(values["cache"])
    asked = {option.key: option.take(values[option.key]) for option in given}
    if values["change_backing"]:  # else the image has it, whatever it is
        check_backing_format(values["backing_fmt"])
    check_timeout(values["timeout"])
    if values["keys"] is not None:
        _check_keys(values["keys"], values["format"], given)
    named = (PERMITTED[key] for key in filter(keywords.__contains__, PERMITTED))
    allowed = {**_ALLOWED, **{row.key: row.take(values[row.key]) for row in named}}
    if not (allowed["repair"] or any(option.writes_tables for option in given)):
        allowed["max_growth"] = 0  # nothing that is asked for can make the file grow
    return AmendRequest(
        FrozenDict(asked),
        FrozenDict(allowed),
        dry_run=take_flag("dry_run", values["dry_run"]),
        flush=CACHE_MODES[values["cache"]],
        timeout=values["timeout"],
        # A repair counts all references in it.
        ram_size=INSTAR_RAM_MAX if allowed["repair"] else INSTAR_RAM_SIZE,
        keys=values["keys"],
        format=values["format"] or AMENDABLE_FORMAT,
    )


def _check_keys(keys: object, form: str | None, given: Sequence[Option]) -> None:
    from .keys import check_keys

    check_keys(keys)
    if form == KEYS_FORMAT and given:
        raise UsageError(f"a LUKS file has keyslots only, and no option '{given[0].key}'")


def check_backing_format(name: str | bytes | None) -> None:
    """Refuse a format of a backing file that nobody knows. UsageError."""
    name = os.fsdecode(name or "")
    if name and name not in (AMENDABLE_FORMAT, *OTHER_FORMATS):
        raise UsageError(f"Invalid format name: '{name:.60}' is no format of a backing file")


def list_choices(choices: Iterable[str]) -> str:
    """Values of which one can be given, as a phrase."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def check_cache(cache: str, of: str = "cache") -> None:
    """UsageError if there is no cache mode of this name; `of` is the flag's, for the message."""
    if cache not in CACHE_MODES:
        raise UsageError(f"Invalid {of} option: {cache}; use {list_choices(CACHE_MODES)}")


def check_format(name: str | None, purpose: str = AMENDMENT, *, keys: bool = False) -> None:
    """Refuse every format but qcow2, and for `keys` luks; None stands for "not given".

    Raises UsageError for a name that is no format's, and ImageRejected for another format.
    """
    if name in (None, AMENDABLE_FORMAT) or (keys and name == KEYS_FORMAT):
        return
    if name not in OTHER_FORMATS:
        known = (AMENDABLE_FORMAT, KEYS_FORMAT) if keys else (AMENDABLE_FORMAT,)
        raise UsageError(f"Unknown driver '{name}'; use {list_choices(known)}")
    refusal = Refusal(
        name="unsupported_format",
        number=0,  # the guest has no such reason: it is never asked about another format
        code="UNSUPPORTED_FORMAT",
        code_number=AMEND_ERROR_UNSUPPORTED_FORMAT,
        message=f"Format driver '{name}' does not support {purpose}",
        detail={},
    )
    raise ImageRejected((refusal,))


def path_as_text(path: PathLike) -> str:
    """Return a path as documents have it; bytes that are not UTF-8 are surrogate escapes."""
    return os.fsdecode(path)


def check_path(path: object) -> None:
    """Raise UsageError for what cannot be a path."""
    try:
        os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        fault = f"a path is a string, bytes or a path object, not {path!r:.60}"
        raise UsageError(fault) from None


def check_callbacks(**callbacks: object) -> None:
    """Raise UsageError for what is to be called and cannot be; None is no callback."""
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise UsageError(f"{name} is a function or None, not {callback!r:.60}")


def check_timeout(timeout: object) -> None:
    """Raise UsageError for what is no number of seconds that a guest may have.

    A process that waits for another one has 2^31 milliseconds at most (poll(2)).
    """
    if type(timeout) not in (int, float) or not 0 < timeout < 1e6:  # type: ignore[operator]
        raise UsageError(f"timeout is a number of seconds above 0 and below 1e6, not {timeout!r}")


def check_isolation(isolation: object, **others: object) -> None:
    """Raise UsageError for what is no kind of isolation, and for what does not go with one."""
    if isolation not in (None, "process"):
        raise UsageError(f"isolation is None or 'process', not {isolation!r}")
    if isolation and any(others.values()):
        *first, last = others
        barred = f"neither {', '.join(first)} nor {last}" if first else f"no {last}"
        raise UsageError(f"isolation='process' goes with {barred}")


def check_paths(paths: Iterable[PathLike]) -> Iterator[PathLike]:
    """The paths of many images, as they come. UsageError for what are not several."""
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError(f"paths are several, such as a list; for one image take [{paths!r:.60}]")
    try:
        return iter(paths)
    except TypeError:
        raise UsageError(f"paths are an iterable, not {paths!r:.60}") from None


def check_executor(executor: object) -> None:
    """Raise UsageError for what is neither None nor a concurrent.futures.Executor."""
    if executor is not None and not hasattr(executor, "submit"):
        raise UsageError(f"executor is a concurrent.futures.Executor, not {executor!r:.60}")


def announce(path: PathLike, request: AmendRequest) -> None:
    """Raise the audit event of an amend (PEP 578), before the image is opened; a hook may object.

    "instar.amend" with the path, the header version and lazy refcounts asked for (None leaves
    them), whether the commit is left out, and all options asked for, as results have them.
    """
    asked = dict(request.told_all())
    version, lazy = request.compat, request.lazy_refcounts
    sys.audit("instar.amend", path, version, lazy, request.dry_run, asked)
