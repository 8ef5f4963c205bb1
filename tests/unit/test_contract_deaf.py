"""The judge stands for each refusal: no planner gets past it that should refuse, and goes on.

For what is refused because it cannot be done right, the judge needs a rule of its own: a guest that
was taken over does not refuse. So this planner is honest but for one reason, to which it is deaf.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from build_guest import ROOT
from build_planner import SHARED, compile_library

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.base.reasons import REASONS
from instar.vmm.request import AmendRequest
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
from tests.support.planner import ask
from tests.support.planning import case_of
from tests.support.project import load_planner

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
"""By the reason: an image, and what is asked of it."""


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The planner, and the number of the reason to which it is deaf."""
    library = tmp_path_factory.mktemp("deaf") / "libdeaf.so"
    verdict = ROOT / "tests" / "support" / "deaf_verdict.c"
    compile_library(library, replaced={SHARED / "verdict.c": verdict})
    ffi = load_planner().ffi
    reason = ctypes.c_uint32.in_dll(ctypes.CDLL(str(library)), "deaf_to")
    return SimpleNamespace(ffi=ffi, lib=ffi.dlopen(str(library)), reason=reason)


@pytest.mark.parametrize("name", CASES)
def test_what_a_planner_must_refuse_the_judge_takes_from_none(deaf: Any, name: str) -> None:
    image, asked = CASES[name]
    data = image if isinstance(image, bytes) else image.build()
    request = AmendRequest.of(**{"max_growth": MANY, **asked})
    deaf.reason.value = 0
    assert ask(deaf, data, request).refusals == (name,)
    deaf.reason.value = next(number for number, row in REASONS.items() if row[0] == name)
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
