"""Hostile images: each field of the header at the edges of its range. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import (
    BACKED,
    BACKING_FILE,
    CLUSTER,
    SNAPPED,
    TINY,
    V2,
    V3,
    Case,
    fields,
    header_cases,
)
from tests.support.forge import Image

U32 = (1 << 31, (1 << 32) - 1)
U64 = (
    1 << 31,
    1 << 32,
    1 << 55,
    1 << 56,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - CLUSTER,
    (1 << 64) - 1,
)
INSIDE = "file_must_be_whole"


def cases() -> Iterator[Case]:
    yield from _version()
    yield from _cluster_bits()
    yield from _size()
    yield from _l1_size()
    yield from _refcount_table_clusters()
    yield from _snapshot_fields()
    for field, region in (
        ("l1_table_offset", "l1_table"),
        ("refcount_table_offset", "refcount_table"),
        ("snapshots_offset", "snapshot_table"),
    ):
        for title, base in (("v3", SNAPPED), ("v2", replace(SNAPPED, version=2))):
            yield from _table_offset(title, base, field, region)
    yield from _backing_file()
    yield from _rest()


def _version() -> Iterator[Case]:
    yield from header_cases("v3", V3, "version", (0, 4, 5, *U32), "version")
    yield from header_cases("v3", V3, "version", (1,), "not_qcow2")
    yield from header_cases("v3", V3, "version", (2,))
    yield from header_cases("v2", V2, "version", (3,), "header_length")
    yield Case(
        "v3: the magic is that of another format",
        replace(V3, patches=fields(magic=0x51454400)),
        reason="not_qcow2",
    )
    yield Case(
        "v3: the magic is off by a bit",
        replace(V3, patches=fields(magic=0x514649FA)),
        reason="not_qcow2",
    )


def _cluster_bits() -> Iterator[Case]:
    outside = (0, 1, 8, 22, 31, 32, 41, 63, 64, 255, 256, *U32)
    for title, base in (("v3", V3), ("v2", V2)):
        yield from header_cases(title, base, "cluster_bits", outside, "cluster_bits")
        yield from header_cases(title, base, "cluster_bits", (9, 10, 15), "l1_too_small")
        yield from header_cases(title, base, "cluster_bits", (17, 21), "refcount_table")


def _size() -> Iterator[Case]:
    covered = 1 << 29
    for title, base in (("v3", V3), ("v2", V2)):
        yield from header_cases(title, base, "size", (0, 1, 511, 512, 513, covered - 1, covered))
        larger = (
            covered + 1,
            covered + 512,
            *U32,
            1 << 61,
            (1 << 62) + 1,
            (1 << 63) - 512,
            (1 << 63) - 1,
        )
        yield from header_cases(title, base, "size", larger, "l1_too_small")
        negative = (1 << 63, (1 << 63) + 1, (1 << 64) - covered)
        yield from header_cases(title, base, "size", negative, "virtual_size")
        wraps = ((1 << 64) - covered + 1, (1 << 64) - 512, (1 << 64) - 1)
        yield from header_cases(title, base, "size", wraps, "virtual_size", "negative_size")
    yield from header_cases(
        "tiny clusters", TINY, "size", ((1 << 20) + 1, (1 << 63) - 1), "l1_too_small"
    )


def _l1_size() -> Iterator[Case]:
    for title, base in (("v3", V3), ("v2", V2)):
        yield from header_cases(title, base, "l1_size", (0,), "l1_too_small")
        yield from header_cases(title, base, "l1_size", (2, 8192))
        yield from header_cases(title, base, "l1_size", (8193,), "l2_entry")
        outside = (1 << 16, 1 << 22)
        yield from header_cases(title, base, "l1_size", outside, "l1_table", INSIDE)
        too_large = ((1 << 22) + 1, 1 << 29, (1 << 29) + 1, *U32)
        yield from header_cases(title, base, "l1_size", too_large, "l1_table")


def _refcount_table_clusters() -> Iterator[Case]:
    for title, base in (("v3", V3), ("v2", V2)):
        yield from header_cases(title, base, "refcount_table_clusters", (0,), "refcount_table")
        yield from header_cases(title, base, "refcount_table_clusters", (2,))
        outside = (3, 128)
        yield from header_cases(
            title, base, "refcount_table_clusters", outside, "refcount_table", INSIDE
        )
        too_large = (129, 1 << 16, (1 << 16) + 1, *U32)
        yield from header_cases(title, base, "refcount_table_clusters", too_large, "refcount_table")


def _snapshot_fields() -> Iterator[Case]:
    name, reason = "nb_snapshots", "snapshot_table"
    yield from header_cases("v3, no snapshot", V3, name, (1, 2, 1000), reason, INSIDE)
    yield from header_cases("v3, no snapshot", V3, name, (65535, 65536), reason)
    yield from header_cases("v3, one snapshot", SNAPPED, name, (0,))
    yield from header_cases("v3, one snapshot", SNAPPED, name, (2,), "", "empty_snapshot_l1")
    yield from header_cases("v3, one snapshot", SNAPPED, name, (65535, 65536), reason, INSIDE)
    for title, base in (("v3, no snapshot", V3), ("v3, one snapshot", SNAPPED)):
        yield from header_cases(title, base, name, (65537, 1 << 26, *U32), reason)
    name = "snapshots_offset"
    yield from header_cases("v3, no snapshot", V3, name, (CLUSTER, 1 << 31, 1 << 55, 1 << 56))
    nowhere = (1, 512, (1 << 63) - 1, 1 << 63, (1 << 64) - CLUSTER)
    yield from header_cases("v3, no snapshot", V3, name, nowhere, reason)


def _table_offset(title: str, base: Image, field: str, region: str) -> Iterator[Case]:
    regions = base.regions()
    true, end = regions[region].start, max(part.stop for part in regions.values())
    near = (0, 1, 8, 511, 512, CLUSTER - 512, CLUSTER - 8)
    off = tuple(true + apart for apart in (-512, -8, -1, 1, 8, 511, 512, CLUSTER - 512))
    ends = (end - CLUSTER, end - 512, end, end + 512, end + CLUSTER)
    values = (*near, *off, *ends, *U64) if title == "v3" else (0, true + 512, end, *U64)
    for value in values:
        aligned = value % CLUSTER == 0 and value < 1 << 63
        outside = aligned and not CLUSTER <= value < end
        # The last cluster is a refcount block, whose numbers name tables far away.
        wild = value == end - CLUSTER and field == "l1_table_offset"
        differs = INSIDE if outside or wild else ""
        reason = "l2_table" if wild else region
        yield from header_cases(title, base, field, (value,), reason, differs)


def _backing_file() -> Iterator[Case]:
    start = BACKED.regions()["backing_file"].start
    title = "v3, backing file"
    yield from header_cases(title, BACKED, "backing_file_offset", (0,))
    name, over = "backing_file_offset", "backing_name_in_header"
    yield from header_cases(title, BACKED, name, (8, 71, 72, 104, 111), "backing_file", over)
    yield from header_cases(title, BACKED, name, (1, 103), "backing_file")
    yield from header_cases(title, BACKED, name, (112, start + 1), "", "backing_file_not_opened")
    yield from header_cases(title, BACKED, name, (113, 119, 120), "header_extension")
    cut = (start - 8, start - 7, start - 4, start - 1)
    yield from header_cases(title, BACKED, name, cut, "header_extension")
    behind = (CLUSTER - 9, CLUSTER - 8, CLUSTER - 7, CLUSTER - 1, CLUSTER, CLUSTER + 1, *U64)
    yield from header_cases(title, BACKED, "backing_file_offset", behind, "backing_file")
    name = "backing_file_size"
    yield from header_cases(title, BACKED, name, (0, len(BACKING_FILE) + 8))
    yield from header_cases(title, BACKED, name, (1,), "", "backing_file_not_opened")
    sizes = (1024, 65535, 65536, *U32)
    yield from header_cases(title, BACKED, name, sizes, "backing_file")


def _rest() -> Iterator[Case]:
    yield from header_cases("v3", V3, "crypt_method", (1,), "", "no_secret_needed")
    yield from header_cases("v3", V3, "crypt_method", (2,), "crypto_extension")
    yield from header_cases("v3", V3, "crypt_method", (3, 4, *U32), "crypt_method")
    yield from header_cases("v2", V2, "crypt_method", (3, *U32), "crypt_method")
    yield from header_cases(
        "v3", V3, "refcount_order", (0, 1, 2, 3, 5, 6), "downgrade_refcount_width"
    )
    yield from header_cases(
        "v3", V3, "refcount_order", (7, 8, 31, 32, 63, 64, 255, *U32), "refcount_order"
    )
