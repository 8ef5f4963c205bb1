"""Host side: looks at the one other file that the caller of an amend names: a backing file to be.

No name that an image holds is looked up, here or anywhere.
"""

from __future__ import annotations

import os
from os import path as paths

from ..base.errors import ImageRejected
from ..base.refusals import backing_itself


def check_not_itself(descriptor: int, image: bytes, name: bytes) -> None:
    """Refuse to make an image, which is open, its own backing file. ImageRejected."""
    if _is_file(descriptor, image, name):
        raise ImageRejected((backing_itself(),))


def _is_file(descriptor: int, image: bytes, name: bytes) -> bool:
    """Whether a backing file's name means the file that is open: relative to the image, as ever.

    A name with a protocol means no file, but for file: (QEMU, docs/system/qemu-block-drivers).
    """
    protocol, colon, rest = name.partition(b":")
    if colon and b"/" not in protocol:
        if protocol != b"file":
            return False
        name = rest
    try:
        found = os.stat(paths.join(paths.dirname(image), name))
        own = os.fstat(descriptor)
    except (OSError, ValueError):
        return False
    same_device = bool(own.st_rdev) and own.st_rdev == found.st_rdev
    return same_device or (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)
