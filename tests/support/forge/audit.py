"""Finds what `qemu-img check` would object to, without qemu. Test side of the trust boundary.

Counts references by following them, and owes nothing to the code that builds images.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

from tests.support.forge import layout
from tests.support.forge.parse import find_extension, parse_bitmaps, parsed
from tests.support.forge.reader import U64, Reader, nonzero


def faults(image: Reader) -> list[str]:
    """Wrong refcounts and wrong COPIED flags, one sentence each; none in a valid image."""
    stored, counted = stored_refcounts(image), counted_refcounts(image)
    return [
        f"host cluster {n}: refcount {stored.get(n, 0)}, {counted[n]} references"
        for n in sorted(stored.keys() | counted.keys())
        if stored.get(n, 0) != counted[n]
    ] + [
        f"{what}: COPIED is {copied}, should be {exclusive}"
        for what, copied, exclusive in _copied_flags(image, stored)
        if copied != exclusive
    ]


def stored_refcounts(image: Reader) -> dict[int, int]:
    """The refcounts in the refcount blocks by host cluster, without those that are zero."""
    bits = 1 << image.header.get("refcount_order", 4)
    per_block = image.cluster_size * 8 // bits
    counts = {}
    for number, offset in _refcount_blocks(image):
        block = image.stored(offset, image.cluster_size)
        if bits == 16:  # nearly always, and many times a second in a fuzzer
            words = struct.unpack(f">{len(block) // 2}H", block)
            counts.update({number * per_block + n: word for n, word in enumerate(words) if word})
            continue
        for n in range(len(block.rstrip(b"\0")) * 8 // bits + 1):
            start = n * bits // 8
            raw = int.from_bytes(block[start : start + max(bits // 8, 1)], "big")
            if count := (raw >> n * bits % 8) & ((1 << bits) - 1):
                counts[number * per_block + n] = count
    return counts


def counted_refcounts(image: Reader) -> Counter[int]:
    """The refcounts by host cluster as they should be."""
    counts: Counter[int] = Counter()
    size = image.cluster_size
    for offset, length in references(image):
        counts.update(range(offset // size, -(-(offset + length) // size)))
    return counts


def references(image: Reader) -> Iterator[tuple[int, int]]:
    """Offset and length of all that something in the image refers to, once for each reference."""
    header, size = image.header, image.cluster_size
    yield 0, size
    yield header.refcount_table_offset, header.refcount_table_clusters * size
    yield from ((offset, size) for _, offset in _refcount_blocks(image))
    for snapshot in image.layers:
        offset, entries = image.l1_table(snapshot)
        yield offset, U64 * entries
        for l1_index, l1_entry in image.l1_entries(snapshot):
            yield l1_entry.l2_table_offset, size
            for _, entry in image.l2_entries_in(l1_index, l1_entry):
                host = range(0) if image.has_data_file else image.host_range(entry)
                yield host.start, len(host)
    yield header.snapshots_offset, _snapshot_table_length(image)
    if pointer := find_extension(image.data, layout.EXTENSION_CRYPTO_HEADER):
        crypto_header = layout.CryptoHeaderExtension.parse(pointer)
        yield crypto_header.offset, crypto_header.length
    yield from _bitmap_references(image)


def _bitmap_references(image: Reader) -> Iterator[tuple[int, int]]:
    if found := find_extension(image.data, layout.EXTENSION_BITMAPS):
        extension = layout.BitmapsExtension.parse(found)
        yield extension.bitmap_directory_offset, extension.bitmap_directory_size
    for bitmap in parse_bitmaps(image.data):
        length = U64 * bitmap.bitmap_table_size
        yield bitmap.bitmap_table_offset, length
        table = image.take(bitmap.bitmap_table_offset, length)
        for n in nonzero(table, U64):
            entry = parsed(layout.BitmapTableEntry, table[U64 * n : U64 * (n + 1)])
            yield entry.host_cluster_offset, image.cluster_size if entry.host_cluster_offset else 0


def _snapshot_table_length(image: Reader) -> int:
    fixed = 40
    lengths = (
        fixed + entry.extra_data_size + entry.id_size + entry.name_size for entry in image.snapshots
    )
    return sum(length + -length % 8 for length in lengths)


def _refcount_blocks(image: Reader) -> Iterator[tuple[int, int]]:
    """Index in the refcount table and offset of each refcount block."""
    header = image.header
    length = header.refcount_table_clusters * image.cluster_size
    table = image.stored(header.refcount_table_offset, length)
    for n in nonzero(table, U64):
        entry = parsed(layout.RefcountTableEntry, table[U64 * n : U64 * (n + 1)])
        yield n, entry.refcount_block_offset


def _copied_flags(image: Reader, refcounts: dict[int, int]) -> Iterator[tuple[str, bool, bool]]:
    """What carries a COPIED flag in the active layer, the flag, and what it should be."""
    for l1_index, l1_entry in image.l1_entries():
        count = refcounts.get(l1_entry.l2_table_offset // image.cluster_size, 0)
        yield f"L1 entry {l1_index}", l1_entry.copied, count == 1
        for guest, entry in image.l2_entries_in(l1_index, l1_entry):
            host = image.host_range(entry)
            count = refcounts.get(host.start // image.cluster_size, 0)
            exclusive = bool(host) and not entry.descriptor.compressed
            exclusive = exclusive and (image.has_data_file or count == 1)
            yield f"L2 entry of guest cluster {guest}", entry.descriptor.copied, exclusive
