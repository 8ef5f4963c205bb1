"""Host side: judges what the guest staged, as the states that a commit passes through.

Whatever the guest is, after this the change is one that was asked for. The image is looked at as it
is, and as it will be after each phase; what differs must be what the rules of the options allow in
that phase (rules/). An amend is judged by amended.py, a repair by repair/, and that there was
nothing to do here. What the host cannot see is in docs/threat-model.md.
"""

from __future__ import annotations

from ..base.errors import NO_MEMORY, GuestFault, HostError
from ..base.record import FrozenDict
from ..image.staging import ZeroedInUse
from ..qcow2.header_view import MalformedHeader, is_raw, texts_of
from ..request.kinds import tell_text
from .amended import Amended
from .differences import SWITCH
from .header import HeaderStates
from .rules import is_satisfied, judge_features, rules_of
from .terms import Change, Judgement, OutsideError, Spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..image.staging import StagedWrites
    from ..qcow2.header_view import HeaderView
    from ..request import AmendRequest
    from .terms import Claim, Original


def preload(request: AmendRequest) -> None:
    """Import what judge() may need, for a process that can open no file afterwards."""
    rules_of(request)
    if request.repairs:
        from .repair import repaired  # noqa: F401
    if request.writes_tables or request.moves_header:
        # Many changes write the fields of the header only.
        from . import one_sector, tables  # noqa: F401
    if request.refcount_bits is not None:
        from . import recoded  # noqa: F401
    if request.size is not None:
        from . import resized  # noqa: F401


def judge(
    original: Original, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> Judgement:
    """Say what will change if `staged` is committed, which then may be.

    Args:
        original: the image file.
        request: what was asked for.
        staged: what the guest wrote; it stays as it is.
        claim: what the guest says.

    Raises:
        GuestFault: it may not be committed.
        HostError: this machine has too little memory to tell.
        ImageRejected: it may not, because a cluster is in use that by its refcount is free, or
            has one user only; or because it takes too much work or memory to tell.
    """
    try:
        return _judge(original, request, staged, claim)
    except MalformedHeader as error:
        raise GuestFault(f"the guest accepted or made a malformed header: {error}") from error
    except (OutsideError, ZeroedInUse) as error:
        raise GuestFault(str(error)) from error
    except MemoryError as error:  # the budgets are less than any machine has that is not limited
        raise HostError(NO_MEMORY) from error
    except (OverflowError, RecursionError) as error:
        # The budgets come first; if they do not, it is for something that no planner stages.
        raise GuestFault(f"the guest stages what cannot be judged: {error}") from error


def _judge(
    original: Original, request: AmendRequest, staged: StagedWrites, claim: Claim
) -> Judgement:
    states = HeaderStates(_remember(original), staged)
    before = after = states.before
    warnings: tuple[str, ...] = ()
    work = 0
    spare = Spare((), None)
    if request.repairs:
        from .repair.repaired import judge_repair

        ends = {"amended": claim.amended, "atomic": claim.atomic}
        after, work = judge_repair(original, states, request, staged, **ends)
    elif claim.amended:
        amended = Amended(original, states, request, staged)
        after = amended.judge(claim.atomic)
        warnings, work, spare = amended.warnings, amended.work, amended.spare
    else:
        _judge_noop(before, request, staged, claim.atomic)
    old, new, texts = before.fields, after.fields, texts_of(after)
    # Version 2 has no feature words, which is what zeros mean.
    if not claim.fields.items() <= {**dict.fromkeys(claim.fields, 0), **new}.items():
        raise GuestFault("the guest reports another version or feature word than it wrote")
    differing = {name for name, _ in old.items() ^ new.items()}
    names = sorted(differing, key=[*{**old, **new}].index)
    changes = [Change(name, old.get(name), new.get(name)) for name in names]
    if (before.name, before.extensions) != (after.name, after.extensions):
        for key, text in texts_of(before).items():
            if text != texts[key]:
                changes.append(Change(key, tell_text(text), tell_text(texts[key])))
    return Judgement(
        amended=not staged.is_empty(),
        atomic=staged.count(SWITCH) <= 1,
        changes=tuple(changes),
        told=FrozenDict(data_file_raw=is_raw(after), **texts),
        warnings=warnings,
        work=work,
        spare=Spare((), None) if request.fixed_size else spare,  # a device has no holes
    )


def _remember(original: Original) -> Original:
    """Read each part of the file once: less work, and all is judged by the same bytes."""
    known: list[tuple[int, int, bytes]] = []  # hardly more than three

    def read_once(offset: int, size: int) -> bytes:
        for start, end, data in known:
            if start <= offset and offset + size <= end:
                return data[offset - start : offset - start + size]
        known.append((offset, offset + size, original.read(offset, size)))
        return known[-1][2]

    return type(original)(read_once, original.size, original.work_max, original.stored)


def _judge_noop(
    before: HeaderView, request: AmendRequest, staged: StagedWrites, atomic: bool
) -> None:
    if not staged.is_empty():
        raise GuestFault("the guest reports a no-op, yet wrote")
    if not is_satisfied(request, before):
        raise GuestFault("the guest reports a no-op, yet the image is not as asked")
    judge_features(before, before.fields["version"])
    if not atomic:
        raise GuestFault("the guest's switch is not the one it reports")
