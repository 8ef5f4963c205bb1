"""Turns a seed into a case: a program, what is asked of its image, and the judge. Test side."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.differential.forged import forged
from tests.differential.requests import facts_of, requests
from tests.differential.steps import encrypted, made
from tests.support.program import Program
from tests.support.recipe import IMAGE

_THOROUGH = 4
"""One case in so many is looked at by qemu itself; in the others the forge reads contents."""


@dataclass(frozen=True)
class Case:
    """An image and requests, each of which is taken to a copy of it."""

    program: Program
    requests: tuple[str, ...]
    judge: str
    """The version of qemu that it is compared with."""
    thorough: bool = True
    """Whether qemu reads all layers too, and checks what it made itself."""


def case_of(seed: int, versions: tuple[str, ...], judge: str | None = None) -> Case:
    """The case of a seed, the same one for the same versions.

    `versions` are those that may make images, `judge` the one to compare with; without it that is
    one of `versions` too, each in turn.
    """
    rng = random.Random(f"differential/{seed}")  # noqa: S311 - reproducible, not secret
    maker = rng.choice(versions)
    chance = rng.random()
    hides = rng.random() < 0.12
    if chance < 0.5:
        image = forged(rng)
        # The backing file, if it has one, is shorter or longer than the disk.
        steps = (f"write b.raw r {max(512, image.size * rng.choice((1, 2, 3)) // 2)}",)
        program = Program(maker, ((IMAGE, image),), steps if image.backing_file else ())
        size, bits = image.size, image.cluster_bits
    else:
        taken = made(rng) if chance < 0.97 else encrypted(rng)
        if any("zstd" in step for step in taken):
            maker = versions[-1]  # 5.2 was built without
        program = Program(maker, steps=taken)
        facts = facts_of(program)
        size, bits = facts.size, facts.bits
    if hides and size > 1 << bits:
        # What the disk has behind its new end hides there.
        shown = (
            rng.randrange(512, size + 1, 512) if rng.random() < 0.5 else size >> bits + 1 << bits
        )
        program = replace(program, steps=(*program.steps, f"poke set size {shown}"))
    return Case(
        program,
        tuple(dict.fromkeys(requests(rng, program))),
        judge or versions[seed % len(versions)],
        thorough=seed % _THOROUGH == 0,
    )
