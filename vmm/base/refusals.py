"""Host side: the guest's refusals, and the host's own, put into the words of reasons.py.

The numbers and names in a message come from the guest; they are shown, never used.
"""

from __future__ import annotations

import instar.abi as abi

from .errors import GuestFault, Refusal
from .escape import escape
from .findings import FINDINGS, phrase
from .reasons import OF_NONE, OF_REPAIRS, REASONS
from .record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

USES = {
    abi.AMEND_USE_HEADER: "the header",
    abi.AMEND_USE_REFCOUNT_TABLE: "the refcount table",
    abi.AMEND_USE_REFCOUNT_BLOCK: "a refcount block",
    abi.AMEND_USE_L1_TABLE: "the L1 table",
    abi.AMEND_USE_L2_TABLE: "an L2 table",
    abi.AMEND_USE_SNAPSHOT_TABLE: "the snapshot table",
    abi.AMEND_USE_SNAPSHOT_L1_TABLE: "a snapshot's L1 table",
    abi.AMEND_USE_DATA: "data",
    abi.AMEND_USE_COMPRESSED: "compressed data",
    abi.AMEND_USE_ZERO_CLUSTER: "a zero cluster",
    abi.AMEND_USE_CRYPTO_HEADER: "the LUKS header",
    abi.AMEND_USE_BITMAP_DIRECTORY: "the bitmap directory",
    abi.AMEND_USE_BITMAP: "a bitmap",
    abi.AMEND_USE_NEW: "a free cluster",
}
"""What a cluster is used for, by its number in the ABI."""

ENTRY_SIZE, SNAPSHOT_SIZE = 8, 40
"""Bytes of an entry of a table of offsets, and of a snapshot without its texts."""
L1_TABLE_MAX, REFCOUNT_TABLE_MAX = 32 << 20, 8 << 20
"""Bytes of the active L1 table and of a refcount table that every qemu takes."""
SNAPSHOTS_MAX = 1 << 16
"""Snapshots of an image that every qemu takes."""

_NAMES_SHOWN, _NAME_LENGTH = 8, 64

_CODES = {
    value: name.removeprefix("AMEND_ERROR_")
    for name, value in vars(abi).items()
    if name.startswith("AMEND_ERROR_")
}


@record
class Circumstances:
    """What the host knows of an image that is refused, for the messages."""

    names: tuple[bytes, ...] = ()
    """Of bitmaps, as far as the guest gave them."""
    snapshots: Mapping[int, tuple[bytes, bytes]] = {}
    """ID and name of snapshots by their numbers, as far as the guest gave them."""
    size: int = 0
    """Of the file in bytes; 0 if it is not known."""
    header: Mapping[str, int] = {}
    """Fields of the header, as the specification names them."""
    shrinks: bool = False
    """Whether a disk is asked to shrink by a size, not to grow."""
    repairs: bool = False
    """Whether a repair is asked for."""


_NOTHING = Circumstances()


def translate(
    refusals: tuple[tuple[int, ...], ...], about: Circumstances = _NOTHING
) -> tuple[Refusal, ...]:
    """Put AmendRefusals, as unpacked, into words. GuestFault for numbers that mean nothing."""
    return tuple(_translate(about, *refusal) for refusal in refusals)


def is_known(refusal: Refusal) -> bool:
    """Whether a refusal from another process is one that this program makes, as far as one can see.

    What is shown of the image, names in it or what else the file is, can be any text.
    """
    reason, code, detail = refusal.number, refusal.code_number, refusal.detail
    if reason not in REASONS or code not in _CODES or detail.keys() != set(REASONS[reason][1]):
        return False
    if any(type(value) is not int or not 0 <= value < 1 << 64 for value in detail.values()):
        return False
    try:
        names = tuple(name.encode("utf-8", "surrogateescape") for name in refusal.names)
    except UnicodeEncodeError:
        return False
    if (refusal.name, refusal.code) != (REASONS[reason][0], _CODES[code]):
        return False
    if names and not (
        "{names}" in REASONS[reason][2] or ("snapshot" in detail and len(names) == 2)
    ):
        return False
    return reason == abi.REFUSAL_BAD_MAGIC or refusal.message in {
        _phrase(
            *(reason, detail, names),
            place=place,
            has_snapshots=snapshots,
            shrinks=shrinks,
            repairs=repairs,
        )
        for place in _PLACES
        for snapshots in (False, True)
        for shrinks in (False, True)
        for repairs in (False, True)
    }


def overlap(
    offset: int, user: int = abi.AMEND_USE_UNKNOWN, other_user: int = abi.AMEND_USE_UNKNOWN
) -> Refusal:
    """Say that a cluster would be written, used anew or set free that something else uses too."""
    users = user, other_user
    return _translate(_NOTHING, abi.REFUSAL_OVERLAP, abi.AMEND_ERROR_PARSE_FAILED, offset, *users)


def table_outside(offset: int) -> Refusal:
    """Say that an L1 or L2 table is not in the image, where the guest had no need to look."""
    return _translate(_NOTHING, abi.REFUSAL_L2_TABLE, abi.AMEND_ERROR_PARSE_FAILED, 0, 0, offset)


