"""Host side: looks at one image in the sandbox and says what it is; nothing is ever written.

The guests of this room run operations of their own, which stage nothing: a request to write is a
fault. No judge is needed, as nothing comes of what a guest says but what is told.
"""

from __future__ import annotations

import os
import sys

from ..base.errors import UsageError
from ..image.image_file import ImageFile
from ..image.locks import FOR_CHECK, FOR_INFO
from ..request import TIMEOUT
from ..request.keywords import OTHER_FORMATS, check_path, check_timeout, list_choices
from .check import check_open, ram_for
from .info import describe_image
from .looker import Looker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..request.keywords import PathLike
    from .check import CheckResult
    from .result import ImageInfo


def inspect_image(
    path: PathLike,
    looker: Looker,
    *,
    format: str | None = None,  # noqa: A002 - qemu's word
    format_from: str = "format",
    force_share: bool = False,
    timeout: float = TIMEOUT,
    debug: Callable[[str], None] | None = None,
    before_read: Callable[[ImageFile, int], None] | None = None,
) -> ImageInfo:
    """Do what instar.info() says with this looker, in this process; `before_read` may confine it.

    `before_read` is called once, with the image and the vCPU's descriptor, when all is open that is
    needed and nothing of the image has been read; what it raises ends the look. `format_from` is
    what the caller gives the format with, for messages.
    """
    check_path(path)
    if format not in (None, "qcow2", *OTHER_FORMATS):
        known = list_choices(("qcow2", *OTHER_FORMATS))
        raise UsageError(f"Unknown driver '{format}'; use {known}")
    check_timeout(timeout)
    sys.audit("instar.info", path)
    with ImageFile.open(os.fspath(path), writable=False, is_to_change=False) as image:
        if not force_share:
            image.lock(FOR_INFO)
        if before_read:
            before_read(image, looker.prepare())
        return describe_image(
            *(looker, image), form=format, form_from=format_from, timeout=timeout, debug=debug
        )


def let_be(_image: ImageFile, _vcpu: int) -> None:
    """Confine nothing: a `before_read` for one look, which needs no machine that is kept."""


def check_image(
    path: PathLike,
    looker: Looker,
    *,
    force_share: bool = False,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
    debug: Callable[[str], None] | None = None,
    before_read: Callable[[ImageFile, int], None] | None = None,
) -> CheckResult:
    """Do what instar.check() says with this looker, in this process; as inspect_image().

    The size of the image, and of its clusters, is looked at before `before_read`: the machine must
    have memory for the counts.
    """
    check_path(path)
    check_timeout(timeout)
    sys.audit("instar.check", path)
    with ImageFile.open(os.fspath(path), writable=False, is_to_change=False) as image:
        if not force_share:
            image.lock(FOR_CHECK)
        looker.provide(ram_for(image))
        if before_read:
            before_read(image, looker.prepare())
        return check_open(looker, image, timeout=timeout, progress=progress, debug=debug)
