"""Host side: one `info`: from the fixed fields and the guest's records to an ImageInfo."""

from __future__ import annotations

from instar.abi import (
    INFO_READ_BITMAPS,
    INFO_READ_HEADER,
    INFO_READ_SNAPSHOTS,
    INFO_TEXT_BACKING_FILE,
    INFO_TEXT_BACKING_FORMAT,
    INFO_TEXT_DATA_FILE,
)

from ..base.errors import GuestFault, HostError, ImageRejected
from ..base.refusals import Circumstances, translate
from ..qcow2 import (
    AUTOCLEAR_BITMAPS,
    AUTOCLEAR_DATA_FILE_RAW,
    AUTOCLEAR_KNOWN,
    CLUSTER_BITS_MAX,
    CLUSTER_BITS_MIN,
    COMPATIBLE_KNOWN,
    COMPATIBLE_LAZY_REFCOUNTS,
    CRYPT_AES,
    CRYPT_LUKS,
    HEADER_LENGTH_V3_MIN,
    INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE,
    INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_EXTENDED_L2,
    INCOMPATIBLE_KNOWN,
    NO_ICOUNT,
    REFCOUNT_ORDER_MAX,
    REFCOUNT_ORDER_V2,
    whole_sectors,
)
from ..qcow2.probe import PROBE_SIZE, header_fields, other_format
from .formats import NEAR_SIZE, recognise
from .frames import INFO_READ_ALL, InfoFrames
from .luks import describe_luks
from .references import describe_reference, full_name
from .result import BitmapInfo, FeatureInfo, ImageInfo, SnapshotInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from ..image.image_file import ImageFile
    from .frames import BitmapRecord, SnapshotRecord
    from .looker import Looker
    from .references import Reference

_UNREADABLE = frozenset({"refcount_order"})
"""Problems of a header that leave nothing to tell."""
_BITMAP_FLAGS = (("in-use", 1), ("auto", 2))
_COMPRESSION_TYPE = HEADER_LENGTH_V3_MIN  # "Header", where the header is longer than that


