"""Host side: says what is wrong with the package `cryptography`, or the OpenSSL that it has.

It may lack, be broken, or be set up to refuse what a LUKS header names. That is the machine's
fault, and no image's.
"""

from __future__ import annotations

_WHERE = "into instar's environment (docs/keys.md)"
_LINE = 200  # characters; what libraries say can be long


def explain_import(error: BaseException) -> str:
    """Why the package cannot be imported, and what helps."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cryptography":
        return f"changing keys needs the package cryptography; install it {_WHERE}"
    return (
        f"the package cryptography does not work here: {first_line(error)}; install it anew "
        f"{_WHERE}"
    )


def explain_lack(name: str, error: BaseException) -> str:
    """Why a hash or a mode cannot be used."""
    return (
        f"OpenSSL does not do {name} on this machine, which the LUKS header takes: "
        f"{first_line(error)}; its configuration decides that (FIPS mode, providers)"
    )


def first_line(error: BaseException) -> str:
    """What an error says, in a line of its own."""
    text = " ".join(str(error).partition("\n")[0].split())[:_LINE]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
