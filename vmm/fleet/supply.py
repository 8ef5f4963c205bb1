"""Host side: hands out the paths of a batch, and no image while it is in work, under any name.

Two workers that had one image at a time would find it locked by each other. An image is known by
device and inode, as a hard link, a symbolic link and another path to it have nothing else in common
(docs/decisions/0014-a-batch-knows-images-by-device-and-inode.md).
"""

from __future__ import annotations

import os
from stat import S_ISBLK

from ..amend.result import AmendOutcome, AmendResult, as_found_done
from ..base.errors import UsageError
from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict, deque
    from collections.abc import Hashable, Iterable

    from ..request.keywords import PathLike
else:  # collections would import six others
    from _collections import OrderedDict, deque

REMEMBERED = 1 << 16
"""Images whose names are kept, the latest ones, to say that one is listed again."""

_HELD_BACK = 1024
"""Paths that may wait for their image; more than that wait where they come from."""


class _Seen:
    """What is remembered of an image that was handed out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.would_change = False
        """Whether a dry run has told that it would be amended."""


@record
class Taken:
    """A path that was handed out."""

    path: PathLike
    """The path as it was given."""
    image: Hashable
    """What the image is known by."""
    before: str | None
    """The name under which the image was handed out before, if it was."""
    seen: _Seen
    """What all that was handed out of the image has in common."""
    settles: bool
    """Whether an amend leaves nothing for the same amend to do."""

    @property
    def error(self) -> UsageError | None:
        """Why it is not to be amended: what is asked would be done to the image a second time."""
        if self.settles or self.before is None:
            return None
        name = os.fsdecode(self.path)
        same = self._same(name) or f"'{name}' is listed twice"
        return UsageError(f"{same}, and would be changed twice; list it once")

    def _same(self, name: str) -> str:
        """That the image, which is called so, had another name before; "" if it had not."""
        if self.before is None or os.fsdecode(self.path) == self.before:
            return ""
        return f"'{name}' is the same image as '{self.before}', listed before it"

    def tell(self, outcome: AmendOutcome) -> AmendOutcome:
        """The outcome, with a warning if the image had one before, under another name.

        There is one too if that is another file by now, for an image is opened before its turn.
        Of an image that a dry run has told of, it is what an amend would find after the first one.
        """
        result = outcome.result
        if result is None:
            return outcome
        if result.dry_run and result.action == "amended":
            if self.seen.would_change:
                result = as_found_done(result)
                outcome = AmendOutcome(outcome.path, result, None)
            self.seen.would_change = True
        warnings = result.warnings
        if same := self._same(result.filename):
            warnings = *warnings, same
        if type(self.image) is tuple and _identify(self.path) != self.image:
            gone = f"'{result.filename}' has been replaced or removed meanwhile"
            warnings = *warnings, f"{gone}: this is about the file that was there"
        if warnings == result.warnings:
            return outcome
        told = AmendResult(**{**vars(result), "warnings": warnings})
        return AmendOutcome(outcome.path, told, None)


class Supply:
    """The paths of one batch, each taken when it is wanted."""

    def __init__(self, paths: Iterable[PathLike], *, settles: bool = True) -> None:
        """Take the paths, of which there may be any number. TypeError if they are no iterable.

        `settles` is whether an amend leaves nothing for the same amend to do.
        """
        self._paths = iter(paths)
        self._settles = settles
        self._waiting: deque[tuple[PathLike, Hashable]] = deque()
        self._in_work: set[Hashable] = set()
        self._names: OrderedDict[Hashable, _Seen] = OrderedDict()

    def take(self) -> Taken | None:
        """Return the next path, which is then in work, or None: there is none, at present or ever.

        There may be one again after done(); where nothing is in work, None is the end.
        """
        for _ in range(len(self._waiting)):
            path, image = self._waiting.popleft()
            if image not in self._in_work:
                return self._start(path, image)
            self._waiting.append((path, image))
        while len(self._waiting) < _HELD_BACK:
            try:
                path = next(self._paths)
            except StopIteration:
                return None
            image = _identify(path)
            if image not in self._in_work:
                return self._start(path, image)
            self._waiting.append((path, image))
        return None

    def take_some(self, count: int) -> list[Taken]:
        """Return up to `count` paths, none of them of one image."""
        some: list[Taken] = []
        while len(some) < count and (taken := self.take()) is not None:
            some.append(taken)
        return some

    def done(self, taken: Taken) -> None:
        """Say that a path which was taken is no longer in work."""
        self._in_work.remove(taken.image)

    def put_back(self, taken: Taken) -> None:
        """Give back a path which was taken, to be taken again before all others."""
        self.done(taken)
        if taken.before is None:
            self._names.pop(taken.image, None)
        self._waiting.appendleft((taken.path, taken.image))

    def _start(self, path: PathLike, image: Hashable) -> Taken:
        self._in_work.add(image)
        known = self._names.get(image)
        if known is not None:
            return Taken(path, image, known.name, known, self._settles)
        seen = _Seen("" if image == _NO_PATH else os.fsdecode(path))
        if image != _NO_PATH:
            self._names[image] = seen
            # Where an image must not be amended again, none is forgotten.
            if len(self._names) > REMEMBERED and self._settles:
                self._names.popitem(last=False)
        return Taken(path, image, None, seen, self._settles)


_NO_PATH = b""


def _identify(path: PathLike) -> Hashable:
    """What an image is known by: its place in the machine, or its name if nothing is there."""
    try:
        name = os.fspath(path)
    except TypeError:
        return _NO_PATH  # the amend says what is wrong with it
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return name
    if S_ISBLK(status.st_mode):  # any node of a device is the device
        return -1, status.st_rdev
    return status.st_dev, status.st_ino