def describe_image(
    looker: Looker,
    image: ImageFile,
    *,
    form: str | None = None,
    form_from: str = "format",
    timeout: float,
    debug: Callable[[str], None] | None = None,
) -> ImageInfo:
    """Say what an image that is open and locked is. ImageRejected, GuestFault, HostError.

    `form` is the format that the caller says it has, with `form_from`; only a qcow2 image is given
    to the guest.
    """
    near = image.read(0, NEAR_SIZE)
    found, contents = recognise(near, image.read, image.size)
    if form is not None and form != found:
        if form != "raw":  # which anything can be taken for
            wanted = f"not {form}, as {form_from} says"
            raise other_format(near[:PROBE_SIZE], image.read, image.size, wanted)
        found, contents = "raw", tuple(dict.fromkeys((found, *contents)))
    facts: dict[str, Any] = {
        "filename": image.name,
        "format": found,
        "contents": contents,
        "file_size": image.size,
        "is_device": image.is_device,
        "actual_size": image.allocated,
    }
    if found == "raw":
        facts["virtual_size"] = -(-image.size // 512) * 512
    if found != "qcow2":
        return ImageInfo(**facts)
    head = near[:PROBE_SIZE].ljust(PROBE_SIZE, b"\0")
    frames = InfoFrames()
    looker.look(image, frames.receive, timeout, debug=debug)
    frames.complete()
    header = header_fields(head)
    problems = translate(frames.refusals, Circumstances((), {}, image.size, header))
    if problems and not (
        frames.read & INFO_READ_HEADER and _UNREADABLE.isdisjoint(one.name for one in problems)
    ):
        raise ImageRejected(problems)
    facts.update(problems=problems, payload_sha256=looker.payload_sha256, vm_exits=looker.vm_exits)
    try:
        return ImageInfo(**facts, **_Reading(head, header, frames, image.name).describe())
    except GuestFault as error:
        if image.read(0, PROBE_SIZE).ljust(PROBE_SIZE, b"\0") == head:
            raise
        raise HostError("the image was changed while it was looked at; try again") from error


class _Reading:
    """What the host read itself, and what the guest said, of one qcow2 image."""

    def __init__(
        self, head: bytes, header: dict[str, int], frames: InfoFrames, filename: str
    ) -> None:
        self._head = head
        self._header = header
        self._frames = frames
        self._filename = filename

    def describe(self) -> dict[str, Any]:
        """The fields of an ImageInfo that are about what is in the image."""
        header, frames = self._header, self._frames
        self._judge()
        backing = self._text(INFO_TEXT_BACKING_FILE)
        return {
            "virtual_size": whole_sectors(header["size"]),
            "cluster_size": 1 << header["cluster_bits"],
            "header": header,
            "details": self._describe_details(),
            "backing_file": backing,
            "backing_format": self._text(INFO_TEXT_BACKING_FORMAT),
            "full_backing_file": full_name(backing, self._filename) if backing else None,
            "is_encrypted": bool(header["crypt_method"]),
            "is_dirty": bool(self._has(INCOMPATIBLE_DIRTY)),
            "snapshots": tuple(map(_describe_snapshot, frames.snapshots)),
            "bitmaps": tuple(map(_describe_bitmap, frames.bitmaps)),
            "references": tuple(self._references(backing)),
            "cut": tuple(self._cut()),
            "unknown_features": tuple(_unknown_features(header, frames.features)),
        }

    def _judge(self) -> None:
        """See that the guest says what the header's fixed fields let it say. GuestFault.

        What it says nothing of it must have a reason for, which is a problem of the image then.
        """
        header, frames = self._header, self._frames
        bits, order = header["cluster_bits"], header.get("refcount_order", REFCOUNT_ORDER_V2)
        if not CLUSTER_BITS_MIN <= bits <= CLUSTER_BITS_MAX or order > REFCOUNT_ORDER_MAX:
            raise GuestFault("the guest took a header for sound that is not")
        size = header["backing_file_size"] if header["backing_file_offset"] else 0
        is_luks = header["crypt_method"] == CRYPT_LUKS
        of_header = {
            "a backing file": (len(frames.texts.get(INFO_TEXT_BACKING_FILE, b"")), size),
            "a LUKS header": (frames.luks is not None, is_luks),
        }
        for what, (told, there) in of_header.items():
            if told != there and (told or not frames.refusals):
                raise GuestFault(f"the guest does not tell {what} as the header has it")
        most = header["nb_snapshots"]
        has_bitmaps = header.get("autoclear_features", 0) & AUTOCLEAR_BITMAPS
        if len(frames.snapshots) > most or (frames.bitmaps_counted and not has_bitmaps):
            raise GuestFault("the guest tells snapshots or bitmaps that the header does not have")
        if frames.read != INFO_READ_ALL and not frames.refusals:
            raise GuestFault("the guest did not read all, and does not say why")

    def _has(self, bit: int) -> bool:
        return bool(self._header.get("incompatible_features", 0) & bit)

    def _text(self, text: int) -> str | None:
        """A text as C would read it, which is how qemu does; None where there is none."""
        raw = self._frames.texts.get(text, b"").partition(b"\0")[0]
        return raw.decode("utf-8", "surrogateescape") or None

    def _describe_details(self) -> dict[str, object]:
        header = self._header
        long = header.get("header_length", 0) > _COMPRESSION_TYPE
        zstd = long and self._head[_COMPRESSION_TYPE] == 1
        details: dict[str, object] = {
            "compat": "0.10" if header["version"] == 2 else "1.1",
            "compression-type": "zstd" if zstd else "zlib",
            "refcount-bits": 1 << header.get("refcount_order", REFCOUNT_ORDER_V2),
        }
        if header["version"] > 2:
            compatible = header["compatible_features"]
            details["lazy-refcounts"] = bool(compatible & COMPATIBLE_LAZY_REFCOUNTS)
            details["corrupt"] = self._has(INCOMPATIBLE_CORRUPT)
            details["extended-l2"] = self._has(INCOMPATIBLE_EXTENDED_L2)
        if INFO_TEXT_DATA_FILE in self._frames.texts and header["version"] > 2:
            details["data-file"] = self._text(INFO_TEXT_DATA_FILE) or ""
        if self._has(INCOMPATIBLE_DATA_FILE):
            details["data-file-raw"] = bool(header["autoclear_features"] & AUTOCLEAR_DATA_FILE_RAW)
        if header["crypt_method"] == CRYPT_AES:
            details["encrypt"] = {"format": "aes"}
        elif self._frames.luks is not None:
            details["encrypt"] = describe_luks(self._frames.luks)
        return details

    def _cut(self) -> Iterator[str]:
        """The lists that the guest read to their end and did not tell to it."""
        frames = self._frames
        if (
            frames.read & INFO_READ_SNAPSHOTS
            and len(frames.snapshots) < self._header["nb_snapshots"]
        ):
            yield "snapshots"
        if frames.read & INFO_READ_BITMAPS and len(frames.bitmaps) < frames.bitmaps_counted:
            yield "bitmaps"

    def _references(self, backing: str | None) -> Iterator[Reference]:
        if self._header["backing_file_offset"] and self._header["backing_file_size"]:
            form = self._text(INFO_TEXT_BACKING_FORMAT)
            yield describe_reference("backing-file", backing or "", form, self._filename)
        if self._has(INCOMPATIBLE_DATA_FILE):
            name = self._text(INFO_TEXT_DATA_FILE) or ""
            yield describe_reference("data-file", name, "raw", self._filename)


def _describe_snapshot(snapshot: SnapshotRecord) -> SnapshotInfo:
    return SnapshotInfo(
        id=snapshot.id.partition(b"\0")[0].decode("utf-8", "surrogateescape"),
        name=snapshot.name.partition(b"\0")[0].decode("utf-8", "surrogateescape"),
        vm_state_size=snapshot.vm_state_size,
        date_sec=snapshot.date_sec,
        date_nsec=snapshot.date_nsec,
        vm_clock_nsec=snapshot.vm_clock_nsec,
        icount=None if snapshot.icount == NO_ICOUNT else snapshot.icount,
        disk_size=snapshot.disk_size,
    )


def _describe_bitmap(bitmap: BitmapRecord) -> BitmapInfo:
    flags = tuple(name for name, bit in _BITMAP_FLAGS if bitmap.flags & bit)
    name = bitmap.name.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return BitmapInfo(name, 1 << bitmap.granularity_bits, flags)


def _unknown_features(
    header: Mapping[str, int], names: Mapping[tuple[int, int], bytes]
) -> Iterator[FeatureInfo]:
    """Set bits that this program does not know, by the host's reading, with the image's names."""
    words = (
        ("incompatible", INCOMPATIBLE_KNOWN),
        ("compatible", COMPATIBLE_KNOWN),
        ("autoclear", AUTOCLEAR_KNOWN),
    )
    for number, (kind, known) in enumerate(words):
        bits = header.get(f"{kind}_features", 0) & ~known
        for bit in range(bits.bit_length()):
            if bits >> bit & 1:
                name = names.get((number, bit), b"").decode("utf-8", "surrogateescape")
                yield FeatureInfo(kind, bit, name or None)
