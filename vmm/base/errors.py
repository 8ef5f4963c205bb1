"""Host side: the errors, sorted by whose fault they are. Nothing else leaves the package.

| error         | at fault                  | exit status |
|---------------|---------------------------|-------------|
| UsageError    | the caller                | 2           |
| HostError     | this machine              | 1           |
| ImageRejected | the image, or the request | 1           |
| ImageLocked   | another process           | 1           |
| GuestFault    | the guest                 | 1           |

Whatever is raised, the image's bytes and modification time are as they were, but for a HostError of
the commit itself, which says so. The access time is too where the kernel grants O_NOATIME: to the
file's owner, and to root.
"""

from __future__ import annotations

from _collections_abc import Mapping  # collections.abc would cost the command collections

from .record import record, to_dict

# A confined process that reports imports nothing, not even errno.
NO_DESCRIPTOR = (23, 24)
"""ENFILE and EMFILE (asm-generic/errno-base.h)."""
EAGAIN = 11
"""What limits of processes, and of pending signals, are met with."""
_DENIED = (1, 38)
"""EPERM and ENOSYS: what filters of system calls answer with."""
RAISE_FILES = "raise the limit of open files (ulimit -n) to 64"
RAISE_PROCESSES = "raise the limit of processes (ulimit -u)"

INTERRUPTED = "KeyboardInterrupt"
DEFECT = "InternalError"
"""What reports call an exception that is not of this package."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


class InstarError(Exception):
    """The base of all errors of this package; never raised itself."""

    exit_status = 1

    def to_dict(self) -> dict[str, Any]:
        """Return what the command's JSON document has under "error"."""
        return error_fields(self)

    def __reduce__(self) -> tuple[type[InstarError], tuple[object, ...]]:
        """Let the error travel between processes, as what documents know it by."""
        return (documented(type(self)), (str(self),))


class UsageError(InstarError):
    """The caller asked for something that does not exist, or contradicts itself."""

    exit_status = 2


class HostError(InstarError):
    """This machine cannot do it: no /dev/kvm, no permission, no such file, an I/O error."""


@record
class Refusal:
    """One reason why an image cannot be amended as asked."""

    name: str
    """The reason's name, as in docs/amend.md, e.g. "dirty"."""
    number: int
    """The reason's number in the ABI (REFUSAL_*)."""
    code: str
    """The name of the error code in the ABI (AMEND_ERROR_*), e.g. "DIRTY"."""
    code_number: int
    """The number of the error code in the ABI."""
    message: str
    """What is in the way and what the user can do, in one line."""
    detail: Mapping[str, int]
    """What the message is about, by name, e.g. {"bits": 32}."""
    names: tuple[str, ...] = ()
    """What the image calls that: a snapshot's ID and its name (tag), or names of bitmaps.

    A byte that is not UTF-8 is the surrogate escape of PEP 383. An ID is cut to 63 bytes, a name of
    a snapshot to 255, and of bitmaps there are as many as fit 1152 bytes.
    """


class ImageRejected(InstarError):
    """The guest's verdict on the image, or the host's if it is not a qcow2 image at all, is no."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        """Take all the reasons, of which there is at least one."""
        super().__init__("; ".join(refusal.message for refusal in refusals))
        self.refusals = refusals

    def __reduce__(self) -> tuple[type[ImageRejected], tuple[tuple[Refusal, ...]]]:
        """Let the error travel between processes."""
        return (ImageRejected, (self.refusals,))


class ImageLocked(InstarError):
    """Another process uses the image."""


class GuestFault(InstarError):
    """The guest broke the contract or exceeded a budget; the image is untouched."""


def either(result: T | None, error: InstarError | None) -> T:
    """What an outcome has: its result, or its error, which is raised."""
    if result is None:
        raise error or AssertionError("an outcome without result and error")
    return result


def outcome_to_dict(filename: str, result: Any, error: InstarError | None) -> dict[str, Any]:
    """The JSON document of an outcome: its result's, or one that names the image and the error."""
    if error is not None:
        return {"filename": filename, "error": error.to_dict()}
    document: dict[str, Any] = either(result, error).to_dict()
    return document


def error_fields(error: BaseException) -> dict[str, Any]:
    """What is to be known of a failure, as JSON has it."""
    error = _blame_host(error)
    message, exit_status = explain(error)
    refusals = error.refusals if isinstance(error, ImageRejected) else ()
    return {
        "kind": kind_of(error),
        "message": message,
        "exit_status": exit_status,
        "refusals": to_dict(refusals),
    }


def explain(error: BaseException) -> tuple[str, int]:
    """The message and the exit status of whatever may be raised."""
    error = _blame_host(error)
    if isinstance(error, InstarError):
        return str(error), error.exit_status
    if isinstance(error, KeyboardInterrupt):
        message = str(error) or "interrupted; no image is left half-changed"
        return message, InstarError.exit_status
    message = f"internal error, please report it: {type(error).__name__}: {error}"
    return message, InstarError.exit_status


def _blame_host(error: BaseException) -> BaseException:
    """Return what is to be reported: an import fails anywhere without a descriptor or memory."""
    if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR:
        return HostError(f"no descriptor is free; {RAISE_FILES}")
    lost = (
        isinstance(error, MemoryError)
        or (isinstance(error, ImportError) and _UNMAPPED in str(error))
        or (isinstance(error, SystemError) and any(text in str(error) for text in _LOST))
    )
    return HostError(NO_MEMORY) if lost else error


_UNMAPPED = "failed to map segment"
"""What ld.so says where there is no memory for a module (glibc, elf/dl-load.c)."""
_LOST = "without exception set", "without setting an exception"
"""What Python says where it had no memory to say what was wrong (CPython, Objects/call.c)."""


def reason_of_thread(error: OSError) -> str:
    """Say why what may need a thread failed, and what helps where that is known."""
    helps = f"; {RAISE_PROCESSES}" if error.errno == EAGAIN else ""
    return f"{reason_of(error)}{helps}"


def reason_of_fork(error: OSError) -> str:
    """Say why no process could be started, and what helps where that is known."""
    # A program that may not be executed is another error (EACCES).
    return reason_of_denied(error, "clone")


def reason_of_denied(error: OSError, call: str) -> str:
    """Say why a system call failed that the kernel grants everybody, though a filter may not."""
    if error.errno not in _DENIED:
        return reason_of_thread(error)
    return f"{error.strerror}; a seccomp profile, as containers have one, forbids {call}: allow it"


NO_MEMORY = (
    "out of memory; where it is limited, raise the limit of address space (ulimit -v) or of data "
    "(ulimit -d)"
)


def reason_of(error: OSError) -> str:
    """Say why a system call failed, and what helps where that is known."""
    helps = f"; {RAISE_FILES}" if error.errno in NO_DESCRIPTOR else ""
    return f"{error.strerror}{helps}"


KINDS: tuple[type[InstarError], ...] = (
    *(UsageError, HostError, ImageRejected, ImageLocked, GuestFault),
)
"""The errors that documents name; all others are one of them."""


def documented(error: type[InstarError]) -> type[InstarError]:
    """Return the one of KINDS that a class of errors belongs to."""
    return next((kind for kind in KINDS if issubclass(error, kind)), error)


def kind_of(error: BaseException) -> str:
    """Name what may be raised as documents do: by KINDS, or else INTERRUPTED or DEFECT."""
    for kind in KINDS:
        if isinstance(error, kind):
            return kind.__name__
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else DEFECT
