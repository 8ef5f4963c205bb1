"""Test side: what an image means, by the forge's reader, and what the states of a commit may mean.

A state is the image as a crash may leave it: all phases up to one, and some sectors of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from instar import abi
from instar.vmm.contract.terms import Spare
from instar.vmm.request import AmendRequest
from tests.support.forge import Reader, layout, parse_bitmaps, parse_extensions
from tests.support.forge.audit import _copied_flags, counted_refcounts, stored_refcounts
from tests.support.planning import SECTOR, Case

_BELOW = b"\xbb"
"""What backing files hold, so that it can be told from zeros."""


class FindingError(AssertionError):
    """The judge let something pass that damages the image, or blamed the wrong side."""


@dataclass(frozen=True)
class Meaning:
    """What readers make of an image: its header, but for places, and all that it names."""

    fields: dict[str, Any]
    name: bytes
    below: bytes
    """What the backing file has."""
    extensions: tuple[tuple[int, bytes], ...]
    """All but feature names and bitmaps; that of encryption with its header's bytes."""
    layers: tuple[dict[int, bytes], ...]
    """The clusters of each layer that read as something else than what is below."""
    snapshots: tuple[tuple[Any, ...], ...]
    bitmaps: tuple[tuple[Any, ...], ...]


_FIELDS = (
    *("version", "cluster_bits", "size", "crypt_method", "l1_size", "nb_snapshots"),
    *("incompatible_features", "compatible_features", "refcount_order", "compression_type"),
)
_FORMAT = layout.EXTENSION_BACKING_FORMAT
_CARRIED = ("date_sec", "date_nsec", "vm_clock_nsec", "id", "name", "l1_size")


def meaning(data: bytes, *, backed: bool | None = None, below: bytes | None = None) -> Meaning:
    """Read an image whole. Any exception says that it cannot be read.

    `backed` says whether it is read as one with a backing file, whatever it has, and `below` what
    that file has, where it is not to depend on how much the image can map.
    """
    image = Reader(data)
    header = image.header
    start, size = header.backing_file_offset, header.backing_file_size
    name = bytes(data[start : start + size]) if start else b""
    if header.magic != b"QFI\xfb":
        raise FindingError("no magic")
    end = max(*(image.l1_table(layer)[1] for layer in image.layers), 1) * image.l2_entries
    if name if backed is None else backed:
        mapped = _BELOW * min(end * image.cluster_size, 1 << 20)
        image.backing = mapped if below is None else below
    fields = {key: header.get(key, 4 if key == "refcount_order" else 0) for key in _FIELDS}
    # Zero clusters in version 2 are beyond_version_2(), whatever they read as.
    header.version = 3
    return Meaning(
        fields,
        name,
        image.backing,
        tuple(_extensions(image)),
        tuple(_layer(image, layer) for layer in image.layers),
        tuple(_snapshot(image, entry) for entry in image.snapshots),
        tuple(_bitmaps(image)),
    )


def _extensions(image: Reader) -> Iterator[tuple[int, bytes]]:
    for extension in parse_extensions(image.data):
        data = bytes(extension.data)
        if extension.type == layout.EXTENSION_CRYPTO_HEADER:
            pointer = layout.CryptoHeaderExtension.parse(data)
            data += image.take(pointer.offset, pointer.length)
        names = (layout.EXTENSION_FEATURE_NAME_TABLE, layout.EXTENSION_BITMAPS)
        if extension.type not in names:
            yield extension.type, data


def _layer(image: Reader, layer: int | None) -> dict[int, bytes]:
    found = {}
    for l1_index, l1_entry in image.l1_entries(layer):
        for index, _ in image.l2_entries_in(l1_index, l1_entry):
            at = index * image.cluster_size
            below = image.backing[at : at + image.cluster_size].ljust(image.cluster_size, b"\0")
            if (read := image.read_whole(index, layer)) != below:
                found[index] = read
    return found


def _snapshot(image: Reader, entry: Any) -> tuple[Any, ...]:
    extra = entry.extra_data
    size = image.header.size if extra.disk_size is None else extra.disk_size
    state = entry.vm_state_size if extra.vm_state_size is None else extra.vm_state_size
    icount = -1 if extra.icount is None else extra.icount
    # A part of a field is none to any program.
    unknown = bytes(extra.unknown) if extra.icount is not None else b""
    # A disk has whole sectors; what is past the last one no program shows.
    return *(bytes(v) if isinstance(v, bytes) else v for v in map(entry.get, _CARRIED)), *(
        (size & -SECTOR, state, icount, unknown)
    )


