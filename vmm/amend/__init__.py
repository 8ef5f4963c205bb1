"""Host side: one amend, from open to told: probe, run the sandbox, judge, commit."""

from __future__ import annotations

import os

from ..base.errors import ImageRejected
from ..base.record import FrozenDict
from ..base.refusals import Circumstances, not_qcow2, translate
from ..contract.judge import judge, preload
from ..contract.terms import Original
from ..image.commit import commit, planned_ranges
from ..image.image_file import WORK_FACTOR, WORK_MIN, ImageFile
from ..image.locks import lock_image
from ..machine import Machine
from ..machine.payload import load_payload
from ..qcow2.probe import PROBE_SIZE, header_fields, identify, parse_fixed_header
from ..request.keywords import announce
from ..request.options import OPTIONS
from .messages import Messages, Outcome, pack_config
from .result import RANGES_MAX, AmendResult, ByteRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..contract.terms import Judgement
    from ..machine.payload import Payload
    from ..qcow2.probe import FixedHeader
    from ..request import AmendRequest
    from ..request.keywords import PathLike


def amend_image(
    path: PathLike,
    request: AmendRequest,
    *,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    payload: Payload | None = None,
    before_read: Callable[[ImageFile, int], None] | None = None,
) -> AmendResult:
    """Do what instar.amend() says, in this process; `before_read` may confine it.

    `before_read` is called once, with the image and the vCPU's descriptor, when all is open that is
    needed and nothing of the image has been read; what it raises ends the amend.
    """
    announce(path, request)
    preload(request)
    payload = payload or load_payload()
    with open_image(path, request) as image:
        warning = lock_image(image.fd, image.name)
        image.tables = request.tables_max
        with Machine(payload, request.ram_size) as machine:
            if before_read:
                before_read(image, machine.prepare_vcpu())
            outcome = plan(machine, image, request, progress, debug)
        return carry_out(image, request, outcome, payload.sha256, warning)


def open_image(path: PathLike, request: AmendRequest) -> ImageFile:
    """Open the image for what is asked of it.

    HostError, UsageError, and ImageRejected if it would be its own backing file.
    """
    name = os.fspath(path)
    image = ImageFile(name, writable=not request.dry_run, max_growth=request.max_growth)
    if request.change_backing and request.backing_file:
        from .backing import check_not_itself

        try:
            check_not_itself(image.fd, os.fsencode(name), request.backing_file)
        except BaseException:
            image.close()
            raise
    return image


def plan(
    machine: Machine,
    image: ImageFile,
    request: AmendRequest,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
) -> Outcome:
    """Have the guest plan the change of an image that is open and locked; nothing is written.

    The image is looked at for the first time here. Raises ImageRejected if it is no qcow2 image at
    all, in which case the guest was not run.
    """
    header = _probe(image)
    request = request.for_disk(header.size)
    image.tables = request.tables_for(header.size, header.cluster_size)
    config = pack_config(
        *(header, request.fit(image.is_device), image.size, image.budget),
        progress=progress is not None,
        debug=debug is not None,
    )
    messages = Messages(progress)
    staged = machine.run(image, config, request.timeout, messages.receive, debug)
    refusals, claim = messages.complete()
    told = messages.options, messages.names, messages.snapshots
    return Outcome(claim, refusals, staged, machine.vm_exits, *told)


def carry_out(
    image: ImageFile,
    request: AmendRequest,
    outcome: Outcome,
    payload_sha256: str,
    warning: str | None,
) -> AmendResult:
    """Judge what the guest planned, and commit it. ImageRejected, GuestFault, HostError."""
    if outcome.refusals:
        head = image.read(0, PROBE_SIZE).ljust(PROBE_SIZE, b"\0")
        about = Circumstances(outcome.names, outcome.snapshots, image.size, header_fields(head))
        raise ImageRejected(translate(outcome.refusals, about))
    if request.relative:
        request = request.for_disk(_probe(image).size)
    stored = (image.work_max - WORK_MIN) // WORK_FACTOR
    original = Original(image.read, image.size, image.budget, max(stored, 0))
    judgement = judge(original, request.fit(image.is_device), outcome.staged, outcome.claim)
    if not request.dry_run:
        commit(image, outcome.staged, flush=request.flush)
    return AmendResult(
        filename=image.name,
        format="qcow2",
        dry_run=request.dry_run,
        bytes_read=image.bytes_read,
        payload_sha256=payload_sha256,
        action="amended" if judgement.amended else "noop",
        atomic=judgement.atomic,
        changes=judgement.changes,
        warnings=((warning,) if warning else ()) + judgement.warnings,
        **_describe(outcome, judgement),
    )


def _describe(outcome: Outcome, judgement: Judgement) -> dict[str, Any]:
    """The fields of an AmendResult that tell what the guest did."""
    ranges, more = planned_ranges(outcome.staged, RANGES_MAX)
    told = {row.key: outcome.options.get(row.abi_key) for row in OPTIONS} | judgement.told
    return {
        "options": FrozenDict({row.key: row.tell(told[row.key]) for row in OPTIONS}),
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
