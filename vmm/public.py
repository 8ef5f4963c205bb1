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
    from instar.vmm.looks import CheckOutcome, InfoOutcome, check_many, info, info_many
    from instar.vmm.repair import check
    from instar.vmm.request.keys import AddKey, EraseKey

__version__ = "0.1.0"

__all__ = [
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

_MODULES = {  # where they are, but for the errors
    "AddKey": "request.keys",
    "AmendOutcome": "amend.result",
    "AmendResult": "amend.result",
    "AmendStep": "amend.result",
    "BitmapInfo": "inspect.result",
    "ByteRange": "amend.result",
    "Change": "contract.terms",
    "CheckOutcome": "looks",
    "CheckResult": "inspect.check",
    "EraseKey": "request.keys",
    "FeatureInfo": "inspect.result",
    "Finding": "inspect.findings",
    "ImageInfo": "inspect.result",
    "InfoOutcome": "looks",
    "Policy": "inspect.policy",
    "Reference": "inspect.references",
    "Sandbox": "amend.sandbox",
    "SnapshotInfo": "inspect.result",
    "Violation": "inspect.policy",
    "amend": "api",
    "amend_many": "fleet.many",
    "check": "repair",
    "check_many": "looks",
    "info": "looks",
    "info_many": "looks",
    "rebase_unsafe": "api",
    "resize": "api",
}

_RUNNING = (
    *("Sandbox", "amend", "amend_many", "check", "check_many", "info", "info_many"),
    *("rebase_unsafe", "resize"),
)


def __getattr__(name: str) -> object:
    """Import a public name; the command, which uses none through here, pays for none."""
    if name not in __all__:
        raise AttributeError(f"module 'instar' has no attribute {name!r}")
    module = f"instar.vmm.{_MODULES.get(name, 'base.errors')}"
    from sys import modules

    if name in _RUNNING:
        from instar.vmm.base.supported import check_machine

        check_machine()  # elsewhere their modules lack what they import
    __import__(module)
    value: object = getattr(modules[module], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
