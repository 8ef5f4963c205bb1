"""Host side: what a caller of amend gets back."""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would cost the command collections

from instar.abi import INSTAR_PHASE_SWITCH

from ..base.errors import InstarError, either, outcome_to_dict
from ..base.record import record, to_dict
from ..contract.terms import Change
from ..request.keywords import PathLike, path_as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

    Format: TypeAlias = Literal["qcow2", "luks"]
    Action: TypeAlias = Literal["amended", "noop"]
    Level: TypeAlias = Literal["0.10", "1.1"]
else:  # typing would cost the command more than its amend
    Format = Action = Level = str

SWITCH = INSTAR_PHASE_SWITCH
"""The phase that makes the amended header the valid one (INSTAR_PHASE_SWITCH)."""

KEYSLOTS = tuple(f"keyslot_{number}" for number in range(8))
"""What changes of keyslots are called, of which the iterations are told."""

RANGES_MAX = 4096
"""Ranges that are told of one amend; an image can have a million."""


@record
class ByteRange:
    """Bytes of the image file that an amend writes."""

    phase: int
    """When it is written, ascending; a barrier (fdatasync) lies between two phases.

    0: where nothing refers to, zeroing, refcounts that rise from 0; 1: the refcount table; 2: L2
    entries; 3, SWITCH: the amended header; 4: refcounts of what is released; 5: flags in L2
    entries. The image reads the same in all of them. 6: what nothing uses any more becomes a hole
    of the file.
    """
    offset: int
    """In bytes from the start of the image file."""
    length: int
    """In bytes."""
    zeroes: bool = False
    """Whether the bytes become zeros; holes of the file then stay holes."""


@record
class AmendStep:
    """One step of an amend, which is whole and valid before the next one begins."""

    asked: Mapping[str, str | int | None]
    """What was asked for in this step, by option."""
    action: Action
    """"amended", or "noop" where the step found the image as asked."""
    atomic: bool
    """Whether the step takes effect with the write of one sector."""
    bytes_written: int
    """Bytes written for it; without zeroed ranges."""
    changes: tuple[Change, ...]
    """Header fields that it changes, in the order of the header."""
    ranges: tuple[ByteRange, ...]
    """What is written for it, in order: the first ones."""
    more_ranges: int = 0
    """How many others are written."""
    file_end: int | None = None
    """Where the file is cut when all is done, in bytes; None where it is not."""


@record
class AmendResult:
    """What one amend did, or with dry_run would do."""

    filename: str
    """The path as it was given."""
    format: Format
    """What the image is: "qcow2", or "luks" where only keys were to change."""
    action: Action
    """"amended", or "noop" where the image was already as asked."""
    options: Mapping[str, str | int | None]
    """What holds now, by option: a str, an int or a bool; None where there is none."""
    atomic: bool
    """Whether the change takes effect with the write of one sector."""
    dry_run: bool
    """Whether the commit was left out."""
    bytes_read: int
    """Bytes read from the image file."""
    bytes_written: int
    """Bytes written to the image file, or with dry_run to be written; without zeroed ranges."""
    vm_exits: int
    """How many times the virtual machine stopped for the host."""
    payload_sha256: str
    """The SHA-256 of the payload that ran, in hexadecimal; empty for a LUKS file, which needs
    none."""
    changes: tuple[Change, ...]
    """Header fields that change, in the order of the header, then keyslots: "keyslot_0" to
    "keyslot_7" with their PBKDF2 iterations, None where one is not in use."""
    ranges: tuple[ByteRange, ...]
    """What is written, in order: the first RANGES_MAX ranges."""
    more_ranges: int = 0
    """How many others are written."""
    file_end: int | None = None
    """Where the file is cut when all is done, in bytes; None where it is not."""
    warnings: tuple[str, ...] = ()
    """What the user should know though it did not stop the amend."""
    steps: tuple[AmendStep, ...] = ()
    """The steps, in order, of an amend that takes more than one; what stands here is then all of
    them together."""

    @property
    def compat(self) -> Level | None:
        """The compatibility level now: "0.10" or "1.1"; None of a LUKS file, which has none."""
        return self.options["compat"]  # type: ignore[return-value]

    @property
    def lazy_refcounts(self) -> bool:
        """Whether lazy refcounts are on now; a LUKS file has none."""
        return bool(self.options["lazy_refcounts"])

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document: dicts, lists and plain values."""
        fields: dict[str, Any] = to_dict(self)
        document: dict[str, Any] = {}
        for name, value in fields.items():
            if name == "options":  # two have been there since before there was this one
                document.update(compat=self.compat, lazy_refcounts=self.lazy_refcounts)
            document[name] = value
        if not self.steps:
            del document["steps"]
        return document


def as_found_done(result: AmendResult) -> AmendResult:
    """What an amend says of an image that the amend of `result` has left as asked."""
    nothing: dict[str, Any] = {"action": "noop", "atomic": True, "bytes_written": 0}
    nothing |= {"changes": (), "ranges": (), "more_ranges": 0, "file_end": None}
    steps = tuple(AmendStep(**{**vars(step), **nothing}) for step in result.steps)
    return AmendResult(**{**vars(result), **nothing, "steps": steps})


@record
class AmendOutcome:
    """What became of one of many images: a result or an error."""

    path: PathLike
    """The path as it was given."""
    result: AmendResult | None
    """What was done, or None if that failed."""
    error: InstarError | None
    """What instar.amend() would have raised, or None."""

    def unwrap(self) -> AmendResult:
        """Return the result, or raise the error: what instar.amend() would have done."""
        return either(self.result, self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the command's JSON document, a result's or an error's."""
        return outcome_to_dict(path_as_text(self.path), self.result, self.error)
