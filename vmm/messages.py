"""Host side: what host and guest say to each other about one image: an AmendConfig, and frames."""

from __future__ import annotations

from struct import Struct

from instar.abi import (
    AMEND_ACTION_AMENDED,
    AMEND_ACTION_NOOP,
    AMEND_CONFIG_MAGIC,
    AMEND_FLAG_COMPAT_V3,
    AMEND_FLAG_DROP_BITMAPS,
    AMEND_FLAG_FIXED_SIZE,
    AMEND_FLAG_LAZY_ON,
    AMEND_FLAG_PROGRESS,
    AMEND_FLAG_QUIET,
    AMEND_FLAG_SET_COMPAT,
    AMEND_FLAG_SET_LAZY,
    AMEND_FORMAT_QCOW2,
    AMEND_OK,
    AMEND_RESULT_MAGIC,
    FRAME_NAMES,
    FRAME_PROGRESS,
    FRAME_REFUSALS,
    FRAME_RESULT,
    FRAME_SNAPSHOTS,
    REFUSAL_MAX,
    AmendConfig_FORMAT,
    AmendProgress_FORMAT,
    AmendRefusal_FORMAT,
    AmendResult_FORMAT,
)
from instar.vmm.contract.terms import Claim
from instar.vmm.errors import GuestFault
from instar.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from instar.vmm.probe import FixedHeader
    from instar.vmm.request import AmendRequest
    from instar.vmm.staging import StagedWrites

_CONFIG = Struct(AmendConfig_FORMAT)
_RESULT = Struct(AmendResult_FORMAT)
_REFUSAL = Struct(AmendRefusal_FORMAT)
_PROGRESS = Struct(AmendProgress_FORMAT)
_SNAPSHOT = Struct("<IHH")  # number, bytes of ID and name


@record
class Outcome:
    """What a guest that ended in the regular way said and staged."""

    claim: Claim
    """What it says it did; meaningless if there are refusals."""
    refusals: tuple[tuple[int, ...], ...]
    """AmendRefusals: (reason, error, three details)."""
    staged: StagedWrites
    """What it wrote."""
    vm_exits: int
    """How often it stopped for the host."""
    names: tuple[bytes, ...] = ()
    """Bitmap names that it gives with a refusal."""
    snapshots: Mapping[int, tuple[bytes, bytes]] = {}
    """IDs and names of snapshots by their numbers, which it gives with a refusal."""


def pack_config(
    header: FixedHeader,
    request: AmendRequest,
    image_size: int,
    work_max: int,
    *,
    progress: bool,
    debug: bool,
) -> bytes:
    """The AmendConfig for what the host saw of the header and what is asked for."""
    flags = AMEND_FLAG_SET_COMPAT if request.version else 0
    flags |= AMEND_FLAG_COMPAT_V3 if request.version == 3 else 0
    flags |= AMEND_FLAG_SET_LAZY if request.lazy_refcounts is not None else 0
    flags |= AMEND_FLAG_LAZY_ON if request.lazy_refcounts else 0
    flags |= AMEND_FLAG_PROGRESS if progress else 0
    flags |= AMEND_FLAG_QUIET if not debug else 0
    flags |= AMEND_FLAG_DROP_BITMAPS if request.drop_bitmaps else 0
    flags |= AMEND_FLAG_FIXED_SIZE if request.fixed_size else 0
    return _CONFIG.pack(
        *(AMEND_CONFIG_MAGIC, AMEND_FORMAT_QCOW2, flags, 512),
        *(header.cluster_size, header.version, header.refcount_bits, 0),
        *(header.incompatible_features, header.compatible_features, header.size),
        *(image_size, header.autoclear_features, request.max_growth, work_max, b""),
    )


class Messages:
    """Takes the frames of one run and judges each as it comes."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Take what is to be called with the progress, as (done, total)."""
        self._progress = progress
        self.names: tuple[bytes, ...] = ()
        self.snapshots: dict[int, tuple[bytes, bytes]] = {}
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
        names = ("incompatible_features", "compatible_features", "autoclear_features")
        fields = {"version": version, **dict(zip(names, words, strict=True))}
        return self._refusals, Claim(action == AMEND_ACTION_AMENDED, bool(atomic), fields)


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
