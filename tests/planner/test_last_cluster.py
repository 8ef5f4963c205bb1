"""Files that end within their last cluster: amended right, and no byte longer. Test side.

qemu leaves a file that short, and a block device need not be a multiple of the cluster size.
"""

from __future__ import annotations

from typing import Any

import pytest

from instar.vmm.request import AmendRequest
from tests.planner.test_expansion import assert_sound, visible
from tests.support.forge import Image, Zero
from tests.support.forge.audit import faults
from tests.support.forge.reader import Reader
from tests.support.planner import SECTOR, accepted_by_contract, ask
from tests.support.table_images import cut

BITS = 12
SIZE = 1 << BITS
DOWN, DEVICE = AmendRequest.of(compat=2), AmendRequest.of(compat=2, fixed_size=True)
CUTS = [1, 512, 700, 1024, SIZE - 1, SIZE]


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
@pytest.mark.parametrize("request_", [DOWN, DEVICE], ids=["file", "device"])
def test_a_zero_cluster_in_a_short_last_cluster_becomes_zeros(
    planner: Any, size: int, backed: bool, request_: AmendRequest
) -> None:
    data = cut(size, backed=backed)
    assert faults(Reader(data)) == []
    answer = ask(planner, data, request_)
    assert answer.planned, answer.refusals
    amended = assert_sound(data, request_, answer)
    assert len(amended) == -(-len(data) // SECTOR) * SECTOR
    assert visible(amended)[0][3] == bytes(SIZE)


def test_clusters_are_taken_behind_a_short_last_cluster(planner: Any) -> None:
    data = cut(700, backed=True, other=Zero())
    request = AmendRequest.of(compat=2, max_growth=2 << BITS)
    answer = ask(planner, data, request)
    assert answer.planned
    amended = assert_sound(data, request, answer)
    assert len(amended) == -(-len(data) // SIZE) * SIZE + SIZE


@pytest.mark.parametrize(("growth", "refusals"), [(0, ("growth",)), (SIZE, ())])
def test_a_refcount_behind_the_end_is_written_only_where_the_file_may_grow(
    planner: Any, growth: int, refusals: tuple[str, ...]
) -> None:
    first, last = SECTOR // 2, 300
    image = Image(
        cluster_bits=BITS,
        size=1 << 16,
        backing_file=b"base",
        clusters={0: Zero()},
        patches=[("refcount_block[0]", 0, b"\0\1" * first)],
    )
    regions, built = image.regions(), image.build()
    block = regions["refcount_block[0]"].start
    # The block is moved to the end of the file, which has its first sector.
    data = bytearray(built.ljust(last << BITS, b"\0") + built[block : block + SECTOR])
    table = regions["refcount_table"].start
    data[table : table + 8] = (last << BITS).to_bytes(8, "big")
    request = AmendRequest.of(compat=2, max_growth=growth)
    answer = ask(planner, bytes(data), request)
    assert answer.refusals == refusals
    if not refusals:
        accepted_by_contract(bytes(data), request, answer)