def _bitmaps(image: Reader) -> Iterator[tuple[Any, ...]]:
    if not image.header.get("autoclear_features", 0) & 1:
        return  # none is in force
    for bitmap in parse_bitmaps(image.data):
        table = image.take(bitmap.bitmap_table_offset, 8 * bitmap.bitmap_table_size)
        data = []
        for at in range(0, len(table), 8):
            word = int.from_bytes(table[at : at + 8], "big")
            offset = word & 0x00FFFFFFFFFFFE00
            data.append(image.take(offset, image.cluster_size) if offset else word)
        name = bytes(bitmap.name)
        yield name, bitmap.flags, bitmap.type, bitmap.granularity_bits, tuple(data)


def beyond_version_2(data: bytes) -> str:
    """What an image of version 2 has that only version 3 knows; empty for nothing."""
    image = Reader(data)
    if image.header.version != 2:
        return ""
    for layer in image.layers:
        for l1_index, l1_entry in image.l1_entries(layer):
            table = image.take(l1_entry.l2_table_offset, image.cluster_size)
            for at in range(0, len(table) if l1_entry.l2_table_offset else 0, 8):
                if table[at + 7] & 1 and not table[at] & 0x40:
                    return f"layer {layer}, L2 table {l1_index}: zero cluster at {at // 8}"
    kinds = (extension.type for extension in parse_extensions(data))
    if layout.EXTENSION_BITMAPS in kinds or layout.EXTENSION_DATA_FILE in kinds:
        return "an extension of version 3"
    for entry in image.snapshots:
        size, state = entry.extra_data.disk_size, entry.extra_data.vm_state_size
        if size not in (None, image.header.size, image.header.size & -SECTOR) or (state or 0) >> 32:
            return f"a snapshot of a disk of {size} bytes, with a VM state of {state}"
    return ""


def errors(data: bytes) -> tuple[set[str], int]:
    """The faults of an image but for leaks, and how many clusters have leaked.

    A flag COPIED that is missing says so in its last words, and is an error at the end only.
    """
    image = Reader(data)
    stored, counted = stored_refcounts(image), counted_refcounts(image)
    leaks = sum(count > counted[cluster] for cluster, count in stored.items())
    low = (cluster for cluster, count in counted.items() if stored.get(cluster, 0) < count)
    found = {f"host cluster {cluster}: {counted[cluster]} references" for cluster in low}
    flags = _copied_flags(image, stored)
    found.update(
        f"{what}: {MISSING if exclusive else 'COPIED is not true'}"
        for what, copied, exclusive in flags
        if copied != exclusive
    )
    return found, leaks


MISSING = "COPIED is missing"


def state(case: Case, phase: int, some: set[int] = frozenset()) -> bytes:  # type: ignore[assignment]
    """The image after all phases up to one, and after some sectors of the next."""
    image = bytearray(case.data)
    for first, count in case.zeroes:
        start, end = first * SECTOR, (first + count) * SECTOR
        image.extend(bytes(max(min(end, 1 << 26) - len(image), 0)))
        image[start:end] = bytes(min(end, len(image)) - start)
    staged: dict[int, bytes] = {}
    for sectors in case.phases[: phase + 1]:
        staged.update(sectors)
    if some:
        following = case.phases[phase + 1]
        staged.update((sector, following[sector]) for sector in some)
    if staged:
        image.extend(bytes(max((max(staged) + 1) * SECTOR - len(image), 0)))
    for sector, data in staged.items():
        image[sector * SECTOR : sector * SECTOR + SECTOR] = data
    return bytes(image)


def without(image: bytes, spare: Spare) -> bytes:
    """The image after the file system has got back what is spare; nothing may read any of it."""
    left = bytearray(image[: spare.end])
    for part in spare.ranges:
        left[part.start : part.stop] = b"\xa5" * len(left[part.start : part.stop])
    return bytes(left)


