"""Host side: the guest's refusals, and the host's own, put into the words of reasons.py.

The numbers and names in a message come from the guest; they are shown, never used.
"""

from __future__ import annotations

import instar.abi as abi

from .errors import GuestFault, Refusal
from .escape import escape
from .reasons import REASONS
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
        _phrase(reason, detail, names, ends_early=early, has_snapshots=snapshots)
        for early in (False, True)
        for snapshots in (False, True)
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


def work_limit(limit: int) -> Refusal:
    """Say that it takes too much work to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_WORK_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, limit)


def change_limit(size: int, ranges: int) -> Refusal:
    """Say that it takes too much memory to judge an amend."""
    return _translate(_NOTHING, abi.REFUSAL_CHANGE_LIMIT, abi.AMEND_ERROR_WORK_LIMIT, size, ranges)


def size_difference(size: int, difference: int) -> Refusal:
    """Say that a disk cannot grow or shrink by so much."""
    details = size, difference
    return _translate(_NOTHING, abi.REFUSAL_SIZE_DIFFERENCE, abi.AMEND_ERROR_SIZE, *details)


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
        ends_early=_ends_early(about, detail),
        has_snapshots=about.header.get("nb_snapshots", 0) > 0,
    )
    told = tuple(name.decode("utf-8", "surrogateescape") for name in names)
    return Refusal(name, reason, _CODES[error], error, text, detail, told)


def _phrase(
    reason: int,
    detail: Mapping[str, int],
    names: tuple[bytes, ...],
    *,
    ends_early: bool,
    has_snapshots: bool,
) -> str:
    """The message; `names` are those of bitmaps, or the ID and the name of a snapshot."""
    text = REASONS[reason][2].format(
        names=_list_names(names),
        users=_list_users(detail.get("user", 0), detail.get("other_user", 0)),
        which=_name_snapshot(names, detail.get("snapshot", 0)),
        luks_field=_name_luks_field(detail.get("place", 0)),
        found=_FINDINGS.get(detail.get("finding", 0), "an error"),
        **detail,
    )
    if ends_early and reason in _OF_A_PLACE:
        text = f"{text.rpartition('; ')[0]}; {_ENDS_EARLY}"
    return _add_loss(text) if has_snapshots else text


def _add_loss(text: str) -> str:
    """Say of each copy that is advised that it loses snapshots."""
    for command in ("qemu-img convert --salvage", "qemu-img convert"):
        if command in text:
            return text.replace(command, f"{command} (which drops internal snapshots)")
    return text


_FINDINGS = {
    abi.CHECK_REGION_OUTSIDE: "a reference beyond the end of the file",
    abi.CHECK_L1_RESERVED: "an L1 entry with reserved bits",
    abi.CHECK_L2_TABLE_UNALIGNED: "an L2 table that begins in no cluster",
    abi.CHECK_L2_RESERVED: "an L2 entry with reserved bits",
    abi.CHECK_COMPRESSED_COPIED: "a compressed cluster with a copied flag",
    abi.CHECK_COMPRESSED_DATA_FILE: "a compressed cluster and a data file",
    abi.CHECK_COMPRESSED_SUBCLUSTERS: "a compressed cluster with subclusters",
    abi.CHECK_SUBCLUSTERS: "subclusters that are both allocated and zero",
    abi.CHECK_CLUSTER_UNALIGNED: "data that begin in no cluster",
    abi.CHECK_UNALLOCATED_SUBCLUSTERS: "subclusters without a cluster",
    abi.CHECK_SNAPSHOT_UNALIGNED: "a snapshot whose L1 table begins in no cluster",
    abi.CHECK_SNAPSHOT_SIZE: "a snapshot whose L1 table is too large",
    abi.CHECK_SNAPSHOT_DATA_FILE: "a snapshot and a data file",
    abi.CHECK_BITMAP: "a bitmap of a kind that there is none of",
    abi.CHECK_BITMAP_ENTRY: "a bitmap whose table is not valid",
    abi.CHECK_BITMAP_TABLE: "a bitmap whose table is longer or shorter than its disk takes",
    abi.CHECK_BITMAP_NAME: "two bitmaps of one name",
}
"""What keeps an image from being repaired, as a guest finds it: CHECK_* of the ABI."""

_OF_A_PLACE = (
    *(abi.REFUSAL_REFCOUNT_TABLE, abi.REFUSAL_L1_TABLE, abi.REFUSAL_SNAPSHOT_TABLE),
    *(abi.REFUSAL_L2_TABLE, abi.REFUSAL_LUKS_REGION),
)
"""What is said of something that is not where it should be, with an advice after a semicolon."""

_ENDS_EARLY = "the file ends before its tables: is it a truncated download or copy?"
_ENTRY, _SNAPSHOT = 8, 40  # bytes of an L1 entry, of a snapshot without its texts


def _ends_early(about: Circumstances, detail: Mapping[str, int]) -> bool:
    """Whether a table is missing since the file is too short, which no repair brings back."""
    if not about.size or "offset" not in detail:
        return False
    cluster_size = 1 << min(about.header["cluster_bits"], 21)
    lengths = {"entries": _ENTRY, "clusters": cluster_size, "count": _SNAPSHOT, "l1_table": 0}
    length = next((detail[key] * unit for key, unit in lengths.items() if key in detail), 0)
    end = detail["offset"] + (length or cluster_size)
    return detail["offset"] % cluster_size == 0 and about.size < end < 1 << 62


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
