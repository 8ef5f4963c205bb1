"""Host side: instar.Policy: what an image from strangers may be, refusing by default.

All but `problems` and the names in messages rests on what the host itself read at fixed places of
the file, so that no guest can hide it: the header's fields in the first 104 bytes, and signatures.
"""

from __future__ import annotations

from ..base.errors import UsageError
from ..base.record import record
from ..base.refusals import ENTRY_SIZE, SNAPSHOT_SIZE
from ..qcow2 import (
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_KNOWN,
)
from ..request.kinds import take_flag
from .result import ImageInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@record
class Violation:
    """One reason not to take an image."""

    name: str
    """Such as "backing_file"."""
    message: str
    """In one line."""
    by_host: bool
    """Whether the host read it itself; else it is the word of the guest."""


@record
class Policy:
    """What an image may be. The default takes a qcow2 image that stands alone and is sound."""

    formats: tuple[str, ...] = ("qcow2",)
    """The formats that are taken, in qemu's names. Only qcow2 images are looked into."""
    contents: tuple[str, ...] = ()
    """What else may have its signature in the file, such as "gpt" in a raw image."""
    backing_file: bool = False
    """Whether the image may name a backing file."""
    data_file: bool = False
    """Whether the image may name an external data file."""
    dirty: bool = False
    """Whether the image may be marked dirty or corrupt."""
    max_virtual_size: int | None = 1 << 44
    """The largest disk, in bytes; by default 16 TiB. None takes any, and one that is not known."""

    def violations(self, info: ImageInfo) -> tuple[Violation, ...]:
        """All reasons not to take this image; none if it may be opened.

        UsageError if this policy has a field of another type, which could allow more than is meant,
        and for what is no result of instar.info().
        """
        self._check()
        if not isinstance(info, ImageInfo):
            raise UsageError(f"info is what instar.info() returns, not {info!r:.60}")
        return (*self._of_file(info), *(self._of_image(info) if info.header else ()))

    def _check(self) -> None:
        for key in ("formats", "contents"):
            names: object = getattr(self, key)
            if not isinstance(names, (tuple, list, set, frozenset)) or not all(
                isinstance(name, str) for name in names
            ):
                raise UsageError(f"{key} are names, such as ('qcow2',), not {names!r:.60}")
        for key in ("backing_file", "data_file", "dirty"):
            take_flag(key, getattr(self, key))
        most: object = self.max_virtual_size
        if most is not None and (type(most) is not int or most < 0):
            raise UsageError(f"max_virtual_size is a number of bytes or None, not {most!r:.60}")

    def _of_file(self, info: ImageInfo) -> Iterator[Violation]:
        if info.format not in self.formats:
            yield _host("format", f"the format is {info.format}, not {' or '.join(self.formats)}")
        others = [name for name in info.contents if name not in self.contents]
        if others:
            yield _host("contents", f"the file also has the signature of {', '.join(others)}")
        size, most = info.virtual_size, self.max_virtual_size
        if most is None:
            return
        if size is None:
            yield _host("virtual_size", f"the virtual size of a {info.format} image is not known")
        elif size > most:
            fault = f"the virtual size is {size} bytes, and at most {most} are accepted"
            yield _host("virtual_size", fault)

    def _of_image(self, info: ImageInfo) -> Iterator[Violation]:
        header, cluster_size = info.header, info.cluster_size or 512
        bits = header.get("incompatible_features", 0)
        named = {one.role: f" '{one.name}'" for one in info.references}
        if header["backing_file_offset"] and not self.backing_file:
            name = named.get("backing-file", "")
            yield _host("backing_file", f"the image names a backing file{name}")
        if bits & INCOMPATIBLE_DATA_FILE and not self.data_file:
            name = named.get("data-file", "")
            yield _host("data_file", f"the image names an external data file{name}")
        if bits & ~INCOMPATIBLE_KNOWN:
            unknown = f"{bits & ~INCOMPATIBLE_KNOWN:#x}"
            yield _host("unknown_features", f"the image needs unknown features {unknown}")
        if bits & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) and not self.dirty:
            state = "corrupt" if bits & INCOMPATIBLE_CORRUPT else "dirty"
            yield _host("dirty", f"the image is marked {state}")
        for name, end in _table_ends(header):
            if end > -(-info.file_size // cluster_size) * cluster_size:
                yield _host("outside", f"the {name} reaches beyond the end of the file")
        allowed = ("dirty", "corrupt", "unknown_incompatible_features")  # said above, or taken
        for problem in info.problems:
            if problem.name not in allowed:
                yield Violation("problem", problem.message, by_host=False)


def _host(name: str, message: str) -> Violation:
    return Violation(name, message, by_host=True)


def _table_ends(header: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Where the tables that the header names have to end, in bytes of the file."""
    bits = header["cluster_bits"]
    if header["l1_size"]:
        yield "L1 table", header["l1_table_offset"] + header["l1_size"] * ENTRY_SIZE
    clusters = header["refcount_table_clusters"]
    yield "refcount table", header["refcount_table_offset"] + (clusters << bits)
    if header["nb_snapshots"]:
        yield "snapshot table", header["snapshots_offset"] + header["nb_snapshots"] * SNAPSHOT_SIZE
