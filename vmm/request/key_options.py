"""Host side: the table of what -o may say of keyslots, in qemu's names.

They are no options of the ABI: no guest hears of them, and nothing of them stands in a result but
what changed. From the rows follow the -o parser, its help, the completions and the tables of
docs/amend.md, as they do from those of options.py.
"""

from __future__ import annotations

from .kinds import CHOICE, NUMBER, TEXT, Option

PREFIX = "encrypt."
"""What stands before each key, unless the file itself is LUKS."""

_ROWS = (
    Option(
        key="iter-time",
        kind=NUMBER,
        abi_key=0,
        help="Time to spend in PBKDF in milliseconds",
        meaning="How many milliseconds it takes this machine to try a passphrase on the keyslot; "
        "2000 by default, and at least 1000 iterations.",
        keyword="",
        since="0.1",
    ),
    Option(
        key="keyslot",
        kind=NUMBER,
        abi_key=0,
        help="Select a single keyslot to modify explicitly",
        meaning="The keyslot, 0 to 7; by default the first free one, or all that hold "
        "`old-secret`.",
        keyword="",
        since="0.1",
        fault="Parameter '{key}' expects a number from 0 to 7, not {}",
    ),
    Option(
        key="new-secret",
        kind=TEXT,
        abi_key=0,
        help="New secret to set in the matching keyslots. Empty string to erase",
        meaning="The `id` of the secret that the keyslot is to hold; needed for `active`.",
        keyword="",
        since="0.1",
    ),
    Option(
        key="old-secret",
        kind=TEXT,
        abi_key=0,
        help="Select all keyslots that match this password",
        meaning="The `id` of the secret whose keyslots are erased.",
        keyword="",
        since="0.1",
    ),
    Option(
        key="state",
        kind=CHOICE,
        abi_key=0,
        help="Select new state of affected keyslots (active/inactive)",
        meaning="Whether the keyslot comes to hold `new-secret`, or nothing.",
        keyword="",
        since="0.1",
        choices={"active": 1, "inactive": 0},
        fault="Parameter '{key}' does not accept value {}: use active or inactive",
    ),
)


def key_options(form: str) -> tuple[Option, ...]:
    """The rows for an image of this format, "qcow2" or "luks", with their whole keys."""
    prefix = "" if form == "luks" else PREFIX
    return tuple(_named(row, prefix + row.key) for row in _ROWS)


def _named(row: Option, key: str) -> Option:
    return Option(**{**vars(row), "key": key, "fault": row.fault.replace("{key}", key)})
