"""Host side: the result of an amend as people read it: with --dry-run before, with -v after it."""

from __future__ import annotations

from ..base.escape import escape
from ..request.options import BY_KEY, OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ..amend.result import AmendResult, AmendStep, ByteRange
    from ..contract.terms import Change

# In the order of the ABI's INSTAR_PHASE_*.
_PHASES = (
    *("before the switch", "before the switch: refcount table", "before the switch: mapping"),
    *("the switch", "after the switch", "after the switch: flags"),
    "when all is done: given back",
)
_ALWAYS_TOLD = ("compat", "lazy_refcounts")
_HEXADECIMAL_FIELDS = ("_features", "_offset")


def describe(result: AmendResult, asked: Collection[str]) -> str:
    """Return what a dry run found out, as lines for people, who asked for these options."""
    state = ", ".join(f"{key} {text or 'none'}" for key, text in _spell_options(result, asked))
    name = escape(result.filename)
    if result.action == "noop":
        return f"{name}: nothing to change ({state})\n"
    lines = [f"{name}: would become {state} ({_describe_switch(result)})"]
    if not result.steps:
        lines += [f"  {line}" for line in _describe_part(result)]
    for number, step in enumerate(result.steps, 1):
        asked = ",".join(f"{key}={_spell(key, value)}" for key, value in step.asked.items())
        what = f"{asked or 'repair'} ({_describe_switch(step)})"
        lines.append(f"  step {number} of {len(result.steps)}: {what}")
        lines += [f"    {line}" for line in _describe_part(step)]
    return "\n".join(lines) + "\n"


def _describe_switch(part: AmendResult | AmendStep) -> str:
    if part.action == "noop":
        return "nothing to change"
    return "atomic" if part.atomic else "not atomic"


def _describe_part(part: AmendResult | AmendStep) -> Iterator[str]:
    """What an amend, or a step of one, changes and writes."""
    yield from map(_describe_change, part.changes)
    yield from map(_describe_range, part.ranges)
    if part.more_ranges:
        ranges = "1 range" if part.more_ranges == 1 else f"{part.more_ranges} ranges"
        yield f"and {ranges} more"
    if part.file_end is not None:
        yield f"{_PHASES[-1]}: all of the file after {part.file_end} bytes"


def describe_done(result: AmendResult, asked: Collection[str]) -> str:
    """What is to be kept of an amend, in one line."""
    what = f"dry run, {result.action}" if result.dry_run else result.action
    written = 0 if result.dry_run else result.bytes_written
    state = ",".join(f"{key}={text}" for key, text in _spell_options(result, asked))
    payload = f", payload {result.payload_sha256}" if result.payload_sha256 else ""
    return f"'{escape(result.filename)}': {what} ({state}), {written} bytes written{payload}"


def _spell(key: str, value: str | int | None) -> str:
    """A value that was asked for, as -o has it."""
    return escape(BY_KEY[key].spell(value) if key in BY_KEY else str(value))


def _spell_options(result: AmendResult, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """What holds of the options that are asked for, and of those that people always hear of."""
    for row in OPTIONS:
        if result.format == "qcow2" and (row.key in asked or row.key in _ALWAYS_TOLD):
            yield row.key, escape(row.spell(result.options[row.key]))
    if "keys" in asked:
        changes = [change for change in result.changes if change.field.startswith("keyslot_")]
        yield from ((change.field, _describe_keyslot(change.after)) for change in changes)


def _describe_change(change: Change) -> str:
    values = (_describe_value(change.field, value) for value in (change.before, change.after))
    return f"{change.field}: {' -> '.join(values)}"


def _describe_keyslot(iterations: int | str | None) -> str:
    return "none" if iterations is None else f"{iterations} iterations"


def _describe_value(field: str, value: int | str | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return f"'{escape(value)}'"
    return hex(value) if field.endswith(_HEXADECIMAL_FIELDS) else str(value)


def _describe_range(byte_range: ByteRange) -> str:
    phase = _PHASES[byte_range.phase]
    is_hole = phase == _PHASES[-1]
    what = " of zeros" if byte_range.zeroes and not is_hole else ""
    return f"{phase}: {byte_range.length} bytes{what} at {byte_range.offset:#x}"
