"""The images and the changes that are interrupted. Test side.

Backing file names are digits and dots that repeat nowhere, with a slash every 200 bytes: part of
one names no file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forge import Cluster, Compressed, Data, Extension, Image, Snapshot, layout

HEADER_LIMIT = 0x10000
"""Extensions, and names that move, stay within this part of the header cluster."""
CLUSTER_BITS = range(9, 22)
SOME_CLUSTER_BITS = (9, 10, 11, 12, 16, 21)
RANDOM_SHAPES = 60
_NAME_LENGTH = 1023
_BACKING = b"contents of the backing file, which nothing may hide. "

Fields = dict[str, Any]


@dataclass(frozen=True)
class Transition:
    """A change that is asked for, of images of one version."""

    name: str
    version: int
    lazy: bool
    """Whether the image has lazy refcounts at first."""
    options: str
    flags: tuple[str, ...] = ()
    """What the command needs besides."""
    backing_file: bytes | None = None
    """The backing file that the image gets, with the contents of the one that it has."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of `instar amend` but for the image."""
        return *self.flags, "-o", self.options


UPGRADE = Transition("upgrade", 2, False, "compat=1.1")
UPGRADE_LAZY = Transition("upgrade, lazy on", 2, False, "compat=1.1,lazy_refcounts=on")
DOWNGRADE = Transition("downgrade", 3, False, "compat=0.10")
DOWNGRADE_LAZY = Transition("downgrade from lazy", 3, True, "compat=0.10,lazy_refcounts=off")
LAZY_ON = Transition("lazy on", 3, False, "lazy_refcounts=on")
LAZY_OFF = Transition("lazy off", 3, True, "lazy_refcounts=off")


def _rebase(version: int, length: int) -> Transition:
    name = b"9" + backing_name(length - 1).translate(bytes.maketrans(b"0123456789", b"9876543210"))
    return Transition(
        f"rebase of version {version} to {length} bytes",
        version,
        False,
        f"backing_file={name.decode()},backing_fmt=raw",
        ("--change-backing",),
        name,
    )


