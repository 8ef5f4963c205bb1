"""The cases about sizes, widths of refcounts and names, alone and in chains. Test side.

qemu-img shrinks by `amend` without a question; instar is allowed to here.
"""

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

BITS = 12
CLUSTER = 1 << BITS
MAPPED = 1 << 2 * BITS - 3
"""What an L2 table maps."""
FIVE, SIX = Data(b"\x05"), Data(b"\x06")
LAST: dict[str, Cluster] = {
    "standard": FIVE,
    "compressed": Compressed(b"c"),
    "zero": Zero(),
    "zero-allocated": ZeroAllocated(b"stale"),
}
"""What the cluster may be that the disk ends within."""
PLAIN = Image(cluster_bits=BITS, size=8 * CLUSTER, clusters={0: FIVE, 3: SIX, 7: FIVE})
BACKED = replace(PLAIN, backing_file=b"b.raw", backing_format=b"raw", clusters={0: FIVE})
TAKEN = replace(PLAIN, snapshots=[Snapshot(name=b"s")])
NAMES = (8, 400, 1023)
"""Lengths."""
_SHRUNK = ("v2", "snapshot", "snapshot-larger", "extended-l2", "bitmap", "backing-longer")


def cases() -> Iterator[Case]:
    """All of them."""
    for group in (_boundaries(), _tails(), _kinds(), _widths(), _names(), _chains()):
        yield from group


def _boundaries() -> Iterator[Case]:
    """To the end of a cluster and of an L2 table, and a sector from it."""
    for name, boundary in (("cluster", 4 * CLUSTER), ("disk", 8 * CLUSTER), ("table", MAPPED)):
        for more in (-512, 0, 512):
            size = boundary + more
            yield Case(name=f"size-{name}{more:+}", options=f"size={size}", image=PLAIN)
    for bits in (9, 16, 21):
        image = replace(PLAIN, cluster_bits=bits, size=8 << bits)
        mapped = 1 << 2 * bits - 3
        two = f"size={2 * mapped}"
        yield Case(name=f"size-{1 << bits}-two-tables", options=two, image=image)
    full = replace(PLAIN, size=2 * MAPPED, clusters={0: FIVE, 511: SIX, 512: FIVE, 1023: SIX})
    for size in (MAPPED - 512, MAPPED, MAPPED + 512, 512):
        yield Case(name=f"size-two-tables-to-{size}", options=f"size={size}", image=full)


def _tails() -> Iterator[Case]:
    """A disk that ends within a cluster, of every kind, grows; what hides there stays hidden."""
    for name, last in LAST.items():
        image = replace(PLAIN, size=7 * CLUSTER + 512, clusters={0: FIVE, 7: last})
        yield Case(name=f"size-tail-{name}", options=f"size={16 * CLUSTER}", image=image)
        taken = replace(image, snapshots=[Snapshot(name=b"s")])
        yield Case(name=f"size-tail-{name}-shared", options=f"size={16 * CLUSTER}", image=taken)
    for name, image in {"hidden": PLAIN, "hidden-shared": TAKEN}.items():
        hidden = replace(image, header={"size": 2 * CLUSTER})
        yield Case(name=f"size-{name}", options=f"size={16 * CLUSTER}", image=hidden)


def _kinds() -> Iterator[Case]:
    """What else the image may have."""
    parts = Subclusters({0: Data(b"s"), 5: Zero(), 31: Data(b"t")})
    extended = Image(cluster_bits=14, size=8 << 14, extended_l2=True, clusters={0: FIVE, 7: parts})
    images: dict[str, tuple[Image, dict[str, bytes]]] = {
        "v2": (replace(PLAIN, version=2), {}),
        "v2-snapshot": (replace(TAKEN, version=2), {}),
        "snapshot": (TAKEN, {}),
        "snapshot-larger": (replace(PLAIN, snapshots=[Snapshot(name=b"s", disk_size=1 << 20)]), {}),
        "snapshot-smaller": (replace(PLAIN, snapshots=[Snapshot(name=b"s", disk_size=512)]), {}),
        "snapshot-vm-state": (replace(PLAIN, snapshots=[Snapshot(name=b"s", vm_state=b"x")]), {}),
        "snapshot-no-size": (
            replace(PLAIN, snapshots=[Snapshot(name=b"s", extra_data_size=8)]),
            {},
        ),
        "extended-l2": (extended, {}),
        "bitmap": (replace(PLAIN, bitmaps=[Bitmap(name=b"b0", dirty=(0,))]), {}),
        "bitmap-in-use": (replace(PLAIN, bitmaps=[Bitmap(name=b"b0", flags=1)]), {}),
        "data-file": (replace(PLAIN, data_file=b"d.raw"), {}),
        "lazy": (replace(PLAIN, lazy_refcounts=True), {}),
        "refcount-64": (replace(PLAIN, refcount_order=6), {}),
        "backing-shorter": (BACKED, {"b.raw": b"\x09" * (4 * CLUSTER)}),
        "backing-equal": (BACKED, {"b.raw": b"\x09" * (8 * CLUSTER)}),
        "backing-longer": (BACKED, {"b.raw": b"\x09" * (12 * CLUSTER)}),
        "backing-longer-v2": (replace(BACKED, version=2), {"b.raw": b"\x09" * (12 * CLUSTER)}),
    }
    for name, (image, files) in images.items():
        grown, less = f"size={2 * image.size}", f"size={image.size // 2}"
        yield Case(name=f"size-{name}-grow", options=grown, image=image, files=files)
        if name in _SHRUNK:
            yield Case(name=f"size-{name}-shrink", options=less, image=image, files=files)
    same = f"size={PLAIN.size}"
    yield Case(name="size-v2-snapshot-same", options=same, image=replace(TAKEN, version=2))


