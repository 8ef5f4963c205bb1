"""Test side: refcount structures, and whether new ones count what the old ones do."""

from __future__ import annotations

from tests.support.forge import Reader, parse_header, stored_refcounts


def structure(image: bytes) -> set[int]:
    """The clusters of the refcount table and of the refcount blocks."""
    header, reader = parse_header(image), Reader(image)
    size, start = reader.cluster_size, header.refcount_table_offset
    table = reader.take(start, header.refcount_table_clusters * size)
    blocks = [int.from_bytes(table[at : at + 8], "big") for at in range(0, len(table), 8)]
    named = {block // size for block in blocks if block}
    return named | set(range(start // size, start // size + header.refcount_table_clusters))


def expect_recoded(before: bytes, after: bytes) -> None:
    """The new refcounts are the old ones, less the old structures and with the new ones."""
    expected = dict(stored_refcounts(Reader(before)))
    old, new = structure(before), structure(after)
    assert old.isdisjoint(new)
    for cluster in old:
        expected[cluster] -= 1
    for cluster in new:
        assert expected.get(cluster, 0) == 0, "a structure in a cluster that is used"
        expected[cluster] = 1
    assert stored_refcounts(Reader(after)) == {n: count for n, count in expected.items() if count}
