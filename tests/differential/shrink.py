"""Makes a finding small: leaves out pieces of its case while it is still found. Test side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from construct import ConstructError

from tests.differential.generate import Case
from tests.support.forge import Image

_TRIES = 400


def shrink(case: Case, is_found: Callable[[Case], bool]) -> Case:
    """A case of as few pieces as possible for which `is_found` still says yes."""
    tries = 0
    again = True
    while again:
        again = False
        for smaller in _smaller(case):
            tries += 1
            if tries > _TRIES:
                return case
            if is_found(smaller):
                case, again = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """The case with one piece less, the large pieces first."""
    program = case.program
    for number in range(len(program.steps)):
        steps = program.steps[:number] + program.steps[number + 1 :]
        yield replace(case, program=replace(program, steps=steps))
    for number, (name, image) in enumerate(program.forged):
        for smaller in _smaller_images(image):
            forged = [*program.forged]
            forged[number] = (name, smaller)
            yield replace(case, program=replace(program, forged=tuple(forged)))


def _smaller_images(image: Image) -> Iterator[Image]:
    for changed in _changes(image):
        try:
            smaller = replace(image, **changed)
            smaller.build()
        except (ConstructError, ValueError):
            continue
        yield smaller


def _changes(image: Image) -> Iterator[dict[str, Any]]:
    """Fields back to their defaults, then parts of them left out."""
    for name, value, default in _set_fields(image):
        if name not in ("cluster_bits", "size"):
            yield {name: default}
        if isinstance(value, Mapping):
            for key in value:
                yield {name: {k: part for k, part in value.items() if k != key}}
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            for number in range(len(value)):
                yield {name: [*value[:number], *value[number + 1 :]]}
    for number, snapshot in enumerate(image.snapshots):
        for key in snapshot.clusters or ():
            left = {k: part for k, part in (snapshot.clusters or {}).items() if k != key}
            changed = [*image.snapshots]
            changed[number] = replace(snapshot, clusters=left)
            yield {"snapshots": changed}


def _set_fields(description: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of the fields that were given another value than that."""
    plain = type(description)() if isinstance(description, Image) else None
    for field in fields(description):
        value = getattr(description, field.name)
        default = getattr(plain, field.name) if plain is not None else field.default
        if value != default:
            yield field.name, value, default


def expression(value: Any) -> str:
    """A forge's description as Python, without the fields that have their default values."""
    if type(value).__module__.startswith("tests.support.forge"):
        parts = [f"{name}={expression(given)}" for name, given, _ in _set_fields(value)]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, Mapping):
        parts = [f"{expression(key)}: {expression(part)}" for key, part in value.items()]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(expression, value))}]"
    return repr(value)


SCRIPT = '''"""Run in instar's folder: PYTHONPATH=. .venv/bin/python FILE"""
from tests.differential.generate import Case
from tests.support.program import Program
from tests.differential.run import run_case
from tests.support.forge import *

program = Program(
    maker={maker!r},
    forged=({forged}),
    steps=({steps}),
)
for request, finding in run_case(Case(program, {requests!r}, judge={judge!r})).findings:
    print(request, finding)
'''


def script(case: Case) -> str:
    """A program that runs a case alone and prints what it finds."""
    program = case.program
    forged = [f"\n        ({name!r}, {expression(image)})," for name, image in program.forged]
    steps = [f"\n        {step!r}," for step in program.steps]
    end = "\n    "
    return SCRIPT.format(
        maker=program.maker,
        forged="".join(forged) + (end if forged else ""),
        steps="".join(steps) + (end if steps else ""),
        requests=case.requests,
        judge=case.judge,
    )
