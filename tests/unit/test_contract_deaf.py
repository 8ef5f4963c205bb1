"""The judge stands for each refusal: no planner gets past it that should refuse, and goes on.

For what is refused because it cannot be done right, the judge needs a rule of its own: a guest that
was taken over does not refuse. So this planner is honest but for one reason, to which it is deaf.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.base.reasons import REASONS
from instar.vmm.contract.reader.disk import COPIED
from instar.vmm.request import AmendRequest
from tests.support.deaf import DeafPlanner
from tests.support.disks import with_size
from tests.support.forge import (
    Bitmap,
    Compressed,
    Data,
    Extension,
    Image,
    Snapshot,
    Zero,
)
from tests.support.forge.bitmaps import IN_USE
from tests.support.forge.model import Model
from tests.support.planner import ask
from tests.support.planning import case_of

MANY = 1 << 40
"""By how much a file may grow."""
BACKED = Image(size=1 << 20, backing_file=b"b", backing_format=b"raw")
ZEROES = Image(size=1 << 20, backing_file=b"b", clusters={0: Zero()})
EXTERNAL = Image(data_file=b"d")


def bitmap_as_l2_table() -> bytes:
    """An image whose L2 table lies in a cluster of a bitmap's data too, and is counted twice."""
    bitmaps = [Bitmap(name=b"b", dirty=[0])]
    image = Image(cluster_bits=9, size=1 << 15, clusters={0: Data(b"a")}, bitmaps=bitmaps)
    data, regions = bytearray(image.build()), image.regions()
    bits = next(region for name, region in regions.items() if "bitmap[0].data" in name).start
    l1_table, table = regions["l1_table"].start, regions["l2_table[0]"].start
    data[bits : bits + 512] = data[table : table + 512]
    data[l1_table : l1_table + 8] = bits.to_bytes(8, "big")
    block = regions["refcount_block[0]"].start
    for offset, refcount in ((table, 0), (bits, 2)):
        at = block + 2 * (offset >> 9)
        data[at : at + 2] = refcount.to_bytes(2, "big")
    return bytes(data)


def hidden(*, extended: bool, snapshot: bool, table: bool = False) -> bytes:
    """An image with an entry past the disk's end that names what an entry before it does.

    That is a cluster, or an L2 table, and counted once for either. With a snapshot the cluster has
    a third user, which is not counted.
    """
    plain = Image(size=1 << 20, extended_l2=extended, clusters={0: Data(b"a")})
    data, regions = bytearray(plain.build()), plain.regions()
    l1_table, first = regions["l1_table"].start, regions["l2_table[0]"].start
    step = 16 if extended else 8
    cluster = int.from_bytes(data[first : first + 8], "big") & ~COPIED
    named, at = (first, l1_table) if table else (cluster, first)
    data[at : at + 8] = named.to_bytes(8, "big")
    place = l1_table + 8 if table else first + 20 * step
    data[place : place + (8 if table else step)] = data[at : at + (8 if table else step)]
    if table:
        data[36:40] = (2).to_bytes(4, "big")
    block = regions["refcount_block[0]"].start
    data[block + 2 * (named >> 16) + 1] = 2
    if snapshot:
        # Its L1 table, L2 table and snapshot table lie at the end, and name the cluster too.
        end = len(data)
        assert end % (1 << 16) == 0
        l2_table, entry = data[first : first + (1 << 16)], end + (1 << 16)
        l2_table[20 * step : 21 * step] = bytes(step)
        name = struct.pack(">QIHHIIQII", end, 1, 1, 1, 0, 0, 0, 0, 24) + struct.pack(
            ">QQQ", 0, 1 << 20, (1 << 64) - 1
        )
        l1 = (entry.to_bytes(8, "big")).ljust(1 << 16, b"\0")
        data += l1 + l2_table + (name + b"1s").ljust(1 << 16, b"\0")
        data[60:72] = struct.pack(">IQ", 1, end + (2 << 16))
        for number in range(3):
            data[block + 2 * ((end >> 16) + number) + 1] = 1
    return bytes(data)


