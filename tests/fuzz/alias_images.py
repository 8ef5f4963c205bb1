"""Test side: images in which structures overlap, counted truly or not, for scripts/fuzz alias."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import pack, pack_into, unpack
from typing import Any

from tests.support.forge import (
    Bitmap,
    Cluster,
    Compressed,
    Data,
    Extension,
    Image,
    Snapshot,
    Unallocated,
    Zero,
    ZeroAllocated,
)
from tests.support.forge.model import COMPRESSED, COPIED, OFFSET, ZERO, Model, Use

BACKING = b"".join(bytes((65 + n % 26,)) * 512 for n in range(600))
CASES_PER_IMAGE = 16
_BITS = (9, 9, 9, 9, 10, 10, 12, 14)
_ROUNDS = 6
"""So often refcounts and flags are made true, which may change tables that lie in them."""


@dataclass
class Case:
    """An image and what is asked of it."""

    data: bytearray
    backed: bool
    request: dict[str, Any]
    """Arguments of Sandbox.amend."""
    story: list[str] = field(default_factory=list)
    """What was done to the image, in order."""
    _model: Model | None = None

    @property
    def model(self) -> Model:
        """The image as it is now: the same model as before where nothing has changed."""
        if self._model is None or self._model.data != self.data:
            self._model = Model(self.data, backing=BACKING if self.backed else b"")
        return self._model

    def put(self, place: int, value: int, size: int = 8) -> None:
        """Write a number, as far as its field holds it, if it has a place in the file."""
        if place + size <= len(self.data):
            self.data[place : place + size] = (value % (1 << 8 * size)).to_bytes(size, "big")


def random_cases(rng: random.Random) -> Iterator[Case]:
    """Cases without end, of which no two of one image are equal."""
    while True:
        image = random_image(rng)
        data, backed = image.build(), image.backing_file is not None
        known = set()
        for _ in range(CASES_PER_IMAGE):
            case = random_case(rng, Case(bytearray(data), backed, {}))
            drawn = hash((bytes(case.data), *sorted(case.request.items())))
            if drawn not in known:
                known.add(drawn)
                yield case


def random_case(rng: random.Random, case: Case) -> Case:
    """Let structures of an image overlap, and ask for something."""
    if rng.random() < 0.5:
        _extend(rng, case)
    if rng.random() < 0.25:
        _fill_refcounts(rng, case)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choice(MUTATIONS)(rng, case)
    if rng.random() < 0.75:
        make_true(case)
    if rng.random() < 0.1:
        _cut(rng, case)
    case.request = _request(rng, case.model)
    return case


def _request(rng: random.Random, model: Model) -> dict[str, Any]:
    request: dict[str, Any] = {}
    if rng.random() < 0.9:
        other = "0.10" if model.version == 3 else "1.1"
        request["compat"] = other if rng.random() < 0.95 else rng.choice(("0.10", "1.1"))
    if not request or rng.random() < 0.1:
        request["lazy_refcounts"] = rng.random() < 0.5
    request["drop_bitmaps"] = rng.random() < 0.8
    if rng.random() < 0.15:
        request["max_growth"] = rng.choice((0, 512, 4096, 1 << 20))
    return request


def random_image(rng: random.Random) -> Image:
    """A sound image with some of all structures."""
    bits = rng.choice(_BITS)
    version = rng.choice((2, 3, 3, 3))
    count = rng.randrange(1, 140 if bits == 9 else 24)
    fields: dict[str, Any] = {"version": version, "cluster_bits": bits, "size": count << bits}
    if rng.random() < 0.1:
        fields["size"] -= rng.choice((1, 200, 512))
    kinds = _kinds(version)

    def layer() -> dict[int, Cluster]:
        return {n: rng.choice(kinds)(n) for n in rng.sample(range(count), rng.randrange(count + 1))}

    fields["clusters"] = layer()
    fields["snapshots"] = [
        Snapshot(
            name=b"s%d" % n,
            clusters=rng.choice((None, layer())),
            extra_data_size=rng.choice((0, 8, 16, 24)) if version == 2 else rng.choice((16, 24)),
        )
        for n in range(rng.choice((0, 0, 1, 1, 2, 3)))
    ]
    if rng.random() < 0.5:
        fields |= {"backing_file": b"b" * rng.choice((1, 20, 100)), "backing_format": b"raw"}
    if rng.random() < 0.3 and bits > 9:
        fields["extensions"] = [Extension(0x11111111, b"e" * rng.randrange(200))]
    if rng.random() < 0.4:
        fields["holes"] = rng.sample(range(1, 60), rng.randrange(1, 20))
    if rng.random() < 0.25:
        fields |= {"crypt_method": 2, "crypto_header": b"k" * rng.choice((1, 700, 3 << bits))}
    elif rng.random() < 0.05:
        fields["crypt_method"] = 1
    if version == 3:
        _add_version_3(rng, fields, bits)
    return Image(**fields)


def _kinds(version: int) -> list[Callable[[int], Cluster]]:
    kinds: list[Callable[[int], Cluster]] = [
        lambda n: Data(bytes((97 + n % 26,))),
        lambda _: Data(b"d"),
        lambda _: Data(b""),
        lambda _: Unallocated(),
        lambda n: Compressed(bytes((n % 7,))),
    ]
    zeros: list[Callable[[int], Cluster]] = [
        lambda _: Zero(),
        lambda _: ZeroAllocated(b"s"),
        lambda n: ZeroAllocated(bytes((n % 3,))),
    ]
    return kinds if version == 2 else kinds + 2 * zeros


def _add_version_3(rng: random.Random, fields: dict[str, Any], bits: int) -> None:
    if rng.random() < 0.35:
        numbers = range(rng.randrange(1, 4))
        dirty = rng.sample(range(64), rng.randrange(5))
        fields["bitmaps"] = [
            Bitmap(name=b"b%d" % n, dirty=dirty, granularity_bits=9 + n) for n in numbers
        ]
        if fields["size"] < 64 << 9 + len(numbers):
            fields["bitmaps"] = [Bitmap(name=b"b", dirty=(0,), granularity_bits=9)]
        if rng.random() < 0.1:
            fields["header"] = {"autoclear_features": 0}
    if rng.random() < 0.04:
        fields["data_file"] = b"data"
    elif bits == 14 and rng.random() < 0.1:
        fields["extended_l2"] = True
    fields["lazy_refcounts"] = rng.random() < 0.1


def _extend(rng: random.Random, case: Case) -> None:
    """Room behind the image, which nothing uses."""
    size = case.model.cluster_size
    case.data += bytes(-len(case.data) % size + size * rng.randrange(24))


def _fill_refcounts(rng: random.Random, case: Case) -> None:
    """No cluster that a refcount block covers is free, so that new blocks are needed."""
    model = case.model
    if rng.random() < 0.5:
        # Far blocks too: those between are missing.
        index = rng.choice((1, 2, model.cluster_size // 8 - 1))
        block = len(case.data) + -len(case.data) % model.cluster_size
        case.data += bytes(block - len(case.data) + model.cluster_size)
        place = model.refcount_table_offset + 8 * index
        if not int.from_bytes(case.data[place : place + 8], "big"):
            case.put(place, block)
    for _, block in case.model.blocks:
        stored = case.data[block : block + model.cluster_size]
        refcounts = unpack(f">{len(stored) // 2}H", stored[: len(stored) & -2])
        filled = [refcount or rng.random() < 0.995 for refcount in refcounts]
        case.data[block : block + 2 * len(filled)] = pack(f">{len(filled)}H", *filled)
    case.story.append("no free cluster")


def _cut(rng: random.Random, case: Case) -> None:
    """A file that ends within its last cluster."""
    size = case.model.cluster_size
    del case.data[len(case.data) - rng.randrange(1, size) :]
    case.story.append("cut")


def _targets(rng: random.Random, model: Model, length: int) -> int:
    """Where something in use is, or anywhere in the file."""
    uses = list(model.uses)
    kinds = sorted({use.kind for use in uses} - {"header"})
    size = model.cluster_size
    if rng.random() < 0.15 or not kinds:
        return rng.randrange(1, max(length // size, 2)) * size
    kind = rng.choice(kinds)
    use = rng.choice([use for use in uses if use.kind == kind])
    return use.offset - use.offset % size + rng.randrange(-(-max(use.length, 1) // size)) * size


def _redirect(rng: random.Random, case: Case) -> None:
    """A pointer of one structure goes to another one, with or without what it named."""
    model = case.model
    uses = [use for use in model.uses if use.place and use.kind != "compressed"]
    kind = rng.choice(sorted({use.kind for use in uses}))
    use = rng.choice([use for use in uses if use.kind == kind])
    target = _targets(rng, model, len(case.data))
    word = int.from_bytes(case.data[use.place : use.place + 8], "big")
    flags = word & ~OFFSET if kind in _FLAGGED else 0
    how = rng.choice(("as it is", "as it is", "copied", "into zeros"))
    if how != "as it is":
        old = case.data[use.offset : use.offset + use.length]
        room = case.data[target : target + len(old)]
        if how == "copied" or not any(room):
            case.data[target : target + len(room)] = old[: len(room)]
    if use.place + 8 <= len(case.data):
        case.put(use.place, target | flags)
        case.story.append(f"{kind} at {use.place:#x} to {target:#x}, {how}")


_FLAGGED = ("l2_table", "data", "zero_cluster")


def _new_entry(rng: random.Random, case: Case) -> None:
    """An L2 entry, of any layer, that names something in use."""
    place = _any_entry(rng, case.model)
    if place is None:
        return
    flags = rng.choice((0, 0, COPIED))
    if case.model.version == 3:
        flags |= rng.choice((0, 0, ZERO))
    target = _targets(rng, case.model, len(case.data))
    case.put(place, target | flags)
    case.story.append(f"L2 entry at {place:#x}: {target | flags:#x}")


def _any_entry(rng: random.Random, model: Model) -> int | None:
    tables = [use.offset for use in model.uses if use.kind == "l2_table"]
    if not tables:
        return None
    count = min(model.cluster_size // 8, -(-model.size >> model.bits) or 1)
    return rng.choice(tables) + 8 * rng.randrange(count)


def _compressed(rng: random.Random, case: Case) -> None:
    """A compressed cluster whose data lie in something else's cluster, where that has zeros."""
    model = case.model
    place = _any_entry(rng, model)
    if place is None or model.extended:
        return
    target = 0 if rng.random() < 0.4 else _targets(rng, model, len(case.data))
    content = rng.choice((b"Q", b"QRS" * 11, bytes(range(40)))) * model.cluster_size
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(content[: model.cluster_size]) + packer.flush()
    cluster = case.data[target : target + model.cluster_size]
    free = len(cluster.rstrip(b"\0"))
    low = free + 1 if rng.random() < 0.9 else 0
    if low + len(packed) > model.cluster_size:
        return
    at = target + rng.randrange(low, model.cluster_size - len(packed) + 1)
    case.data[at : at + len(packed)] = packed
    bits = 62 - (model.bits - 8)
    sectors = (at % 512 + len(packed) - 1) // 512
    case.put(place, COMPRESSED | sectors << bits | at)
    case.story.append(f"compressed data at {at:#x}")


