"""Test side: images for plans in which structures lie anywhere, share clusters, and are overlooked.

Refcounts and flags are true of all that is in the file, but for leaks; or some refcounts lie.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from struct import error as StructError
from struct import pack
from zlib import error as ZlibError

from construct import ConstructError

from tests.fuzz.alias_images import Case, make_true, random_case, random_image
from tests.fuzz.contract_states import FindingError, errors, meaning
from tests.support.forge import Extension, Image, layout
from tests.support.forge.model import COMPRESSED, OFFSET, Model, Use
from tests.support.forge.reader import UnreadableError

WINDOW = 1 << 12
"""Clusters whose refcounts the judge looks at together here, so that small images have some."""
_SIZE_MAX = 1 << 19
_USED_MAX = 1 << 14  # clusters, each as often as something names it
_FAR, _PAGE = 1 / 500, 1 << 24
"""How many images have structures past the first page of offsets that is searched; its bytes."""
_UNFIT = (
    *(ConstructError, StructError, ZlibError, FindingError, UnreadableError),
    *(IndexError, MemoryError, OverflowError, ValueError),
)
"""No image, or one that names what is nowhere, or is not compressed data."""
_FLAGGED = ("l1_table", "l2_table", "data", "zero_cluster")


def strange_images(rng: random.Random) -> Iterator[bytes]:
    """Images without end."""
    while True:
        try:
            image = _with_luks(rng, random_image(rng))
            case = Case(bytearray(image.build()), image.backing_file is not None, {})
            if rng.random() < 0.4:
                random_case(rng, case)
            for _ in range(rng.randrange(4)):
                rng.choice(_TWISTS)(rng, case)
            far = rng.random() < _FAR
            if far:
                _go_far(rng, case)
            if far or rng.random() < 0.5:
                for _ in range(rng.randrange(1, 6)):
                    _move(rng, case)
            make_true(case)
            if rng.random() < 0.3:
                _leak(rng, case)
            data = bytes(case.data)
            if len(data) - data.count(0) > _SIZE_MAX or _is_beyond(case.model):
                continue
            if errors(data)[0]:
                continue
            meaning(data)
        except _UNFIT:
            continue
        yield data


def lying_images(rng: random.Random) -> Iterator[bytes]:
    """The same images, but some of what is in use has a refcount that is too low."""
    for data in strange_images(rng):
        case = Case(bytearray(data), backed=False, request={})
        for _ in range(rng.randrange(1, 5)):
            _lie(rng, case)
        if case.story:
            yield bytes(case.data)


def _lie(rng: random.Random, case: Case) -> None:
    """Count a use less of a cluster than there are, or none, so that it is free or set free."""
    model = case.model
    if model.refcount_order != 4:
        return
    use = _any_of(rng, [use for use in model.uses if use.length])
    first, last = use.offset >> model.bits, (use.offset + use.length - 1) >> model.bits
    shared = [cluster for cluster, users in model.counted.items() if users > 1]
    cluster = rng.choice(shared) if shared and rng.random() < 0.5 else rng.randint(first, last)
    index, at = divmod(cluster, model.cluster_size // 2)
    block, users = dict(model.blocks).get(index), model.counted[cluster]
    if block is not None and users:
        case.put(block + 2 * at, rng.choice((0, users - 1)), 2)
        case.story.append(f"{use.kind}: cluster {cluster}, {users} users")


def _is_beyond(model: Model) -> bool:
    """Whether tables are too long to be read here, or entries say what no amend can keep to."""
    clusters = sum(use.length for use in model.uses) >> model.bits
    if clusters > _USED_MAX or any(None in layer for layer in model.contents()):
        return True
    compressed = [use for use in model.uses if use.kind == "compressed" and not use.offset]
    starts = (model.compressed_range(model.words(use.place, 1)[0])[0] for use in compressed)
    if any(start < model.header_length for start in starts):
        return True  # data that are the header's own fields, of which each change changes them
    tables = {use.offset for use in model.uses if use.kind == "l2_table" and model.extended}
    entries = chain.from_iterable(map(model.l2_table, tables))
    # Subclusters that are said to be there, of no cluster.
    return any(
        not word & (OFFSET | COMPRESSED) and bits & 0xFFFFFFFF
        for word, bits in zip(entries, entries, strict=True)
    )


def _with_luks(rng: random.Random, image: Image) -> Image:
    """An image whose encryption header is named by another extension besides."""
    if image.crypto_header is None or rng.random() < 0.5:
        return image
    start = image.regions()["crypto_header"].start
    place = rng.choice((start, start, rng.randrange(64) << image.cluster_bits))
    length = rng.choice((len(image.crypto_header), 1, 1 << image.cluster_bits, 5000))
    another = Extension(layout.EXTENSION_CRYPTO_HEADER, pack(">QQ", place, length))
    return replace(image, extensions=(*image.extensions, another))


def _move(rng: random.Random, case: Case) -> None:
    """Let a structure lie elsewhere: in clusters that nothing counts, or past the end."""
    model = case.model
    uses = [use for use in model.uses if use.place and use.kind != "compressed" and use.length]
    use = _any_of(rng, uses)
    size = model.cluster_size
    count = -(-use.length // size)
    free = [n for n in range(1, len(case.data) // size - count) if not _is_known(model, n, count)]
    end = -(-len(case.data) // size)
    place = rng.choice((*free[-8:], end, end, end + rng.randrange(6))) * size
    held = bytes(case.data[use.offset : use.offset + count * size])
    if place + len(held) > len(case.data):
        case.data += bytes(place + count * size - len(case.data))
    case.data[place : place + len(held)] = held
    (word,) = model.words(use.place, 1)
    flags = word & ~OFFSET if use.kind in _FLAGGED else 0
    case.put(use.place, place | flags)
    case.story.append(f"{use.kind} to {place:#x}")
    make_true(case)


def _any_of(rng: random.Random, uses: list[Use]) -> Use:
    """One of these, and each kind as likely as another."""
    kind = rng.choice(sorted({use.kind for use in uses}))
    return rng.choice([use for use in uses if use.kind == kind])


def _is_known(model: Model, first: int, count: int) -> bool:
    return any(n in model.stored or n in model.counted for n in range(first, first + count))


def _leak(rng: random.Random, case: Case) -> None:
    """Count clusters as used that are not, within the file and past its end."""
    model = case.model
    if model.refcount_order != 4:
        return
    end, per_block = len(case.data) // model.cluster_size, model.cluster_size // 2
    index, block = rng.choice(model.blocks)
    first = rng.choice((end, end, rng.randrange(end + 1), index * per_block))
    step = rng.choice((1, 2, 3, 8, 40))
    for cluster in range(first, min(first + rng.randrange(200), (index + 1) * per_block), step):
        if cluster >= index * per_block and not _is_known(model, cluster, 1):
            case.put(block + 2 * (cluster % per_block), rng.choice((1, 1, 1, 2)), 2)
    case.story.append(f"leaks from cluster {first}")


def _odd_size(rng: random.Random, case: Case) -> None:
    """Let the disk end within a sector."""
    size = case.model.size
    case.put(24, max(size - rng.randrange(512), 0))
    case.story.append("a disk that ends within a sector")


def _to_window(rng: random.Random, case: Case) -> None:
    """Let the file end where a window of refcounts does, or near that."""
    model = case.model
    if model.bits == 9:
        _pad(case, WINDOW * model.cluster_size - rng.choice((0, 0, 512, 1024, 4096)))


def _go_far(rng: random.Random, case: Case) -> None:
    """Let the file go on to the next page, by clusters that a block counts."""
    model = case.model
    size = model.cluster_size
    cluster = _PAGE // size + rng.randrange(4)
    index = cluster // (size // 2)
    if size > 512 and model.refcount_order == 4 and index not in dict(model.blocks):
        _pad(case, (cluster + 10) * size)
        case.put(model.refcount_table_offset + 8 * index, cluster * size)


def _pad(case: Case, end: int) -> None:
    case.data += bytes(max(end - len(case.data), 0))
    case.story.append(f"a file of {len(case.data)} bytes")


def _larger_l1_table(rng: random.Random, case: Case) -> None:
    """Let the L1 table have more entries than the disk needs, as its cluster has room for."""
    model = case.model
    step = model.cluster_size // 8
    entries = model.l1_size + rng.choice((1, 2, step - model.l1_size % step))
    case.put(36, entries, 4)
    case.story.append(f"an L1 table of {entries} entries")


def _smaller_disk(rng: random.Random, case: Case) -> None:
    """Let the disk end before what the tables have."""
    size = case.model.size
    case.put(24, rng.randrange(size // 512 + 1) * 512)
    case.story.append("a disk that ends before its tables do")


_TWISTS: tuple[Callable[[random.Random, Case], None], ...] = (
    *(_odd_size, _to_window, _larger_l1_table, _smaller_disk, _move, _move),
)