def _widths() -> Iterator[Case]:
    """All widths, and each kind of image with one that it may have and one that it may not."""
    for bits in (1, 2, 4, 8, 16, 32, 64):
        name, options = f"width-{bits}", f"refcount_bits={bits}"
        yield Case(name=name, options=options, image=PLAIN)
        if bits in (1, 2, 64):
            yield Case(name=f"{name}-shared", options=options, image=TAKEN)
    for order in (0, 6):
        wide = replace(PLAIN, refcount_order=order)
        yield Case(name=f"width-from-{1 << order}", options="refcount_bits=16", image=wide)
    small = replace(PLAIN, cluster_bits=9, size=8 << 9)
    bitmap = replace(PLAIN, bitmaps=[Bitmap(name=b"b0", dirty=(0,))])
    packed = replace(PLAIN, clusters={n: Compressed(b"%d" % n) for n in range(6)})
    external = replace(PLAIN, data_file=b"d.raw")
    images = {"512": small, "bitmap": bitmap, "compressed": packed, "data-file": external}
    for name, image in images.items():
        for bits in (1, 64) if name == "compressed" else (64,):
            yield Case(name=f"width-{name}-{bits}", options=f"refcount_bits={bits}", image=image)
    for bits in (16, 32):
        v2 = replace(PLAIN, version=2)
        yield Case(name=f"width-v2-{bits}", options=f"refcount_bits={bits}", image=v2)


def _names() -> Iterator[Case]:
    """Of all lengths, as far as there is room; the file is called by a long way round."""
    for length in NAMES:
        options = f"data_file={_long('d.raw', length)}"
        for bits in (9, 16):
            image = replace(PLAIN, cluster_bits=bits, size=8 << bits, data_file=b"d.raw")
            yield Case(name=f"name-data-file-{length}-{1 << bits}", options=options, image=image)
    below: dict[str, Any] = {"b.raw": b"\x09" * (8 * CLUSTER)}
    for length in NAMES:
        name = _long("b.raw", length)
        image = replace(BACKED, backing_file=name.encode())
        options = f"backing_file={name},backing_fmt=raw"
        yield Case(name=f"name-confirm-{length}", options=options, image=image, files=below)
        other = "backing_file=b.raw,backing_fmt=raw,lazy_refcounts=on"
        yield Case(name=f"name-other-{length}", options=other, image=image, files=below)


def _long(name: str, length: int) -> str:
    """A name of so many bytes or one less for the same file."""
    return "./" * ((length - len(name)) // 2) + name


def _chains() -> Iterator[Case]:
    """Two to five options at once."""
    v2 = replace(PLAIN, version=2)
    external = replace(PLAIN, data_file=b"d.raw", data_file_raw=True)
    taken = replace(TAKEN, version=2)
    below = {"b.raw": b"\x09" * (4 * CLUSTER)}
    confirmed = "backing_file=b.raw,backing_fmt=raw"
    for image, options in (
        (PLAIN, "compat=0.10,size=1048576"),
        (PLAIN, "compat=0.10,size=8192,lazy_refcounts=off"),
        (PLAIN, "compat=0.10,refcount_bits=8"),
        (replace(PLAIN, refcount_order=3), "compat=0.10,refcount_bits=16"),
        (replace(PLAIN, refcount_order=3), "compat=0.10,refcount_bits=16,size=8192"),
        (v2, "compat=1.1,size=1048576"),
        (v2, "compat=1.1,refcount_bits=64,lazy_refcounts=on,size=33554432"),
        (taken, "compat=1.1,size=1048576"),
        (taken, "compat=1.1,refcount_bits=1"),
        (external, "data_file_raw=off,data_file=./d.raw"),
        (external, "data_file_raw=off,refcount_bits=32,lazy_refcounts=on"),
        (BACKED, f"size=65536,{confirmed}"),
        (BACKED, f"compat=1.1,lazy_refcounts=on,refcount_bits=8,size=65536,{confirmed}"),
    ):
        kind = "backed" if image.backing_file else "taken" if image is taken else "plain"
        kind = "external" if image is external else "v2" if image is v2 else kind
        name = f"chain-{kind}-{image.refcount_order}-{label(options).replace(',', '-')}"
        files = below if image.backing_file else {}
        yield Case(name=name.replace("/", ""), options=options, image=image, files=files)
