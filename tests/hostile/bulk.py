"""Images with very many clusters, laid out by rule rather than one by one. Test side."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence

from tests.hostile.case import fields
from tests.support.forge import Image, layout
from tests.support.forge.description import Patch


def bulk(
    image: Image,
    words: Callable[[int], Sequence[int]],
    *,
    refcounts: Callable[[int], Mapping[int, int]] = lambda first: {},
) -> Image:
    """Fill the active layer of an empty image with L2 entries.

    `words` gives all of them, and `refcounts` those of the host clusters, from the number of the
    first host cluster behind all tables, which are counted already. The disk's size must fit. Only
    refcount blocks that count anything are there.
    """
    regions = image.regions()
    size, first = image.geometry.cluster_size, regions_end(image) >> image.cluster_bits
    tables = len(regions["l1_table"]) // 8
    in_block = size // 2
    free = first + tables
    blocks = 1
    while True:
        behind = free + blocks
        counts = {**dict.fromkeys(range(behind), 1), **refcounts(behind)}
        numbers = sorted({cluster // in_block for cluster in counts})
        table_size = -(-8 * (numbers[-1] + 1) // size)
        if len(numbers) + table_size == blocks:
            break
        blocks = len(numbers) + table_size
    entries = words(behind)
    assert len(entries) == tables * size // 8
    table = array("Q", bytes(table_size * size))
    patches: list[Patch] = []
    for place, number in enumerate(numbers):
        table[number] = (free + table_size + place) * size
        block = array(
            "H", [counts.get(n, 0) for n in range(number * in_block, (number + 1) * in_block)]
        )
        patches.append((table[number], _big(block)))
    l1_table = array("Q", [(first + n) * size | layout.COPIED for n in range(tables)])
    return Image(
        **{
            **vars(image),
            "patches": [
                *image.patches,
                *patches,
                *fields(refcount_table_offset=free * size, refcount_table_clusters=table_size),
                ("l1_table", 0, _big(l1_table)),
                (first * size, _big(array("Q", entries))),
                (free * size, _big(table)),
                ((max(counts) + 1) * size - 1, bytes(1)),
            ],
        }
    )


def regions_end(image: Image) -> int:
    """Where the file of an image ends."""
    return max(part.stop for part in image.regions().values())


def _big(numbers: array[int]) -> bytes:
    swapped = array(numbers.typecode, numbers)
    swapped.byteswap()
    return swapped.tobytes()
