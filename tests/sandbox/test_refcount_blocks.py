"""Host side: refcount blocks that something else is too, by the planner's set and after its bound.

The planner notes the first 128 blocks before it gives anything up. Of the others the judge sees to
it that none is written which is something else as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import instar
from tests.support.forge import Bitmap, Image, ZeroAllocated
from tests.support.forge.audit import faults
from tests.support.forge.model import Model
from tests.support.forge.reader import Reader

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

NOTED = 128
COUNTED = 256  # clusters of 512 bytes that a block counts
BASE = bytes(range(1, 129)) * (1 << 7)
POINTERS = {
    "zero cluster": ("l2_table[0]", "data[0]", 1),
    "bitmap": ("bitmap[0].table", "bitmap[0].data[0]", 0),
}


def shared(index: int, use: str, *, end: int, backed: bool = False) -> tuple[bytes, int]:
    """An image that is sound, but one of whose refcount blocks has another use; and that block.

    The image ends in what the block numbered `end` counts, and all blocks lie there.
    """
    image = Image(
        cluster_bits=9,
        size=len(BASE),
        backing_file=b"base" if backed else None,
        backing_format=b"raw" if backed else None,
        clusters={0: ZeroAllocated(b"z")},
        bitmaps=[Bitmap(name=b"b", dirty=(0,), granularity_bits=9)],
        holes=range(200, end * COUNTED + 10),
    )
    data, regions = bytearray(image.build()), image.regions()
    block = regions[f"refcount_block[{index}]"].start
    pointer, old, flag = POINTERS[use]
    for cluster, refcount in ((block // 512, 2), (regions[old].start // 512, 0)):
        count = regions[f"refcount_block[{cluster // COUNTED}]"].start + cluster % COUNTED * 2
        data[count : count + 2] = refcount.to_bytes(2, "big")
    place = regions[pointer].start
    data[place : place + 8] = (block | flag).to_bytes(8, "big")
    assert faults(Reader(bytes(data))) == []
    return bytes(data), block


@pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
@pytest.mark.parametrize("use", POINTERS)
@pytest.mark.parametrize("index", [NOTED - 1, NOTED])
def test_a_block_with_another_use_is_not_written_on_either_side_of_the_bound(
    index: int, use: str, backed: bool, tmp_path: Path
) -> None:
    """The image ends in what block 128 counts, which is written for whatever is taken."""
    data, block = shared(index, use, end=NOTED, backed=backed)
    path = tmp_path / "t.qcow2"
    path.write_bytes(data)
    (tmp_path / "base").write_bytes(BASE)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(path, compat="0.10", drop_bitmaps=True)
    (refusal,) = caught.value.refusals
    assert (refusal.name, refusal.detail["offset"]) == ("overlap", block)
    # Of the blocks that it noted the planner knows the other use.
    assert (f"as a {use} and as a refcount block" in str(caught.value)) == (index < NOTED)
    assert path.read_bytes() == data


@pytest.mark.parametrize("backed", [False, True], ids=["alone", "backed"])
@pytest.mark.parametrize("use", POINTERS)
def test_a_block_after_the_bound_that_is_not_written_may_have_another_use(
    use: str, backed: bool, tmp_path: Path
) -> None:
    """The image ends in what block 129 counts. What is given up is one of two uses of block 128."""
    data, block = shared(NOTED, use, end=NOTED + 1, backed=backed)
    path = tmp_path / "t.qcow2"
    path.write_bytes(data)
    (tmp_path / "base").write_bytes(BASE)
    assert instar.amend(path, compat="0.10", drop_bitmaps=True).action == "amended"
    below = BASE if backed else b""
    before, after = (Reader(image, backing=below) for image in (data, path.read_bytes()))
    assert faults(after) == []
    assert Model(path.read_bytes()).stored[block // 512] == 1
    assert [after.read(n) for n in range(32)] == [before.read(n) for n in range(32)]
