"""Host side: qemu's image locks: instar and every qemu program keep out of each other's way.

Each user of an image holds shared open-file-description locks on single bytes: PERMISSIONS + i for
what it does, UNSHARED + i for what nobody else may do meanwhile. Users are compatible if neither
holds what the other excludes; to find out, one probes for an exclusive lock, which it never takes.
The bytes and permissions below are those that `qemu-img amend` takes (QEMU, docs/system/images,
"Disk image file locking").
"""

from __future__ import annotations

import errno
from fcntl import F_RDLCK, F_UNLCK, F_WRLCK, fcntl
from os import SEEK_SET
from struct import Struct

from ..base.errors import HostError, ImageLocked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    _Locks: TypeAlias = tuple[list[bytes], list[tuple[bytes, str]]]

_F_OFD_GETLK, _F_OFD_SETLK = 36, 37  # asm-generic/fcntl.h; a Python for old systems lacks them
_FLOCK = Struct("hh4xqqi4x")  # struct flock, x86-64

_UNLOCK = _FLOCK.pack(F_UNLCK, SEEK_SET, 0, 0, 0)  # of the whole file
_PERMISSIONS, _UNSHARED = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_NAMES = {_READ: "consistent read", _WRITE: "write", _RESIZE: "resize"}
_EXCLUDED = (_WRITE, _RESIZE)

FOR_INFO: tuple[int, ...] = ()
FOR_CHECK: tuple[int, ...] = (_READ,)
FOR_CHANGE: tuple[int, ...] = (_READ, _WRITE, _RESIZE)
"""What is held, besides what is excluded, by `qemu-img info`, by `check` and by `amend`."""

_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_image(
    fd: int,
    name: str,
    used: tuple[int, ...] = FOR_CHANGE,
    excluded: tuple[int, ...] = _EXCLUDED,
) -> str | None:
    """Take the locks of an image's descriptor, until unlock_image() or all copies are closed.

    `used` and `excluded` are the permissions that are held, and that nobody else may hold: by
    default those of an amend. Returns None, or a warning where the file system has no such locks.
    Raises ImageLocked, in qemu's words, if another process uses the image, and HostError if the
    kernel fails otherwise.
    """
    held, probed = _plan_locks(used, excluded)
    try:
        for lock in held:
            fcntl(fd, _F_OFD_SETLK, lock)
        for lock, what in probed:
            if _FLOCK.unpack(fcntl(fd, _F_OFD_GETLK, lock))[0] != F_UNLCK:
                raise _locked(name, what)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return f"'{name}' cannot be locked ({error.strerror}): see that nobody else uses it"
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _locked(name, "exclusive") from error
        raise HostError(f"could not lock '{name}': {error.strerror}") from error
    return None


def unlock_image(fd: int) -> None:
    """Give the locks back, whoever else has the descriptor: another thread may have forked."""
    try:
        fcntl(fd, _F_OFD_SETLK, _UNLOCK)
    except OSError:
        return  # there are none, or the filter of a process of its own does not let it


_planned: dict[tuple[tuple[int, ...], ...], _Locks] = {}


def _plan_locks(used: tuple[int, ...], excluded: tuple[int, ...]) -> _Locks:
    """The locks to hold, and those to probe for with what they are about; made once for a use."""
    found = _planned.get((used, excluded))
    if found is None:
        held = [*(_PERMISSIONS + i for i in used), *(_UNSHARED + i for i in excluded)]
        probed = [(_UNSHARED + i, f'"{_NAMES[i]}"') for i in used]
        probed += [(_PERMISSIONS + i, f'shared "{_NAMES[i]}"') for i in excluded]
        found = (
            [_FLOCK.pack(F_RDLCK, SEEK_SET, byte, 1, 0) for byte in held],
            [(_FLOCK.pack(F_WRLCK, SEEK_SET, byte, 1, 0), what) for byte, what in probed],
        )
        _planned[used, excluded] = found
    return found


def _locked(name: str, what: str) -> ImageLocked:
    return ImageLocked(
        f"Could not open '{name}': Failed to get {what} lock. "
        f"Is another process using the image [{name}]?"
    )
