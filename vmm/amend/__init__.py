"""Host side: one amend, from open to told: probe, run the sandbox, judge, commit."""

from __future__ import annotations

import os
from time import monotonic

from .. import hold
from ..base.errors import ImageRejected
from ..base.record import FrozenDict
from ..contract.judge import judge, preload
from ..contract.terms import Original
from ..image.budgets import count_budget
from ..image.commit import commit, give_back
from ..image.image_file import ImageFile
from ..machine import Machine
from ..machine.payload import choose_payload
from ..qcow2.probe import PROBE_SIZE, header_fields, other_format, parse_fixed_header
from ..request.keywords import announce
from ..request.kinds import Option
from ..request.options import BY_KEY, OPTIONS
from .messages import GuestRun, Messages, Plan, look_ahead, pack_config
from .result import RANGES_MAX, AmendResult

NO_VCPU = 0xFFFFFFFF
"""Stands for the descriptor of a vCPU where there is none; no file has it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..contract.terms import Judgement
    from ..image.view import AnyImage
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
    before_read: Callable[[ImageFile, int, int], None] | None = None,
    hashed: bool = True,
) -> AmendResult:
    """Do what instar.amend() says, in this process; `before_read` may confine it.

    `before_read` is called once, with the image, the vCPU's descriptor, and how often the guest
    will run, when all is open that is needed and nothing of the image has been read; what it raises
    ends the amend. The result has the hash of the installed payload only if that is `hashed`.
    """
    announce(path, request)
    steps = request.steps()
    preload_steps(steps)
    if not request.needs_guest:
        return _amend_luks(path, request, progress, before_read)
    payload = choose_payload(payload, hashed=hashed)
    with open_image(path, request) as image:
        warning = image.lock()
        image.tables = request.tables_max
        with Machine(payload, request.ram_size) as machine:
            if request.runs > 1:
                machine.keep()
            if before_read:
                before_read(image, machine.prepare_vcpu(), request.runs)
            plans = plan_steps(machine, image, steps, progress, debug)
        return carry_out(image, request, plans, payload.sha256, warning)


def _amend_luks(
    path: PathLike,
    request: AmendRequest,
    progress: Callable[[int, int], None] | None,
    before_read: Callable[[ImageFile, int, int], None] | None,
) -> AmendResult:
    """Do the same for a LUKS file, which needs no guest."""
    from .keys import plan_luks

    with open_image(path, request) as image:
        warning = image.lock()
        if before_read:
            before_read(image, NO_VCPU, request.runs)
        plans = plan_luks(image, request, progress)
        return carry_out(image, request, plans, "", warning)


def preload_steps(steps: Sequence[AmendRequest]) -> None:
    """Import what the steps may need, for a process that can open no file afterwards."""
    hold("base.refusals", "base.reasons", "base.findings")
    for step in steps:
        preload(step)
        if step.keys is not None:
            from .keys import preload_keys

            preload_keys()
    if not _is_one_run(steps):
        from . import chain  # noqa: F401 - most amends have one step


def _is_one_run(steps: Sequence[AmendRequest]) -> bool:
    """Whether the guest runs once, whatever the image is."""
    return len(steps) == 1 and not steps[0].parts()


def plan_steps(
    machine: Machine,
    image: ImageFile,
    steps: Sequence[AmendRequest],
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
) -> tuple[Plan, ...]:
    """Have each step of an amend planned and judged; the image is open and locked.

    Nothing is written. For more than one run the machine must have been kept. After an
    ImageRejected a machine that was kept is ready for the next image, as after a plan.
    """

    def plan_one(
        view: AnyImage, step: AmendRequest, told: Callable[[int, int], None] | None, spent: float
    ) -> Plan:
        begin = monotonic()
        outcome = plan(machine, view, step, told, debug, spent)
        if machine.is_kept:
            machine.reset()
        elif step.repairs:
            machine.close()  # its memory goes before the judge counts as many clusters
        made = Plan(step, outcome, _judge(view, step, outcome))
        if step.keys is None:
            return made
        from .keys import plan_keys

        return plan_keys(view, made, spent + monotonic() - begin, told)

    if _is_one_run(steps):
        return (plan_one(image, steps[0], progress, 0.0),)
    from .chain import plan_chain

    return plan_chain(image, steps, plan_one, progress)


def open_image(path: PathLike, request: AmendRequest) -> ImageFile:
    """Open the image for what is asked of it.

    HostError, UsageError, and ImageRejected if it would be its own backing file.
    """
    name = os.fspath(path)
    image = ImageFile.open(name, writable=not request.dry_run, max_growth=request.max_growth)
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
    image: AnyImage,
    request: AmendRequest,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    spent: float = 0.0,
) -> GuestRun:
    """Have the guest plan one step; `spent` are seconds of the timeout that others took.

    The image is looked at for the first time here. Raises ImageRejected if it is no qcow2 image at
    all, in which case the guest was not run.
    """
    header = _probe(image, request)
    request = request.for_disk(header.size)
    image.tables = request.tables_for(header.size, header.cluster_size)
    work_max = min(image.budget, count_budget(image.stored)) if request.repairs else image.budget
    request = request.fit(image.is_device)
    along, table = look_ahead(header, request, image)
    config = pack_config(
        *(header, request, image.size, work_max, along),
        progress=progress is not None,
        debug=debug is not None,
    )
    messages = Messages(progress)
    staged = machine.run(
        *(image, config, request.timeout, messages.receive, debug),
        along=along,
        table=table,
        spent=spent,
    )
    refusals, claim = messages.complete()
    told = messages.options, messages.names, messages.snapshots
    return GuestRun(claim, refusals, staged, machine.vm_exits, *told)


def _judge(image: AnyImage, request: AmendRequest, outcome: GuestRun) -> Judgement:
    """Judge what the guest planned. ImageRejected, also where the guest refuses; GuestFault."""
    if outcome.refusals:
        from ..base.refusals import Circumstances, translate

        head = image.read(0, PROBE_SIZE).ljust(PROBE_SIZE, b"\0")
        known = outcome.names, outcome.snapshots, image.size, header_fields(head)
        about = Circumstances(*known, repairs=request.repairs)
        raise ImageRejected(translate(outcome.refusals, about))
    if request.relative:
        request = request.for_disk(_probe(image, request).size)
    original = Original(image.read, image.size, image.budget, image.stored)
    return judge(original, request.fit(image.is_device), outcome.staged, outcome.claim)


def carry_out(
    image: ImageFile,
    request: AmendRequest,
    plans: Sequence[Plan],
    payload_sha256: str,
    warning: str | None,
) -> AmendResult:
    """Commit what was planned and judged. HostError, which says what state the image is in.

    GuestFault, and nothing is written, if the steps are not together what was asked for.
    """
    wasted: tuple[str, ...] = ()
    if len(plans) == 1:
        if not request.dry_run:
            keys = request.keys is not None
            commit(image, plans[0].outcome.staged, flush=request.flush, keys=keys)
            spare = plans[0].judgement.spare
            wasted = give_back(image, spare.ranges, spare.end)
        done = {**plans[0].describe(RANGES_MAX), "steps": ()}
    else:
        from .chain import commit_chain, describe_chain, judge_end

        judge_end(image, request, plans)
        if not request.dry_run:
            wasted = commit_chain(image, plans, flush=request.flush)
        done = describe_chain(plans)
    noticed = tuple([text for plan in plans for text in plan.judgement.warnings])
    last = plans[-1]
    told, said = last.judgement.told, last.outcome.options
    values = [told.get(row.key, said.get(row.abi_key)) for row in OPTIONS]
    return AmendResult(
        filename=image.name,
        format=request.format,  # type: ignore[arg-type] # one of two, as was checked
        dry_run=request.dry_run,
        bytes_read=image.bytes_read,
        payload_sha256=payload_sha256,
        options=FrozenDict(zip(BY_KEY, map(Option.tell, OPTIONS, values), strict=True)),
        vm_exits=sum(plan.outcome.vm_exits for plan in plans),
        warnings=((warning,) if warning else ()) + noticed + wasted,
        **done,
    )


def _probe(image: AnyImage, request: AmendRequest) -> FixedHeader:
    head = image.read(0, PROBE_SIZE)
    header = parse_fixed_header(head)
    if header is None:
        verb = "rebased" if request.change_backing else "amended"
        if request.size is not None:
            verb = "resized"
        wanted = f"only qcow2 images can be {verb}"
        # Who resizes or rebases has no use for a change of keyslots.
        raise other_format(head, image.read, image.size, wanted, offers_keys=verb == "amended")
    return header
