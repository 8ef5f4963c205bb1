"""Host side: what host and guest say to each other about one image: an AmendConfig, and frames."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    AMEND_ACTION_AMENDED,
    AMEND_ACTION_NOOP,
    AMEND_CONFIG_MAGIC,
    AMEND_FLAG_FIXED_SIZE,
    AMEND_FLAG_KEYS,
    AMEND_FLAG_PROGRESS,
    AMEND_FLAG_QUIET,
    AMEND_FLAG_REPAIR_ALL,
    AMEND_FLAG_REPAIR_LEAKS,
    AMEND_FORMAT_QCOW2,
    AMEND_OK,
    AMEND_RESULT_MAGIC,
    FRAME_NAMES,
    FRAME_OPTIONS,
    FRAME_PROGRESS,
    FRAME_REFUSALS,
    FRAME_RESULT,
    FRAME_SNAPSHOTS,
    OPTION_COMPAT,
    OPTION_DATA_FILE_RAW,
    OPTION_KIND_BYTES,
    OPTION_KIND_FLAG,
    OPTION_LAZY_REFCOUNTS,
    OPTION_REFCOUNT_BITS,
    OPTION_SIZE,
    REFUSAL_MAX,
    AmendConfig_FORMAT,
    AmendProgress_FORMAT,
    AmendRefusal_FORMAT,
    AmendResult_FORMAT,
    OptionRecord_FORMAT,
)

from ..base.errors import GuestFault
from ..base.record import record
from ..contract.terms import Claim, Judgement
from ..image.commit import planned_ranges
from ..qcow2 import INCOMPATIBLE_EXTENDED_L2, OFFSET_MASK, whole_sectors
from ..qcow2.probe import HEADER_FIELDS, V3_FIELDS
from ..request.kinds import TEXT
from ..request.options import OPTIONS, PERMITTED, REFCOUNT_BITS
from .result import KEYSLOTS, ByteRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ..image.staging import StagedWrites
    from ..image.view import AnyImage
    from ..qcow2.probe import FixedHeader
    from ..request import AmendRequest

_CONFIG = Struct(AmendConfig_FORMAT)
_RESULT = Struct(AmendResult_FORMAT)
_REFUSAL = Struct(AmendRefusal_FORMAT)
_PROGRESS = Struct(AmendProgress_FORMAT)
_SNAPSHOT = Struct("<IHH")  # number, bytes of ID and name
_OPTION = Struct(OptionRecord_FORMAT)
_NUMBER = Struct("<Q")
_TOLD_OPTION = Struct(OptionRecord_FORMAT + "Q")

OPTION_KINDS = {option.abi_key: option.abi_kind for option in OPTIONS}
"""Of each option's key, what its values are: numbers, flags or bytes."""

_MENDS = {"leaks": AMEND_FLAG_REPAIR_LEAKS, "all": AMEND_FLAG_REPAIR_ALL}

CHANGED_FIELDS = (
    *HEADER_FIELDS,
    *V3_FIELDS,
    *(row.key for row in OPTIONS if row.kind == TEXT),
    *KEYSLOTS,
)
"""All that a Change can be of, in the order in which a chain tells them."""

_TOLD = {key for key, kind in OPTION_KINDS.items() if kind != OPTION_KIND_BYTES}


@record
class GuestRun:
    """What a guest that ended in the regular way said and staged."""

    claim: Claim
    """What it says it did; meaningless if there are refusals."""
    refusals: tuple[tuple[int, ...], ...]
    """AmendRefusals: (reason, error, three details)."""
    staged: StagedWrites
    """What it wrote."""
    vm_exits: int
    """How often it stopped for the host."""
    options: dict[int, int]
    """The value of each option but text, by its key; none if there are refusals."""
    names: tuple[bytes, ...] = ()
    """Bitmap names that it gives with a refusal."""
    snapshots: Mapping[int, tuple[bytes, bytes]] = {}
    """IDs and names of snapshots by their numbers, which it gives with a refusal."""


@record
class Plan:
    """One step of an amend, which may be committed."""

    request: AmendRequest
    """What was asked for in this step."""
    outcome: GuestRun
    """What the guest staged for it; there are no refusals."""
    judgement: Judgement
    """What the host has seen of it."""

    def describe(self, most: int) -> dict[str, Any]:
        """The fields that a result and its steps have in common, with `most` ranges."""
        spare = self.judgement.spare
        ranges, more = planned_ranges(self.outcome.staged, most, spare.ranges)
        return {
            "action": "amended" if self.judgement.amended else "noop",
            "atomic": self.judgement.atomic,
            "changes": self.judgement.changes,
            "bytes_written": self.outcome.staged.size(),
            "ranges": tuple(ByteRange(*part) for part in ranges),
            "more_ranges": more,
            "file_end": spare.end,
        }


