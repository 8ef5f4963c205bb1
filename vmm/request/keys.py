"""Host side: what an amend can be asked to do with the keyslots of an image that LUKS encrypts.

The passphrases are the caller's buffers: no copy of them is made here, and none is shown.
"""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.luks_layout import SLOTS
from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .kinds import Told

ITER_TIME = 2000
"""What a passphrase takes to be tried, in milliseconds, if nothing else is said."""
ITERATIONS_LEAST = 1000

_SECRETS = ("unlock", "new", "secret")


@record
class AddKey:
    """Have a keyslot hold another passphrase; the passphrases that there are stay.

    A passphrase is bytes or a bytearray of UTF-8. A bytearray can be overwritten afterwards.
    """

    unlock: bytes | bytearray
    """A passphrase that opens the image."""
    new: bytes | bytearray
    """The one that shall open it too."""
    slot: int | None = None
    """The keyslot, 0 to 7; None takes the first free one."""
    iter_time: int = ITER_TIME
    """For how many milliseconds this machine shall have to try a passphrase on the keyslot."""
    force: bool = False
    """Whether a keyslot that is in use is replaced."""


@record
class EraseKey:
    """Have keyslots hold nothing any more, and their key material overwritten."""

    slot: int | None = None
    """The keyslot, 0 to 7; with `secret` it must hold that."""
    secret: bytes | bytearray | None = None
    """A passphrase: all keyslots that hold it; needed if no keyslot is given."""
    force: bool = False
    """Whether the last keyslot, after which nothing opens the image, may go too; and whether one
    that is not in use is overwritten."""


def _hide(keys: Any) -> str:
    """A repr without the passphrases."""
    shown = (
        f"{name}={'...' if name in _SECRETS and value is not None else repr(value)}"
        for name, value in ((name, getattr(keys, name)) for name in type(keys).__match_args__)
    )
    return f"{type(keys).__name__}({', '.join(shown)})"


def _hash_plainly(keys: Any) -> int:
    """A hash without the passphrases, which may be in buffers that change."""
    names = (name for name in type(keys).__match_args__ if name not in _SECRETS)
    return hash(tuple(getattr(keys, name) for name in names))


for _kind in (AddKey, EraseKey):
    _kind.__repr__ = _hide  # type: ignore[method-assign]
    _kind.__hash__ = _hash_plainly  # type: ignore[assignment, method-assign]

if TYPE_CHECKING:
    Keys = AddKey | EraseKey


def check_keys(keys: object) -> None:
    """Raise UsageError for what cannot be asked for, in qemu-img's words."""
    if not isinstance(keys, AddKey | EraseKey):
        raise UsageError(f"keys is an AddKey or an EraseKey, not {type(keys).__name__}")
    slot = keys.slot
    if slot is not None and type(slot) is not int:
        raise UsageError(f"slot is a number, not {type(slot).__name__}")
    if slot is not None and not 0 <= slot < SLOTS:
        raise UsageError(f"Invalid keyslot {slot} specified, must be between 0 and {SLOTS - 1}")
    if keys.force not in (True, False):
        raise UsageError("force is True or False")
    if isinstance(keys, EraseKey):
        _check_erase(keys)
        return
    _check_secret(keys, "unlock")
    _check_secret(keys, "new")
    if type(keys.iter_time) is not int or not 0 <= keys.iter_time < 1 << 63:
        raise UsageError(
            f"iter_time is a number of milliseconds from 0, not {keys.iter_time!r:.60}"
        )


def _check_erase(keys: EraseKey) -> None:
    if keys.secret is not None:
        _check_secret(keys, "secret")
    elif keys.slot is None:
        raise UsageError(
            "To erase keyslot(s), either explicit keyslot index or the password currently "
            "contained in them must be given"
        )


def _check_secret(keys: Keys, name: str) -> None:
    # In no variable: a traceback may show them.
    if not isinstance(getattr(keys, name), bytes | bytearray):
        raise UsageError(
            f"{name} is bytes or a bytearray, not {type(getattr(keys, name)).__name__}"
        )
    if not is_text(getattr(keys, name)):
        raise UsageError(f"{name} is not valid UTF-8, or holds a NUL byte; qemu could not use it")


def is_text(secret: bytes | bytearray) -> bool:
    """Whether qemu would take it for a passphrase."""
    try:
        secret.decode()
    except UnicodeDecodeError:
        return False
    return 0 not in secret


def tell_keys(keys: Keys, form: str) -> dict[str, Told]:
    """What is asked for, without the passphrases, by the keys of -o."""
    prefix = "" if form == "luks" else "encrypt."
    told: dict[str, Told] = {"state": "active" if isinstance(keys, AddKey) else "inactive"}
    if keys.slot is not None:
        told["keyslot"] = keys.slot
    if isinstance(keys, AddKey):
        told["iter-time"] = keys.iter_time
    return {prefix + key: value for key, value in told.items()}


def keys_to_document(keys: Keys | None) -> dict[str, Any] | None:
    """What another process of ours is told, by a pipe and no other way: this has passphrases."""
    if keys is None:
        return None
    fields = {
        name: value.hex() if isinstance(value, bytes | bytearray) else value
        for name, value in vars(keys).items()
    }
    return {"kind": type(keys).__name__, **fields}


def keys_from_document(document: Mapping[str, Any] | None) -> Keys | None:
    """Make it of what keys_to_document() returned."""
    if document is None:
        return None
    fields = {
        name: bytearray.fromhex(value) if name in _SECRETS and value is not None else value
        for name, value in document.items()
        if name != "kind"
    }
    kind: Any = AddKey if document["kind"] == "AddKey" else EraseKey
    made: Keys = kind(**fields)
    return made
