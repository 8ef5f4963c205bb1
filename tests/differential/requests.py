"""What is asked of a random image: versions, sizes, widths, names, and chains. Test side."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.program import Program

VERSIONS = (
    *("compat=0.10", "compat=1.1", "lazy_refcounts=on", "lazy_refcounts=off"),
    *("compat=0.10,lazy_refcounts=off", "compat=0.10,lazy_refcounts=on"),
    *("compat=1.1,lazy_refcounts=on", "compat=1.1,lazy_refcounts=off", "compat=v2", "compat=v3"),
    *("--drop-bitmaps compat=0.10", "--drop-bitmaps compat=1.1"),
)
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
SECTOR = 512
NAME_MOST, DATA_NAME_MOST = 1023, 2048
FILLED_MOST = 64 << 20
"""How much qemu-img is to fill with zeros, in bytes."""
HIDDEN_MOST = 1 << 18
"""How many clusters a disk is to gain that hide what the backing file has there."""

_OVERLAY = re.compile(r" -b (\S+) -F (\w+) t\.qcow2")
_SIZES = re.compile(r"(?:t\.qcow2|n\.raw|b\.qcow2|b\.raw r|set size) (\d+)")
_POKED_NAMES = ("poke backing", "poke ext e2792aca")
_SLOW_BITS = 16
"""From clusters of so many bits on qemu-img takes a second or a minute for another width."""


@dataclass(frozen=True)
class Facts:
    """What a program is to make, as far as requests go by it; the image may turn out otherwise."""

    bits: int
    size: int
    extended: bool
    backing: tuple[str, str] | None
    """Name and format; None also where an edit may have changed either."""
    data_file: bool
    below: int
    """The backing file has no more bytes."""
    longest: int = 0
    """Neither has any file that an edit may have made the backing file."""

    @property
    def mapped(self) -> int:
        """How many bytes of the disk an L2 table maps."""
        return 1 << 2 * self.bits - (4 if self.extended else 3)


def facts_of(program: Program) -> Facts:
    """Read them from the description of the image, or from the steps."""
    poked = any(step.startswith(_POKED_NAMES) for step in program.steps)
    steps = "\n".join(program.steps)
    sizes = [int(size) for size in _SIZES.findall(steps)]
    longest = max(map(int, re.findall(r"b\.(?:raw r|qcow2) (\d+)", steps)), default=0)
    below = 0 if poked else longest
    if program.forged:
        image = program.forged[0][1]
        named = (image.backing_file or b"").endswith(b"b.raw") and not poked
        name = (image.backing_file or b"").decode("ascii", "replace")
        backing = (name, "raw") if named and image.backing_format else None
        grown = [int(size) for size in re.findall(r"set size (\d+)", steps)]
        size = grown[-1] if grown else image.size
        named_data = bool(image.data_file)
        return Facts(
            image.cluster_bits, size, image.extended_l2, backing, named_data, below, longest
        )
    created = re.search(r"cluster_size=(\d+),", steps)
    found = _OVERLAY.findall(steps)
    return Facts(
        bits=int(created[1]).bit_length() - 1 if created else 12,
        size=sizes[-1] if sizes else 1 << 16,
        extended="extended_l2=on" in steps,
        backing=found[-1] if found and not poked else None,
        data_file="data_file=" in steps,
        below=below,
        longest=longest,
    )


def requests(rng: random.Random, program: Program) -> Iterator[str]:
    """What to ask of the image, most often of it as it is, each on a copy of its own."""
    facts = facts_of(program)
    yield from rng.sample(VERSIONS[:4], 1)
    yield from rng.sample(VERSIONS, 2)
    for _ in range(2):
        yield f"{_allowed(rng, facts)}size={size(rng, facts)}"
    yield _resize(rng, facts)
    yield _width(rng, facts)
    yield from _names(rng, facts)
    for _ in range(2):
        yield _chain(rng, facts)


def size(rng: random.Random, facts: Facts, *, old: bool = False) -> int:
    """At the boundary of something, or a sector from it.

    Over a longer backing file all that a disk gains becomes zero clusters, which all readers have
    to go through. If the image is to be an `old` one, qemu-img then fills them in the downgrade.
    """
    most = FILLED_MOST if old else HIDDEN_MOST << facts.bits
    wanted = _size(rng, facts)
    while facts.longest > facts.size and wanted > facts.size + most:
        wanted = _size(rng, facts)
    return wanted


def _size(rng: random.Random, facts: Facts) -> int:
    if rng.random() < 0.02:  # at the limits, which both refuse or both take
        most = facts.mapped << 22  # with 32 MiB of L1 table
        return rng.choice(((1 << 63) - SECTOR, min(most, 1 << 62) + SECTOR))
    cluster = 1 << facts.bits
    unit = rng.choice((SECTOR, cluster, cluster, facts.mapped, facts.mapped))
    if facts.bits < 11 and rng.random() < 0.2:
        unit = facts.mapped * (cluster // 8)  # of a cluster of the L1 table
    if rng.random() < 0.1:
        return max(facts.size // 2 // SECTOR * SECTOR, SECTOR)
    near = facts.size // unit + rng.choice((-2, -1, 0, 0, 1, 1, 2, 5, 40))
    return max(near * unit + rng.choice((-SECTOR, 0, 0, SECTOR)), SECTOR)


def _allowed(rng: random.Random, facts: Facts) -> str:
    """Mostly all that a new size may need."""
    flags = "--shrink " if rng.random() < 0.9 else ""
    return flags + (f"--backing-size={facts.below} " if rng.random() < 0.3 and facts.below else "")


def _resize(rng: random.Random, facts: Facts) -> str:
    wanted = size(rng, facts)
    if wanted < 1 << 62 and rng.random() < 0.5:
        return f"resize --shrink {wanted - facts.size // SECTOR * SECTOR:+}"
    return f"resize {'--shrink ' if rng.random() < 0.9 else ''}{wanted}"


def _width(rng: random.Random, facts: Facts) -> str:
    """A width; where qemu-img takes minutes, only instar is asked."""
    alone = facts.bits > _SLOW_BITS or (facts.bits == _SLOW_BITS and rng.random() < 0.9)
    return f"{'alone ' if alone else ''}refcount_bits={rng.choice(WIDTHS)}"


def _names(rng: random.Random, facts: Facts) -> Iterator[str]:
    """Names of any length, after which each layer reads as before, or as without backing file."""
    if facts.backing:
        name, form = facts.backing
        chance = rng.random()
        if chance < 0.6:
            yield f"rebase -b {_longer(rng, name, NAME_MOST)} -F {form}"
        elif chance < 0.75:
            yield "rebase -b ''"
        else:
            yield f"backing_file={name},backing_fmt={form}"
    elif rng.random() < 0.15:
        yield rng.choice(("rebase -b ''", "backing_file=b.raw,backing_fmt=raw", "backing_fmt=raw"))
    if facts.data_file:
        yield f"data_file={_longer(rng, 'd.raw', DATA_NAME_MOST)}"
    if facts.data_file or rng.random() < 0.05:
        yield f"data_file_raw={rng.choice(('off', 'off', 'off', 'on'))}"
    elif rng.random() < 0.05:
        yield "data_file=d.raw"


def _longer(rng: random.Random, name: str, most: int) -> str:
    """The same file by a name of up to `most` bytes."""
    base = name.rpartition("/")[2]
    room = (most - len(base)) // 2
    return "./" * rng.choice((0, 1, rng.randrange(40), rng.randrange(room + 1), room)) + base


def _chain(rng: random.Random, facts: Facts) -> str:
    """Two to five options at once, in any order."""
    compat = f"compat={rng.choice(('0.10', '1.1', '1.1'))}"
    sized = f"size={size(rng, facts, old=compat == 'compat=0.10')}"
    pool = [
        compat,
        f"lazy_refcounts={rng.choice(('on', 'off'))}",
        *([sized] if not facts.data_file or rng.random() < 0.2 else []),
    ]
    alone = facts.bits >= _SLOW_BITS
    width = f"refcount_bits={rng.choice((*WIDTHS, 16, 16))}"
    if not alone or rng.random() < 0.3:
        pool.append(width)
    if facts.backing:
        pool.append(f"backing_file={facts.backing[0]},backing_fmt={facts.backing[1]}")
    if facts.data_file:
        pool += [f"data_file={_longer(rng, 'd.raw', 200)}", "data_file_raw=off"]
    chosen = rng.sample(pool, min(len(pool), rng.choice((2, 2, 3, 3, 4, 5))))
    flags = _allowed(rng, facts) if sized in chosen else ""
    if facts.backing and rng.random() < 0.1:
        flags = "--change-backing " + flags
    return f"{'alone ' if alone and width in chosen else ''}{flags}{','.join(chosen)}"