def pack_config(
    header: FixedHeader,
    request: AmendRequest,
    image_size: int,
    work_max: int,
    along: tuple[int, int] = (0, 0),
    *,
    progress: bool,
    debug: bool,
) -> bytes:
    """The AmendConfig for what the host saw of the header, and the options that are asked for.

    `along` are the sectors that look_ahead() gives.
    """
    options = pack_options({option.abi_key: value for option, value in request.asked()})
    flags = AMEND_FLAG_PROGRESS if progress else 0
    flags |= AMEND_FLAG_QUIET if not debug else 0
    for key, value in request.permissions.items():
        flags |= PERMITTED[key].flag if value else 0
    flags |= AMEND_FLAG_FIXED_SIZE if request.fixed_size else 0
    flags |= _MENDS.get(request.mends, 0)
    flags |= AMEND_FLAG_KEYS if request.keys is not None else 0
    config = _CONFIG.pack(
        *(AMEND_CONFIG_MAGIC, AMEND_FORMAT_QCOW2, flags, 512),
        *(header.cluster_size, header.version, header.refcount_bits, 0),
        *(header.incompatible_features, header.compatible_features, header.size),
        *(image_size, header.autoclear_features, request.max_growth, work_max),
        *along,
        *(len(options), 0, request.backing_size, b""),
    )
    return config + options


