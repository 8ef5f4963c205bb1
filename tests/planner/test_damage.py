"""The planner on damaged images and failing reads: always a verdict, never a misstep. Test side."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from instar.vmm.qcow2.probe import parse_fixed_header
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Compressed, Data, Extension, Image, Snapshot, Zero
from tests.support.planner import SECTOR, ask
from tests.support.planner_checks import assert_promises

REQUESTS = [
    AmendRequest.of(compat=version, lazy_refcounts=lazy)
    for version in (None, 2, 3)
    for lazy in (None, False, True)
]
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)
SEEDS = range(16)
ROUNDS = 500
"""For each seed: so many damaged images, so many requests."""


def whole(version: int, cluster_bits: int, **fields: Any) -> Image:
    """An image with a bit of everything that a downgrade has to look at."""
    far = 1 << (cluster_bits - 3)
    clusters = {0: Data(b"a"), 1: Compressed(b"b"), far: Data(b"c")}
    everything: dict[str, Any] = {
        "version": version,
        "cluster_bits": cluster_bits,
        "size": (far + 2) << cluster_bits,
        "clusters": clusters,
        "snapshots": [Snapshot(name=b"s1"), Snapshot(name=b"s2", clusters={0: Data(b"d")})],
        "extensions": [Extension(0x11111111, b"x" * 20), Extension(0x22222222, b"y" * 33)],
        "backing_file": b"base.qcow2",
        "backing_format": b"qcow2",
    }
    return Image(**{**everything, **fields})


@cache
def images() -> list[tuple[bytes, tuple[range, ...]]]:
    """Images, with where their parts are."""
    described = [whole(version, bits) for version in (2, 3) for bits in (9, 10, 12, 16)]
    described += [
        whole(3, 10, lazy_refcounts=True, header_length=120),
        whole(3, 12, bitmaps=[Bitmap(name=b"b0")], autoclear_features=0x10),
        whole(3, 16, extended_l2=True, clusters={0: Data(b"a")}),
        whole(3, 9, clusters={0: Zero()}, refcount_order=3),
        whole(2, 12, extensions=[Extension(0x11111111, b"x" * 1800)]),
    ]
    return [(image.build(), tuple(image.regions().values())) for image in described]


def damage(rng: random.Random, data: bytes, regions: tuple[range, ...]) -> bytes:
    """Change a few bytes, mostly in the header and at the start of tables; or cut the file."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        region = rng.choice((range(4, 220), range(4, 220), *regions))
        at = region.start + rng.randrange(min(len(region), 220) or 1)
        width = rng.choice((1, 1, 2, 4, 8))
        at -= at % width
        if at >= 4 and at + width <= len(damaged):
            damaged[at : at + width] = _other(rng, damaged[at : at + width], len(data))
    if rng.random() < 0.1:
        del damaged[rng.randrange(4, len(damaged)) :]
    return bytes(damaged)


def _other(rng: random.Random, old: bytes | bytearray, length: int) -> bytes:
    """Another number: a bit flipped, a telling byte, noise, or a place about the file's size."""
    bits = 8 * len(old)
    number = rng.choice(
        (
            int.from_bytes(old, "big") ^ 1 << rng.randrange(bits),
            rng.choice(INTERESTING) << 8 * rng.randrange(len(old)),
            rng.getrandbits(bits),
            length // SECTOR * SECTOR * rng.randrange(3),
        )
    )
    return (number % (1 << bits)).to_bytes(len(old), "big")


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_gives_a_verdict_and_never_a_misstep(planner: Any, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - the same damage in every run
    for _ in range(ROUNDS):
        data = damage(rng, *rng.choice(images()))
        if parse_fixed_header(data[:SECTOR]) is None:
            continue  # the host does not even ask
        request = rng.choice(REQUESTS)
        answer = ask(planner, data, request, progress=rng.random() < 0.5)
        assert_promises(planner, data, request, answer)


def demanding() -> Iterator[tuple[Image, AmendRequest]]:
    """Images whose plans need reads in all places."""
    yield whole(3, 9), AmendRequest.of(compat=2)
    yield whole(3, 16), AmendRequest.of(compat=2)
    yield whole(2, 12), AmendRequest.of(compat=3, lazy_refcounts=True)
    yield whole(3, 12), AmendRequest.of(lazy_refcounts=True)
    large = [Extension(0x11111111, b"x" * 3000)]
    yield whole(2, 16, extensions=large), AmendRequest.of(compat=3)
    far = {"backing_file": b"n" * 1023, "backing_file_offset": 100_000}
    larger = [Extension(0x11111111, b"x" * 30_000), Extension(0x22222222, b"y" * 30_000)]
    yield whole(2, 17, extensions=larger, **far), AmendRequest.of(compat=3)
    near = {"backing_file": b"n" * 1023, "backing_file_offset": 5000}
    yield whole(2, 16, extensions=large, **near), AmendRequest.of(compat=3)


@pytest.mark.parametrize(("image", "request_"), list(demanding()))
def test_a_read_that_fails_is_a_refusal_whichever_it_is(
    planner: Any, image: Image, request_: AmendRequest
) -> None:
    data = image.build()
    whole_answer = ask(planner, data, request_)
    assert whole_answer.amended
    assert whole_answer.read_calls > 0
    for number in range(1, whole_answer.read_calls + 1):
        answer = ask(planner, data, request_, fail_read=number)
        assert_promises(planner, data, request_, answer)
        assert answer.refusals == ("read_failed",)


def test_progress_is_told_where_it_is_asked_for_and_nowhere_else(planner: Any) -> None:
    data = whole(3, 12).build()
    assert ask(planner, data, AmendRequest.of(compat=2), progress=True).progress_calls > 0
    assert ask(planner, data, AmendRequest.of(compat=2)).progress_calls == 0
    assert (
        ask(planner, data, AmendRequest.of(lazy_refcounts=True), progress=True).progress_calls == 0
    )
