"""Host side: one amend, from open to told: probe, run the sandbox, judge, commit."""

from __future__ import annotations

import os

from instar.abi import OPTION_COMPAT, OPTION_LAZY_REFCOUNTS

from ..base.errors import ImageRejected
from ..base.refusals import Circumstances, not_qcow2, translate
from ..contract.judge import judge, prepare
from ..contract.terms import Original
from ..image.commit import commit, planned_ranges
from ..image.image_file import WORK_FACTOR, WORK_MIN, ImageFile
from ..image.locks import lock_image
from ..machine import Machine
from ..machine.payload import load_payload
from ..qcow2.probe import PROBE_SIZE, header_fields, identify, parse_fixed_header
from ..request.order import TIMEOUT, announce, make_order
from .messages import Messages, Outcome, pack_config
from .result import RANGES_MAX, AmendResult, ByteRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..machine.payload import Payload
    from ..qcow2.probe import FixedHeader
    from ..request.order import Order, PathLike

_COMPAT_NAMES: dict[int | bytes, str] = {2: "0.10", 3: "1.1"}


def amend_image(
    path: PathLike,
    *,
    compat: str | None = None,
    lazy_refcounts: bool | None = None,
    format: str | None = None,  # noqa: A002 - the name of qemu-img's flag
    dry_run: bool = False,
    cache: str = "writeback",
    timeout: float = TIMEOUT,
    drop_bitmaps: bool = False,
    max_growth: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    payload: Payload | None = None,
    before_read: Callable[[ImageFile, int], None] | None = None,
) -> AmendResult:
    """Do what instar.amend() says, in this process; `before_read` may confine it.

    `before_read` is called once, with the image and the vCPU's descriptor, when all is open that is
    needed and nothing of the image has been read; what it raises ends the amend.
    """
    order = make_order(
        compat, lazy_refcounts, format, dry_run, cache, timeout, drop_bitmaps, max_growth
    )
    announce(path, order)
    prepare(order.request)
    payload = payload or load_payload()
    growth = order.request.max_growth
    with ImageFile(os.fspath(path), writable=not order.dry_run, max_growth=growth) as image:
        warning = lock_image(image.fd, image.name)
        with Machine(payload, order.ram_size) as machine:
            if before_read:
                before_read(image, machine.prepare_vcpu())
            outcome = plan(machine, image, order, progress, debug)
        return carry_out(image, order, outcome, payload.sha256, warning)


def plan(
    machine: Machine,
    image: ImageFile,
    order: Order,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
) -> Outcome:
    """Have the guest plan the change of an image that is open and locked; nothing is written.

    The image is looked at for the first time here. Raises ImageRejected if it is no qcow2 image at
    all, in which case the guest was not run.
    """
    header = _probe(image)
    config = pack_config(
        *(header, order.request.fit(image.is_device), image.size, image.work_max),
        progress=progress is not None,
        debug=debug is not None,
    )
    messages = Messages(progress)
    staged = machine.run(image, config, order.timeout, messages.receive, debug)
    refusals, claim = messages.complete()
    told = messages.options, messages.names, messages.snapshots
    return Outcome(claim, refusals, staged, machine.vm_exits, *told)


def carry_out(
    image: ImageFile, order: Order, outcome: Outcome, payload_sha256: str, warning: str | None
) -> AmendResult:
    """Judge what the guest planned, and commit it. ImageRejected, GuestFault, HostError."""
    if outcome.refusals:
        head = image.read(0, PROBE_SIZE).ljust(PROBE_SIZE, b"\0")
        about = Circumstances(outcome.names, outcome.snapshots, image.size, header_fields(head))
        raise ImageRejected(translate(outcome.refusals, about))
    request = order.request.fit(image.is_device)
    stored = (image.work_max - WORK_MIN) // WORK_FACTOR
    original = Original(image.read, image.size, image.work_max, max(stored, 0))
    judgement = judge(original, request, outcome.staged, outcome.claim)
    if not order.dry_run:
        commit(image, outcome.staged, flush=order.flush)
    return AmendResult(
        filename=image.name,
        format="qcow2",
        dry_run=order.dry_run,
        bytes_read=image.bytes_read,
        payload_sha256=payload_sha256,
        action="amended" if judgement.amended else "noop",
        atomic=judgement.atomic,
        changes=judgement.changes,
        warnings=(warning,) if warning else (),
        **_describe(outcome),
    )


def _describe(outcome: Outcome) -> dict[str, Any]:
    """The fields of an AmendResult that tell what the guest did."""
    ranges, more = planned_ranges(outcome.staged, RANGES_MAX)
    return {
        "compat": _COMPAT_NAMES[outcome.options[OPTION_COMPAT]],
        "lazy_refcounts": bool(outcome.options[OPTION_LAZY_REFCOUNTS]),
        "bytes_written": outcome.staged.size(),
        "vm_exits": outcome.vm_exits,
        "ranges": tuple(ByteRange(*part) for part in ranges),
        "more_ranges": more,
    }


def _probe(image: ImageFile) -> FixedHeader:
    head = image.read(0, PROBE_SIZE)
    header = parse_fixed_header(head)
    if header is None:
        tail = image.read(max(image.size - PROBE_SIZE, 0), PROBE_SIZE)
        raise ImageRejected((not_qcow2(identify(head, tail)),))
    return header
