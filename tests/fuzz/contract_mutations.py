"""Test side: what a guest that is taken over makes of an honest guest's plan.

Some mutations change the books to match, so that what they did is met by other rules as well.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

from construct import ConstructError

from instar import abi
from tests.fuzz.contract_states import LAST, SWITCH, state
from tests.support.forge import Reader, layout, parse_header
from tests.support.forge.audit import stored_refcounts
from tests.support.forge.model import Model
from tests.support.planning import SECTOR, Case

PREPARE, TABLE, MAPPING, RELEASE = (
    abi.INSTAR_PHASE_PREPARE,
    abi.INSTAR_PHASE_REFCOUNT_TABLE,
    abi.INSTAR_PHASE_MAPPING,
    abi.INSTAR_PHASE_RELEASE,
)
_COPIED, _MASK = 1 << 63, 0x00FFFFFFFFFFFE00
_MOST = 1 << 20
"""Entries that a table may have whose clusters are counted here."""
_FEW = (1, 1, 1, 2, 3, 24, 60)


class Rogue:
    """A case, and the choices of what is done to it."""

    def __init__(self, rng: random.Random, case: Case, others: Sequence[Case] = ()) -> None:
        """Take a case that may be changed, and honest plans for the image and other requests."""
        self.rng, self.case, self.others = rng, case, others
        self.header = _header(case.data)
        self.size: int = 1 << self.header.cluster_bits
        self.done: list[str] = []
        """The mutations so far."""

    def mutate(self) -> None:
        """Change the plan once or some times."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3))):
            edit = self.rng.choice(_EDITS)
            with suppress(IndexError):  # nothing there that could be changed
                edit(self)
                self.done.append(edit.__name__.strip("_"))
        if self.done and (self.done[-1] == "elsewhere" or self.rng.random() < 0.5):
            with suppress(ConstructError, OverflowError, TypeError, ValueError):
                self._balance()
                self.done.append("balance")

    def _phase(self) -> int:
        """A phase that has something."""
        used = [n for n, phase in enumerate(self.case.phases) if phase]
        return self.rng.choice(used)

    def _sector(self) -> int:
        """A sector of the image, or one that it may grow by."""
        rng, end = self.rng, len(self.case.data) // SECTOR
        staged = [n for phase in self.case.phases for n in phase]
        near = rng.choice(staged) + rng.choice((-1, 1, 8, -8)) if staged else 0
        name = self.header.backing_file_offset // SECTOR
        header = rng.choice((name, rng.randrange(self.size // SECTOR)))
        far = rng.randrange(end + 1), rng.randrange(end + 64)
        return max(rng.choice((0, 1, near, header, *far)), 0)

    def _offset(self) -> int:
        """Where a cluster is."""
        return self.rng.randrange(len(self.case.data) // self.size + 8) * self.size

    def _now(self, sector: int, phase: int) -> bytes:
        for staged in reversed(self.case.phases[: phase + 1]):
            if sector in staged:
                return staged[sector]
        return self.case.data[sector * SECTOR :][:SECTOR].ljust(SECTOR, b"\0")

    def drop(self) -> None:
        """Leave a sector out."""
        phase = self.case.phases[self._phase()]
        del phase[self.rng.choice(list(phase))]

    def add(self) -> None:
        """Write a sector besides, as it is, changed, or as another."""
        number, sector = self.rng.randrange(LAST + 1), self._sector()
        data = bytearray(self._now(self.rng.choice((sector, self._sector())), number))
        for _ in range(self.rng.randrange(3)):
            at = self.rng.choice((self.rng.randrange(SECTOR), 48 + self.rng.randrange(24)))
            data[at] = self.rng.choice((0, 1, 0xFF, self.rng.randrange(256)))
        self.case.phases[number][sector] = bytes(data)

    def move(self) -> None:
        """Write a sector elsewhere."""
        phase = self.case.phases[self._phase()]
        phase[self._sector()] = phase.pop(self.rng.choice(list(phase)))

    def shift(self) -> None:
        """Write a sector in another phase, or in that too."""
        number = self._phase()
        sector = self.rng.choice(list(self.case.phases[number]))
        other = self.case.phases[self.rng.randrange(LAST + 1)]
        other[sector] = self.case.phases[number][sector]
        if self.rng.random() < 0.6 and other is not self.case.phases[number]:
            del self.case.phases[number][sector]

    def early(self) -> None:
        """Write the header's sector before the switch, with or without a change."""
        data = bytearray(self._now(0, self.rng.choice((PREPARE, SWITCH))))
        if self.rng.random() < 0.7:
            data[self.rng.randrange(112)] ^= 1 << self.rng.randrange(8)
        self.case.phases[self.rng.randrange(SWITCH)][0] = bytes(data)

    def swap(self) -> None:
        """Exchange two phases."""
        phases = self.case.phases
        one, two = self._phase(), self.rng.randrange(LAST + 1)
        phases[one], phases[two] = phases[two], phases[one]

    def word(self) -> None:
        """Change a 64-bit word of a sector."""
        phase = self.case.phases[self._phase()]
        sector = self.rng.choice(list(phase))
        data, at = bytearray(phase[sector]), self.rng.randrange(SECTOR // 8) * 8
        words = [n for n in range(0, SECTOR, 8) if any(data[n : n + 8])]
        if words and self.rng.random() < 0.7:
            at = self.rng.choice(words)
        was = int.from_bytes(data[at : at + 8], "big")
        flags = (0, _COPIED, _COPIED | 1, 1, 1 << 62)
        new = (0, 1, was ^ 1, was ^ _COPIED, was ^ 1 << self.rng.randrange(64), self._entry(flags))
        data[at : at + 8] = self.rng.choice(new).to_bytes(8, "big")
        phase[sector] = bytes(data)

    def _entry(self, flags: tuple[int, ...]) -> int:
        return self._offset() | self.rng.choice(flags)

    def header_field(self) -> None:
        """Change a byte of the new header."""
        phase = self.case.phases[SWITCH]
        data = bytearray(phase[0] if 0 in phase else self._now(0, SWITCH))
        at = self.rng.choice((self.rng.randrange(120), self.rng.randrange(SECTOR)))
        data[at] = self.rng.choice((0, data[at] ^ 1 << self.rng.randrange(8)))
        phase[0] = bytes(data)

    def elsewhere(self) -> None:
        """Let new clusters lie elsewhere, as all says that names them."""
        rng, size, old = self.rng, self.size, _refcounts(self.case.data)
        staged = {sector * SECTOR // size for sector in self.case.phases[PREPARE]}
        new = sorted(n for n in staged if not old.get(n))
        first = rng.choice(new)
        row = next(n for n in range(1, len(new) + 1) if first + n not in new)
        end = self._end()
        unused = [n for n in range(1, end // size) if not old.get(n) and n not in staged]
        place = rng.choice((end // size, self._offset() // size, *unused[:4], *unused[-4:]))
        moved = range(first, first + rng.choice((1, row)))
        places = range(moved.start * size, moved.stop * size)
        per_cluster, by = size // SECTOR, place - first
        for phase in self.case.phases:
            for sector in [n for n in phase if n // per_cluster in moved]:
                phase[sector + by * per_cluster] = phase.pop(sector)
            for sector, data in phase.items():
                phase[sector] = _renamed(data, places, by * size)
        for at, (sector, count) in enumerate(self.case.zeroes):
            if sector // per_cluster in moved:
                self.case.zeroes[at] = sector + by * per_cluster, count

    def another(self) -> None:
        """Do what another request asks for, or some phases of that too."""
        other = self.rng.choice(self.others)
        for mine, its in zip(self.case.phases, other.phases, strict=True):
            if self.rng.random() < 0.8:
                if self.rng.random() < 0.7:
                    mine.clear()
                mine.update(its)
        if self.rng.random() < 0.7:
            self.case.zeroes[:] = other.zeroes
        if self.rng.random() < 0.5:
            self.case.claim = other.claim

    def zeroes(self) -> None:
        """Drop, add or change a range of zeros."""
        found, count = self.case.zeroes, self.size // SECTOR
        if found and self.rng.random() < 0.7:
            first, old = found.pop(self.rng.randrange(len(found)))
            if self.rng.random() < 0.7:
                step = self.rng.choice((-count, count, 1, 0))
                changed = max(first + step, 0), max(old + self.rng.choice((0, 0, count, -1)), 1)
                found.append(changed)
        else:
            found.append((self._offset() // SECTOR, count * self.rng.choice((1, 1, 2))))

    def claim(self) -> None:
        """Say something else."""
        case, rng = self.case, self.rng
        if rng.random() < 0.5:
            case.claims(atomic=not case.claim.atomic)
        elif rng.random() < 0.5:
            word = rng.choice(("incompatible_features", "compatible_features", "version"))
            case.says(word, case.claim.fields[word] ^ 1 << rng.randrange(3))
        else:
            case.claims(amended=not case.claim.amended)
            if rng.random() < 0.5:
                case.stage()

    def table_moves(self) -> None:
        """Move the refcount table, to as many clusters as it has or to a great many."""
        offset, clusters = struct.unpack(">QI", self._now(0, TABLE)[48:60])
        table = self._table(offset, clusters)
        count = clusters + self.rng.choice((0, 0, 1, 2, 3, 1 + (1 << 16) // self.size))
        if self.rng.random() < (0.01 if self.size < 1 << 16 else 0.1):
            count = (8 << 20) // self.size + 1
        place = self._end()
        if self.rng.random() < 0.2:
            place = self._offset()
        self._put(PREPARE, place, table.ljust(count * self.size, b"\0"))
        for phase in (TABLE, SWITCH):
            data = bytearray(self._now(0, phase))
            data[48:60] = struct.pack(">QI", place, count)
            self.case.phases[phase][0] = bytes(data)

    def _table(self, offset: int, clusters: int) -> bytes:
        """The refcount table as it will be; IndexError if another mutation made it endless."""
        if clusters * self.size > 8 << 20:
            raise IndexError
        return state(self.case, LAST)[offset : offset + clusters * self.size]

    def blocks(self) -> None:
        """Add refcount blocks, of which the next free index gets the first."""
        moved = self._now(0, TABLE)[48:60]
        offset, clusters = struct.unpack(">QI", moved)
        phase = TABLE if offset == self.header.refcount_table_offset else PREPARE
        table = self._table(offset, clusters)
        words = struct.unpack(f">{len(table) // 8}Q", table[: len(table) & -8])
        free = (n for n, word in enumerate(words) if not word)
        for index in islice(free, self.rng.choice(_FEW)):
            place = self._end()
            self._put(PREPARE, place, bytes(self.size))
            self._put(phase, offset + 8 * index, place.to_bytes(8, "big"))

    def snapshots_move(self) -> None:
        """Move the snapshot table, or change it where it went."""
        header = bytearray(self._now(0, SWITCH))
        old = int.from_bytes(header[64:72], "big")
        place = self._end() if self.rng.random() < 0.8 else self._offset()
        self._put(PREPARE, place, state(self.case, LAST)[old : old + self.size])
        header[64:72] = place.to_bytes(8, "big")
        self.case.phases[SWITCH][0] = bytes(header)

    def grow(self) -> None:
        """Write after everything else."""
        self._put(PREPARE, self._end() + self.rng.choice((0, 20, 500)) * self.size, b"\1")

    def _end(self) -> int:
        """The first offset after all that is there and staged."""
        staged = max((max(phase) for phase in self.case.phases if phase), default=0)
        end = max(len(self.case.data), (staged + 1) * SECTOR)
        return -(-end // self.size) * self.size

    def _put(self, phase: int, offset: int, data: bytes) -> None:
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        if not offset % SECTOR and not len(data) % SECTOR:
            parts = (data[at : at + SECTOR] for at in range(0, len(data), SECTOR))
            self.case.phases[phase].update(zip(range(first, end), parts, strict=True))
            return
        whole = bytearray(b"".join(self._now(n, phase) for n in range(first, end)))
        at = offset - first * SECTOR
        whole[at : at + len(data)] = data
        for n in range(first, end):
            at = (n - first) * SECTOR
            self.case.phases[phase][n] = bytes(whole[at : at + SECTOR])

    def _balance(self) -> None:
        """Stage refcounts that are true for what the image will be, in the phases for them."""
        case, bits = self.case, 1 << self.header.get("refcount_order", 4)
        if bits != 16:
            return
        image = state(case, LAST)
        if image[20:48] != case.data[20:48] or image[60:64] != case.data[60:64]:
            return  # what can't be, and might be endless
        final = Model(image, most=_MOST)
        table, size = final.refcount_table_offset, final.refcount_table_clusters
        extensions = {
            kind for kind, _, data in final.extensions if (kind, data) not in _extensions(case.data)
        }
        names = extensions - {layout.EXTENSION_FEATURE_NAME_TABLE}
        if size * self.size > 32 << 20 or names:
            return
        old, counted = _refcounts(case.data), final.counted
        blocks = {
            n: int.from_bytes(final.take(table + 8 * n, 8), "big")
            for n in {cluster * 2 // self.size for cluster in {*counted, *old}}
        }
        sectors = {
            block // SECTOR + n for block in blocks.values() for n in range(self.size // SECTOR)
        }
        for phase in (PREPARE, RELEASE):
            for sector in sectors & case.phases[phase].keys():
                del case.phases[phase][sector]
        known = {*self._old_blocks()}
        for block in {*blocks.values()} - known - {0}:
            self._put(PREPARE, block, bytes(self.size))
        # All that rise come first: what falls is staged over it.
        for cluster in sorted({*counted, *old}, key=lambda n: counted[n] < old.get(n, 0)):
            block, at = blocks[cluster * 2 // self.size], 2 * (cluster % (self.size // 2))
            was, now = old.get(cluster, 0), counted[cluster]
            if block and was != now and now < 1 << 16:
                phase = PREPARE if now > was else RELEASE
                self._put(phase, block + at, now.to_bytes(2, "big"))

    def _old_blocks(self) -> list[int]:
        start, size = self.header.refcount_table_offset, self.header.refcount_table_clusters
        table = self.case.data[start : start + size * self.size]
        return list(struct.unpack(f">{len(table) // 8}Q", table[: len(table) & -8]))


def _renamed(sector: bytes, places: range, by: int) -> bytes:
    """A sector in which what names one of these places names another one."""
    if not any(named in places for named in _named(sector)):
        return sector
    words = struct.unpack(">64Q", sector)
    return struct.pack(">64Q", *(word + by if word & _MASK in places else word for word in words))


@lru_cache(1 << 14)
def _named(sector: bytes) -> set[int]:
    """The places that a sector may name; most sectors of a plan are in hundreds of others."""
    return {word & _MASK for word in struct.unpack(">64Q", sector)}


@lru_cache(4)
def _header(data: bytes) -> Any:
    return parse_header(data)


@lru_cache(4)
def _extensions(data: bytes) -> set[tuple[int, bytes]]:
    return {(kind, data) for kind, _, data in Model(data).extensions}


@lru_cache(4)
def _refcounts(data: bytes) -> dict[int, int]:
    """Those of an honest image, of which many plans are made."""
    return stored_refcounts(Reader(data))


_EDITS: tuple[Callable[[Rogue], None], ...] = (
    *(Rogue.drop, Rogue.add, Rogue.add, Rogue.move, Rogue.shift, Rogue.early, Rogue.swap),
    *(Rogue.word, Rogue.word, Rogue.word, Rogue.word, Rogue.header_field, Rogue.zeroes),
    *(Rogue.drop, Rogue.add, Rogue.move, Rogue.shift, Rogue.early, Rogue.word, Rogue.word),
    *(
        Rogue.claim,
        Rogue.table_moves,
        Rogue.blocks,
        Rogue.blocks,
        Rogue.table_moves,
        Rogue.snapshots_move,
        Rogue.grow,
        *(Rogue.elsewhere, Rogue.elsewhere, Rogue.elsewhere, Rogue.elsewhere, Rogue.another),
    ),
)