def wanted(before: Meaning, request: AmendRequest, *, tail: bool = False) -> Meaning:
    """What the amended image must mean; `tail` says that what was past the end may show.

    `before` is what the image means now, over a backing file if it is to have one.
    """
    fields = dict(before.fields)
    fields["version"] = request.compat or fields["version"]
    if request.lazy_refcounts is not None:
        word = fields["compatible_features"] & ~1
        fields["compatible_features"] = word | request.lazy_refcounts
    if fields["version"] == 2:
        # What version 2 cannot say: of compatible features this is no loss.
        fields["compatible_features"] = 0
        fields["incompatible_features"] = fields["compression_type"] = 0
    if request.refcount_bits is not None:
        fields["refcount_order"] = request.refcount_bits.bit_length() - 1
    layers, snapshots = before.layers, before.snapshots
    if request.size is not None:
        fields["size"] = request.size
        shift = fields["cluster_bits"]
        old = before.fields["size"] & -SECTOR  # what is past the last whole one, none shows
        old = -(-old >> shift) << shift if tail else old
        end = min(request.size, old)
        shown = _visible(layers[0], before.below, shift, end)
        layers = _over(shown, before.below, shift), *layers[1:]
    downgraded = fields["version"] < before.fields["version"]
    bitmaps = () if request.drop_bitmaps and downgraded else before.bitmaps
    name, extensions = before.name, before.extensions
    if request.backing_file is not None:
        name = request.backing_file
        extensions = (*extensions, (_FORMAT, request.backing_fmt or b""))
    return Meaning(fields, name, before.below, extensions, layers, snapshots, bitmaps)


def of_names(found: Meaning) -> Meaning:
    """What counts where names change: texts up to a NUL byte, and of each kind the last one."""
    others = sorted(part for part in found.extensions if part[0] != _FORMAT)
    forms = [data.partition(b"\0")[0] for kind, data in found.extensions if kind == _FORMAT]
    extensions = (*others, (_FORMAT, forms[-1] if forms else b""))
    return replace(found, name=found.name.partition(b"\0")[0], extensions=extensions)


def backing_of(case: Case) -> bytes | None:
    """What a backing file has over which a disk gets another size; None for all other requests."""
    if case.request.size is None:
        return None
    old, new = int.from_bytes(case.data[24:32], "big"), int(case.request.size)
    return _BELOW * min(max(old, new), int(case.request.backing_size), 1 << 17)


def _visible(layer: dict[int, bytes], below: bytes, shift: int, end: int) -> dict[int, bytes]:
    """The clusters that read as something else than zeros up to where a disk ends."""
    length, found = 1 << shift, {}
    for index in layer.keys() | set(range(-(-min(len(below), end) >> shift))):
        at = index << shift
        shown = layer.get(index, below[at : at + length])[: max(end - at, 0)]
        if any(shown):
            found[index] = shown.ljust(length, b"\0")
    return found


def _over(shown: dict[int, bytes], below: bytes, shift: int) -> dict[int, bytes]:
    """A layer that shows this, and else zeros, as what it has over a backing file."""
    length, found = 1 << shift, {}
    for index in shown.keys() | set(range(-(-len(below) >> shift))):
        data = shown.get(index, bytes(length))
        at = index << shift
        if data != below[at : at + length].ljust(length, b"\0"):
            found[index] = data
    return found


def of_size(found: Meaning, *, switched: bool) -> Meaning:
    """What counts of a state of a disk that gets another size: not what is hidden past its end.

    After the switch nothing but zeros may be there. How long the L1 table is, is its own affair.
    """
    shift, size = found.fields["cluster_bits"], found.fields["size"] & -SECTOR
    layer = _visible(found.layers[0], found.below, shift, size)
    if switched:
        hidden = ((n, data) for n, data in found.layers[0].items() if n << shift >= size)
        layer |= {n: data for n, data in hidden if any(data)}
    fields = {**found.fields, "l1_size": None}
    return replace(found, fields=fields, layers=(layer, *found.layers[1:]))


def difference(one: Meaning, other: Meaning) -> str:
    """In what two meanings differ; empty if in nothing."""
    for part, value in vars(one).items():
        now = getattr(other, part)
        if value != now:
            return f"{part}: {str(value)[:300]}, then {str(now)[:300]}"
    return ""


SWITCH, LAST = abi.INSTAR_PHASE_SWITCH, abi.INSTAR_PHASE_COUNT - 1
