"""Host side: an amend of several steps: all are planned and judged before the first is committed.

Each step is planned, by a run of the guest of its own, on what the steps before it leave, and
judged on that. Then they are committed in order, each whole.
"""

from __future__ import annotations

from time import monotonic

from ..base.errors import GuestFault, HostError, ImageRejected
from ..contract.rules import is_satisfied
from ..contract.terms import Change
from ..image.commit import commit, give_back
from ..image.view import ImageView, size_after
from ..qcow2.header_view import view_header
from ..qcow2.probe import PROBE_SIZE, header_fields
from .known import Reasons, needs_parts
from .messages import CHANGED_FIELDS
from .result import RANGES_MAX, AmendStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ..image.image_file import ImageFile
    from ..image.view import AnyImage
    from ..request import AmendRequest
    from .messages import Plan

    Progress = Callable[[int, int], None]
    Planner = Callable[[AnyImage, AmendRequest, Progress | None, float], Plan]

RANGES_MAX_OF_STEPS = RANGES_MAX // 2
"""Ranges that are told of all steps: half as many, as a document has each of them twice."""


def plan_chain(
    image: ImageFile,
    steps: Sequence[AmendRequest],
    plan: Planner,
    progress: Progress | None = None,
) -> tuple[Plan, ...]:
    """Have all steps planned and judged; nothing is written.

    `plan` does that for one step, and gets the image as that step finds it, the step, whom to tell
    the progress, and the seconds that have passed since the first step began. A step that cannot be
    one with this image is done in its parts. If one is refused those after it are planned all the
    same, and ImageRejected has what is known to be in their way too; else what `plan` raises ends
    the amend.
    """
    view = ImageView(image)
    begin = monotonic()
    plans: list[Plan] = []
    reasons = Reasons()
    left = list(steps)
    while left:
        step = left.pop(0)
        told = _share(progress, len(plans), len(plans) + 1 + len(left))
        try:
            made = plan(view, step.within(view.max_growth), told, monotonic() - begin)
        except ImageRejected as error:
            view.pass_over()
            if needs_parts(error) and step.parts():
                left[:0] = step.parts()
            else:
                reasons.add(step, error.refusals)
            continue
        view.lay(made.outcome.staged, made.judgement.work)
        plans.append(made)
    reasons.end()
    return tuple(plans)


def judge_end(image: ImageFile, request: AmendRequest, plans: Sequence[Plan]) -> None:
    """Hold the image that all steps leave to the whole request. GuestFault if one undid another."""
    view = ImageView(image)
    for plan in plans:
        view.lay(plan.outcome.staged, plan.judgement.work)
    request = request.for_disk(header_fields(image.read(0, PROBE_SIZE))["size"])
    if not is_satisfied(request, view_header(view.read)):
        raise GuestFault("the steps do not leave the image as they were asked to, all together")


def _share(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Take the progress of one step for its share of the progress of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)


def commit_chain(image: ImageFile, plans: Sequence[Plan], *, flush: bool) -> tuple[str, ...]:
    """Commit all steps in order; returns warnings. HostError says what state the image is in."""
    warnings: tuple[str, ...] = ()
    size = largest = image.size
    for plan in plans:
        size = size_after(size, plan.outcome.staged)
        largest = max(largest, size)
    image.check_limit(largest)  # here, rather than when some steps are done
    for number, plan in enumerate(plans):
        try:
            keys = plan.request.keys is not None
            commit(image, plan.outcome.staged, flush=flush, keys=keys)
        except HostError as error:
            raise HostError(f"{error}; {_place(plans, number)}") from error
        image.size = size_after(image.size, plan.outcome.staged)
        # What the steps to come take of it is written whole, or zeros that a hole is too.
        warnings += give_back(image, plan.judgement.spare.ranges, plan.judgement.spare.end)
    return warnings


def _place(plans: Sequence[Plan], number: int) -> str:
    """Say at which step an amend ended, and which ones are done."""
    spelled = [plan.request.spell() for plan in plans]
    done = " and ".join(spelled[:number]) or "none"
    return f"this was step {number + 1} of {len(plans)}, {spelled[number]}; steps done: {done}"


def describe_chain(plans: Sequence[Plan]) -> dict[str, Any]:
    """The fields of a result that tell of its steps."""
    return combine(tuple(_describe_steps(plans)))


def combine(steps: tuple[AmendStep, ...]) -> dict[str, Any]:
    """The fields of a result that its steps have too, of all together, and the steps."""
    amended = [step for step in steps if step.action == "amended"]
    return {
        "action": "amended" if amended else "noop",
        "atomic": all(step.atomic for step in steps) and len(amended) <= 1,
        "changes": tuple(_join(change for step in steps for change in step.changes)),
        "bytes_written": sum(step.bytes_written for step in steps),
        "ranges": tuple(part for step in steps for part in step.ranges),
        "more_ranges": sum(step.more_ranges for step in steps),
        "file_end": _end_of(steps),
        "steps": steps,
    }


def _end_of(steps: tuple[AmendStep, ...]) -> int | None:
    """Where the file is truncated, unless a later step has it reach further again, or may have."""
    end = None
    for step in steps:
        if step.file_end is not None:
            end = step.file_end
        elif end is not None:
            reaches = max((part.offset + part.length for part in step.ranges), default=0)
            end = None if step.more_ranges or reaches > end else end
    return end


def _describe_steps(plans: Sequence[Plan]) -> Iterator[AmendStep]:
    left = RANGES_MAX_OF_STEPS
    for plan in plans:
        step = AmendStep(asked=plan.request.told_all(), **plan.describe(left))
        left -= len(step.ranges)
        yield step


def _join(changes: Iterator[Change]) -> Iterator[Change]:
    """What becomes of each field and text in the end, in the order that each step has."""
    values: dict[str, tuple[int | str | None, int | str | None]] = {}
    for change in changes:
        before, _ = values.get(change.field, (change.before, None))
        values[change.field] = before, change.after
    for name in sorted(values, key=CHANGED_FIELDS.index):
        if values[name][0] != values[name][1]:
            yield Change(name, *values[name])