def look_ahead(
    header: FixedHeader, request: AmendRequest, image: AnyImage
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the guest looks at first, as each look is an exit. HostError if the file fails.

    Returns the offsets of two sectors, and offset and size of a part of a table, in bytes; 0 for
    none. A change of the size begins with the L1 entry at the end of the smaller disk, and if that
    is within what an L2 table maps, with the rest of that. The refcount of the header's cluster is
    in the first block, which lies right after the refcount table, unless one of them has moved.
    """
    cluster_size, rest = header.cluster_size, 0
    if request.size is not None:
        step = 16 if header.incompatible_features & INCOMPATIBLE_EXTENDED_L2 else 8
        cluster_size = max(cluster_size, step)  # nonsense leads to nonsense
        end = min(whole_sectors(header.size), request.size)
        index, rest = divmod(end, cluster_size // step * cluster_size)
        entry = header.l1_table_offset + 8 * (index if rest else max(index - 1, 0))
        along = entry // 512 * 512, 0
    elif request.moves_header or (request.compat == 3 and header.version == 2):
        table = header.refcount_table_offset
        along = table, table + header.refcount_table_clusters * cluster_size
    else:
        return (0, 0), (0, 0)
    if max(along) >= image.size or along[0] % 512 or along[1] % 512:
        return (0, 0), (0, 0)
    if not (rest and along[0] and header.cluster_size):
        return along, (0, 0)
    table = int.from_bytes(image.read(entry, 8), "big") & OFFSET_MASK
    start = rest // cluster_size * step // 512 * 512
    return along, (table + start, cluster_size - start) if table else (0, 0)


def pack_options(values: Mapping[int, int | bytes]) -> bytes:
    """Option records of these values, by their keys."""
    packed = b""
    for key in sorted(values):
        value = values[key]
        raw = value if isinstance(value, bytes) else _NUMBER.pack(value)
        packed += _OPTION.pack(key, OPTION_KINDS[key], len(raw)) + raw + bytes(-len(raw) % 8)
    return packed


def read_told(records: bytes) -> dict[int, int]:
    """Take the records of told options apart: the values by their keys. GuestFault.

    A guest tells numbers and flags; text is in the header, where the judge reads it.
    """
    if len(records) % _TOLD_OPTION.size:
        raise GuestFault(f"option records of {len(records)} bytes")
    values: dict[int, int] = {}
    latest = 0
    for key, kind, length, value in _TOLD_OPTION.iter_unpack(records):
        if key <= latest or key not in _TOLD or OPTION_KINDS[key] != kind:
            raise GuestFault(f"option {key} of kind {kind} out of turn, or unknown")
        if length != _NUMBER.size or (kind == OPTION_KIND_FLAG and value > 1):
            raise GuestFault(f"option {key} with {length} bytes of value {value:#x}")
        latest, values[key] = key, value
    return values


class Messages:
    """Takes the frames of one run and judges each as it comes."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Take what is to be called with the progress, as (done, total)."""
        self._progress = progress
        self.names: tuple[bytes, ...] = ()
        self.snapshots: dict[int, tuple[bytes, bytes]] = {}
        self.options: dict[int, int] = {}
        self._refusals: tuple[tuple[int, ...], ...] = ()
        self._result: tuple[int, ...] | None = None

    def receive(self, kind: int, payload: bytes) -> None:
        """Take one frame. GuestFault if it is malformed or out of order."""
        if kind == FRAME_PROGRESS and len(payload) == _PROGRESS.size:
            done, total = _PROGRESS.unpack(payload)
            if self._progress and 0 <= done <= total:
                self._progress(done, total)
        elif kind == FRAME_NAMES and not self.names and not self._refusals:
            self.names = _read_names(payload)
        elif kind == FRAME_SNAPSHOTS and not self.snapshots and not self._refusals:
            self.snapshots = _read_snapshots(payload)
        elif kind == FRAME_OPTIONS and not self.options:
            self.options = read_told(payload)
        elif kind == FRAME_REFUSALS and not self._refusals:
            if not payload or len(payload) % _REFUSAL.size:
                raise GuestFault(f"refusals of {len(payload)} bytes")
            self._refusals = tuple(_REFUSAL.iter_unpack(payload))
        elif kind == FRAME_RESULT and len(payload) == _RESULT.size:
            self._result = _RESULT.unpack(payload)
        else:
            raise GuestFault(f"frame of type {kind} with {len(payload)} bytes")

    def complete(self) -> tuple[tuple[tuple[int, ...], ...], Claim]:
        """Judge the result. GuestFault if it contradicts itself."""
        if self._result is None:
            raise GuestFault("the guest ended without a result")
        magic, form, action, error, version, lazy, atomic, count, *words, reserved = self._result
        if (magic, form, reserved) != (AMEND_RESULT_MAGIC, AMEND_FORMAT_QCOW2, 0):
            raise GuestFault("a result with a bad magic, format or reserved field")
        if count != len(self._refusals) or count > REFUSAL_MAX or bool(count) != bool(error):
            raise GuestFault(f"a result with error {error} and {count} refusals")
        if self.names and not count:
            raise GuestFault("bitmap names without a refusal")
        if self.snapshots and not count:
            raise GuestFault("snapshot names without a refusal")
        if error == AMEND_OK and action not in (AMEND_ACTION_NOOP, AMEND_ACTION_AMENDED):
            raise GuestFault(f"a result with action {action}")
        if lazy != words[1] & 1 or atomic > 1:
            raise GuestFault("a result that contradicts itself")
        told = {OPTION_COMPAT: version, OPTION_LAZY_REFCOUNTS: lazy}
        told[OPTION_DATA_FILE_RAW] = words[2] >> 1 & 1
        self._check_options(told if version == 3 else {**told, OPTION_REFCOUNT_BITS: 16})
        names = ("incompatible_features", "compatible_features", "autoclear_features")
        fields = {"version": version, **dict(zip(names, words, strict=True))}
        if (size := self.options.get(OPTION_SIZE)) is not None:
            fields["size"] = size
        if version == 3 and not self._refusals:
            fields["refcount_order"] = self._refcount_order()
        return self._refusals, Claim(action == AMEND_ACTION_AMENDED, bool(atomic), fields)

    def _refcount_order(self) -> int:
        """What the header is said to have. GuestFault if refcounts cannot be so wide."""
        bits = self.options[OPTION_REFCOUNT_BITS]
        if bits not in REFCOUNT_BITS:
            raise GuestFault(f"a result with refcounts of {bits!r} bits")
        return REFCOUNT_BITS.index(bits)

    def _check_options(self, told: Mapping[int, int]) -> None:
        """Compare the options with what the result says of some. GuestFault."""
        if self._refusals and self.options:
            raise GuestFault("options with a refusal")
        if self._refusals:
            return
        if self.options.keys() != _TOLD:
            raise GuestFault(f"a result with the options {sorted(self.options)}")
        if any(self.options[key] != value for key, value in told.items()):
            raise GuestFault("a result that contradicts its options")


def _read_names(payload: bytes) -> tuple[bytes, ...]:
    """Take names apart, each a u16 length and its bytes; at least one. GuestFault if malformed."""
    names = []
    at = 0
    while at < len(payload):
        end = at + 2 + int.from_bytes(payload[at : at + 2], "little")
        if at + 2 > len(payload) or end > len(payload):
            raise GuestFault(f"bitmap names of {len(payload)} bytes")
        names.append(payload[at + 2 : end])
        at = end
    if not names:
        raise GuestFault("bitmap names of 0 bytes")
    return tuple(names)


def _read_snapshots(payload: bytes) -> dict[int, tuple[bytes, bytes]]:
    """IDs and names of snapshots by their numbers, at least one. GuestFault if malformed."""
    found: dict[int, tuple[bytes, bytes]] = {}
    at = 0
    while at + _SNAPSHOT.size <= len(payload):
        number, id_size, name_size = _SNAPSHOT.unpack_from(payload, at)
        middle = at + _SNAPSHOT.size + id_size
        at = middle + name_size
        found[number] = payload[middle - id_size : middle], payload[middle:at]
    if at != len(payload) or not found:
        raise GuestFault(f"snapshot names of {len(payload)} bytes")
    return found
