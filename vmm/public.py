"""Host side: the public names, as `import instar` offers them; each is imported on first use."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.amend.result import AmendOutcome, AmendResult, AmendStep, ByteRange
    from instar.vmm.amend.sandbox import Sandbox
    from instar.vmm.api import amend, rebase_unsafe, resize
    from instar.vmm.base.errors import (
        GuestFault,
        HostError,
        ImageLocked,
        ImageRejected,
        InstarError,
        Refusal,
        UsageError,
    )
    from instar.vmm.contract.terms import Change
    from instar.vmm.fleet.many import amend_many
    from instar.vmm.inspect.check import CheckResult
    from instar.vmm.inspect.findings import Finding
    from instar.vmm.inspect.policy import Policy, Violation
    from instar.vmm.inspect.references import Reference
    from instar.vmm.inspect.result import BitmapInfo, FeatureInfo, ImageInfo, SnapshotInfo
    from instar.vmm.looks import CheckOutcome, InfoOutcome, check, check_many, info, info_many
    from instar.vmm.request.keys import AddKey, EraseKey

__version__ = "0.1.0"

__all__ = [  # as type checkers read no other form; a test compares it with what follows
    "AddKey",
    "AmendOutcome",
    "AmendResult",
    "AmendStep",
    "BitmapInfo",
    "ByteRange",
    "Change",
    "CheckOutcome",
    "CheckResult",
    "EraseKey",
    "FeatureInfo",
    "Finding",
    "GuestFault",
    "HostError",
    "ImageInfo",
    "ImageLocked",
    "ImageRejected",
    "InfoOutcome",
    "InstarError",
    "Policy",
    "Reference",
    "Refusal",
    "Sandbox",
    "SnapshotInfo",
    "UsageError",
    "Violation",
    "amend",
    "amend_many",
    "check",
    "check_many",
    "info",
    "info_many",
    "rebase_unsafe",
    "resize",
]

_NAMES = {  # by the module that each is in
    "amend.result": ("AmendOutcome", "AmendResult", "AmendStep", "ByteRange"),
    "amend.sandbox": ("Sandbox",),
    "api": ("amend", "rebase_unsafe", "resize"),
    "base.errors": (
        *("GuestFault", "HostError", "ImageLocked", "ImageRejected", "InstarError"),
        *("Refusal", "UsageError"),
    ),
    "contract.terms": ("Change",),
    "fleet.many": ("amend_many",),
    "inspect.check": ("CheckResult",),
    "inspect.findings": ("Finding",),
    "inspect.policy": ("Policy", "Violation"),
    "inspect.references": ("Reference",),
    "inspect.result": ("BitmapInfo", "FeatureInfo", "ImageInfo", "SnapshotInfo"),
    "looks": ("CheckOutcome", "InfoOutcome", "check", "check_many", "info", "info_many"),
    "request.keys": ("AddKey", "EraseKey"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_RUNNING = ("amend.sandbox", "api", "fleet.many", "looks")
"""The modules that run the sandbox, and so import what no other machine has."""


def __getattr__(name: str) -> object:
    """Import a public name; the command, which uses none through here, pays for none."""
    if name not in _MODULES:
        raise AttributeError(f"module 'instar' has no attribute {name!r}")
    from sys import modules

    if _MODULES[name] in _RUNNING:
        from instar.vmm.base.supported import check_machine

        check_machine()
    module = f"instar.vmm.{_MODULES[name]}"
    __import__(module)
    value: object = getattr(modules[module], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
