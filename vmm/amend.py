"""Host side: the use case. Open, probe, run the sandbox, judge, commit."""

from __future__ import annotations

import os

from instar.vmm.commit import commit, planned_ranges
from instar.vmm.contract import judge
from instar.vmm.errors import ImageRejected, UsageError
from instar.vmm.image_file import ImageFile
from instar.vmm.locks import lock_image
from instar.vmm.options import CACHE_MODES, COMPAT_LEVELS, check_format
from instar.vmm.payload import load_payload
from instar.vmm.probe import PROBE_SIZE, identify, parse_fixed_header
from instar.vmm.request import AmendRequest
from instar.vmm.result import AmendResult
from instar.vmm.sandbox import Sandbox, pack_config
from instar.vmm.verdict import not_qcow2, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from instar.vmm.payload import Payload
    from instar.vmm.probe import FixedHeader
    from instar.vmm.sandbox import Descriptors, Outcome

TIMEOUT = 30.0
"""How long a guest may run by default, in seconds."""

_COMPAT_NAMES = {2: "0.10", 3: "1.1"}


def amend(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    compat: str | None = None,
    lazy_refcounts: bool | None = None,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: str = "writeback",
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: str | None = None,
    payload: Payload | None = None,
) -> AmendResult:
    """Change options of a qcow2 image in place; what is already as asked is left untouched.

    Args:
        path: the image, a regular file or a block device.
        compat: the compatibility level, "0.10" ("v2") or "1.1" ("v3"); None leaves it.
        lazy_refcounts: whether refcount updates may be postponed; None leaves it.
        format: None or "qcow2"; the image must be that in any case.
        dry_run: do everything but the commit.
        cache: qemu-img's cache mode; "unsafe" leaves out the flushes, the others are alike.
        timeout: how long the guest may run, in seconds.
        progress: called as progress(done, total) during a long scan.
        debug: called with the guest's debug text.
        isolation: None does the work in this process, which it leaves without limits; "process"
            does it in a child that confines itself, without progress, debug and payload.
        payload: what to run instead of the installed payload.

    Raises:
        UsageError: an argument is invalid (the caller's fault).
        HostError: this machine, the file or its disk failed; says whether the image may have
            changed, which only a failing commit can cause.
        ImageLocked: another process uses the image. Nothing was written.
        ImageRejected: the image cannot be amended so; holds all reasons. Nothing was written.
        GuestFault: the guest broke its contract or exceeded a budget. Nothing was written.
    """
    if isolation is None:
        return amend_image(
            path,
            compat=compat,
            lazy_refcounts=lazy_refcounts,
            format=format,
            dry_run=dry_run,
            cache=cache,
            timeout=timeout,
            progress=progress,
            debug=debug,
            payload=payload,
        )
    _request(compat, lazy_refcounts, format, cache, timeout)
    if isolation != "process":
        raise UsageError(f"isolation is None or 'process', not {isolation!r}")
    if progress or debug or payload:
        raise UsageError("isolation='process' goes with neither progress, debug nor payload")
    from instar.vmm.isolation import amend_in_child

    return amend_in_child(
        path,
        compat=compat,
        lazy_refcounts=lazy_refcounts,
        dry_run=dry_run,
        cache=cache,
        timeout=timeout,
    )


def amend_image(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    compat: str | None = None,
    lazy_refcounts: bool | None = None,
    format: str | None = None,  # noqa: A002 - as amend()
    dry_run: bool = False,
    cache: str = "writeback",
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    payload: Payload | None = None,
    before_read: Callable[[Descriptors], None] | None = None,
) -> AmendResult:
    """Do what amend() says, in this process; `before_read` may confine it.

    `before_read` is called once, when all is open that is needed and nothing of the image has been
    read; what it raises ends the amend.
    """
    request = _request(compat, lazy_refcounts, format, cache, timeout)
    payload = payload or load_payload()
    with ImageFile(os.fspath(path), writable=not dry_run) as image:
        warning = lock_image(image.fd, image.name)
        with Sandbox(payload) as sandbox:
            if before_read:
                before_read(sandbox.prepare(image))
            header = _probe(image)
            config = pack_config(
                header, request, image.size, progress=progress is not None, debug=debug is not None
            )
            outcome = sandbox.run(image, config, timeout, progress, debug)
        if outcome.refusals:
            raise ImageRejected(translate(outcome.refusals))
        changes = judge(image.read, request, outcome.phases, outcome.claim)
        if not dry_run:
            commit(image, outcome.phases, flush=CACHE_MODES[cache])
        return AmendResult(
            filename=image.name,
            format="qcow2",
            dry_run=dry_run,
            bytes_read=image.bytes_read,
            payload_sha256=payload.sha256,
            changes=changes,
            warnings=(warning,) if warning else (),
            **_describe(outcome),
        )


def _describe(outcome: Outcome) -> dict[str, Any]:
    """The fields of an AmendResult that tell what the guest did."""
    ranges = planned_ranges(outcome.phases)
    return {
        "action": "amended" if outcome.claim.amended else "noop",
        "compat": _COMPAT_NAMES[outcome.claim.fields["version"]],
        "lazy_refcounts": bool(outcome.claim.fields["compatible_features"] & 1),
        "atomic": outcome.claim.atomic,
        "bytes_written": sum(part.length for part in ranges),
        "vm_exits": outcome.vm_exits,
        "ranges": ranges,
    }


def _request(
    compat: str | None, lazy_refcounts: bool | None, form: str | None, cache: str, timeout: float
) -> AmendRequest:
    check_format(form)
    if cache not in CACHE_MODES:
        raise UsageError(f"Invalid cache option: {cache}")
    if compat is not None and compat not in COMPAT_LEVELS:
        raise UsageError(f"Unknown compatibility level {compat!r}: use 0.10 (v2) or 1.1 (v3)")
    if lazy_refcounts not in (None, True, False):
        raise UsageError(f"lazy_refcounts is None, True or False, not {lazy_refcounts!r}")
    if not 0 < timeout < 1e9:
        raise UsageError(f"timeout is a positive number of seconds, not {timeout!r}")
    return AmendRequest(None if compat is None else COMPAT_LEVELS[compat], lazy_refcounts)


def _probe(image: ImageFile) -> FixedHeader:
    head = image.read(0, PROBE_SIZE)
    header = parse_fixed_header(head)
    if header is None:
        tail = image.read(max(image.size - PROBE_SIZE, 0), PROBE_SIZE)
        raise ImageRejected((not_qcow2(identify(head, tail)),))
    return header
