"""Test side: what an honest guest would stage for tables and refcounts, by a small model in Python.

It follows docs/abi.md and shares no code with the planner or with the write contract.
"""

from __future__ import annotations

import struct
from collections import Counter

from instar import abi
from instar.vmm.contract.terms import Claim
from instar.vmm.request import AmendRequest
from tests.support.forge import (
    Image,
    Reader,
    find_extension,
    layout,
    parse_bitmaps,
    parse_extensions,
    parse_header,
    stored_refcounts,
)
from tests.support.planning import SECTOR, Case, extension

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
MASK = 0x00FFFFFFFFFFFE00
GROWTH = 1 << 30
_HEADER_LENGTH = 112


class Model:
    """An image in memory with 16-bit refcounts, and the case that an honest guest makes of it."""

    def __init__(self, data: bytes, request: AmendRequest) -> None:
        self.data = data
        self.header = parse_header(data)
        self.size: int = 1 << self.header.cluster_bits
        self.old = stored_refcounts(Reader(data))
        self.changes: Counter[int] = Counter()
        fields = {"version": request.compat or 0, "incompatible_features": 0}
        fields |= {"compatible_features": 0, "autoclear_features": 0}
        phases: list[dict[int, bytes]] = [{} for _ in range(abi.INSTAR_PHASE_COUNT)]
        self.case = Case(data, request, phases, Claim(True, True, fields))
        self.places: dict[str, int] = {}
        self._next = 0

    def read(self, offset: int, size: int, phase: int = 0) -> bytes:
        """The image with all that is staged up to a phase."""
        first, end = offset // SECTOR, -(-(offset + size) // SECTOR)
        data = b"".join(self._sector(number, phase) for number in range(first, end))
        return data[offset % SECTOR :][:size]

    def _sector(self, number: int, phase: int) -> bytes:
        for staged in reversed(self.case.phases[: phase + 1]):
            if number in staged:
                return staged[number]
        return self.data[number * SECTOR :][:SECTOR].ljust(SECTOR, b"\0")

    def put(self, phase: int, offset: int, data: bytes) -> None:
        """Stage bytes."""
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        whole = bytearray(self.read(first * SECTOR, (end - first) * SECTOR, phase))
        whole[offset - first * SECTOR : offset - first * SECTOR + len(data)] = data
        for at in range(end - first):
            self.case.phases[phase][first + at] = bytes(whole[at * SECTOR :][:SECTOR])

    def word(self, phase: int, offset: int, value: int) -> None:
        """Stage a 64-bit number."""
        self.put(phase, offset, value.to_bytes(8, "big"))

    def allocate(self, count: int, references: int = 1) -> int:
        """The offset of free clusters in a row, which come into use."""
        first = self._next
        while any(self.old.get(first + n, 0) or self.changes[first + n] for n in range(count)):
            first += 1
        if count == 1:
            self._next = first
        for n in range(count):
            self.changes[first + n] = references
        return first * self.size

    def release(self, offset: int, length: int, references: int = 1) -> None:
        """Clusters lose references."""
        for cluster in range(offset // self.size, -(-(offset + length) // self.size)):
            self.changes[cluster] -= references

    def final(self, offset: int) -> int:
        cluster = offset // self.size
        was: int = self.old.get(cluster, 0)
        return was + self.changes[cluster]

    def zero(self, offset: int) -> None:
        """Fill a cluster with zeros."""
        self.case.zeroes.append((offset // SECTOR, self.size // SECTOR))

    def account(self) -> None:
        """Stage the refcounts, with new blocks and a new table where they are needed."""
        per_block = self.size // 2
        table = self.header.refcount_table_offset
        entries = self.header.refcount_table_clusters * self.size // 8
        blocks: dict[int, int] = {}
        new_table = 0
        while True:
            wanted = {n // per_block for n, change in self.changes.items() if change > 0}
            covered = {n for n in wanted if n < entries and any(self.read(table + 8 * n, 8))}
            if missing := wanted - covered - blocks.keys():
                blocks[min(missing)] = self.allocate(1)
            elif not new_table and max(wanted, default=0) >= entries:
                clusters = -(-8 * (max(wanted) + 8) // self.size)
                new_table = self.allocate(clusters)
            else:
                break
        for offset in blocks.values():
            self.put(0, offset, bytes(self.size))
        if new_table:
            self.places = {"refcount_table_offset": new_table, "refcount_table_clusters": clusters}
            self.put(0, new_table, self.read(table, 8 * entries).ljust(clusters * self.size, b"\0"))
            self.put(1, 48, struct.pack(">QI", new_table, clusters))
            self.release(table, 8 * entries)
        for index, offset in blocks.items():
            phase, start = (0, new_table) if new_table else (1, table)
            self.word(phase, start + 8 * index, offset)
        for cluster, change in sorted(self.changes.items(), key=lambda item: item[1] < 0):
            block = blocks.get(cluster // per_block) or self._old_block(cluster // per_block)
            count = self.old.get(cluster, 0) + change
            phase = abi.INSTAR_PHASE_PREPARE if change > 0 else abi.INSTAR_PHASE_RELEASE
            if change:
                self.put(phase, block + 2 * (cluster % per_block), count.to_bytes(2, "big"))

    def _old_block(self, index: int) -> int:
        return int.from_bytes(self.read(self.header.refcount_table_offset + 8 * index, 8), "big")

    def tables(self, layer: int | None) -> list[int]:
        """The offsets of a layer's L2 tables."""
        found = Reader(self.data).l1_entries(layer)
        return [entry.l2_table_offset for _, entry in found]

    def entries(self, table: int, phase: int = 0) -> list[tuple[int, int]]:
        """The entries of an L2 table that are not 0, each with its place."""
        words = struct.unpack(f">{self.size // 8}Q", self.read(table, self.size, phase))
        return [(table + 8 * n, word) for n, word in enumerate(words) if word]

    def switch(self, version: int) -> None:
        """Stage the header, with the extensions but feature names and, if dropped, bitmaps."""
        drop = {layout.EXTENSION_FEATURE_NAME_TABLE}
        drop |= {layout.EXTENSION_BITMAPS} if version == 2 else set()
        fields = bytearray(self.read(0, 72, abi.INSTAR_PHASE_REFCOUNT_TABLE))
        fields[4:8] = version.to_bytes(4, "big")
        if "snapshots_offset" in self.places:
            fields[64:72] = self.places["snapshots_offset"].to_bytes(8, "big")
        if version == 3:
            fields += struct.pack(">QQQIIQ", 0, 0, 0, 4, _HEADER_LENGTH, 0)
        kept = (e for e in parse_extensions(self.data) if e.type not in drop)
        new = bytes(fields) + b"".join(extension(e.type, e.data) for e in kept) + bytes(8)
        assert len(new) <= (self.header.backing_file_offset or SECTOR)
        self.put(abi.INSTAR_PHASE_SWITCH, 0, new)


def downgrade(image: Image, *, drop_bitmaps: bool = False, max_growth: int = GROWTH) -> Model:
    """A downgrade that fills zero clusters and, if asked to, removes bitmaps."""
    model = Model(
        image.build(), AmendRequest.of(compat=2, drop_bitmaps=drop_bitmaps, max_growth=max_growth)
    )
    layers = Reader(model.data).layers
    for table in dict.fromkeys(table for layer in layers for table in model.tables(layer)):
        for place, word in model.entries(table):
            if word & ZERO and not word & COMPRESSED:
                model.word(abi.INSTAR_PHASE_MAPPING, place, _filled(model, table, word))
    if drop_bitmaps and model.header.autoclear_features & layout.AUTOCLEAR_BITMAPS:
        _release_bitmaps(model)
    model.account()
    model.switch(2)
    for table in model.tables(None):
        for place, word in model.entries(table, abi.INSTAR_PHASE_MAPPING):
            host = word & MASK
            if host and not word & (COPIED | COMPRESSED) and model.final(host) == 1:
                model.word(abi.INSTAR_PHASE_FLAGS, place, word | COPIED)
    return model


def _filled(model: Model, table: int, word: int) -> int:
    """What becomes of the entry of a zero cluster."""
    host, references = word & MASK, model.old[table // model.size]
    if model.header.backing_file_offset:
        if host and model.old[host // model.size] == references:
            model.zero(host)
            return word & ~ZERO
        new = model.allocate(1, references)
        model.zero(new)
        result = new | (COPIED if references == 1 else 0)
    else:
        result = 0
    if host:
        model.release(host, model.size, references)
    return result


def _release_bitmaps(model: Model) -> None:
    found = find_extension(model.data, layout.EXTENSION_BITMAPS)
    assert found is not None
    pointer = layout.BitmapsExtension.parse(found)
    model.release(pointer.bitmap_directory_offset, pointer.bitmap_directory_size)
    for bitmap in parse_bitmaps(model.data):
        size = 8 * bitmap.bitmap_table_size
        model.release(bitmap.bitmap_table_offset, size)
        words = struct.unpack(f">{size // 8}Q", model.read(bitmap.bitmap_table_offset, size))
        for word in words:
            if word & MASK:
                model.release(word & MASK, model.size)


def upgrade(image: Image, *, max_growth: int = GROWTH) -> Model:
    """An upgrade that writes the snapshot table anew."""
    model = Model(image.build(), AmendRequest.of(compat=3, max_growth=max_growth))
    at = model.header.snapshots_offset
    table = b""
    for _ in range(model.header.nb_snapshots):
        ids, names = struct.unpack(">HH", model.data[at + 12 : at + 16])
        vm_state, size = struct.unpack(">II", model.data[at + 32 : at + 40])
        extra, strings = model.data[at + 40 :][:size], model.data[at + 40 + size :][: ids + names]
        known = (vm_state, model.header.size & -512, (1 << 64) - 1)
        for n, value in enumerate(known):
            if len(extra) < 8 * n + 8:
                extra = extra[: 8 * n] + value.to_bytes(8, "big")
        entry = model.data[at : at + 36] + len(extra).to_bytes(4, "big") + extra + strings
        table += entry + bytes(-len(entry) % 8)
        at += (40 + size + ids + names + 7) // 8 * 8
    clusters = -(-len(table) // model.size)
    new = model.allocate(clusters)
    model.put(0, new, table)
    model.places["snapshots_offset"] = new
    model.release(model.header.snapshots_offset, at - model.header.snapshots_offset)
    model.account()
    model.switch(3)
    return model