def bad_refcount_table(offset: int, clusters: int, image_size: int) -> Refusal:
    """Say that the refcount table names what is no block, where the guest had no need to look."""
    details = offset, clusters, image_size
    return _translate(_NOTHING, abi.REFUSAL_REFCOUNT_TABLE, abi.AMEND_ERROR_PARSE_FAILED, *details)


def bad_bitmaps(offset: int, count: int) -> Refusal:
    """Say that the directory of bitmaps is none, where the guest had no need to look."""
    details = offset, count
    return _translate(_NOTHING, abi.REFUSAL_BITMAPS, abi.AMEND_ERROR_PARSE_FAILED, *details)


def work_limit(limit: int) -> Refusal:
    """Say that it takes too much work to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_WORK_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, limit)


def change_limit(size: int, ranges: int) -> Refusal:
    """Say that it takes too much memory to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_CHANGE_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, size, ranges)


def size_difference(size: int, difference: int, *, shrinks: bool) -> Refusal:
    """Say that a disk cannot shrink, or else grow, by so much."""
    about, details = Circumstances(shrinks=shrinks), (size, difference)
    return _translate(about, abi.REFUSAL_SIZE_DIFFERENCE, abi.AMEND_ERROR_SIZE, *details)


def too_few_references(offset: int, refcount: int) -> Refusal:
    """Say that a cluster has one user more than its refcount counts."""
    details = offset, refcount, refcount + 1
    return _translate(_NOTHING, abi.REFUSAL_REFCOUNT, abi.AMEND_ERROR_PARSE_FAILED, *details)


def _translate(about: Circumstances, reason: int, error: int, *details: int) -> Refusal:
    if reason not in REASONS or error not in _CODES:
        raise GuestFault(f"the guest refuses with reason {reason} and error {error}")
    name, detail_names, message = REASONS[reason]
    detail = dict(zip(detail_names, details, strict=False))
    names: tuple[bytes, ...] = about.snapshots.get(detail.get("snapshot", 0), ())
    if "{names}" in message:
        names = about.names
    text = _phrase(
        *(reason, detail, names),
        place=_judge_place(about, reason, detail),
        has_snapshots=about.header.get("nb_snapshots", 0) > 0,
        shrinks=about.shrinks,
        repairs=about.repairs,
    )
    told = tuple(name.decode("utf-8", "surrogateescape") for name in names)
    return Refusal(name, reason, _CODES[error], error, text, detail, told)


def _phrase(
    reason: int,
    detail: Mapping[str, int],
    names: tuple[bytes, ...],
    *,
    place: str,
    has_snapshots: bool,
    shrinks: bool,
    repairs: bool,
) -> str:
    """The message; `names` are those of bitmaps, or the ID and the name of a snapshot."""
    if reason in OF_NONE and detail.get("count") == 0:
        return OF_NONE[reason]
    others = {
        "names": _list_names(names),
        "users": _list_users(detail.get("user", 0), detail.get("other_user", 0)),
        "which": _name_snapshot(names, detail.get("snapshot", 0)),
        "luks_field": _name_luks_field(detail.get("place", 0)),
        "found": _name_finding(detail.get("finding", 0)),
        "direction": "shrink" if shrinks else "grow",
    }
    message = REASONS[reason][2]
    if repairs:
        message = OF_REPAIRS.get(reason, message)
    text = phrase(message, detail, others)
    if place:  # what a file that is too short has lost is not brought back by any advice
        what, _, advice = text.rpartition("; ")
        text = f"{what}; {place}" if place == _ENDS_EARLY else f"{what}: {place}; {advice}"
    return _add_loss(text) if has_snapshots else text


def _add_loss(text: str) -> str:
    """Say of a copy that is advised that it loses snapshots; the command is left to be copied."""
    if "qemu-img convert" in text:
        return f"{text}; qemu-img convert drops internal snapshots"
    return text


_ENDS_EARLY = "the file ends before its tables, as a truncated download or copy does"
_TOO_MANY = "no image of such a disk has so many, so the number itself is damaged"
_TOO_FAR = "no image of such a disk is so large, so the place itself is damaged"
_PLACES = ("", _ENDS_EARLY, _TOO_MANY, _TOO_FAR)
"""All that _judge_place() can say."""

_SPARE = 64 << 30  # bytes: the VM states of snapshots, and all that is no data


def _judge_place(about: Circumstances, reason: int, detail: Mapping[str, int]) -> str:
    """Say why a part of an image is not in the file; "" if something else is wrong with it.

    No repair brings back what a file that is too short has lost. But where a number alone cannot
    be, nothing need be missing.
    """
    size, header = about.size, about.header
    if not size or "offset" not in detail or "cluster_bits" not in header:
        return ""
    cluster_size = 1 << min(header["cluster_bits"], 21)
    known = _length_of(header, reason, detail, cluster_size)
    if known is None:
        return ""
    length, most = known
    if length > most:
        return _TOO_MANY
    end = detail["offset"] + (length or cluster_size)
    if detail["offset"] % cluster_size or end <= size:
        return ""
    return _ENDS_EARLY if end <= _largest_file(header, cluster_size) else _TOO_FAR


