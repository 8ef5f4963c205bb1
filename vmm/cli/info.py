"""Host side: `instar info`: what images are, for people as qemu-img says it, or as JSON."""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.record import to_dict
from ..base.supported import check_machine
from ..inspect import inspect_image, let_be
from ..inspect.looker import Looker
from ..inspect.policy import Policy
from .arguments import read_size
from .commands import INFO
from .info_text import describe
from .look import confiner, look_at_all, read_arguments, read_timeout
from .report import check_told, show_debug, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .look import Confine
    from .report import Report

    Document = dict[str, Any]

_REFUSED = {
    "backing-chain": "it opens what images name; look at the files in 'references' one by one",
    "limits": "they are those of an image that qemu has opened, and instar opens none as qemu does",
}


def run(arguments: list[str], report: Report, *, own_process: bool) -> int:
    """Carry out `instar info`; return the exit status."""
    read = read_arguments(arguments, INFO, report)
    if read is None:
        return 0
    flags = read.flags
    for flag, why in _REFUSED.items():
        if flag in flags:
            raise UsageError(f"--{flag} is not supported: {why}")
    timeout = read_timeout(flags)
    policy = _read_policy(flags)
    check_machine()
    confine = confiner(required="require-confinement" in flags)
    confined = confine if own_process or read.jobs is not None else None
    statuses = look_at_all(
        *(read, report),
        lambda name: _look(name, flags, policy, timeout, confined),
        lambda document, *, named: _tell(document, report),
        timeout,
        "info",
    )
    status = max(statuses, default=0)
    check_told()
    return status


def _read_policy(flags: dict[str, str]) -> Policy | None:
    """The policy that --safe asks for, or None."""
    limit = flags.get("max-virtual-size")
    if limit is not None:
        return Policy(max_virtual_size=read_size("max-virtual-size", limit))
    return Policy() if "safe" in flags else None


def _look(
    name: str,
    flags: dict[str, str],
    policy: Policy | None,
    timeout: float,
    confine: Confine | None,
) -> Document:
    with Looker("info") as looker:
        info = inspect_image(
            *(name, looker),
            format=flags.get("format"),
            format_from="-f",
            force_share="force-share" in flags,
            timeout=timeout,
            debug=show_debug if "debug" in flags else None,
            before_read=confine or let_be,
        )
    document = info.to_dict()
    if policy is not None:
        document["violations"] = to_dict(policy.violations(info))
    return document


def _tell(document: Document, report: Report) -> int:
    """Report one image; the exit status is 1 for one that is not to be taken."""
    report.document(document)
    if not report.is_json:
        write("stdout", describe(document))
    return 1 if document.get("violations") else 0
