"""Sizes, widths and names, interrupted at every moment by instar or by qemu-img. Test side.

Each state is read by the forge, layer by layer, and its refcounts are counted; qemu-img, in its
newest and its oldest version, looks for errors in some of those that seem whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.alike import chosen_states, damage
from tests.crash.cases import REBASES, backing_name
from tests.crash.reading import read as read_header
from tests.crash.recorder import instar
from tests.crash.survey import Outcome, record_whole
from tests.crash.verdict import Tally, Verdict
from tests.support.disks import disk, snapshots, with_size
from tests.support.forge import Compressed, Data, Image, Snapshot, Subclusters, Zero
from tests.support.forge.audit import counted_refcounts, stored_refcounts
from tests.support.forge.reader import Reader
from tests.support.qemu import Qemu, QemuError

INCOMPATIBLE_DATA_FILE = 1 << 2
ASKED_OF_QEMU = 4
"""Of so many states that seem whole one is shown to qemu-img."""


@dataclass(frozen=True)
class TableCase:
    """One change of one image."""

    kind: str
    """"size", "width" or "names"."""
    name: str
    image: bytes
    arguments: tuple[str, ...]
    """Those of `instar amend` but for the image."""
    of_qemu: tuple[str, ...] = ()
    """Those of qemu-img but for the image; none where it wants a data file to be there."""
    files: tuple[bytes, ...] = ()
    """What it may name, which has to be there for qemu-img."""

    def __str__(self) -> str:
        return f"{self.kind}, {self.name}"

    def write(self, folder: Path) -> Path:
        """Write the image and what it names."""
        for name in self.files:
            path = folder / name.decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        image = folder / "image.qcow2"
        image.write_bytes(self.image)
        return image


def _layers(bits: int, order: int = 4) -> Image:
    most = 128 if bits < 16 else 24
    clusters = {n: Data(b"d") for n in range(0, most, 3)}
    return Image(
        cluster_bits=bits,
        size=(most + 40) << bits,
        refcount_order=order,
        clusters=clusters | {1: Compressed(b"c"), 4: Zero()},
        snapshots=[Snapshot(name=b"s", clusters={n: Data(b"d") for n in range(0, most, 6)})],
    )


_SUBCLUSTERS = Image(
    cluster_bits=14,
    size=8 << 14,
    extended_l2=True,
    clusters={0: Data(b"d"), 5: Subclusters({0: Data(b"x"), 9: Data(b"y"), 20: Zero()})},
)


def _resize(name: str, image: bytes, size: int) -> TableCase:
    asked = ("-o", f"size={size}")
    return TableCase("size", name, image, (*asked, "--shrink"), ("amend", "-f", "qcow2", *asked))


def _sizes() -> Iterator[TableCase]:
    for bits in (9, 10, 12, 16):
        image, unit = _layers(bits).build(), 1 << bits
        for verb, size in (
            ("shrinks", 20 * unit),
            ("shrinks within a cluster", 22 * unit - 512),
            ("grows", 400 * unit),
            ("grows by a table", (3 * unit // 8 + 2) * unit),
        ):
            yield _resize(f"{verb}, clusters of {unit}", image, size)
        hiding = with_size(image, 22 * unit - 512)
        yield _resize(f"grows over what hides, clusters of {unit}", hiding, 30 * unit)
    subclusters = _SUBCLUSTERS.build()
    yield _resize("shrinks, subclusters", subclusters, (5 << 14) + 512)
    yield _resize("grows, subclusters", with_size(subclusters, (5 << 14) + 512), 6 << 14)


def _widths() -> Iterator[TableCase]:
    for bits in (9, 10, 12):
        for old, new in ((4, 6), (4, 2), (4, 3), (6, 4), (3, 5), (2, 4)):
            asked = ("-o", f"refcount_bits={1 << new}")
            name = f"{1 << old} to {1 << new} bits, clusters of {1 << bits}"
            image = _layers(bits, old).build()
            yield TableCase("width", name, image, asked, ("amend", "-f", "qcow2", *asked))


def _names() -> Iterator[TableCase]:
    for bits in (9, 12, 16):
        for version in (2, 3):
            for rebase in REBASES:
                new, old = rebase.backing_file, backing_name(23)
                if new is None or rebase.version != version or len(new) > (1 << bits) // 3:
                    continue
                image = Image(
                    version=version,
                    cluster_bits=bits,
                    size=16 << bits,
                    backing_file=old,
                    backing_format=b"raw",
                    clusters={0: Data(b"d")},
                )
                of_qemu = ("rebase", "-u", "-f", "qcow2", "-b", new.decode(), "-F", "raw")
                name = f"backing file of {len(new)} bytes, version {version}, {1 << bits}"
                files = old, new
                yield TableCase("names", name, image.build(), rebase.arguments, of_qemu, files)
        external = Image(cluster_bits=bits, size=16 << bits, data_file=b"d.raw")
        for name in ("e.raw", "f" * 150):
            asked = ("-o", f"data_file={name}")
            label = f"data file of {len(name)} bytes, {1 << bits}"
            yield TableCase("names", label, external.build(), asked)


def table_cases() -> Iterator[TableCase]:
    """All of them."""
    yield from _sizes()
    yield from _widths()
    yield from _names()


def may_leak(case: TableCase) -> bool:
    """Whether a crash may leave clusters that nothing uses."""
    return case.kind == "size"


def interrupt_tables(
    case: TableCase, folder: Path, versions: Sequence[Qemu], by: Qemu | None = None
) -> Outcome:
    """Record the change, by instar or by a qemu-img, and judge what a crash may leave."""
    image = case.write(folder)
    command = instar(*case.arguments)
    if by is not None:
        command = [str(by.directory / "qemu-img"), *case.of_qemu]
    before, recording, after = record_whole(case, command, image)
    if recording.run.status:
        return Outcome(recording.run.stderr, True, 0, recording.operations, Tally())
    tally = Tally()
    seen = _Seen(before, after)
    versions = versions if case.of_qemu else ()
    for number, data in enumerate(chosen_states(before, recording.operations)):
        verdict = seen.judge(data)
        if not verdict.broken and number % ASKED_OF_QEMU == 0:
            image.write_bytes(data)
            verdict = _ask(image, versions) or verdict
        tally.add(verdict, 1, f"state {number}")
    return Outcome(None, True, 0, recording.operations, tally)


class _Seen:
    """What the image before and the image after show."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self._layers = {}
        for verdict, data in ((Verdict.NEW, after), (Verdict.OLD, before)):
            self._layers[verdict] = _read(data)

    def judge(self, data: bytes) -> Verdict:
        """What a state is, as the forge reads it."""
        try:
            found, lacking, leaks = _read(data), damage(data), _leaks(data)
        except Exception:  # whatever it is that cannot be read
            return Verdict.UNOPENABLE
        if lacking:
            return Verdict.CORRUPT
        alike = [verdict for verdict, layers in self._layers.items() if layers == found]
        if not alike:
            return Verdict.CONTENTS
        return Verdict.LEAK if leaks else alike[-1]


def _read(data: bytes) -> tuple[object, ...]:
    """What the guest reads, and the names."""
    meaning = read_header(data).meaning
    header = Reader(data).header
    texts = header.size, header.get("refcount_order"), meaning.extensions, meaning.name
    if header.get("incompatible_features", 0) & INCOMPATIBLE_DATA_FILE:  # the data is elsewhere
        return texts
    return *texts, disk(data), snapshots(data)


def _leaks(data: bytes) -> bool:
    reader = Reader(data)
    counted = counted_refcounts(reader)
    return any(n > counted[cluster] for cluster, n in stored_refcounts(reader).items())


def _ask(image: Path, versions: Sequence[Qemu]) -> Verdict | None:
    """What qemu-img finds that is worse than a leak."""
    for qemu in versions:
        try:
            check = qemu.check(image)
        except QemuError:
            return Verdict.UNOPENABLE
        if check.errors or check.corruptions:
            return Verdict.CORRUPT
    return None
