"""Test side: what the judge takes of memory and time is bounded by what is staged and stored."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest

from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.contract.judge import judge
from instar.vmm.contract.reader import disk
from instar.vmm.contract.terms import Claim, Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.staging import StagedWrites
from instar.vmm.request import AmendRequest
from tests.support.forge import Extension, Image

pytestmark = pytest.mark.any_python

BITMAPS = 0x23852875
SECONDS = 20.0
"""Of processor time: ten times what it takes here, and a hundredth of what an attack would want."""


class Sparse:
    """A file that is nearly all holes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[tuple[int, bytes]] = []

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(max(min(size, self.size - offset), 0))
        for start, part in self.parts:
            low, high = max(start, offset), min(start + len(part), offset + len(data))
            if low < high:
                data[low - offset : high - offset] = part[low - start : high - start]
        return bytes(data)

    def stored(self) -> int:
        return sum(len(part) for _, part in self.parts)


def with_bitmap(windows: int, bits: int, snapshots: int = 0) -> tuple[Sparse, StagedWrites]:
    """A bitmap whose clusters each lie in another window of refcounts, and what drops it."""
    base = 1 << 20
    pointer = struct.pack(">IIQQ", 1, 0, 32, base)
    image = Image(
        size=1 << 20, cluster_bits=bits, extensions=(Extension(BITMAPS, pointer),)
    ).build()
    header = bytearray(image[:512])
    header[88:96] = struct.pack(">Q", 1)
    first = 1 << 36
    header[60:72] = struct.pack(">IQ", snapshots, 16 << 20)
    file = Sparse(first + (snapshots << 35) + (1 << 40))
    table = base + (1 << bits)
    in_window = 256 << bits
    entry = struct.pack(">QIIBBHI", table, windows, 1, 1, bits, 1, 0) + b"b" + bytes(7)
    entries = b"".join(struct.pack(">Q", (n + 1) * in_window) for n in range(windows))
    layers = b"".join(
        struct.pack(">QIHHIIQII", first + (n << 35), (1 << 32) - 1, 0, 0, 0, 0, 0, 0, 0)
        for n in range(snapshots)
    )
    file.parts = [(0, bytes(header)), (512, image[512:]), (base, entry), (table, entries)]
    file.parts.append((16 << 20, layers))
    staged = StagedWrites()
    staged.write(128 << 10, bytes(512) * (windows + 2000), 4)
    switch = bytes(header[:4]) + (2).to_bytes(4, "big") + bytes(header[8:72])
    staged.write(0, switch.ljust(512, b"\0"), 3)
    return file, staged


def outcome(
    file: Sparse, staged: StagedWrites, work: int, *, trace: bool = True
) -> tuple[type, int, float]:
    """How the judgement ends, the most memory it takes besides what is staged, and its time."""
    fields = dict.fromkeys(
        ("incompatible_features", "compatible_features", "autoclear_features"), 0
    )
    claim = Claim(True, True, {"version": 2, **fields})
    original = Original(file.read, file.size, work, file.stored())
    if trace:
        tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises((GuestFault, ImageRejected)) as caught:
            judge(
                original,
                AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=1 << 62),
                staged,
                claim,
            )
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return caught.type, peak, seconds


@pytest.mark.parametrize("bits", [9, 16])
def test_books_take_a_small_multiple_of_what_is_staged(bits: int) -> None:
    file, staged = with_bitmap(20_000, bits)
    _, peak, seconds = outcome(file, staged, 1 << 40)
    assert peak < disk.MEMORY_MIN + 3 * staged.size()
    assert seconds < SECONDS


def test_large_l1_tables_of_many_snapshots_are_not_held_against_each_refcount() -> None:
    file, staged = with_bitmap(2_000, 9, snapshots=500)
    kind, peak, seconds = outcome(file, staged, WORK_MIN)
    assert kind in (ImageRejected, GuestFault)
    assert peak < disk.MEMORY_MIN + 3 * staged.size()
    assert seconds < SECONDS


def test_more_memory_than_the_budget_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MEMORY_MIN", 0)
    monkeypatch.setattr(disk, "MEMORY_FACTOR", 0)
    file, staged = with_bitmap(100, 16)
    fields = dict.fromkeys(
        ("incompatible_features", "compatible_features", "autoclear_features"), 0
    )
    original = Original(file.read, file.size, 1 << 40, file.stored())
    with pytest.raises(ImageRejected) as caught:
        judge(
            original,
            AmendRequest.of(compat=2, drop_bitmaps=True, max_growth=0),
            staged,
            Claim(True, True, {"version": 2, **fields}),
        )
    assert [refusal.name for refusal in caught.value.refusals] == ["change_limit"]


def test_a_bitmap_table_that_is_named_again_and_again_is_paid_for() -> None:
    file, staged = with_bitmap(2000, 16)
    start, entry = file.parts[2]
    directory = entry * 5000
    pointer = struct.pack(">IIQQ", 5000, 0, len(directory), start)
    header = file.parts[0][1].replace(struct.pack(">IIQQ", 1, 0, 32, start), pointer)
    moved = start + (1 << 22)
    entries = file.parts[3][1]
    directory = directory.replace(struct.pack(">Q", start + (1 << 16)), struct.pack(">Q", moved))
    file.parts[0], file.parts[2], file.parts[3] = (0, header), (start, directory), (moved, entries)
    kind, _, seconds = outcome(file, staged, WORK_MIN, trace=False)
    assert kind is ImageRejected
    assert seconds < SECONDS
