"""The cases about zero clusters, of every kind and in every neighbourhood. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.baselines.case import Case, label
from tests.support.forge import (
    Bitmap,
    Cluster,
    Compressed,
    Data,
    Image,
    Snapshot,
    Subclusters,
    Zero,
    ZeroAllocated,
)

DOWN = "compat=0.10"
RAW = "b.raw"
QCOW2 = "b.qcow2"
FIVE, SIX = Data(b"\x05"), Data(b"\x06")
KINDS: dict[str, Cluster] = {"plain": Zero(), "preallocated": ZeroAllocated(b"stale")}


def backed(clusters: int) -> dict[str, Any]:
    """The fields of an image over a raw file of so many clusters of 64 KiB."""
    return {"backing_file": RAW.encode(), "backing_format": b"raw", "size": clusters << 16}


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _sizes()
    for kind, zero in KINDS.items():
        yield from _neighbourhoods(kind, zero)
        yield from _snapshots(kind, zero)
    yield from _features()
    yield from _growth()


def _sizes() -> Iterator[Case]:
    """Each cluster size, with and without a backing file that ends in between."""
    for bits in range(9, 22):
        size = 1 << bits
        for kind, zero in KINDS.items():
            image = Image(
                cluster_bits=bits,
                size=8 * size,
                clusters={0: FIVE, 1: zero, 3: SIX, 4: zero, 7: zero},
            )
            over = replace(image, backing_file=RAW.encode(), backing_format=b"raw")
            name = f"zero-{kind}-{size}"
            yield Case(name=name, options=DOWN, image=image)
            # Half a cluster of the backing file lies below guest cluster 4.
            below = b"\x09" * (4 * size + size // 2)
            yield Case(name=f"{name}-backed", options=DOWN, image=over, files={RAW: below})


def _neighbourhoods(kind: str, zero: Cluster) -> Iterator[Case]:
    """What else may be in the image."""
    base = Image(size=1 << 20, clusters={0: FIVE, 1: zero})
    below = Image(size=1 << 19, clusters={0: FIVE, 1: SIX, 2: Compressed(b"\x07")})
    variants: dict[str, tuple[Image, dict[str, bytes | Image]]] = {
        "compressed": (
            replace(base, clusters={0: Compressed(b"a"), 1: zero, 2: Compressed(b"b")}),
            {},
        ),
        "only": (replace(base, clusters={1: zero}), {}),
        "backing-qcow2": (
            replace(base, backing_file=QCOW2.encode(), backing_format=b"qcow2"),
            {QCOW2: below},
        ),
        "backing-missing": (replace(base, backing_file=b"missing", backing_format=b"raw"), {}),
        "backing-longer": (replace(base, **backed(2)), {RAW: b"\x09" * (4 << 16)}),
        "backing-empty": (replace(base, **backed(2)), {RAW: b""}),
        "end-of-disk": (replace(base, size=(1 << 16) + 512), {}),
        "feature-names": (replace(base, feature_name_table=True), {}),
    }
    for name, (image, files) in variants.items():
        yield Case(name=f"zero-{kind}-{name}", options=DOWN, image=image, files=files)
    for options in ("compat=1.1", "lazy_refcounts=on"):
        yield Case(name=f"zero-{kind}-{label(options)}", options=options, image=base)


def _snapshots(kind: str, zero: Cluster) -> Iterator[Case]:
    """Which layers have them, and what the layers share."""
    plain: dict[int, Cluster] = {0: FIVE, 2: SIX}
    marked: dict[int, Cluster] = {0: FIVE, 1: zero}
    stale: dict[int, Cluster] = {0: FIVE, 1: Data(b"stale")}
    variants: dict[str, tuple[dict[int, Cluster], dict[int, Cluster] | None]] = {
        "snapshot-only": (plain, marked),
        "active-only": (marked, plain),
        # The layers have one L2 table.
        "shared-table": (marked, None),
        # Two L2 tables name the same host cluster, both as zeros, or one as zeros and one as data.
        "shared-cluster": (marked, {**marked, 3: SIX}),
        "snapshot-has-data": (marked, stale),
        "active-has-data": (stale, marked),
    }
    for name, (active, taken) in variants.items():
        image = Image(
            size=1 << 20,
            clusters=active,
            snapshots=[Snapshot(name=b"one", clusters=taken)],
        )
        over = replace(image, **backed(16))
        yield Case(name=f"zero-{kind}-{name}", options=DOWN, image=image)
        files = {RAW: b"\x09" * (1 << 17)}
        yield Case(name=f"zero-{kind}-{name}-backed", options=DOWN, image=over, files=files)
    three = [Snapshot(name=b"%d" % n, id=b"%d" % n) for n in range(1, 4)]
    shared = Image(clusters=marked, snapshots=three, **backed(16))
    name = f"zero-{kind}-three-snapshots-backed"
    yield Case(name=name, options=DOWN, image=shared, files={RAW: b"\x09" * (1 << 17)})


def _features() -> Iterator[Case]:
    """Features that stand in the way, or do not."""
    base = Image(size=1 << 20, clusters={0: FIVE, 1: Zero(), 2: ZeroAllocated(b"stale")})
    parts = Subclusters({0: Data(b"s"), 1: Zero()})
    variants = {
        "lazy": replace(base, lazy_refcounts=True),
        "dirty": replace(base, lazy_refcounts=True, dirty=True),
        "corrupt": replace(base, corrupt=True),
        "refcount-8": replace(base, refcount_order=3),
        "refcount-64": replace(base, refcount_order=6),
        "extended-l2": replace(base, extended_l2=True, clusters={0: FIVE, 1: parts, 2: Zero()}),
        "data-file": replace(base, data_file=b"d.raw"),
        "data-file-raw": replace(base, data_file=b"d.raw", data_file_raw=True, clusters={0: FIVE}),
        "bitmap": replace(base, bitmaps=[Bitmap(name=b"b0", dirty=(0,))]),
        "zstd-without-compressed": replace(base, compression_type=1),
        "unknown-fields": replace(base, header_length=120, unknown_header_fields=b"\xab" * 8),
        "snapshot-size": replace(base, snapshots=[Snapshot(name=b"s", disk_size=1 << 21)]),
        "snapshot-vm-state": replace(base, snapshots=[Snapshot(name=b"s", vm_state_size=5 << 30)]),
    }
    for name, image in variants.items():
        yield Case(name=f"zero-with-{name}", options=DOWN, image=image)
    for kind, zero in KINDS.items():
        # What is encrypted with the legacy method needs no header; what is stored reads as noise.
        image = replace(base, crypt_method=1, clusters={0: FIVE, 1: zero})
        over = replace(image, **backed(16))
        files = {RAW: b"\x09" * (1 << 17)}
        name = f"zero-{kind}-aes"
        yield Case(name=name, options=DOWN, image=image, secret=True)
        yield Case(name=f"{name}-backed", options=DOWN, image=over, files=files, secret=True)


def _growth() -> Iterator[Case]:
    """Where the file has to grow, and the structures that count its clusters."""
    many: dict[int, Cluster] = {n: Zero() for n in range(0, 200, 2)}
    image = Image(cluster_bits=9, size=200 << 9, backing_file=RAW.encode(), clusters=many)
    over = {RAW: b"\x09" * (200 << 9)}
    yield Case(name="zero-many-512-backed", options=DOWN, image=image, files=over)
    # A refcount block of 512 bytes counts 256 clusters: those of the file leave no room, or little.
    image = replace(image, size=256 << 9, clusters={n: Data(b"%d" % n) for n in range(240)})
    used = len(image.build()) >> 9
    for room in (0, 1, 2):
        full: dict[int, Cluster] = {n: Data(b"%d" % n) for n in range(240 + 256 - room - used)}
        full[255] = Zero()
        name = f"zero-refcount-block-room-{room}-backed"
        files = {RAW: b"\x09" * (256 << 9)}
        yield Case(name=name, options=DOWN, image=replace(image, clusters=full), files=files)
