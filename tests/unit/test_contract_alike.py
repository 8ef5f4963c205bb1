"""Test side: rules for one L2 entry hold as well for a whole sector of entries that change alike.

The judge looks at 64 entries that change in the same way at once. So each rogue of an entry is
tried with one and with 64. Conditions that only single entries have come after these.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.mapping import differing, without_plain
from tests.support.forge import Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.clusters import Cluster
from tests.support.reference import COPIED, Model, downgrade
from tests.support.tables import (
    BLOCKS,
    ENTRY,
    FLAGS,
    MAPPING,
    NOTHING,
    PREPARE,
    RELEASE,
    SMALL,
    TABLE,
    assert_fault,
    place,
)

COUNTS = pytest.mark.parametrize("count", [1, 64])
COMPRESSED = 1 << 62


def image_of(cluster: Cluster, count: int, *, backed: bool, **more: Any) -> Image:
    """So many clusters from the start of the disk on, and one of zeros in the next sector."""
    clusters = {**dict.fromkeys(range(count), cluster), 64: Zero()}
    backing = {"backing_file": b"base"} if backed else {}
    return Image(**{**SMALL, "clusters": clusters, **backing, **more})


def honest(image: Image) -> Model:
    model = downgrade(image)
    model.case.judge()
    return model


def with_new_books(model: Model) -> Model:
    """The refcounts as the changes that the model has noted would have them."""
    for phase in (PREPARE, TABLE, RELEASE):
        model.case.phases[phase].clear()
    model.account()
    return model


def hosts(image: Image, count: int) -> list[int]:
    return [image.regions()[f"data[{n}]"].start for n in range(count)]


@COUNTS
def test_data_do_not_become_zeros(count: int) -> None:
    image = image_of(Data(b"d"), count, backed=True)
    model = honest(image)
    first = model.allocate(count)
    for n in range(count):
        model.word(MAPPING, place(image, n), first + 512 * n | COPIED)
        model.zero(first + 512 * n)
    assert_fault(with_new_books(model), ENTRY)


@COUNTS
@pytest.mark.parametrize("backed", [True, False])
def test_data_are_not_dropped(count: int, backed: bool) -> None:
    image = image_of(Data(b"d"), count, backed=backed)
    model = honest(image)
    for n, host in enumerate(hosts(image, count)):
        model.word(MAPPING, place(image, n), 0)
        model.release(host, 512)
    assert_fault(with_new_books(model), ENTRY)


@COUNTS
@pytest.mark.parametrize("cluster", [Zero(), ZeroAllocated(b"z")])
def test_clusters_of_an_encrypted_image_are_not_filled(count: int, cluster: Cluster) -> None:
    image = image_of(cluster, count, backed=True, crypt_method=1)
    assert_fault(downgrade(image), ENTRY)


@COUNTS
@pytest.mark.parametrize("cluster", [Zero(), ZeroAllocated(b"z")])
def test_zeros_do_not_read_from_the_backing_file(count: int, cluster: Cluster) -> None:
    image = image_of(cluster, count, backed=True)
    model = honest(image)
    for n in range(count):
        (word,) = (w for at, w in model.entries(place(image, 0), MAPPING) if at == place(image, n))
        zeroes, host = model.case.zeroes, word & ~COPIED
        zeroes.remove((host // 512, 1))
        if isinstance(cluster, ZeroAllocated):
            model.release(host, 512)
        else:
            del model.changes[host // 512]
        model.word(MAPPING, place(image, n), 0)
    assert_fault(with_new_books(model), ENTRY)


@COUNTS
def test_two_entries_do_not_get_one_cluster(count: int) -> None:
    clusters = dict.fromkeys((*range(count), *range(64, 64 + count)), Zero())
    image = Image(**SMALL, clusters=clusters, backing_file=b"base")
    model = honest(image)
    first, second = (image.regions()[f"l2_table[{n}]"].start for n in (0, 1))
    words = [word for _, word in model.entries(first, MAPPING)]
    for n, (at, word) in enumerate(model.entries(second, MAPPING)):
        del model.changes[(word & ~COPIED) // 512]
        model.case.zeroes.remove(((word & ~COPIED) // 512, 1))
        model.word(MAPPING, at, words[n])
    assert_fault(with_new_books(model), "in use|L2 entry")


@COUNTS
@pytest.mark.parametrize("cluster", [Zero(), ZeroAllocated(b"z")])
def test_no_new_cluster_keeps_old_bytes(count: int, cluster: Cluster) -> None:
    model = honest(image_of(cluster, count, backed=True))
    del model.case.zeroes[count // 2]
    assert_fault(model, ENTRY)


@COUNTS
@pytest.mark.parametrize("cluster", [Data(b"d"), ZeroAllocated(b"z"), Zero()])
@pytest.mark.parametrize("new", [0, 1, COPIED | 1 << 19, COMPRESSED | 1 << 19])
def test_alone_no_entry_changes_but_plain_zeros_to_none(
    count: int, cluster: Cluster, new: int
) -> None:
    image = image_of(cluster, count, backed=False)
    model = downgrade(image)
    for phase in (PREPARE, TABLE, RELEASE, FLAGS):
        model.case.phases[phase].clear()
    model.case.zeroes.clear()
    for n in range(count):
        model.word(MAPPING, place(image, n), new)
    if isinstance(cluster, Zero) and not new:
        model.case.judge()
    else:
        assert_fault(model, f"{ENTRY}|leaves zero clusters|stages no refcounts")


@COUNTS
@pytest.mark.parametrize("flag", [COPIED, 1 << 61, COMPRESSED])
def test_no_new_entry_has_another_flag(count: int, flag: int) -> None:
    image = image_of(Zero(), count, backed=True)
    model = honest(image)
    for at, word in model.entries(place(image, 0), MAPPING):
        model.word(MAPPING, at, word ^ flag)
    assert_fault(model, f"{ENTRY}|leaves zero clusters")


class TestOne:
    """Conditions that only single entries have."""

    def compressed(self, word: int, backed: bool, **more: Any) -> tuple[Image, int]:
        image = image_of(Data(b"c"), 6, backed=backed, **more)
        host = image.regions()["data[5]"].start
        patch = ("l2_table[0]", 40, (COMPRESSED | word | host).to_bytes(8, "big"))
        return Image(**{**vars(image), "patches": [patch]}), host

    def test_compressed_data_are_not_dropped_though_bit_0_is_set(self) -> None:
        image, host = self.compressed(1, backed=False)
        model = honest(image)
        model.word(MAPPING, place(image, 5), 0)
        model.release(host, 512)
        assert_fault(with_new_books(model), ENTRY)

    def test_a_cluster_is_not_taken_that_the_end_of_a_compressed_one_is_in(self) -> None:
        _, host = self.compressed(0, backed=True)
        image, same = self.compressed(1 << 61, backed=True, holes=[host // 512 + 1])
        assert same == host
        model = downgrade(image)
        assert model.changes[host // 512 + 1] == 1
        with pytest.raises(ImageRejected, match="is used twice"):
            model.case.judge()

    def test_a_cluster_that_two_of_three_still_use_is_not_marked(self) -> None:
        layers = [
            Snapshot(name=b"a", clusters={3: Data(b"s"), 4: Data(b"x")}),
            Snapshot(name=b"b", clusters={3: ZeroAllocated(b"s")}),
        ]
        image = Image(**SMALL, clusters={1: Zero(), 3: Data(b"s")}, snapshots=layers)
        model = honest(image)
        host = image.regions()["data[3]"].start
        assert (model.old[host // 512], model.final(host)) == (3, 2)
        model.word(FLAGS, place(image, 3), host | COPIED)
        assert_fault(model, ENTRY)


class TestRefcountTable:
    @pytest.mark.parametrize("where", ["before", "after"])
    def test_the_sector_beside_it_is_not_written(self, where: str) -> None:
        model = honest(BLOCKS)
        table = BLOCKS.regions()["refcount_table"]
        at = table.stop if where == "after" else table.start - 512
        model.put(TABLE, at, bytes(512))
        assert_fault(model, f"{NOTHING}|not slack, then the switch")

    @pytest.mark.parametrize("change", [1, 2, 256, 512])
    def test_a_new_block_begins_a_cluster_and_has_no_reserved_bits(self, change: int) -> None:
        clusters = {n: Zero() for n in range(600)}
        image = Image(cluster_bits=10, size=4 << 20, clusters=clusters, backing_file=b"base")
        model = honest(image)
        entry = image.regions()["refcount_table"].start + 8
        block = int.from_bytes(model.read(entry, 8, TABLE), "big")
        assert block
        model.word(TABLE, entry, block + change)
        assert_fault(model, f"^the guest puts a refcount block at {block + change:#x}$")


class TestKindsOfErrors:
    def test_a_refcount_below_0_is_an_error_of_ours(self) -> None:
        image = image_of(ZeroAllocated(b"z"), 2, backed=False)
        case = honest(image).case
        block, host = image.regions()["refcount_block[0]"].start, hosts(image, 2)[1]
        at = block + 2 * (host // 512)
        case.data = case.data[:at] + bytes(2) + case.data[at + 2 :]
        with pytest.raises((GuestFault, ImageRejected)):
            case.judge()

    def test_an_l1_table_outside_the_image_is_the_images_fault_in_an_upgrade(self) -> None:
        from tests.support.reference import upgrade
        from tests.support.tables import OLD

        patch = ("snapshot_table", 0, (1 << 30).to_bytes(8, "big"))
        image = Image(**{**vars(OLD), "patches": [patch]})
        with pytest.raises(ImageRejected) as caught:
            upgrade(image).case.judge()
        (refusal,) = caught.value.refusals
        assert (refusal.name, refusal.detail["offset"]) == ("l2_table", 1 << 30)


ENTRIES = st.sampled_from(
    [0, 1, 3, 1 << 48, 1 << 16, COPIED | 1 << 16, *(1 << bit | 1 for bit in range(7, 64, 7))]
)


@given(
    st.lists(ENTRIES | st.integers(0, (1 << 64) - 1), min_size=64, max_size=64),
    st.sampled_from([1, 8]),
    st.integers(0, 512),
)
def test_plain_zero_clusters_and_no_other_entries_are_dropped(
    entries: list[int], times: int, plain: int
) -> None:
    words = entries * times
    words[:plain] = [1] * len(words[:plain])  # many at once, as few are dropped one by one
    dropped = [0 if word == 1 else word for word in words]
    form = f">{len(words)}Q"
    assert without_plain(struct.pack(form, *words)) == struct.pack(form, *dropped)


@given(
    old=st.lists(st.sampled_from((0, 1, 1 << 16, 3 << 16 | 1, COPIED | 1 << 16)), min_size=64),
    changes=st.dictionaries(st.integers(0, 63), st.integers(0, (1 << 64) - 1), max_size=64),
)
def test_entries_that_differ_are_found_whatever_differs(
    old: list[int], changes: dict[int, int]
) -> None:
    old = old[:64]
    new = [changes.get(at, word) for at, word in enumerate(old)]
    expected = [at for at in range(64) if old[at] != new[at]]
    found = differing(struct.pack(">64Q", *old), struct.pack(">64Q", *new))
    assert found == expected or (found is None and expected)
    zeroed = [word ^ (at in list(changes)[:8]) for at, word in enumerate(old)]
    found = differing(struct.pack(">64Q", *old), struct.pack(">64Q", *zeroed))
    assert found == sorted(list(changes)[:8])  # a few of the kind that a downgrade makes
