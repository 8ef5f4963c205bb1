"""Hostile images: snapshot tables. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import CLUSTER, SNAPPED, SNAPSHOT, V3, Case, fields, number, u32, u64
from tests.support.forge import Image, Zero

TABLE = "snapshot_table"
INSIDE = "file_must_be_whole"


def cases() -> Iterator[Case]:
    yield from _l1_tables()
    yield from _strings()
    yield from _extra_data()
    yield from _sizes()
    yield from _ends()
    yield from _many()


def _entry(version: int, at: int, data: bytes) -> Image:
    """SNAPPED with other bytes in its snapshot table entry."""
    return replace(SNAPPED, version=version, patches=[(TABLE, at, data)])


def _l1_tables() -> Iterator[Case]:
    end = max(part.stop for part in SNAPPED.regions().values())
    true = SNAPPED.regions()["snapshot[0].l1_table"].start
    offsets = (0, 1, 8, 512, true + 8, true + 512, end - CLUSTER, end - 8, end, 1 << 40, 1 << 56)
    for version in (3, 2):
        for offset in (*offsets, 1 << 63, (1 << 64) - CLUSTER, (1 << 64) - 1):
            outside = offset % CLUSTER == 0 and not CLUSTER <= offset < end - CLUSTER
            yield Case(
                f"v{version}: a snapshot's L1 table at {number(offset)}",
                _entry(version, 0, u64(offset)),
                reason="l2_table" if offset == end - CLUSTER else TABLE,
                differs=INSIDE if version == 3 and outside and offset < 1 << 63 else "",
            )
        empty = "empty_snapshot_l1" if version == 3 else ""
        yield Case(
            f"v{version}: a snapshot's L1 table of no entries",
            _entry(version, 8, u32(0)),
            differs=empty,
        )
        for size in (2, 8192, 1 << 22, (1 << 22) + 1, 1 << 29, 1 << 31, (1 << 32) - 1):
            yield Case(
                f"v{version}: a snapshot's L1 table of {number(size)} entries",
                _entry(version, 8, u32(size)),
                reason=TABLE,
            )


def _strings() -> Iterator[Case]:
    for version in (3, 2):
        base = replace(V3, version=version)
        for size in (0, 1, 65535):
            text = b"n" * size
            for what, snapshot in (
                ("name", replace(SNAPSHOT, name=text)),
                ("id", replace(SNAPSHOT, id=text)),
            ):
                yield Case(
                    f"v{version}: a snapshot with {what} of {size} bytes",
                    replace(base, snapshots=[snapshot]),
                )
        both = replace(SNAPSHOT, name=b"n" * 65535, id=b"i" * 65535)
        yield Case(
            f"v{version}: a snapshot with name and id of 65535 bytes",
            replace(base, snapshots=[both]),
        )
        twin = replace(base, snapshots=[replace(SNAPSHOT, id=b"1"), replace(SNAPSHOT, id=b"1")])
        yield Case(f"v{version}: two snapshots with the same name and id", twin)
        for at, what in ((12, "id"), (14, "name")):
            yield Case(
                f"v{version}: a snapshot whose {what} is said to reach behind the end",
                replace(SNAPPED, version=version, patches=[(TABLE, at, b"\xff\xff")]),
            )


def _extra_data() -> Iterator[Case]:
    for version in (3, 2):
        for size in (0, 1, 7, 8, 15, 16, 17, 23, 24, 25, 1023, 1024):
            snapshot = replace(SNAPSHOT, extra_data_size=size)
            yield Case(
                f"v{version}: a snapshot with {size} bytes of extra data",
                replace(V3, version=version, snapshots=[snapshot]),
                rewrites=version == 2 and size < 16,
            )
        for size in (1025, 65536, 1 << 31, (1 << 32) - 8, (1 << 32) - 1):
            yield Case(
                f"v{version}: a snapshot that claims {number(size)} bytes of extra data",
                _entry(version, 36, u32(size)),
                reason="snapshot_extra_data",
            )


def _sizes() -> Iterator[Case]:
    for version in (3, 2):
        base = replace(V3, version=version)
        for size in (0, 512, (64 << 20) - 512, (64 << 20) + 512, 1 << 63, (1 << 64) - 1):
            image = replace(SNAPPED, version=version, patches=[(TABLE, 48, u64(size))])
            yield Case(
                f"v{version}: a snapshot's disk size is {number(size)}",
                image,
                reason="downgrade_snapshot_size",
            )
        for size in ((1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1):
            image = replace(base, snapshots=[replace(SNAPSHOT, vm_state_size=size)])
            yield Case(
                f"v{version}: a snapshot's VM state is {number(size)} bytes",
                image,
                reason="downgrade_snapshot_vm_state",
            )
    odd = replace(V3, size=(64 << 20) + 100, snapshots=[SNAPSHOT])
    yield Case(
        "a snapshot as large as a disk that is no multiple of 512", odd, differs="virtual_size_kept"
    )
    zero = replace(V3, snapshots=[replace(SNAPSHOT, clusters={0: Zero()})])
    yield Case(
        "a zero cluster in a snapshot only",
        zero,
        rewrites=True,
    )


def _ends() -> Iterator[Case]:
    """The snapshot table in the last cluster of a file that is cut."""
    table = SNAPPED.build()[SNAPPED.regions()[TABLE].start :][:72]
    end = max(part.stop for part in SNAPPED.regions().values())
    moved = replace(SNAPPED, patches=[*fields(snapshots_offset=end), (end, table)])
    for left, differs in ((1, "empty_snapshot_l1"), (8, "empty_snapshot_l1"), (39, ""), (40, "")):
        yield Case(
            f"the file ends after {left} of 72 bytes of the snapshot table",
            moved,
            length=end + left,
            reason="downgrade_snapshot_size",
            differs=differs,
        )
    for left in (55, 56, 63, 64, 65, 71, 72):
        yield Case(
            f"the file ends after {left} of 72 bytes of the snapshot table",
            moved,
            length=end + left,
        )
    for left in (8, 40, 72):
        at = end + CLUSTER - 512
        yield Case(
            f"a snapshot table that is not aligned, with {left} bytes before the end",
            replace(SNAPPED, patches=[*fields(snapshots_offset=at), (at, table)]),
            length=at + left,
            reason=TABLE,
        )


def _many() -> Iterator[Case]:
    small = replace(V3, cluster_bits=12, size=1 << 20)
    for count in (64, 65, 100):
        unequal = [replace(SNAPSHOT, disk_size=1 << 19)] * count
        yield Case(
            f"{count} snapshots, each with a disk of another size",
            replace(small, snapshots=unequal),
            reason="downgrade_snapshot_size",
            exits=500,
        )
    yield Case(
        "100 snapshots with names of 65535 bytes",
        replace(small, snapshots=[replace(SNAPSHOT, name=b"n" * 65535)] * 100),
        exits=700,
        bytes_read=16 << 20,
    )
    yield from _hidden()


def _hidden() -> Iterator[Case]:
    """As many reasons as can be told, and behind them a table that must not be followed."""
    unequal = [replace(SNAPSHOT, disk_size=1 << 19)] * 64
    base = replace(V3, snapshots=[*unequal, SNAPSHOT])
    regions = base.regions()
    last, end = regions[TABLE].stop - 72, max(part.stop for part in regions.values())
    for what, entry in (
        ("far away with 2^32-1 entries", u64(1 << 40) + u32((1 << 32) - 1)),
        ("not aligned, at the end", u64(end - 511) + u32(1024)),
    ):
        yield Case(
            f"behind 64 reasons to refuse, a snapshot's L1 table {what}",
            replace(base, patches=[(last, entry)]),
            reason="downgrade_snapshot_size",
            exits=500,
            bytes_read=8 << 20,
        )