GROWN, SHRUNK = {"size": 2 << 20}, {"size": 1 << 19, "shrink": True}
CASES: dict[str, tuple[Image | bytes, dict[str, Any]]] = {
    "unknown_incompatible_features": (
        Image(incompatible_features=1 << 40),
        {"lazy_refcounts": True},
    ),
    "dirty": (Image(incompatible_features=1), {"lazy_refcounts": True}),
    "corrupt": (Image(incompatible_features=2), {"lazy_refcounts": True}),
    "raw_without_data_file": (Image(autoclear_features=2), {"lazy_refcounts": True}),
    "compression_type": (
        Image(compression_type=1, patches=[(72, bytes(8))]),
        {"lazy_refcounts": True},
    ),
    "extended_l2_cluster_size": (
        Image(cluster_bits=12, size=1 << 19, incompatible_features=16),
        {"lazy_refcounts": True},
    ),
    "lazy_needs_v3": (Image(version=2), {"lazy_refcounts": True}),
    "downgrade_refcount_width": (Image(refcount_order=5), {"compat": 2}),
    "downgrade_data_file": (EXTERNAL, {"compat": 2}),
    "downgrade_extended_l2": (Image(extended_l2=True), {"compat": 2}),
    "downgrade_bitmaps": (Image(bitmaps=[Bitmap(name=b"b")]), {"compat": 2}),
    "downgrade_snapshot_size": (
        Image(size=1 << 20, snapshots=[Snapshot(name=b"s", disk_size=1 << 19)]),
        {"compat": 2},
    ),
    "downgrade_snapshot_vm_state": (
        Image(snapshots=[Snapshot(name=b"s", vm_state_size=1 << 33)]),
        {"compat": 2},
    ),
    "downgrade_compressed_clusters": (
        Image(compression_type=1, incompatible_features=8, clusters={0: Compressed(b"c")}),
        {"compat": 2},
    ),
    "downgrade_encrypted_zeroes": (
        Image(size=1 << 20, backing_file=b"b", clusters={0: Zero()}, crypt_method=1),
        {"compat": 2},
    ),
    "overlap": (bitmap_as_l2_table(), {"compat": 2, "drop_bitmaps": True}),
    **{
        f"overlap, {'a snapshot, ' * snapshot}{'extended L2, ' * extended}{asked['size']}": (
            hidden(extended=extended, snapshot=snapshot),
            asked,
        )
        for snapshot in (False, True)
        for extended in (False, True)
        for asked in (GROWN, SHRUNK)
    },
    **{
        f"overlap, an L2 table, {asked['size']}": (
            hidden(extended=False, snapshot=False, table=True),
            asked,
        )
        for asked in ({"size": 1 << 40}, SHRUNK)
    },
    "growth": (ZEROES, {"compat": 2, "max_growth": 0}),
    "size_limit": (Image(cluster_bits=9), {"size": (1 << 37) + 512}),
    "resize_v2_snapshots": (
        Image(version=2, snapshots=[Snapshot(name=b"s")]),
        {"size": 1 << 30},
    ),
    "resize_snapshot_size": (
        Image(snapshots=[Snapshot(name=b"s", extra_data_size=8)]),
        {"size": 1 << 30},
    ),
    "shrink_not_allowed": (Image(size=1 << 20), {"size": 1 << 19}),
    "grow_over_backing_v2": (
        Image(size=1 << 20, backing_file=b"b", version=2),
        {"size": 1 << 30},
    ),
    "grow_head_over_backing": (with_size(BACKED.build(), (1 << 19) + 512), {"size": 1 << 30}),
    "size_data_file": (EXTERNAL, {"size": 1 << 30}),
    "size_bitmaps": (Image(bitmaps=[Bitmap(name=b"b")]), {"size": 1 << 40}),
    "bitmap_in_use": (Image(bitmaps=[Bitmap(name=b"b", flags=IN_USE)]), {"size": 1 << 40}),
    "backing_change": (BACKED, {"backing_file": b"x", "backing_fmt": b"raw"}),
    "backing_fmt_missing": (Image(), {"backing_file": b"x", "change_backing": True}),
    "backing_file_missing": (Image(), {"backing_fmt": b"raw", "change_backing": True}),
    "backing_raw": (
        Image(data_file=b"d", autoclear_features=2),
        {"backing_file": b"x", "backing_fmt": b"raw", "change_backing": True},
    ),
    "no_data_file": (Image(), {"data_file": b"d"}),
    "data_file_raw": (EXTERNAL, {"data_file_raw": True}),
    "refcount_bits_v2": (Image(version=2), {"refcount_bits": 32}),
    "refcount_overflow": (
        Image(snapshots=[Snapshot(name=b"s")], clusters={0: Data(b"a")}),
        {"refcount_bits": 1},
    ),
    "refcount_bits_apart": (
        Image(version=2, snapshots=[Snapshot(name=b"s", extra_data_size=0)]),
        {"compat": 3, "refcount_bits": 32},
    ),
    "repair_extension": (
        Image(incompatible_features=1, extensions=[Extension(0x11111111, b"unknown!")]),
        {"repair": True},
    ),
}
"""By the reason, and what more is to be said: an image, and what is asked of it."""


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> DeafPlanner:
    """The planner, which can be made deaf."""
    return DeafPlanner(tmp_path_factory.mktemp("deaf") / "libdeaf.so")


