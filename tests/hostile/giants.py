"""Hostile images: tables, files and counts as large as can be. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import CLUSTER, SNAPPED, V3, Case, fields, u32, u64
from tests.support.forge import Image, layout

MIB = 1 << 20
TIB = 1 << 40
L1_MAX = 1 << 22
"""Entries of the largest L1 table, of 32 MiB."""


def cases() -> Iterator[Case]:
    yield from _sparse()
    yield from _largest_disks()
    yield from _l1_bombs()
    yield from _snapshot_bombs()


def _sparse() -> Iterator[Case]:
    far = TIB - CLUSTER
    table = V3.regions()["l2_table[0]"].start
    entry = u64(table | layout.COPIED)
    yield Case(
        "1 TiB, the L1 table in the last cluster",
        replace(V3, patches=[*fields(l1_table_offset=far), (far, entry)]),
        length=TIB,
    )
    yield Case(
        "1 TiB, an L2 table in the last cluster",
        replace(V3, patches=[("l1_table", 0, u64(far | layout.COPIED))]),
        length=TIB,
    )
    yield Case(
        "1 TiB, the refcount table in the last cluster",
        replace(V3, patches=fields(refcount_table_offset=far)),
        length=TIB,
    )
    snapshots = SNAPPED.build()[SNAPPED.regions()["snapshot_table"].start :][:72]
    yield Case(
        "1 TiB, the snapshot table in the last cluster",
        replace(SNAPPED, patches=[*fields(snapshots_offset=far), (far, snapshots)]),
        length=TIB,
    )
    yield Case("1 TiB behind the image", V3, length=TIB)
    yield Case("15 TiB behind the image", V3, length=15 * TIB)


def _largest_disks() -> Iterator[Case]:
    for bits, size in ((9, 1 << 37), (16, 1 << 51), (21, 1 << 61)):
        image = Image(cluster_bits=bits, size=1 << 20)
        end = max(part.stop for part in image.regions().values())
        for apart in (0, 1):
            edges = fields(l1_size=L1_MAX, l1_table_offset=end, size=size + apart)
            yield Case(
                f"clusters of 2^{bits}: a disk of 2^{size.bit_length() - 1}{apart:+} bytes",
                replace(image, patches=edges),
                length=end + 32 * MIB,
                reason="l1_too_small",
                exits=1100,
                bytes_read=33 * MIB,
            )


def _l1_bombs() -> Iterator[Case]:
    end = max(part.stop for part in V3.regions().values())
    named = u64(V3.regions()["l2_table[0]"].start | layout.COPIED) * L1_MAX
    edges = fields(l1_size=L1_MAX, l1_table_offset=end)
    bomb = replace(V3, patches=[*edges, (end, named)])
    yield Case(
        "an L1 table of 32 MiB whose entries all name one L2 table",
        bomb,
        exits=1000,
        bytes_read=64 * MIB,
    )
    yield Case(
        "1 TiB, an L1 table of 32 MiB whose entries all name one L2 table",
        bomb,
        length=TIB,
        exits=1000,
        bytes_read=64 * MIB,
    )
    tables = [TIB // 2 + n * CLUSTER | layout.COPIED for n in range(64)]
    edges = fields(l1_size=1 << 16, l1_table_offset=end)
    yield Case(
        "1 TiB, an L1 table whose 65536 entries name 64 L2 tables in turn",
        replace(V3, patches=[*edges, (end, u64(*tables) * 1024)]),
        length=TIB,
        bytes_read=5 * MIB,
    )
    edges = fields(l1_size=L1_MAX, l1_table_offset=end)
    itself = replace(V3, patches=[*edges, (end, u64(end) * L1_MAX)])
    yield Case(
        "an L1 table of 32 MiB that names itself",
        itself,
        exits=1000,
        bytes_read=64 * MIB,
    )


def _snapshot_bombs() -> Iterator[Case]:
    """65536 snapshots, of whose L1 tables each has 32 MiB; they are one and the same."""
    end = max(part.stop for part in V3.regions().values())
    table = end + 32 * MIB
    for count, entries in ((65536, L1_MAX), (65536, 8192), (65536, 1), (65536, 0), (100, L1_MAX)):
        fixed = u64(end) + u32(entries) + bytes(24) + u32(16)
        entry = fixed + u64(0, V3.size)
        patches = [*fields(nb_snapshots=count, snapshots_offset=table), (table, entry * count)]
        yield Case(
            f"{count} snapshots with an L1 table of {entries} entries",
            replace(V3, patches=patches),
            exits=1100,
            bytes_read=40 * MIB,
            differs="empty_snapshot_l1" if entries == 0 else "",
        )