def _length_of(
    header: Mapping[str, int], reason: int, detail: Mapping[str, int], cluster_size: int
) -> tuple[int, int] | None:
    """The bytes of what a refusal is about, 0 if it does not say, and how many there can be."""
    if reason == abi.REFUSAL_L1_TABLE:
        return detail["entries"] * ENTRY_SIZE, _longest_l1_table(header, cluster_size)
    if reason == abi.REFUSAL_SNAPSHOT_TABLE and detail["snapshot"]:
        return detail["count"] * ENTRY_SIZE, _longest_l1_table(header, cluster_size)
    if reason == abi.REFUSAL_SNAPSHOT_TABLE:
        return detail["count"] * SNAPSHOT_SIZE, SNAPSHOT_SIZE * SNAPSHOTS_MAX
    if reason == abi.REFUSAL_REFCOUNT_TABLE:
        return detail["clusters"] * cluster_size, REFCOUNT_TABLE_MAX
    if reason == abi.REFUSAL_LUKS_REGION:
        return detail["length"], 1 << 64
    return (0, 0) if reason == abi.REFUSAL_L2_TABLE else None


def _longest_l1_table(header: Mapping[str, int], cluster_size: int) -> int:
    """Bytes for the disk, and for as much again and a VM state after it."""
    if "size" not in header:
        return L1_TABLE_MAX
    covered = cluster_size * (cluster_size // 16)  # by an entry, with the larger L2 entries
    return min(-(-(2 * header["size"] + _SPARE) // covered) * ENTRY_SIZE, L1_TABLE_MAX)


def _largest_file(header: Mapping[str, int], cluster_size: int) -> int:
    """How large a file may have been: for the disk with its snapshots, and by what is counted."""
    disks = header.get("size", 0) * (1 + header.get("nb_snapshots", 0))
    blocks = header.get("refcount_table_clusters", 0) * cluster_size // 8
    counted = blocks * (cluster_size * 8 >> min(header.get("refcount_order", 4), 6)) * cluster_size
    return min(2 * disks + _SPARE, counted or 1 << 64)


def _name_finding(kind: int) -> str:
    """What keeps an image from being repaired: a CHECK_* number from the guest."""
    return (FINDINGS[kind][4] if kind in FINDINGS else "") or "an error"


def _name_snapshot(names: tuple[bytes, ...], number: int) -> str:
    if len(names) != 2:
        return f"number {number}"
    identity, name = map(_show, names)
    return f"'{name}' (ID '{identity}')"


def _list_users(*users: int) -> str:
    """What a cluster is used as, as far as is known: AMEND_USE_* numbers from the guest."""
    known = [f"as {USES[user]}" for user in users if user in USES]
    return f", {' and '.join([*known, 'for something else'][:2])}" if known else ""


def _list_names(names: tuple[bytes, ...]) -> str:
    """Names, hostile bytes, as a part of a line: some of them, in brackets."""
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    quoted = ", ".join(f"'{_show(name)}'" for name in names[:_NAMES_SHOWN])
    return f" ({quoted}{more})"


def _show(name: bytes) -> str:
    shown = escape(name.decode("utf-8", "backslashreplace"))
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[:_NAME_LENGTH]}..."


_LUKS_FIELDS = {6: "the version", 104: "the payload offset", 108: "the key size in bytes"}
_LUKS_FIELDS[164] = "the number of iterations"
_LUKS_SLOT_FIELDS = {0: "state", 4: "number of iterations", 40: "key offset", 44: "stripes"}


def _name_luks_field(place: int) -> str:
    """A field of a LUKS1 header by its place, of the header or of a slot."""
    slot, field = divmod(place - 208, 48)
    if 0 <= slot < 8 and field in _LUKS_SLOT_FIELDS:
        return f"the {_LUKS_SLOT_FIELDS[field]} of keyslot {slot}"
    return _LUKS_FIELDS.get(place, f"byte {place}")


def luks_refusal(name: str, *details: int, names: tuple[bytes, ...] = ()) -> Refusal:
    """Say why keyslots cannot be changed so: by one of the reasons that the host finds."""
    reason = next(number for number, (known, _, _) in REASONS.items() if known == name)
    texts = tuple(text.partition(b"\0")[0] for text in names)
    return _translate(Circumstances(texts), reason, abi.AMEND_ERROR_ENCRYPTION, *details)


def backing_itself() -> Refusal:
    """Say that an image would be its own backing file."""
    return _translate(_NOTHING, abi.REFUSAL_BACKING_ITSELF, abi.AMEND_ERROR_BACKING_FILE)


def not_qcow2(found: str, wanted: str) -> Refusal:
    """Say that a file is not of the format that it has to be, but `found`."""
    message = f"this is {found}; {wanted}"
    code = abi.AMEND_ERROR_UNSUPPORTED_FORMAT
    return Refusal("not_qcow2", abi.REFUSAL_BAD_MAGIC, _CODES[code], code, message, {})
