"""Host side: --object and --image-opts, as callers of qemu-img give them for encrypted images.

No option that is implemented needs a key, so a secret is checked for its form, never read and never
shown. Read as qemu does: KEY=VALUE,... with ",," for a comma.
"""

from __future__ import annotations

from ..base.errors import UsageError
from ..request.lists import split_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_SECRET_KEYS = ("id", "data", "file", "format", "keyid", "iv", "qom-type")
_IMAGE_KEYS = ("driver", "file.filename", "encrypt.key-secret")
_FORM = "driver=qcow2,file.filename=FILE,encrypt.key-secret=ID"


def name_files(files: Sequence[str], objects: Sequence[str], flags: Collection[str]) -> list[str]:
    """Return the names of the operands `files`; UsageError for what these two flags do not allow.

    `objects` are the values of --object, `flags` the names of the other flags that were given.
    """
    secrets = read_secrets(objects)
    if "image-opts" not in flags:
        return list(files)
    for other in ("format", "files-from"):
        if other in flags:
            raise UsageError(f"--image-opts and --{other} are mutually exclusive")
    return [read_image_options(file, secrets) for file in files]


def read_secrets(objects: Sequence[str]) -> frozenset[str]:
    """Return the ids of the secrets that --object defines; UsageError for any other object."""
    ids: list[str] = []
    for text in objects:
        fields = _read_object(text)
        if fields.get("qom-type") != "secret":
            raise UsageError("--object: only secrets are accepted: secret,id=ID,...")
        unknown = [key for key in fields if key not in _SECRET_KEYS]
        if unknown:
            raise UsageError(f"--object: a secret has no property '{unknown[0]:.60}'")
        identity = fields.get("id")
        if not isinstance(identity, str) or not identity:
            raise UsageError("--object: a secret needs an id: secret,id=ID,...")
        if ("data" in fields) == ("file" in fields):
            raise UsageError(f"--object: secret '{identity:.60}' needs one of data and file")
        if identity in ids:
            raise UsageError(f"--object: the id '{identity:.60}' is given twice")
        ids.append(identity)
    return frozenset(ids)


def read_image_options(text: str, secrets: frozenset[str]) -> str:
    """Return the file name in the operand of --image-opts. UsageError beyond the subset _FORM."""
    fields = _read_fields(text, "--image-opts")
    for key in fields:
        if key not in _IMAGE_KEYS:
            raise UsageError(f"--image-opts: expected {_FORM}, without '{key:.60}'")
    if fields.get("driver", "qcow2") != "qcow2":
        raise UsageError("--image-opts: only driver=qcow2 can be amended")
    if not fields.get("file.filename"):
        raise UsageError(f"--image-opts: expected {_FORM}, with a file name")
    secret = fields.get("encrypt.key-secret")
    if secret is not None and secret not in secrets:
        raise UsageError(f"--image-opts: no secret with id '{secret:.60}'; give it with --object")
    return fields["file.filename"]


def _read_object(text: str) -> dict[str, object]:
    if not text.startswith("{"):
        kind, _, rest = text.partition(",")
        return {"qom-type": kind.removeprefix("qom-type="), **_read_fields(rest, "--object")}
    import json

    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("--object: this is no JSON object")
    return fields


def _read_fields(text: str, flag: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in split_list(text):
        if value is None:
            raise UsageError(f"{flag}: there is no help for its keys; see docs/amend.md")
        fields[key] = value
    return fields
