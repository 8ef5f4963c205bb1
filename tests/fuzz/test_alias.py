"""Test side: overlapping images through the real payload; and the oracle sees what is wrong."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest

from tests.fuzz.alias import Aliases, compare, run
from tests.fuzz.alias_images import Case, is_sound, make_true, random_cases
from tests.fuzz.contract_states import FindingError
from tests.fuzz.limits import Limits
from tests.support.forge import Bitmap, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.model import COPIED, Model

SEED, CASES = 1, 300
IMAGE = Image(
    cluster_bits=9,
    size=1 << 14,
    clusters={0: Data(b"a"), 1: Zero(), 2: ZeroAllocated(b"z")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"b")})],
    bitmaps=[Bitmap(name=b"b", dirty=(0, 3), granularity_bits=9)],
    crypt_method=2,
    crypto_header=b"k" * 700,
)


@pytest.mark.kvm
def test_overlapping_images_are_amended_right_or_refused() -> None:
    tally = run(SEED, Limits(CASES, seconds=600))
    assert (tally.cases, tally.findings) == (CASES, 0)
    amended = tally.outcomes["sound amended"] + tally.outcomes["wrong amended"]
    refused = tally.outcomes["sound overlap"] + tally.outcomes["wrong overlap"]
    assert min(amended, refused) > 15


@pytest.mark.kvm
def test_a_disk_that_ends_within_a_sector_keeps_its_snapshots_in_whole_ones() -> None:
    """Version 3 wants the size of the snapshot's disk, and no program shows more of it."""
    snapshots = [Snapshot(name=b"s", extra_data_size=0)]
    image = Image(version=2, cluster_bits=9, size=(1 << 14) - 200, snapshots=snapshots)
    with Aliases() as aliases:
        aliases.judge(Case(bytearray(image.build()), backed=False, request={"compat": "1.1"}))
        assert aliases.tally.outcomes == {"sound amended": 1}


def test_the_cases_of_a_seed_are_always_the_same() -> None:
    one, other = (random_cases(random.Random(7)) for _ in range(2))  # noqa: S311 - as it says
    for _ in range(40):
        first, second = next(one), next(other)
        assert (first.data, first.request) == (second.data, second.request)


def test_cases_overlap_and_many_are_sound() -> None:
    rng = random.Random(5)  # noqa: S311 - the same images in every run
    sound = shared = 0
    for _, case in zip(range(200), random_cases(rng), strict=False):
        model = case.model
        sound += is_sound(model)
        shared += any(count > 1 for count in model.counted.values())
    assert sound > 60
    assert shared > 100


def byte(region: str, at: int = 0) -> Callable[[bytearray], None]:
    """Change a byte of a region."""

    def change(data: bytearray) -> None:
        data[IMAGE.regions()[region].start + at] ^= 1

    return change


def flag(data: bytearray) -> None:
    data[IMAGE.regions()["l2_table[0]"].start] ^= COPIED >> 56


def block(region: str, refcount: int) -> Callable[[bytearray], None]:
    """Change a refcount."""

    def change(data: bytearray) -> None:
        place = IMAGE.regions()["refcount_block[0]"].start
        place += 2 * (IMAGE.regions()[region].start >> 9)
        data[place : place + 2] = refcount.to_bytes(2, "big")

    return change


DAMAGE = {
    "data of the disk": (byte("data[0]"), "layer 0 reads otherwise at cluster 0"),
    "data of a snapshot": (byte("snapshot[0].data[0]"), "layer 1 reads otherwise at cluster 0"),
    "an L2 table": (byte("l2_table[0]", 5), "layer 0 reads otherwise at cluster 0"),
    "a bitmap": (byte("bitmap[0].data[0]"), "bitmaps say otherwise"),
    "a bitmap's name": (byte("bitmap_directory", 12), "bitmaps say otherwise"),
    "the LUKS header": (byte("crypto_header", 600), "LUKS header: was"),
    "a snapshot": (byte("snapshot_table", 20), "snapshots: was"),
    "a refcount too low": (block("data[0]", 0), "refcount 0, 1 users"),
    "a refcount too high": (block("data[0]", 2), "refcount 2, 1 users"),
    "a cluster leaked": (block("header_cluster", 2), "cluster 0: refcount 2, 1 users"),
    "a flag": (flag, "COPIED flag is wrong"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_oracle_sees_damage(what: str) -> None:
    change, said = DAMAGE[what]
    data = bytearray(IMAGE.build())
    change(data)
    with pytest.raises(FindingError, match=said):
        compare(Model(IMAGE.build()), Model(data), sound=True)


def test_the_oracle_sees_nothing_else() -> None:
    compare(Model(IMAGE.build()), Model(IMAGE.build()), sound=True)


@pytest.mark.kvm
@pytest.mark.parametrize(("refcount", "outcome"), [(1, "wrong amended"), (2, "sound overlap")])
def test_compressed_data_in_a_name_is_seen_where_a_refcount_tells_of_it(
    refcount: int, outcome: str
) -> None:
    image = Image(
        version=2, cluster_bits=10, size=1 << 14, backing_file=b"n" * 100, clusters={1: Data(b"d")}
    )
    data = bytearray(image.build())
    place = data.index(b"n" * 100) + 20
    packed = zlib.compressobj(wbits=-12)
    stream = packed.compress(b"Q" * 1024) + packed.flush()
    data[place : place + len(stream)] = stream
    table = image.regions()["l2_table[0]"].start
    data[table : table + 8] = ((1 << 62) + place).to_bytes(8, "big")
    block = image.regions()["refcount_block[0]"].start
    data[block : block + 2] = refcount.to_bytes(2, "big")
    with Aliases() as aliases:
        aliases.judge(Case(data, backed=True, request={"compat": "1.1"}))
        assert aliases.tally.outcomes == {outcome: 1}


def test_refcounts_and_flags_are_made_true() -> None:
    data = bytearray(IMAGE.build())
    block("data[0]", 7)(data)
    block("l1_table", 0)(data)
    case = Case(data, backed=False, request={})
    assert not is_sound(case.model)
    make_true(case)
    assert is_sound(case.model)
    assert case.data == IMAGE.build()