@pytest.mark.parametrize("name", CASES)
def test_what_a_planner_must_refuse_the_judge_takes_from_none(deaf: DeafPlanner, name: str) -> None:
    image, asked = CASES[name]
    data = image if isinstance(image, bytes) else image.build()
    request = AmendRequest.of(**{"max_growth": MANY, **asked})
    reason = name.partition(",")[0]
    deaf.be_deaf_to(None)
    assert ask(deaf, data, request).refusals == (reason,)
    deaf.be_deaf_to(reason)
    answer = ask(deaf, data, request)
    assert answer.planned, answer.refusals
    with pytest.raises((GuestFault, ImageRejected)):
        case_of(data, request, answer).judge()


def test_every_refusal_of_an_option_is_among_them() -> None:
    by_the_host = {"size_difference", "backing_itself"}
    of_the_header = {"backing_file"}
    prefixes = ("downgrade_", "resize_", "shrink_", "grow_", "size_", "backing_", "refcount_bits_")
    known = {row[0] for row in REASONS.values() if row[0].startswith(prefixes)}
    assert "grow_over_backing_v2" in known
    assert known - by_the_host - of_the_header <= CASES.keys()


STRUCTURES = {
    "l1_table": abi.AMEND_USE_L1_TABLE,
    "snapshot_l1_table": abi.AMEND_USE_SNAPSHOT_L1_TABLE,
    "l2_table": abi.AMEND_USE_L2_TABLE,
    "snapshot_table": abi.AMEND_USE_SNAPSHOT_TABLE,
    "crypto_header": abi.AMEND_USE_CRYPTO_HEADER,
    "bitmap_directory": abi.AMEND_USE_BITMAP,
    "bitmap_table": abi.AMEND_USE_BITMAP,
    "bitmap": abi.AMEND_USE_BITMAP,
    "data": abi.AMEND_USE_DATA,
    "compressed": abi.AMEND_USE_DATA,
}


@pytest.mark.parametrize("layer", ["active", "snapshot"])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_no_refcount_block_that_another_width_leaves_is_another_structure_too(
    deaf: DeafPlanner, kind: str, layer: str
) -> None:
    """That would need the flag COPIED then; by refcounts that lie it would be set free."""
    image = Image(
        cluster_bits=12,
        size=16 << 12,
        clusters={0: Data(b"d"), 1: Compressed(b"c")},
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"e"), 1: Compressed(b"f")})],
        bitmaps=[Bitmap(name=b"b", dirty=(0,))],
        crypt_method=2,
        crypto_header=b"L" * 5000,
    )
    data = bytearray(image.build())
    uses = [use for use in Model(data).uses if use.kind == kind]
    place = uses[0 if layer == "active" else -1].offset & -(1 << 12)
    entry = image.regions()["refcount_table"].start + 8
    data[entry : entry + 8] = place.to_bytes(8, "big")
    request = AmendRequest.of(refcount_bits=32, max_growth=MANY)
    deaf.be_deaf_to("overlap")
    answer = ask(deaf, bytes(data), request)
    assert answer.planned
    with pytest.raises(ImageRejected) as caught:
        case_of(bytes(data), request, answer).judge()
    users = {"user": abi.AMEND_USE_REFCOUNT_BLOCK, "other_user": STRUCTURES[kind]}
    assert [refusal.detail for refusal in caught.value.refusals] == [{"offset": place, **users}]