def backing_name(length: int) -> bytes:
    """A relative path of `length` bytes."""
    text = ".".join(f"{n:04}" for n in range(length // 5 + 1))[:length]
    parts = (text[at : at + 199] for at in range(0, length, 200))
    return "/".join(parts)[:length].encode()


REBASES = tuple(_rebase(version, length) for version in (2, 3) for length in (9, 390, _NAME_LENGTH))
REBASE = REBASES[-1]
"""To a name that is too long for the first sector."""
TRANSITIONS = (UPGRADE, UPGRADE_LAZY, DOWNGRADE, DOWNGRADE_LAZY, LAZY_ON, LAZY_OFF)


@dataclass(frozen=True)
class Case:
    """One change of one image."""

    transition: Transition
    shape: str
    cluster_bits: int

    def __str__(self) -> str:
        return f"{self.transition.name} / {self.shape} / {1 << self.cluster_bits}"

    def image(self) -> Image:
        """The image."""
        fields = SHAPES[self.shape](self.transition.version, self.cluster_bits)
        assert fields is not None
        return _fill(fields, self.transition, self.cluster_bits)

    def write(self, folder: Path) -> Path:
        """Write the image, and the backing file if it has one."""
        image, path = self.image(), folder / "image.qcow2"
        image.write(path)
        if image.backing_file:
            for name in filter(None, (image.backing_file, self.transition.backing_file)):
                self._write_backing_file(folder / name.decode(), image.size)
        return path

    def _write_backing_file(self, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for offset in range(0, size, 1 << self.cluster_bits):
                file.seek(offset)
                file.write(_BACKING)


def all_cases() -> Iterator[Case]:
    """What scripts/crash_survey looks at: all, but variants of a change in some sizes only."""
    sizes = {UPGRADE: CLUSTER_BITS, DOWNGRADE: CLUSTER_BITS}
    for transition in TRANSITIONS:
        for case in cases([transition]):
            random = case.shape.startswith("random")
            if random or case.cluster_bits in sizes.get(transition, SOME_CLUSTER_BITS):
                yield case


def cases(
    transitions: Iterable[Transition],
    shapes: Iterable[str] | None = None,
    sizes: Iterable[int] = CLUSTER_BITS,
) -> Iterator[Case]:
    """All combinations that exist; a shape needs a certain room in the header cluster."""
    for transition in transitions:
        for shape in shapes or SHAPES:
            for bits in sizes:
                if SHAPES[shape](transition.version, bits) is not None:
                    yield Case(transition, shape, bits)


def _fill(fields: Fields, transition: Transition, bits: int) -> Image:
    """Give the image data to lose: its own, compressed, of a snapshot and of the backing file."""
    clusters: dict[int, Cluster] = {0: Data(b"\5"), 3: Compressed(b"compressed"), 7: Data(b"data ")}
    return Image(
        version=transition.version,
        lazy_refcounts=transition.lazy,
        cluster_bits=bits,
        size=max(65536, 8 << bits),
        clusters=clusters,
        snapshots=[Snapshot(name=b"before", clusters={0: Data(b"\4")})],
        **fields,
    )


def _header_length(version: int) -> int:
    return layout.HEADER_V2_LENGTH if version == 2 else layout.HEADER_LENGTH


def _unknown(number: int, size: int) -> Extension:
    data = b"".join(b"%d:%04d " % (number, n) for n in range(size // 7 + 1))[:size]
    return Extension(0x31415900 + number, data)


def _overlay(name_length: int, *extensions: Extension) -> Fields:
    return {
        "backing_file": backing_name(name_length),
        "backing_format": b"raw",
        "extensions": extensions,
    }


def _end(version: int, fields: Fields) -> int:
    """Where the extensions end, the marker included."""
    extensions = [*fields.get("extensions", ()), *([Extension(0)] * fields.get("end_marker", True))]
    if "backing_format" in fields:
        extensions.append(Extension(0, fields["backing_format"]))
    if fields.get("feature_name_table"):
        extensions.append(Extension(0, bytes(8 * 48)))
    return _header_length(version) + sum(len(extension.pack()) for extension in extensions)


def _if_it_fits(version: int, bits: int, fields: Fields) -> Fields | None:
    end = _end(version, fields)
    start = fields.get("backing_file_offset", end)
    fits = end <= start and start + len(fields.get("backing_file", b"")) <= 1 << bits
    return fields if fits and end <= HEADER_LIMIT else None


def _shape(**fields: Any) -> Callable[[int, int], Fields | None]:
    return lambda version, bits: _if_it_fits(version, bits, dict(fields))


def _name_at_the_end(length: int, *extensions: Extension) -> Callable[[int, int], Fields | None]:
    def make(version: int, bits: int) -> Fields | None:
        offset = (1 << bits) - length
        fields = {**_overlay(length, *extensions), "backing_file_offset": offset}
        return _if_it_fits(version, bits, fields)

    return make


def _unaligned(version: int, bits: int) -> Fields | None:
    """No end marker, and a name that begins in what would be an extension's padding."""
    fields = {**_overlay(300, _unknown(1, 61)), "end_marker": False}
    offset = _end(version, fields) - 3
    return {**fields, "backing_file_offset": offset} if offset + 300 <= 1 << bits else None


def _slack(room: int, name_length: int, *sizes: int) -> Callable[[int, int], Fields | None]:
    """Extensions that leave `room` bytes behind the name; in clusters of the given bits only."""

    def make(version: int, bits: int) -> Fields | None:
        fields = _overlay(name_length, _unknown(1, 40))
        size = (1 << bits) - _end(version, fields) - name_length - room
        size -= layout.HeaderExtension.sizeof() + size % 8
        if bits not in sizes or size <= 0:
            return None
        return _if_it_fits(version, bits, _overlay(name_length, _unknown(1, 40), _unknown(2, size)))

    return make


def _large(version: int, bits: int) -> Fields | None:
    """An extension of 40 sectors."""
    fields = _overlay(500, _unknown(1, 64), _unknown(2, 20000))
    return _if_it_fits(version, bits, fields) if bits in (15, 16, 21) else None


def _fields(header_length: int) -> Callable[[int, int], Fields | None]:
    """Version 3 with fewer or more fields than qemu writes."""

    def make(version: int, bits: int) -> Fields | None:
        if version == 2:
            return None
        unknown = bytes(max(header_length - layout.HEADER_LENGTH, 0))
        fields = {**_overlay(23), "header_length": header_length, "unknown_header_fields": unknown}
        return fields if bits > 9 else None

    return make


def _random(seed: int) -> Callable[[int, int], Fields | None]:
    """A header of any make, in clusters of one size."""

    def make(version: int, bits: int) -> Fields | None:
        draw = random.Random(f"{seed} {version}")  # noqa: S311 - the same in every run
        if bits != draw.choice((9, 10, 10, 11, 11, 12, 12, 13, 16, 21)):
            return None
        room = min(1 << bits, HEADER_LIMIT) - _header_length(version) - 8
        name = draw.choice((0, 23, 300, _NAME_LENGTH, draw.randint(5, _NAME_LENGTH)))
        name = min(name, room - 16)
        room -= name + 16
        extensions = []
        for number in range(draw.randint(0, 8)):
            size = draw.randint(0, min(draw.choice((20, 150, 1000)), max(room - 8, 0)))
            if room >= size + 16:
                extensions.append(_unknown(number, size))
                room -= size + 16
        fields: Fields = {"extensions": extensions}
        if name:
            fields = {**_overlay(name, *extensions), "end_marker": draw.random() < 0.8}
            gap = (
                draw.choice((0, 1, 40, draw.randint(0, room), room)) if fields["end_marker"] else 0
            )
            fields["backing_file_offset"] = _end(version, fields) + min(gap, room)
        return _if_it_fits(version, bits, fields)

    return make


_MANY = tuple(_unknown(n, 37 * n % 149 + 3) for n in range(1, 13))

SHAPES: dict[str, Callable[[int, int], Fields | None]] = {
    "bare": _shape(),
    "overlay": _shape(**_overlay(23)),
    "as qemu makes it": lambda version, bits: _if_it_fits(
        version, bits, {**_overlay(23), "feature_name_table": version == 3}
    ),
    "name across sectors": _shape(**_overlay(390)),
    "unaligned name": _unaligned,
    "long name": _shape(**_overlay(_NAME_LENGTH)),
    "extensions": _shape(extensions=_MANY),
    "extensions and name": _shape(**_overlay(23, *_MANY)),
    "extensions and long name": _shape(**_overlay(_NAME_LENGTH, *_MANY)),
    "large extension": _large,
    "name at the end": _name_at_the_end(23),
    "long name at the end": _name_at_the_end(_NAME_LENGTH, *_MANY),
    "long name after a gap": _shape(**_overlay(_NAME_LENGTH, *_MANY), backing_file_offset=4608),
    "fields as in 2011": _fields(104),
    "fields of the future": _fields(200),
    "some slack": _slack(400, 700, 11, 12),
    "little slack": _slack(200, 23, 10, 11, 12),
    "no slack": _slack(40, 23, 10, 11, 12),
    "no slack, large": _slack(40, 23, 16),
    **{f"random {n}": _random(n) for n in range(RANDOM_SHAPES)},
}
