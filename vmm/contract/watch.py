"""Host side: clusters that no entry of the image's tables may name, and the search for them.

An image has millions of entries, and hardly any of them is met: so whole tables are searched by
operations that run in C, and single entries are looked at only where these find something
(docs/decisions/0019-the-judge-compares-trees.md).
"""

from __future__ import annotations

from bisect import bisect_left
from struct import unpack

from ..qcow2 import OFFSET_MASK
from .reader.disk import COMPRESSED, COPIED, NOT_COMPRESSED, ZERO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ENTRY = 8
_FEW = 12  # clusters: to search for one takes as long as to unpack a twelfth of the entries
_OFFSET = range(1, 7)  # the bytes of an entry that have nothing but its offset
_FEW_ZEROS = 32  # entries that are looked at by themselves, as they are likely to name nothing
_CROWDED_MAX = 3  # pages of more than a few clusters that are looked for one by one
_BEFORE = 2  # clusters: compressed data that begin so far before one may go on in it
_NOTHING = frozenset((bytes(8), bytes(7) + b"\1"))  # entries that name nothing, as most of these do
_MISSES = 32  # entries that have a byte of a cluster, after which a search for that is given up


class Watch:
    """Clusters, as a bit mask for each page of offsets that has any."""

    def __init__(self, cluster_bits: int) -> None:
        """Start with none."""
        self._cluster_bits = cluster_bits
        # A page is all offsets that have their first bytes in common. Two of these bytes are looked
        # for in columns of a table: those at `high` in each entry, and at `high` + 1.
        page_bits, self._high = (24, 3) if cluster_bits <= 16 else (32, 2)
        self._page_shift = page_bits - cluster_bits
        self._few: dict[int, bytes | None] = {}  # by the first of alike pages
        self._pages: dict[int, int] = {}
        self._columns: dict[int, dict[int, list[int]]] = {}
        self._sorted: list[int] | None = None
        cluster_size = 1 << cluster_bits
        # Columns of an entry's flags and of its offset within a cluster, and what an ordinary entry
        # has there.
        self._ordinary = [(0, b"\x00\x80"), (7, b"\x00\x01")] + [
            (at, bytes(byte for byte in range(256) if not byte << shift & (cluster_size - 1)))
            for at, shift in ((6, 8), (5, 16))
            if cluster_size > 1 << shift
        ]

    def add(self, clusters: range) -> None:
        """Watch clusters in a row."""
        shift = self._page_shift
        at = clusters.start
        self._few.clear()
        while at < clusters.stop:
            page, first = at >> shift, at & ((1 << shift) - 1)
            count = min(clusters.stop - at, (1 << shift) - first)
            self._open(page)
            self._pages[page] |= ((1 << count) - 1) << first
            at += count
        if clusters:
            self._open(max(clusters.start - _BEFORE, 0) >> shift)

    def _open(self, page: int) -> None:
        """Have a search look at what begins in a page: it, or what comes after, is watched."""
        if page not in self._pages:
            self._pages[page], self._sorted = 0, None
            lows = self._columns.setdefault(page >> 8 & 0xFF, {})
            lows.setdefault(page & 0xFF, []).append(page)

    def __bool__(self) -> bool:
        return bool(self._pages)

    def __contains__(self, cluster: int) -> bool:
        mask = self._pages.get(cluster >> self._page_shift, 0)
        return bool(mask >> (cluster & ((1 << self._page_shift) - 1)) & 1)

    def within(self, clusters: range) -> Iterator[int]:
        """Those of clusters in a row that are watched, page by page."""
        shift = self._page_shift
        pages = self._sorted = sorted(self._pages) if self._sorted is None else self._sorted
        for at in range(bisect_left(pages, clusters.start >> shift), len(pages)):
            first = pages[at] << shift
            if first >= clusters.stop:
                return
            skipped = max(clusters.start - first, 0)
            count = min(clusters.stop - first, 1 << shift)  # of the page, however long the row is
            mask = self._pages[pages[at]] & (1 << count) - 1
            yield from _bits(mask >> skipped, first + skipped)

    def search(self, table: bytes) -> int | None:
        """A watched cluster that an L2 table's entry names, with whatever flags; None for none.

        An entry of offset 0 names none; the header cluster is met by compressed data only.
        Looks at whole entries of 64 bits; the data of compressed clusters count.
        """
        if not self._pages or not table:
            return None
        high, low = table[self._high :: _ENTRY], table[self._high + 1 :: _ENTRY]
        # Most tables have one byte there, but for entries that name nothing.
        if 0 in high:
            places = _few_places(high, 0, _FEW_ZEROS)
            if places is None and _has_others(table[0::_ENTRY], NOT_COMPRESSED):
                return self._search_words(table)
            if places is not None:
                found = self._search_places(table, places) if 0 in self._columns else None
                if found is not None or len(places) == len(high):
                    return found
            high, low = self._filled(table, high, low, places)
        alike, crowded = _is_constant(high), 0
        for byte in high[:1] if alike else self._columns:
            if byte not in self._columns or byte not in high:
                continue
            places = None if alike else _few_places(high, byte)
            if places is not None:
                found = self._search_places(table, places)
                if found is not None:
                    return found
                continue
            for other, pages in self._columns[byte].items():
                first = low.find(other)
                if first < 0:
                    continue
                few = self._few_bytes(pages)
                # To take many parts out of a table takes longer than to look at each entry.
                crowded += few is None
                if crowded > _CROWDED_MAX:
                    return self._search_words(table)
                part = slice(first * _ENTRY, (low.rfind(other) + 1) * _ENTRY)
                if _has_others(table[part.start : part.stop : _ENTRY], NOT_COMPRESSED):
                    return self._search_words(table)
                found = self._search_part(table, part, pages, few)
                if found is not None:
                    return found
        return None

    def _search_words(self, table: bytes) -> int | None:
        """The same for entries of all kinds, each by itself."""
        return self._search_odd(set(unpack(f">{len(table) // _ENTRY}Q", table)))

    def _is_odd(self, table: bytes) -> bool:
        """Whether an entry has another flag than COPIED and ZERO, or names no whole cluster."""
        return any(_has_others(table[at::_ENTRY], good) for at, good in self._ordinary)

    def _search_places(self, table: bytes, places: list[int]) -> int | None:
        """The same for some entries, by their numbers."""
        for at in places:
            entry = table[at * _ENTRY : (at + 1) * _ENTRY]
            if entry in _NOTHING:
                continue
            word = int.from_bytes(entry, "big")
            if word & (OFFSET_MASK | COMPRESSED):
                found = self._search_odd((word,))
                if found is not None:
                    return found
        return None

    def _filled(
        self, table: bytes, high: bytes, low: bytes, places: list[int] | None
    ) -> tuple[bytes, bytes]:
        """The two columns with what names no watched page for the entries at these places.

        None stands for all entries that name nothing: they would be looked at as if they named the
        first page.
        """
        byte = high[0] or (high.lstrip(b"\0") or b"\0")[0]
        watched = self._columns.get(byte, {})
        other = next((other for other in range(256) if other not in watched), 0)
        if places is None:
            nothing = _names_nothing(table)
            return _fill(high, nothing, byte), _fill(low, nothing, other)
        if other:  # the first page is watched
            lows = bytearray(low)
            for at in places:
                lows[at] = other
            low = bytes(lows)
        return high.replace(b"\0", bytes((byte,))), low

    def _search_part(
        self, table: bytes, part: slice, pages: list[int], few: bytes | None
    ) -> int | None:
        """The same for the clusters of some pages, in a part of a table without compressed ones.

        `few` is what _few_bytes() says of these pages.
        """
        if few is not None:
            try:
                return self._search_few(table, part, few)
            except _TooManyMissesError:
                pass
        count, entries = self._count(pages), table[part]
        if self._is_odd(entries):
            return self._search_words(entries)
        words = unpack(f">{len(entries) // _ENTRY}Q", entries)
        if count > len(words):
            return self._search_odd(set(words))
        needles = set()
        for cluster in self._clusters(pages):
            offset = cluster << self._cluster_bits
            needles |= {offset, offset | COPIED, offset | ZERO, offset | COPIED | ZERO}
        if needles.isdisjoint(words):
            return None
        return (needles.intersection(words).pop() & OFFSET_MASK) >> self._cluster_bits

    def _search_few(self, table: bytes, part: slice, few: bytes) -> int | None:
        """The same for few clusters, by the byte that follows what their pages have in common.

        Most parts have none, whatever flags their entries have.
        """
        column = table[part.start + self._high + 2 : part.stop : _ENTRY]
        for byte in few:
            at, misses = column.find(byte), 0
            while at >= 0:
                found = self._search_places(table, [part.start // _ENTRY + at])
                if found is not None:
                    return found
                misses += 1
                if misses > _MISSES:
                    raise _TooManyMissesError
                at = column.find(byte, at + 1)
        return None

    def _few_bytes(self, pages: list[int]) -> bytes | None:
        """The bytes that follow what the offsets of these pages have in common, all that do.

        None if they have more than a few clusters.
        """
        first = pages[0]
        if first not in self._few:
            shift, few = 8 * (5 - self._high), None
            if self._count(pages) <= _FEW:
                clusters = self._clusters(pages)
                few = bytes({n << self._cluster_bits >> shift & 0xFF for n in clusters})
            self._few[first] = few
        return self._few[first]

    def _count(self, pages: list[int]) -> int:
        return sum(self._pages[page].bit_count() for page in pages)

    def _clusters(self, pages: list[int]) -> Iterator[int]:
        for page in pages:
            first = page << self._page_shift
            yield from _bits(self._pages[page] & (-1 if first else -2), first)

    def _search_odd(self, words: Iterable[int]) -> int | None:
        for word in words:
            if word & COMPRESSED:
                clusters = compressed_clusters(word, self._cluster_bits)
                ends = (clusters.start, clusters.stop - 1)
                if not any(n >> self._page_shift in self._pages for n in ends):
                    continue
            else:
                first = (word & OFFSET_MASK) >> self._cluster_bits
                if not first or first >> self._page_shift not in self._pages:
                    continue
                clusters = range(first, first + 1)
            for cluster in clusters:
                if cluster in self:
                    return cluster
        return None


def _few_places(column: bytes, byte: int, most: int = _FEW) -> list[int] | None:
    """Where a byte is in a column; None if in more places than these."""
    places: list[int] = []
    at = column.find(byte)
    while at >= 0:
        if len(places) == most:
            return None
        places.append(at)
        at = column.find(byte, at + 1)
    return places


def _names_nothing(table: bytes) -> int:
    """A byte of 1 for each entry whose offset is 0, and of 0 for all others, as one number.

    So is each column of bytes here, and no operation on these is a loop.
    """
    offsets = 0
    for at in _OFFSET:
        offsets |= int.from_bytes(table[at::_ENTRY], "little")
    ones = byte_ones(len(table) // _ENTRY)
    return ones ^ nonzero_bytes(offsets, ones)


def _fill(column: bytes, nothing: int, byte: int) -> bytes:
    """A column of the offset with a byte in place of each 0 of what names nothing."""
    return (int.from_bytes(column, "little") | nothing * byte).to_bytes(len(column), "little")


def byte_ones(count: int) -> int:
    """So many bytes, each of which is 1, as one number."""
    return int.from_bytes(b"\1" * count, "little")


def nonzero_bytes(number: int, ones: int) -> int:
    """The bytes of a number that are not 0, as 1 each; `ones` has 1 in each of as many bytes."""
    # No sum of two bytes carries into the next one: its highest bit says that there was a bit.
    most = ones * 0x7F
    return ((number & most) + most | number) >> 7 & ones


def _is_constant(column: bytes) -> bool:
    """Whether all bytes are the same, as in most columns; many times as fast as any search."""
    return column == column[:1] * len(column)


def _has_others(column: bytes, good: bytes) -> bool:
    """Whether a column has another byte than these."""
    first = column[:1]
    if first in good and column.replace(b"\0", first) == first * len(column):
        return 0 not in good and 0 in column  # entries that are alike, and others of zeros
    return bool(column.translate(None, good))


class _TooManyMissesError(Exception):
    """The byte that is searched for is one of many entries that do not name the cluster."""


def compressed_clusters(word: int, cluster_bits: int) -> range:
    """The clusters that a compressed cluster's data lie in ("Compressed Clusters Descriptor")."""
    # x bits of offset, then the number of sectors more than one.
    offset_bits = 62 - (cluster_bits - 8)
    start = word & ((1 << offset_bits) - 1)
    sectors = (word & (COMPRESSED - 1)) >> offset_bits
    end = ((start >> 9) + sectors + 1) << 9
    return range(start >> cluster_bits, (end - 1 >> cluster_bits) + 1)


def _bits(mask: int, first: int) -> Iterator[int]:
    """The numbers of the bits that are set in a mask whose lowest one is numbered `first`."""
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        ones = (mask + 1 & -(mask + 1)).bit_length() - 1  # in a row
        first += zeros
        yield from range(first, first + ones)
        first += ones
        mask >>= ones
