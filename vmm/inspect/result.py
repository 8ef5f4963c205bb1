"""Host side: what a caller of info gets back, and its JSON document in the words of qemu-img."""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would cost the command collections

from ..base.errors import Refusal
from ..base.record import FrozenDict, record, to_dict
from .references import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@record
class SnapshotInfo:
    """An internal snapshot."""

    id: str
    """Its ID, cut to 127 bytes, as qemu cuts it."""
    name: str
    """Its name, or tag, cut to 255 bytes."""
    vm_state_size: int
    """In bytes."""
    date_sec: int
    """When it was made, in seconds since 1970."""
    date_nsec: int
    """And nanoseconds."""
    vm_clock_nsec: int
    """How long the guest had run, in nanoseconds."""
    icount: int | None
    """The guest's instruction counter, if it is kept."""
    disk_size: int
    """In bytes."""


@record
class BitmapInfo:
    """A persistent bitmap."""

    name: str
    """Its name."""
    granularity: int
    """Bytes of the disk for each of its bits."""
    flags: tuple[str, ...]
    """"in-use", "auto"."""


@record
class FeatureInfo:
    """A feature bit that is set and that this program does not know."""

    kind: str
    """"incompatible", "compatible" or "autoclear"."""
    bit: int
    """Its number."""
    name: str | None
    """What the image calls it, if it does."""


@record
class ImageInfo:
    """What a file is, and what an image says of itself; nothing that it names was opened."""

    filename: str
    """The path as it was given."""
    format: str
    """As qemu names it: "qcow2", "vmdk", "raw" for whatever has no image format's signature."""
    contents: tuple[str, ...]
    """What else has its signature in the file: "iso", "gpt", "gzip", another image format."""
    file_size: int
    """Of the file or block device, in bytes."""
    is_device: bool
    """Whether it is a block device."""
    actual_size: int
    """Bytes that the file takes on its file system."""
    virtual_size: int | None = None
    """Of the disk, in bytes, as whole sectors; None for formats that are not looked into."""
    cluster_size: int | None = None
    """In bytes."""
    header: Mapping[str, int] = FrozenDict()
    """The fields of the qcow2 header, as the specification names them, read by the host."""
    details: Mapping[str, object] = FrozenDict()
    """What qemu-img has under format-specific."""
    backing_file: str | None = None
    """The name of the backing file as it stands in the image."""
    backing_format: str | None = None
    """The format that the image says it has."""
    full_backing_file: str | None = None
    """That name as qemu completes it."""
    is_encrypted: bool = False
    """Whether the disk is encrypted."""
    is_dirty: bool = False
    """Whether the image was not closed."""
    snapshots: tuple[SnapshotInfo, ...] = ()
    """In the order of the image."""
    bitmaps: tuple[BitmapInfo, ...] = ()
    """In the order of the image."""
    cut: tuple[str, ...] = ()
    """"snapshots", "bitmaps": lists that are so long that only their first part is here."""
    references: tuple[Reference, ...] = ()
    """All names that a reader of the image would open."""
    unknown_features: tuple[FeatureInfo, ...] = ()
    """Feature bits that this program does not know; without the incompatible ones it is none."""
    problems: tuple[Refusal, ...] = ()
    """What is not as the specification wants it: tables outside the file, flags, odd lengths."""
    payload_sha256: str | None = None
    """Of the payload that read the image, in hexadecimal; None if none was needed."""
    vm_exits: int = 0
    """How many times the virtual machine stopped for the host."""

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document: that of `qemu-img info`, and more."""
        document: dict[str, Any] = {
            "filename": self.filename,
            "format": self.format,
            "actual-size": self.actual_size,
            "dirty-flag": self.is_dirty,
            "children": [{"name": "file", "info": self._describe_file()}],
            "contents": list(self.contents),
            "cut": list(self.cut),
            "references": to_dict(self.references),
            "unknown-features": to_dict(self.unknown_features),
            "problems": to_dict(self.problems),
            "payload-sha256": self.payload_sha256,
        }
        optional = {
            "virtual-size": self.virtual_size,
            "cluster-size": self.cluster_size,
            "encrypted": self.is_encrypted or None,
            "backing-filename": self.backing_file,
            "backing-filename-format": self.backing_format if self.backing_file else None,
            "full-backing-filename": self.full_backing_file,
            "snapshots": [_describe_snapshot(one) for one in self.snapshots] or None,
        }
        document.update((key, value) for key, value in optional.items() if value is not None)
        if self.details:
            document["format-specific"] = {"type": self.format, "data": self._describe_format()}
        return document

    def _describe_format(self) -> dict[str, Any]:
        bitmaps = [
            {"name": one.name, "granularity": one.granularity, "flags": list(one.flags)}
            for one in self.bitmaps
        ]
        return {**to_dict(dict(self.details)), **({"bitmaps": bitmaps} if bitmaps else {})}

    def _describe_file(self) -> dict[str, Any]:
        return {
            "children": [],
            "virtual-size": -(-self.file_size // 512) * 512,
            "filename": self.filename,
            "format": "host_device" if self.is_device else "file",
            "actual-size": self.actual_size,
            "format-specific": {"type": "file", "data": {}},
            "dirty-flag": False,
        }


def _describe_snapshot(snapshot: SnapshotInfo) -> dict[str, Any]:
    seconds, nanoseconds = divmod(snapshot.vm_clock_nsec, 10**9)
    told: dict[str, Any] = {
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": _signed(snapshot.vm_state_size),
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": seconds,
        "vm-clock-nsec": nanoseconds,
    }
    return told if snapshot.icount is None else {**told, "icount": _signed(snapshot.icount)}


def _signed(number: int) -> int:
    """A 64-bit number as qemu's documents have it."""
    return number - (1 << 64) if number >> 63 else number