def _larger_table(rng: random.Random, case: Case) -> None:
    """The refcount table, or an L1 table, goes on over what follows."""
    model = case.model
    kind = rng.choice(("refcount table", "L1 table", "snapshot's L1 table", "LUKS header"))
    more = rng.randrange(1, 4)
    if kind == "refcount table":
        case.put(56, model.refcount_table_clusters + more, 4)
    elif kind == "L1 table":
        case.put(36, model.l1_size + more * rng.choice((1, model.cluster_size // 8)), 4)
    elif kind == "LUKS header" and model.crypto_header[0]:
        place, _, length = model.crypto_header
        case.put(place + 8, length + more * model.cluster_size)
    elif model.snapshots:
        snapshot = rng.choice(model.snapshots)
        case.put(snapshot.place + 8, snapshot.l1_size + more, 4)
    case.story.append(f"{kind} + {more}")


def _swap(rng: random.Random, case: Case) -> None:
    """Two pointers of one kind name the same."""
    uses = [use for use in case.model.uses if use.place]
    kind = rng.choice(sorted({use.kind for use in uses}))
    same: list[Use] = [use for use in uses if use.kind == kind]
    one, other = rng.choice(same), rng.choice(same)
    word = int.from_bytes(case.data[one.place : one.place + 8], "big")
    case.put(other.place, word)
    case.story.append(f"{kind} at {other.place:#x} as at {one.place:#x}")


def _garbage(rng: random.Random, case: Case) -> None:
    """Bytes in the header's cluster that nobody uses."""
    model = case.model
    header = case.data[: model.cluster_size]
    free = len(header.rstrip(b"\0")) + 8
    if free < model.cluster_size:
        at = rng.randrange(free, model.cluster_size)
        noise = b"garbage" * 30
        case.data[at : model.cluster_size] = noise[: model.cluster_size - at].ljust(
            model.cluster_size - at, b"\0"
        )
        case.story.append(f"garbage at {at:#x}")


MUTATIONS = (
    *(_redirect, _redirect, _redirect, _redirect, _redirect, _new_entry, _new_entry, _compressed),
    *(_larger_table, _swap, _garbage),
)


def make_true(case: Case) -> None:
    """Let refcounts and flags be true, as far as there are places for them."""
    for _ in range(2 * _ROUNDS):
        model = case.model
        if model.refcount_order != 4:
            return
        blocks = dict(model.blocks)
        for cluster, (_, needed) in model.wrong_refcounts.items():
            index, at = divmod(cluster, model.cluster_size // 2)
            place = blocks.get(index, 1) + 2 * at
            if (place - 2 * at) % model.cluster_size == 0 and place + 2 <= len(case.data):
                pack_into(">H", case.data, place, min(needed, 0xFFFF))
        if case.model is not model:
            continue
        for place in model.wrong_flags:
            if place < len(case.data):
                case.data[place] ^= 0x80
        if case.model is model:
            return


def is_sound(model: Model) -> bool:
    """Whether refcounts and flags are true."""
    return not model.wrong_refcounts and not model.wrong_flags
