"""Turns a seed into a case: a program, what is asked of its image, and the judge. Test side."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.differential.forged import forged
from tests.differential.steps import encrypted, made
from tests.support.program import Program
from tests.support.recipe import IMAGE

REQUESTS = (
    *("compat=0.10", "compat=1.1", "lazy_refcounts=on", "lazy_refcounts=off"),
    *("compat=0.10,lazy_refcounts=off", "compat=0.10,lazy_refcounts=on"),
    *("compat=1.1,lazy_refcounts=on", "compat=1.1,lazy_refcounts=off", "compat=v2", "compat=v3"),
    *("--drop-bitmaps compat=0.10", "--drop-bitmaps compat=1.1"),
)

_OVERLAY = re.compile(r" -b (\S+) -F (\w+) t\.qcow2")
_NAMING = ("poke backing", "poke ext e2792aca")


@dataclass(frozen=True)
class Case:
    """An image and requests, each of which is taken to a copy of it."""

    program: Program
    requests: tuple[str, ...]
    judge: str
    """The version of qemu that it is compared with."""


def case_of(seed: int, versions: tuple[str, ...], judge: str | None = None) -> Case:
    """The case of a seed, the same one for the same versions.

    `versions` are those that may make images, `judge` the one to compare with; without it that is
    one of `versions` too, each in turn.
    """
    rng = random.Random(f"differential/{seed}")  # noqa: S311 - reproducible, not secret
    maker = rng.choice(versions)
    chance = rng.random()
    if chance < 0.5:
        image = forged(rng)
        # The backing file, if it has one, is shorter or longer than the disk.
        steps = (f"write b.raw r {max(512, image.size * rng.choice((1, 2, 3)) // 2)}",)
        program = Program(maker, ((IMAGE, image),), steps if image.backing_file else ())
    else:
        taken = made(rng) if chance < 0.97 else encrypted(rng)
        if any("zstd" in step for step in taken):
            maker = versions[-1]  # 5.2 was built without
        program = Program(maker, steps=taken)
    common = rng.sample(REQUESTS[:4], 2)
    requests = (*common, *rng.sample(REQUESTS, 2), *_about_names(rng, program))
    return Case(program, tuple(dict.fromkeys(requests)), judge or versions[seed % len(versions)])


def _about_names(rng: random.Random, program: Program) -> Iterator[str]:
    """Requests that change names, after which each layer reads as before."""
    if rng.random() < 0.1:
        yield "data_file_raw=off"
    pokes = any(step.startswith(_NAMING) for step in program.steps)
    found = _OVERLAY.findall("\n".join(program.steps))
    if program.forged and (program.forged[0][1].backing_file or b"").endswith(b"b.raw"):
        found = [("b.raw", "raw")]
    if not found or pokes or rng.random() < 0.5:
        return
    name, form = found[-1]
    # The same file, by a name of any length.
    more = rng.choice((0, 1, rng.randrange(40), rng.randrange((1023 - len(name)) // 2 + 1)))
    yield f"rebase -b {'./' * more}{name} -F {form}"
