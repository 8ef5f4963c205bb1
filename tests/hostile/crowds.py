"""Hostile images: very many zero clusters, refcounts and other entries. Test side.

Each of them may take a look at another part of the file, or a search for a free cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

from tests.hostile.case import Case, number, u64
from tests.hostile.plot import Plot, drawn, words
from tests.support.forge import layout

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
COPIED, ZERO = layout.COPIED, 1
L1_MAX = 1 << 22
LIMIT = "work_limit"


def cases() -> Iterator[Case]:
    yield from _searches()
    yield from _far_apart()
    yield from _alike()
    yield from _tables_with_one()
    yield from _scattered()
    yield from _distinct()
    yield from _large_tables()


def _searches() -> Iterator[Case]:
    """A large file in which no cluster is free."""
    for version, bits, reach, blocks, growth, reason, exits, mib in (
        (3, 9, GIB, 1, None, "overlap", 64, 1),
        (3, 9, GIB, 1, 0, "growth", 64, 1),
        (2, 9, GIB, 1, None, "refcount", 64, 1),
        (2, 9, GIB, 1, 0, "growth", 64, 1),
        (3, 9, GIB, 2, None, LIMIT, 64, 1),
        (3, 9, 16 * GIB, 1, None, LIMIT, 64, 1),
        (3, 16, 15 * TIB, 1, None, LIMIT, 64, 1),
        (2, 16, 15 * TIB, 2, None, LIMIT, 64, 1),
        (3, 21, 15 * TIB, 1, None, "", 340, 22),
        (2, 21, 15 * TIB, 1, None, "overlap", 340, 18),
    ):
        what = f"{'an upgrade' if version == 2 else 'a downgrade'} of {reach // GIB} GiB in use"
        turn = "one refcount block" if blocks == 1 else "two refcount blocks in turn"
        bounded = "" if growth is None else ", and none may be added"
        yield drawn(
            f"clusters of 2^{bits}: {what} by {turn}{bounded}",
            partial(_in_use, reach=reach, blocks=blocks),
            bits,
            version=version,
            backed=True,
            reason=reason,
            rewrites=not reason,
            max_growth=growth,
            exits=exits,
            mib=mib,
        )


def _in_use(plot: Plot, reach: int, blocks: int) -> None:
    """An upgrade has a snapshot table to complete, a downgrade a zero cluster to fill."""
    plot.l1([plot.put(u64(ZERO)) | COPIED])
    if plot.image.version == 2:
        plot.snapshots([(plot.l1_hole(1), 1)], extra=0)
    places = []
    for _ in range(blocks):
        plot.align(MIB)
        places.append(plot.block(1))
    covered = (plot.step // 2) << plot.bits
    plot.refcounts((places * (reach // covered + 1))[: reach // covered])
    plot.length = reach


def _far_apart() -> Iterator[Case]:
    """Entries, each of which takes another look at refcounts."""
    for what, tables in (("an L2 table", 1), ("8 L2 tables", 8)):
        name = f"{what} of zero clusters in 160 refcount blocks"
        draw = partial(_far_zeroes, tables=tables)
        yield drawn(name, draw, reason=LIMIT)
    name = "8192 entries without a flag, whose refcounts are far apart in turn"
    yield drawn(name, _flags, reason=LIMIT)


def _far_zeroes(plot: Plot, tables: int) -> None:
    places = [plot.hole(1 << 16) for _ in range(tables)]
    plot.l1([place | COPIED for place in places])
    # Of each block the first 2048 clusters are counted: all that is put here, and hosts.
    pages = [plot.put(b"\0\1" * 2048) for _ in range(160)]
    reach = 7500
    plot.refcounts([pages[n % len(pages)] for n in range(reach)])
    plot.length = reach * 2 * GIB
    chosen = Random(0).sample(range(2048, reach << 11), tables << 13)  # noqa: S311
    hosts = [(n >> 11) * 2 * GIB + ((n & 2047) << 16) for n in chosen]
    for n, place in enumerate(places):
        part = hosts[n << 13 : (n + 1) << 13]
        plot.patches.append((place, words(host | COPIED | ZERO for host in part)))


def _flags(plot: Plot) -> None:
    """Active entries without OFLAG_COPIED, as a snapshot gives one of their clusters up."""
    near, far = plot.hole(1), 2 * GIB
    plot.l1([plot.put(words([near, far] * (1 << 12))) | COPIED])
    lost = plot.put(u64(near | ZERO))
    plot.snapshots([(plot.put(u64(lost | COPIED)), 1)])
    ones = plot.put(b"\0\1" * 2048)
    plot.patches.append((ones + 2 * (near >> 16), b"\0\2"))
    plot.refcounts([ones, plot.put(b"\0\1" * 2048)])
    plot.length = far + plot.step


def _alike() -> Iterator[Case]:
    """Very many zero clusters that are alike."""
    name = "262144 plain zero clusters, broken by holes"
    yield drawn(name, _plain_zeroes, rewrites=True, mib=5)
    for shuffled, exits, mib in ((False, 100, 4), (True, 300, 9)):
        name = f"131072 encrypted zero clusters {_order(shuffled)}, all given up"
        draw = partial(_own_zeroes, count=1 << 17, apart=1, shuffled=shuffled)
        more: dict[str, Any] = {"differs": "no_secret_needed", "exits": exits, "mib": mib}
        yield drawn(name, draw, 9, crypt_method=1, rewrites=True, **more)


def _plain_zeroes(plot: Plot) -> None:
    data = plot.put(words(([ZERO] * 63 + [0]) * (1 << 12)))
    plot.l1(range(data | COPIED, plot.end | COPIED, plot.step))
    plot.all_count(1, plot.end + 64 * MIB)


def _order(shuffled: bool) -> str:
    return "in any order" if shuffled else "in order"


def _own_zeroes(plot: Plot, count: int, apart: int, *, shuffled: bool) -> None:
    """Zero clusters with host clusters that nobody else has."""
    start = plot.hole(count * apart << plot.bits)
    hosts = list(range(start, plot.end, apart << plot.bits))
    if shuffled:
        step = 40503  # odd: all in turn, and quicker than a shuffle
        hosts = [hosts[n * step % count] for n in range(count)]
    data = plot.put(words(host | COPIED | ZERO for host in hosts))
    plot.l1(range(data | COPIED, plot.end | COPIED, plot.step))
    if plot.image.crypt_method:
        plot.count_each(1, plot.end + 64 * MIB)
    else:
        plot.all_count(1, plot.end + 64 * MIB)


def _tables_with_one() -> Iterator[Case]:
    """Very many L2 tables with one zero cluster each."""
    name = "100 L2 tables of 2 MiB, each with one plain zero cluster"
    yield drawn(name, _sparse_l2_tables, 21, rewrites=True, exits=600, mib=450)
    name = "2048 L2 tables with a plain zero cluster, whose refcounts are far apart in turn"
    yield drawn(name, _far_l2_tables, 9, backed=True, rewrites=True, exits=5000, mib=24)
    name = "32768 plain zero clusters over a backing file, every other cluster is free"
    yield drawn(name, _comb, 9, backed=True, rewrites=True, exits=1200, mib=6)


def _sparse_l2_tables(plot: Plot) -> None:
    start = plot.hole(100 << plot.bits)
    plot.patches += [(place, u64(ZERO)) for place in range(start, plot.end, plot.step)]
    plot.l1(range(start | COPIED, plot.end | COPIED, plot.step))
    plot.refcounts([plot.put(b"\0\1" * 2048)])


def _far_l2_tables(plot: Plot) -> None:
    count, far = 1 << 11, 64 * GIB
    data = words([ZERO] + [0] * 63) * (count // 2)
    near, covered = plot.put(data), plot.step // 2 << plot.bits
    plot.l1(n // 2 * plot.step + (near, far)[n % 2] | COPIED for n in range(count))
    blocks = [plot.block(1)]
    plot.align(MIB)
    blocks.append(plot.block(1))
    free = plot.hole(256 * plot.step)
    table = blocks[:1] * ((plot.end + 8 * MIB) // covered)
    table += range(free, plot.end, plot.step)
    table += [0] * (far // covered - len(table))
    plot.refcounts(table + blocks[1:] * (len(data) // covered + 1))
    plot.patches.append((far, data))
    plot.length = far + len(data)


def _comb(plot: Plot) -> None:
    count = 1 << 15
    data = plot.put(words([ZERO] * count))
    plot.l1(range(data | COPIED, plot.end | COPIED, plot.step))
    in_block = plot.step // 2
    own, more = (plot.end + 16 * MIB >> plot.bits) // in_block, 2 * count // in_block + 1
    start = plot.put(b"\0\1" * own * in_block + b"\0\1\0\0" * more * (in_block // 2))
    plot.refcounts(range(start, plot.end, plot.step))
    plot.length = (own + more) * in_block << plot.bits


def _scattered() -> Iterator[Case]:
    """Zero clusters with host clusters here and there, each filled where it is."""
    for bits, log, apart, shuffled, exits, mib in (
        (16, 15, 2, True, 64, 1),
        (16, 14, 256, False, 64, 1),
        (16, 15, 256, True, 64, 1),
        (9, 14, 256, True, 64, 1),
    ):
        what = f"{1 << log} zero clusters, {apart} apart, {_order(shuffled)}"
        draw = partial(_own_zeroes, count=1 << log, apart=apart, shuffled=shuffled)
        name = f"clusters of 2^{bits}: {what}"
        yield drawn(name, draw, bits, rewrites=True, exits=exits, mib=mib)


def _distinct() -> Iterator[Case]:
    """L2 tables whose entries all differ, beside one zero cluster that is filled."""
    for what, flags in (("data", 0), ("compressed", 1 << 62)):
        name = f"a zero cluster beside 32768 distinct {what} entries"
        yield drawn(name, partial(_distinct_words, flags=flags), 21, rewrites=True, mib=9)
    for bits, reason, exits, mib in ((9, "", 80, 52), (16, LIMIT, 64, 1)):
        name = f"clusters of 2^{bits}: a zero cluster, and 32768 L2 tables in holes"
        more: dict[str, Any] = {
            "reason": reason,
            "rewrites": not reason,
            "exits": exits,
            "mib": mib,
        }
        yield drawn(name, _zero_and_tables, bits, **more)


def _distinct_words(plot: Plot, flags: int) -> None:
    far = 4 * TIB
    entries = words([plot.hole(1) | COPIED | ZERO])
    # A compressed cluster has as many sectors as can be said.
    step, size = (512, 8191 << 49) if flags else (plot.step, 0)
    more = far | flags | size
    entries += words(range(more, more + 32767 * step, step))
    plot.l1([plot.put(entries) | COPIED])
    plot.all_count(1, 16 * TIB)
    plot.length = 15 * TIB


def _zero_and_tables(plot: Plot) -> None:
    table = plot.put(u64(plot.hole(1) | COPIED | ZERO))
    start = plot.hole(1 << 15 << plot.bits)
    plot.l1([table, *range(start, plot.end, plot.step)])
    plot.all_count(1, plot.end + 64 * MIB)


def _large_tables() -> Iterator[Case]:
    """Large refcount and snapshot tables, and a zero cluster."""
    for full in (False, True):
        what = "all entries" if full else "the first and the last entry"
        name = f"a refcount table of 2 MiB, {what} in use"
        draw = partial(_refcount_table, full=full)
        yield drawn(name, draw, backed=True, reason="overlap", mib=3)
    name = "a refcount table that names a block 40000 times, in which a refcount changes"
    differs = "zero_cluster_given_up"
    yield drawn(name, _repeated_block, 9, rewrites=True, differs=differs, exits=100, mib=5)
    name = "an upgrade of 3000 snapshots that name two L2 tables in turn"
    yield drawn(name, _tables_in_turn, version=2, rewrites=True, exits=64, mib=1)
    for count, entries, exits, mib in ((1 << 15, 1, 150, 8), (100, L1_MAX, 1700, 100)):
        what = f"{count} snapshots with one L1 table of {number(8 * entries)} bytes"
        draw = partial(_zero_and_snapshots, count=count, entries=entries)
        yield drawn(f"a zero cluster, and {what}", draw, rewrites=True, exits=exits, mib=mib)


def _refcount_table(plot: Plot, *, full: bool) -> None:
    plot.l1([plot.put(u64(ZERO)) | COPIED])
    block = plot.put(b"\0\1" * 2048)
    between = block if full else 0
    plot.refcounts([block, *([between] * ((1 << 18) - 2)), block])


def _repeated_block(plot: Plot) -> None:
    """The block itself loses a user, and keeps others."""
    tables = 2000
    data = plot.put(words(([ZERO] + [0] * 63) * tables))
    in_block = plot.step // 2
    own = (plot.end + 16 * MIB >> plot.bits) // in_block
    start = plot.put(b"\0\1" * in_block * own)
    block = plot.put(b"\0\5" * in_block)
    plot.patches.append((start + 2 * (block >> plot.bits), b"\0\5"))
    plot.patches.append((data + 8, u64(block | ZERO)))
    plot.l1(range(data | COPIED, (data + tables * plot.step) | COPIED, plot.step))
    blocks = [start + n * plot.step for n in range(own)]
    plot.refcounts([*blocks, *[block] * 40_000])


def _tables_in_turn(plot: Plot) -> None:
    """Full tables that would take each other's place in a cache of 32768."""
    count = 3000
    plot.l1([0])
    near = plot.hole(1)
    far = (near >> plot.bits ^ 32769) << plot.bits
    entries = words((1 << 47) + (n << plot.bits) | COPIED for n in range(plot.step // 8))
    plot.patches += [(near, entries), (far, entries)]
    l1_tables = plot.put(words([near, far] * count))
    plot.snapshots([(l1_tables + 16 * n, 2) for n in range(count)], extra=0)
    plot.refcounts([plot.put(b"\0\1" * 2048)])
    plot.length = far + plot.step


def _zero_and_snapshots(plot: Plot, count: int, entries: int) -> None:
    plot.l1([plot.put(u64(plot.hole(1) | COPIED | ZERO)) | COPIED])
    plot.snapshots([(plot.hole(8 * entries), entries)] * count)
    plot.all_count(1, plot.end + 64 * MIB)
