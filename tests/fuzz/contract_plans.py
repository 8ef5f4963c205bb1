"""Test side: honest images with what an honest guest stages for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from construct import ConstructError

from instar import abi
from instar.vmm.request import AmendRequest
from tests.fuzz.images import random_image
from tests.support.forge import (
    Bitmap,
    Data,
    Image,
    Reader,
    Snapshot,
    Zero,
    ZeroAllocated,
    faults,
    layout,
)
from tests.support.planner import SECTOR, Answer, ask
from tests.support.planning import Case
from tests.support.project import load_planner
from tests.support.tables import BACKED, BLOCKS, OLD, PLAIN

_GROWTH = 1 << 26
_SIZE_MAX = 1 << 19
_NAMING = (*(layout.EXTENSION_BITMAPS, layout.EXTENSION_CRYPTO_HEADER, layout.EXTENSION_DATA_FILE),)
_REQUESTS = (
    *(
        AmendRequest.of(compat=2),
        AmendRequest.of(compat=2),
        AmendRequest.of(compat=2, drop_bitmaps=True),
    ),
    *(
        AmendRequest.of(compat=3),
        AmendRequest.of(compat=3),
        AmendRequest.of(compat=3, lazy_refcounts=True),
    ),
    *(
        AmendRequest.of(compat=2, lazy_refcounts=False, drop_bitmaps=True),
        AmendRequest.of(lazy_refcounts=True),
        AmendRequest.of(lazy_refcounts=False),
    ),
)


def honest_cases(rng: random.Random) -> Iterator[Case]:
    """Images without faults, with the planner's plans: the same ones for the same generator."""
    while True:
        image = _image(rng)
        try:
            data = image.build()
            if len(data) > _SIZE_MAX or faults(Reader(data)):
                continue
        # No image, or with extensions that nothing reads, or that name what is nowhere.
        except (ConstructError, OverflowError, ValueError):
            continue
        requests = rng.sample(_REQUESTS, 3)
        if rng.random() < 0.6:
            requests[rng.randrange(3)] = _another(rng, image)
        for request in requests:
            allowed = {"drop_bitmaps": request.drop_bitmaps, "shrink": request.shrink}
            grown = AmendRequest.of(**request.options, **allowed, max_growth=_GROWTH)
            try:
                answer = ask(load_planner(), data, grown)
            except AssertionError:  # no header
                break
            if answer.planned and not answer.refusals:
                yield case_of(data, grown, answer)


def _another(rng: random.Random, image: Image) -> AmendRequest:
    """Refcounts of another width, or another size where no backing file shows what comes to it."""
    if image.backing_file or rng.random() < 0.4:
        return AmendRequest.of(refcount_bits=1 << rng.randrange(7))
    cluster, size = 1 << image.cluster_bits, image.size
    steps = (SECTOR, cluster, cluster * cluster // 8, 40 * cluster)
    size += rng.choice((-1, 1)) * (rng.choice(steps) + rng.choice((-SECTOR, 0, SECTOR)))
    return AmendRequest.of(size=max(size // SECTOR * SECTOR, SECTOR), shrink=True)


def _image(rng: random.Random) -> Image:
    if rng.random() < 0.4:
        return rng.choice((PLAIN, BACKED, BLOCKS, OLD, *_shared()))
    image = random_image(rng)
    # Those that the forge does not fill name whatever their bytes happen to say.
    image = replace(image, extensions=[e for e in image.extensions if e.type not in _NAMING])
    if rng.random() < 0.3 and image.version == 3:
        bitmaps = [Bitmap(name=b"b%d" % n, dirty=(n,)) for n in range(rng.randrange(1, 4))]
        image = replace(image, bitmaps=bitmaps, extensions=())
    if rng.random() < 0.15:
        size = rng.choice((600, 4096))
        image = replace(image, crypto_header=b"LUKS\xba\xbe" * (size // 6), extensions=())
    return image


def _shared() -> tuple[Image, ...]:
    """Tables and clusters that layers share, bitmaps and slack."""
    clusters = {0: Data(b"a"), 1: Zero(), 2: ZeroAllocated(b"z"), 70: Zero(), 71: Data(b"q")}
    base: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 16, "clusters": clusters}
    snapshots = [Snapshot(name=b"same"), Snapshot(name=b"own", clusters={1: Zero(), 2: Data(b"z")})]
    bitmaps = [Bitmap(name=b"one", dirty=(0, 1)), Bitmap(name=b"two")]
    return (
        Image(**base, snapshots=snapshots),
        Image(**base, snapshots=snapshots, backing_file=b"base"),
        Image(**base, snapshots=snapshots, bitmaps=bitmaps, backing_file=b"base"),
        Image(**{**base, "size": (1 << 16) - 300}, bitmaps=bitmaps),
        Image(version=2, size=1 << 20, snapshots=[Snapshot(name=b"s", extra_data_size=0)]),
        Image(version=2, size=1 << 20, clusters={0: Data(b"a")}),
    )


def case_of(data: bytes, request: AmendRequest, answer: Answer) -> Case:
    """What the planner answered as a case that can be judged."""
    phases: list[dict[int, bytes]] = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
    zeroes = []
    for write in answer.writes:
        first, count = write.offset // SECTOR, len(write.data) // SECTOR
        if write.zeroes:
            zeroes.append((first, count))
            continue
        for at in range(count):
            phases[write.phase][first + at] = write.data[at * SECTOR : (at + 1) * SECTOR]
    return Case(data, request, phases, answer.claim, zeroes)


def copy_of(case: Case) -> Case:
    """A case that can be changed."""
    phases = [dict(phase) for phase in case.phases]
    return Case(case.data, case.request, phases, case.claim, list(case.zeroes))
