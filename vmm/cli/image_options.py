"""Host side: --object and --image-opts, as callers of qemu-img give them for encrypted images.

A secret is checked for its form here; secrets.py reads those that are used, and nobody shows one.
Read as qemu does: KEY=VALUE,... with ",," for a comma.
"""

from __future__ import annotations

from ..base.errors import UsageError
from ..request.keywords import AMENDABLE_FORMAT
from ..request.lists import split_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Secrets = dict[str, dict[str, str]]

_SECRET_KEYS = {"id", "data", "file", "format", "keyid", "iv", "qom-type"}
_KEY_SECRETS = {"qcow2": "encrypt.key-secret", "luks": "key-secret"}
_FIXED = {
    "driver": tuple(_KEY_SECRETS),
    "file.driver": ("file",),
    "data-file.driver": ("file",),
    "encrypt.format": ("luks",),
}
_QCOW2_ONLY = ("encrypt.format", "data-file.filename", "data-file.driver")
_FORM = "driver=qcow2,file.filename=FILE,encrypt.key-secret=ID"


def name_files(
    files: Sequence[str], objects: Sequence[str], flags: dict[str, str], secrets: Secrets
) -> list[str]:
    """Return the names of the operands `files`; UsageError for what these two flags do not allow.

    `objects` are the values of --object, which go to `secrets` by their ids; `flags` are the other
    flags that were given, to which comes what --image-opts says: a format, and a --key-secret.
    """
    secrets.update(read_secrets(objects))
    if "image-opts" not in flags:
        return list(files)
    for other in ("format", "files-from", "key-secret"):
        if other in flags:
            raise UsageError(f"--image-opts and --{other} are mutually exclusive")
    read = [read_image_options(file, secrets) for file in files]
    for key in ("format", "key-secret"):
        values = {told.get(key) for _, told in read}
        if len(values) > 1 and values != {None, AMENDABLE_FORMAT}:  # what each of them must be
            raise UsageError(f"--image-opts: the images have not the same {key}")
        for value in values - {None}:
            flags[key] = str(value)
    return [name for name, _ in read]


def read_secrets(objects: Sequence[str]) -> Secrets:
    """Return the secrets that --object defines, by their ids; UsageError for any other object."""
    secrets: Secrets = {}
    for text in objects:
        fields = _read_object(text)
        if fields.get("qom-type") != "secret":
            raise UsageError("--object: only secrets are accepted: secret,id=ID,...")
        if not fields.keys() <= _SECRET_KEYS:  # none is named: it may be a part of a passphrase
            raise UsageError(
                "--object: a secret has id, data or file, and format, and nothing else; "
                "a comma in one of them is written ',,'"
            )
        identity = fields.get("id")
        if not identity:
            raise UsageError("--object: a secret needs an id: secret,id=ID,...")
        if ("data" in fields) == ("file" in fields):
            raise UsageError(f"--object: secret '{identity:.60}' needs one of data and file")
        if identity in secrets:
            raise UsageError(f"--object: the id '{identity:.60}' is given twice")
        secrets[identity] = fields
    return secrets


def read_image_options(text: str, secrets: Secrets) -> tuple[str, dict[str, str]]:
    """Return the file name in the operand of --image-opts, and the flags that the rest stands for.

    UsageError beyond the subset _FORM, which is the same without a prefix for driver=luks. A data
    file may be named, as qemu-img needs it where the image does not; no data file is opened here.
    """
    fields = _read_fields(text, "--image-opts")
    driver = fields.get("driver", "qcow2")
    if driver not in _KEY_SECRETS:
        raise UsageError("--image-opts: only driver=qcow2 and driver=luks are supported")
    key_secret = _KEY_SECRETS[driver]
    for key, value in fields.items():
        named = key in ("file.filename", "data-file.filename", key_secret)
        if not (named or value in _FIXED.get(key, ())) or (driver == "luks" and key in _QCOW2_ONLY):
            raise UsageError(f"--image-opts: expected {_FORM}, without '{key:.60}'")
    if not fields.get("file.filename"):
        raise UsageError(f"--image-opts: expected {_FORM}, with a file name")
    told = {"format": driver} if "driver" in fields else {}
    secret = fields.get(key_secret)
    if secret is not None and secret not in secrets:
        raise UsageError(f"--image-opts: no secret with id '{secret:.60}'; give it with --object")
    if secret is not None:
        told["key-secret"] = secret
    return fields["file.filename"], told


def _read_object(text: str) -> dict[str, str]:
    if not text.startswith("{"):
        kind, _, rest = text.partition(",")
        return {"qom-type": kind.removeprefix("qom-type="), **_read_fields(rest, "--object")}
    import json

    try:
        fields = json.loads(text, object_pairs_hook=_unite)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("--object: this is no JSON object")
    if not all(isinstance(value, str) and _is_unicode(value) for value in fields.values()):
        raise UsageError("--object: the values in the JSON object are strings, of valid Unicode")
    return fields


def _unite(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise UsageError("--object: a key is given twice in the JSON object")
    return fields


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a half of a surrogate pair, which JSON can spell
        return False
    return True


def _read_fields(text: str, flag: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for key, value in split_list(text):
        if value is None:
            raise UsageError(f"{flag}: there is no help for its keys; see docs/amend.md")
        fields[key] = value
    return fields
