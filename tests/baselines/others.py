"""The cases from the forge that are not about zero clusters, and those with failures. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.baselines.case import FAILING_FLUSH, Case, label
from tests.support.forge import Bitmap, Compressed, Data, Extension, Image, Snapshot

UP, DOWN, LAZY = "compat=1.1", "compat=0.10", "lazy_refcounts=on"
V3 = Image(size=1 << 20, clusters={0: Data(b"\x05"), 1: Compressed(b"c")})
V2 = replace(V3, version=2)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _snapshot_tables()
    yield from _bitmaps()
    yield from _features()
    yield from _failures()


def _snapshot_tables() -> Iterator[Case]:
    """Version 3 wants 16 bytes of extra data for each snapshot."""
    for size in (0, 8, 12, 16, 24, 40):
        two = [
            Snapshot(name=b"first", extra_data_size=size, clusters={0: Data(b"\x06")}),
            Snapshot(name=b"second one", extra_data_size=24),
        ]
        yield Case(name=f"snapshot-up-extra-{size}", options=UP, image=replace(V2, snapshots=two))
        name = f"snapshot-noop-extra-{size}"
        yield Case(name=name, options=UP, image=replace(V3, snapshots=two))
    many = [Snapshot(name=b"%d" % n, id=b"%d" % n, extra_data_size=0) for n in range(1, 20)]
    small = replace(V2, cluster_bits=9, size=1 << 14, snapshots=many)
    yield Case(name="snapshot-up-many-512", options=UP, image=small)
    state = Snapshot(name=b"running", vm_state=b"state" * 30000, extra_data_size=0)
    yield Case(name="snapshot-up-vm-state", options=UP, image=replace(V2, snapshots=[state]))
    for name, snapshot in {
        "disk-larger": Snapshot(name=b"s", disk_size=1 << 21),
        "disk-smaller": Snapshot(name=b"s", disk_size=1 << 19),
        "vm-state-4g": Snapshot(name=b"s", vm_state_size=1 << 32),
        "vm-state-below-4g": Snapshot(name=b"s", vm_state_size=(1 << 32) - 1),
        "extra-0": Snapshot(name=b"s", extra_data_size=0),
    }.items():
        image = replace(V3, snapshots=[snapshot])
        yield Case(name=f"snapshot-down-{name}", options=DOWN, image=image)


def _bitmaps() -> Iterator[Case]:
    clean, in_use = Bitmap(name=b"b0", dirty=(0, 3)), Bitmap(name=b"b1", flags=1)
    two = replace(V3, bitmaps=[clean, in_use])
    stale = replace(two, header={"autoclear_features": 0})
    for name, image in {"two": two, "stale": stale}.items():
        for options in (DOWN, UP, LAZY):
            yield Case(name=f"bitmaps-{name}-{label(options)}", options=options, image=image)
    yield Case(name="bitmaps-v2-up", options=UP, image=replace(V2, bitmaps=[clean]))


def _features() -> Iterator[Case]:
    """Each feature, with the options that could be in its way."""
    images = {
        "dirty": replace(V3, dirty=True),
        "corrupt": replace(V3, corrupt=True),
        "extended-l2": replace(V3, extended_l2=True),
        "data-file": replace(V3, data_file=b"d.raw", clusters={0: Data(b"\x05")}),
        "unknown-incompatible": replace(V3, incompatible_features=1 << 40),
        "unknown-compatible": replace(V3, compatible_features=0xF0),
        "unknown-autoclear": replace(V3, autoclear_features=0xF0),
        "unknown-fields": replace(V3, header_length=120, unknown_header_fields=b"\xab" * 8),
        "zero-fields": replace(V3, header_length=120, unknown_header_fields=bytes(8)),
        "zero-fields-backed": replace(
            V3,
            header_length=120,
            unknown_header_fields=bytes(8),
            backing_file=b"b.raw",
            backing_format=b"raw",
        ),
        "unknown-extensions": replace(V3, extensions=[Extension(0x11111111, b"one")] * 2),
        "short-header": replace(V3, header_length=104),
        **{f"refcount-{1 << n}": replace(V3, refcount_order=n, clusters={}) for n in range(7)},
    }
    for name, image in images.items():
        files = {"b.raw": b"\x09" * 4096} if image.backing_file else {}
        for options in (DOWN, LAZY):
            full = f"{name}-{label(options)}"
            yield Case(name=full, options=options, image=image, files=files)


def _failures() -> Iterator[Case]:
    """What qemu-img leaves when a later step refuses, or the last flush fails."""
    # Clusters that two layers share cannot be counted in one bit.
    taken = replace(V2, snapshots=[Snapshot(name=b"s")])
    steps = {
        "up-refcount-bits-1": (f"{UP},refcount_bits=1", taken),
        "up-size-513": (f"{UP},size=513", V2),
        "lazy-size-513": (f"{LAZY},size=513", V3),
        "down-size-513": (f"{DOWN},size=513", V3),
    }
    for name, (options, image) in steps.items():
        yield Case(name=f"steps-done-{name}", options=options, image=image)
    for options, image in ((UP, V2), (DOWN, V3), (LAZY, V3)):
        name = f"failing-flush-{label(options)}"
        yield Case(name=name, options=options, image=image, fault=FAILING_FLUSH)
