"""The write contract on the header cluster: each sector of it is judged, however large it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.planner import ask
from tests.support.planning import SECTOR, Case, case_of, copy_of
from tests.support.project import load_planner

SWITCH = abi.INSTAR_PHASE_SWITCH
NAME, OTHER = b"base.raw", b"/dev/sda"
AT = 0x18000
"""Where a backing file name may lie that qemu reads, and no extension may."""
PLAIN = Image(
    cluster_bits=17,
    size=1 << 20,
    clusters={0: Data(b"a"), 1: Zero(), 2: ZeroAllocated(b"z")},
    backing_file=NAME,
    backing_format=b"raw",
)
OLD = replace(
    PLAIN,
    version=2,
    clusters={0: Data(b"a")},
    snapshots=[Snapshot(name=b"s", extra_data_size=0)],
)
NAMELESS = replace(PLAIN, backing_file=None, backing_format=None)
LARGE = replace(NAMELESS, cluster_bits=21, clusters={0: Data(b"a"), 1: Zero()})


def far(image: Image) -> bytes:
    """The image with its backing file's name further on."""
    data = bytearray(image.build())
    data[8:16] = AT.to_bytes(8, "big")
    data[AT : AT + len(NAME)] = NAME
    return bytes(data)


def damaged(image: Image, refcount: int) -> bytes:
    """The same with another refcount of its L2 table."""
    data, regions = bytearray(far(image)), image.regions()
    block, table = regions["refcount_block[0]"].start, regions["l2_table[0]"].start
    at = block + 2 * (table >> image.cluster_bits)
    data[at : at + 2] = refcount.to_bytes(2, "big")
    return bytes(data)


CASES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "downgrade": (far(PLAIN), {"compat": 2}),
    "upgrade": (far(OLD), {"compat": 3}),
    "lazy refcounts": (far(PLAIN), {"lazy_refcounts": True}),
    "width": (far(PLAIN), {"refcount_bits": 64}),
    "grow": (far(PLAIN), {"size": 2 << 20, "backing_size": 0}),
    "grow by tables": (far(PLAIN), {"size": 1 << 40, "backing_size": 0}),
    "shrink": (far(PLAIN), {"size": 1 << 19, "shrink": True}),
    "names": (
        NAMELESS.build(),
        {"backing_file": NAME, "backing_fmt": b"raw", "change_backing": True},
    ),
    "downgrade of large clusters": (LARGE.build(), {"compat": 2}),
    "dirty": (far(replace(PLAIN, incompatible_features=1)), {"repair": True}),
    "leak": (damaged(PLAIN, 2), {"mends": "all"}),
    "too low": (damaged(PLAIN, 0), {"mends": "all"}),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """What an honest guest stages."""
    data, asked = CASES[request.param]
    wanted = AmendRequest.of(**asked, max_growth=1 << 30)
    answer = ask(load_planner(), data, wanted)
    assert answer.planned, answer.refusals
    case = case_of(data, wanted, answer)
    case.judge()
    return case


@pytest.mark.parametrize("phase", range(abi.INSTAR_PHASE_COUNT))
@pytest.mark.parametrize("changes", [False, True])
def test_no_sector_of_the_header_cluster_is_written_for_nothing(
    case: Case, phase: int, *, changes: bool
) -> None:
    count = (1 << case.data[23]) // SECTOR
    for sector in (1, 2, 126, 127, 128, 129, AT // SECTOR, count - 1):
        if sector in case.phases[phase]:
            continue
        rogue = copy_of(case)
        old = rogue.data[sector * SECTOR : (sector + 1) * SECTOR]
        rogue.phases[phase][sector] = OTHER + old[len(OTHER) :] if changes else old
        with pytest.raises((GuestFault, ImageRejected)):
            rogue.judge()


@pytest.mark.parametrize("at", [0x10000 - len(NAME) + 1, 0x10000, AT])
def test_a_new_name_lies_where_a_header_is_looked_at(at: int) -> None:
    data = bytearray(NAMELESS.build())
    data[at : at + len(NAME)] = NAME  # by the image's author, who knows what will be asked for
    asked = CASES["names"][1]
    request = AmendRequest.of(**asked, max_growth=1 << 30)
    case = case_of(bytes(data), request, ask(load_planner(), bytes(data), request))
    case.judge()
    header = bytearray(case.phases[SWITCH][0])
    header[8:16] = at.to_bytes(8, "big")
    case.phases[SWITCH][0] = bytes(header)
    with pytest.raises(GuestFault, match="the guest puts the backing file name past the header"):
        case.judge()


_DATA_AT = 440
"""In the header's only sector, past its fields and extensions."""
_NARROW = Image(cluster_bits=9, size=1 << 14, clusters={0: Data(b"a"), 20: Data(b"b")})
# Whose bitmaps fit a larger disk too, and may be dropped all the same.
_BITMAPS = replace(_NARROW, bitmaps=[Bitmap(name=b"b", granularity_bits=9)])


def with_data(data: bytes, regions: dict[str, range], refcount: int) -> bytes:
    """The image with compressed data in the header's cluster, which counts as so often used."""
    changed, entry = bytearray(data), regions["l2_table[0]"].start + 8 * 3
    changed[entry : entry + 8] = (1 << 62 | _DATA_AT).to_bytes(8, "big")
    changed[_DATA_AT : _DATA_AT + 8] = b"deflated"
    block = regions["refcount_block[0]"].start
    changed[block : block + 2] = refcount.to_bytes(2, "big")
    return bytes(changed)


@pytest.mark.parametrize("refcount", [1, 2])
@pytest.mark.parametrize("image", [_NARROW, _BITMAPS], ids=["plain", "bitmaps"])
@pytest.mark.parametrize(
    "asked",
    [
        {"lazy_refcounts": True},
        {"size": 1 << 15},
        {"size": 1 << 20},
        {"size": 1 << 13, "shrink": True},
        {"refcount_bits": 64},
        {"compat": 2},
        {"repair": True},
    ],
    ids=str,
)
def test_no_plan_changes_data_that_lie_in_the_headers_sector(
    asked: dict[str, Any], image: Image, refcount: int
) -> None:
    image = replace(image, incompatible_features=int("repair" in asked))
    request = AmendRequest.of(**asked, drop_bitmaps=bool(image.bitmaps), max_growth=1 << 30)
    # What is staged for the image without such data; new refcounts are staged as for that.
    plain, regions = image.build(), image.regions()
    honest = case_of(plain, request, ask(load_planner(), plain, request))
    honest.judge()
    honest.data = with_data(plain, regions, refcount)
    sector = bytearray(honest.phases[SWITCH][0])
    assert not any(sector[_DATA_AT : _DATA_AT + 8])
    for kept in (b"deflate!", bytes(8)):
        rogue = copy_of(honest)
        sector[_DATA_AT : _DATA_AT + 8] = kept
        rogue.phases[SWITCH][0] = bytes(sector)
        with pytest.raises((GuestFault, ImageRejected)):
            rogue.judge()
