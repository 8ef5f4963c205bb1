"""Host side: what `import instar` offers as functions: one image amended, here or in a child."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .amend import amend_image
from .amend.result import AmendResult
from .base.errors import UsageError
from .machine.payload import Payload, load_payload
from .request.order import TIMEOUT, Cache, Compat, Isolation, PathLike, make_order


def amend(
    path: PathLike,
    *,
    compat: Compat | None = None,
    lazy_refcounts: bool | None = None,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: Cache = "writeback",
    timeout: float = TIMEOUT,
    drop_bitmaps: bool = False,
    max_growth: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    isolation: Isolation | None = None,
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
        drop_bitmaps: whether a downgrade removes persistent bitmaps, which version 2 lacks; else
            they prevent it.
        max_growth: by how many bytes the file may grow where a downgrade has to fill zero clusters
            over a backing file; None stands for 1 GiB. A block device does not grow.
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
    order = make_order(
        compat, lazy_refcounts, format, dry_run, cache, timeout, drop_bitmaps, max_growth
    )
    if isolation not in (None, "process"):
        raise UsageError(f"isolation is None or 'process', not {isolation!r}")
    if isolation and (progress or debug or payload):
        raise UsageError("isolation='process' goes with neither progress, debug nor payload")

    def act() -> AmendResult:
        if isolation is None:
            return amend_image(
                path,
                compat=compat,
                lazy_refcounts=lazy_refcounts,
                format=format,
                dry_run=dry_run,
                cache=cache,
                timeout=timeout,
                drop_bitmaps=drop_bitmaps,
                max_growth=max_growth,
                progress=progress,
                debug=debug,
                payload=payload,
            )
        from .fleet.isolation import amend_in_child

        return amend_in_child(
            path,
            order,
            compat=compat,
            lazy_refcounts=lazy_refcounts,
            dry_run=dry_run,
            cache=cache,
            timeout=timeout,
            drop_bitmaps=drop_bitmaps,
            max_growth=max_growth,
        )

    if "logging" not in sys.modules:
        return act()
    from .amend.audit import logged

    return logged(path, order, (payload or load_payload()).sha256, act)
