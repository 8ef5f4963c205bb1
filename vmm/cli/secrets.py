"""Host side: reads the passphrases that --object defines, and what -o asks of keyslots with them.

Only a secret that is used is read, before any image is; into a buffer that can be overwritten. No
error holds any of it.
"""

from __future__ import annotations

from ..base.errors import HostError, UsageError, reason_of
from ..request.key_options import PREFIX
from ..request.keys import ITER_TIME, AddKey, EraseKey, is_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..request.keys import Keys

    Definitions = Mapping[str, Mapping[str, str]]

_FILE_MAX = 1 << 20
_UNLOCKING = "key-secret"
"""The flag that names the secret by which an image is opened."""


def make_keys(
    asked: Mapping[str, Any],
    secrets: Definitions,
    flags: Mapping[str, str],
    form: str,
) -> Keys:
    """Make an AddKey or EraseKey of what -o says, by its keys without a prefix. UsageError."""
    prefix = "" if form == "luks" else PREFIX
    if "state" not in asked:
        raise UsageError(f"Parameter '{prefix}state' is missing")
    force = "force" in flags
    slot = asked.get("keyslot")
    if asked["state"] == "active":
        if "new-secret" not in asked:
            raise UsageError("'new-secret' is required to activate a keyslot")
        if "old-secret" in asked:
            raise UsageError("'old-secret' must not be given when activating keyslots")
        if _UNLOCKING not in flags:
            raise UsageError(
                f"Parameter '{prefix}key-secret' is required: a passphrase that opens the image, "
                "by --key-secret ID or in --image-opts"
            )
        unlock, new = (read_secret(secrets, i) for i in (flags[_UNLOCKING], asked["new-secret"]))
        return AddKey(unlock, new, slot, asked.get("iter-time", ITER_TIME), force)
    for key in ("new-secret", "iter-time"):
        if key in asked:
            raise UsageError(f"'{key}' must not be given when erasing keyslots")
    old = asked.get("old-secret")
    return EraseKey(slot, None if old is None else read_secret(secrets, old), force)


def forget(keys: Keys) -> None:
    """Overwrite the passphrases, which are in use no more."""
    for value in vars(keys).values():
        if isinstance(value, bytearray):
            value[:] = bytes(len(value))


def read_secret(secrets: Definitions, identity: str) -> bytearray:
    """Read a secret by its id. UsageError, and HostError if its file cannot be read."""
    if identity not in secrets:
        raise UsageError(f"No secret with id '{identity:.60}'")
    fields = secrets[identity]
    for key in ("keyid", "iv"):
        if key in fields:
            raise UsageError(f"--object: secret '{identity:.60}': {key} is not supported")
    if "file" in fields:
        raw = _read_file(fields["file"])
    else:
        raw = bytearray(fields["data"], "utf-8", "surrogateescape")
    form = fields.get("format", "raw")
    if form == "base64":
        raw = _decode(raw, identity)
    elif form != "raw":
        raise UsageError(f"--object: secret '{identity:.60}': the format is raw or base64")
    if not is_text(raw):
        raise UsageError(f"Data from secret {identity:.60} is not valid UTF-8")
    return raw


def _read_file(name: str) -> bytearray:
    """Read a file whole, as it is, with the newline that it may end with."""
    data, size = bytearray(_FILE_MAX + 1), 0
    try:
        with open(name, "rb", buffering=0) as file, memoryview(data) as view:
            while count := file.readinto(view[size:]):
                size += count
    except ValueError:
        raise UsageError(f"Unable to read {name:.60}: it holds a NUL byte") from None
    except OSError as error:
        raise HostError(f"Unable to read {name}: {reason_of(error)}") from error
    if size > _FILE_MAX:
        raise UsageError(f"Unable to read {name}: it has more than {_FILE_MAX} bytes")
    raw = data[:size]
    data[:] = bytes(len(data))
    return raw


def _decode(raw: bytearray, identity: str) -> bytearray:
    import base64
    import binascii

    try:
        # qemu leaves out what ends a line.
        decoded = base64.b64decode(raw.translate(None, b"\r\n"), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"--object: secret '{identity:.60}' is not valid base64") from None
    finally:
        raw[:] = bytes(len(raw))
    return bytearray(decoded)
