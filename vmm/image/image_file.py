"""Host side: the image file. One descriptor from the first look to the last fdatasync."""

from __future__ import annotations

import errno
import os
import stat

from ..base.c import UNLIMITED, get_limits, syscall
from ..base.errors import HostError, UsageError, reason_of, reason_of_denied
from ..base.streams import StreamsKept, raise_above_streams
from ..qcow2.header_view import HEADER_LIMIT
from .budgets import staging_budget, stored_by, work_budget, work_max_of
from .locks import FOR_CHANGE, lock_image, unlock_image
from .staging import SECTOR_SIZE, StagedWrites

UNSURE = "the image may be amended or not, see with qemu-img info"
"""What is to be said of the image where an error comes after its switch."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

_BLKROGET = 0x125E  # linux/fs.h
_RLIMIT_FSIZE = 1
_SYS_FALLOCATE, _PUNCH_HOLE_KEEP_SIZE = 285, 3  # asm/unistd_64.h, linux/falloc.h
_PIECE = 1 << 20
_FAR = (1 << 63) - 1  # past the end of any file
_HOLE_MIN = 1 << 17  # bytes: most tables are less, and to look for a hole in each takes longer

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}


class ImageFile:
    """An open regular file or block device; a context manager.

    Every OSError becomes a HostError that names the file.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        size: int,
        work_max: int,
        *,
        max_growth: int = 0,
        is_device: bool = False,
        allocated: int = 0,
        size_limit: int = UNLIMITED,
    ) -> None:
        """Own an open descriptor, of which all this was measured; see open() and received()."""
        self.fd = fd
        self.name = name
        self.size = size
        self.work_max = work_max
        self.max_growth = max_growth
        """How many bytes a regular file may grow by; a block device does not."""
        self.is_device = is_device
        self.allocated = allocated
        """Bytes that the file takes on its file system; 0 for a block device, or if not known."""
        self.bytes_read = 0
        self.bytes_written = 0
        self.tables = 0
        """How many bytes of new tables what is asked for takes, whatever the image holds."""
        self._hole = (0, 0)  # what was found last, and nothing was written to since
        self._size_max = UNLIMITED
        self._is_locked = False
        self.size_limit = size_limit
        """How far the process may write, in bytes."""

    @classmethod
    def open(
        cls,
        path: str | bytes,
        *,
        writable: bool,
        max_growth: int = 0,
        is_to_change: bool = True,
    ) -> Self:
        """Open `path`, following symbolic links. HostError if it is not an image file at all.

        What is not to change, now or after a dry run, may be a block device that is read-only.
        """
        name = os.fsdecode(path)
        if not name:
            raise UsageError("the file name is empty; name an image file")
        if "\0" in name:
            raise UsageError("the file name holds a NUL byte; name an image file")
        try:
            fd = _open(path, os.O_RDWR if writable else os.O_RDONLY)
        except UnicodeEncodeError as error:
            raise UsageError("the file name has characters that no file name can have") from error
        except OSError as error:
            raise _open_error(name, error) from error
        try:
            size, allocated, is_device, limit = _measure(
                *(fd, name), is_limited=writable, is_to_change=is_to_change
            )
            # Some file systems do not count blocks, and none has an image of nothing but holes.
            image = cls(
                *(fd, name, size, work_max_of(allocated or size)),
                max_growth=0 if is_device else max_growth,
                is_device=is_device,
                allocated=allocated,
                size_limit=limit,
            )
            image.check_limit(min(size, HEADER_LIMIT))
        except BaseException:
            os.close(fd)
            raise
        return image

    @classmethod
    def received(
        cls,
        fd: int,
        name: str,
        max_growth: int | None,
        work_max: int,
        *,
        size_max: int = UNLIMITED,
        size_limit: int = UNLIMITED,
    ) -> Self:
        """Own a descriptor that another process of ours opened, and measured, as `name`.

        `max_growth` is None for a block device. `size_max` is what this process was made fit for,
        and `size_limit` as the other image has it. Raises HostError.
        """
        is_device = max_growth is None
        image = cls(
            *(fd, name, 0, work_max),
            max_growth=max_growth or 0,
            is_device=is_device,
            size_limit=size_limit,
        )
        image._size_max = size_max
        try:
            image.size = image._end()
        except HostError:
            os.close(fd)
            raise
        return image

    def lock(self, used: tuple[int, ...] = FOR_CHANGE) -> str | None:
        """Take qemu's locks, and measure the file anew: so far another program may have written it.

        `used` are the permissions that are held, as lock_image() has them. Returns a warning where
        there are no locks. Raises ImageLocked and HostError.
        """
        self._is_locked = True  # in part, if not all can be had
        warning = lock_image(self.fd, self.name, used)
        self._hole = (0, 0)
        self.size = self._end()
        if self.size > self._size_max:
            raise self._changed()
        return warning

    @property
    def budget(self) -> int:
        """What an amend of it may cost, in bytes that are read."""
        return work_budget(self.work_max, self.tables)

    @property
    def stored(self) -> int:
        """How many of its bytes are stored, and not holes; all that a file system counts."""
        return stored_by(self.work_max)

    def stage(self, max_growth: int) -> StagedWrites:
        """Make room for what a guest stages, which may let the file grow by so many bytes."""
        return StagedWrites(staging_budget(self.size, max_growth, self.tables))

    def check_limit(self, end: int, state: str = "; nothing was written") -> None:
        """HostError if the file may not be written as far as `end` (getrlimit(2)), with `state`."""
        if self.size_limit < min(end, UNLIMITED):
            raise HostError(
                f"the file size limit of {self.size_limit} bytes (ulimit -f) is too low for "
                f"'{self.name}'{state}"
            )

    def close(self) -> None:
        """Give the locks back and close the descriptor, which is gone even if that fails.

        A failure counts if something was written, though what came before a barrier is on the disk.
        """
        if self._is_locked:
            unlock_image(self.fd)
        try:
            os.close(self.fd)
        except OSError as error:
            if self.bytes_written and error.errno != errno.EINTR:
                raise HostError(f"{_failed(self.name, 'close', error)}; {UNSURE}") from error

    def __enter__(self) -> ImageFile:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes, or less at the end of the file."""
        count = min(size, self.size - offset)
        if count <= 0:
            return b""
        if count >= _HOLE_MIN and self._is_hole(offset, count):
            data = bytes(count)
        else:
            data = self._pread(offset, count)
            if len(data) < count:  # the file ends early, or it is read by less at a time
                parts = bytearray(data)
                while more := self._pread(offset + len(parts), count - len(parts)):
                    parts += more
                data = bytes(parts)
        self.bytes_read += len(data)
        return data

    def _pread(self, offset: int, count: int) -> bytes:
        try:
            return os.pread(self.fd, count, offset)
        except OSError as error:
            raise _failed(self.name, "read", error) from error

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view`; past the end of the file come zeros."""
        size, done = len(view), 0
        if size < _HOLE_MIN and offset + size <= self.size:
            done = self._read_once(offset, view)
        if done < size:
            with view[done:] as rest:
                done += self._read_available(offset + done, rest)
        if done < size:
            view[done:] = bytes(size - done)

    def _read_once(self, offset: int, view: memoryview) -> int:
        """Read what is there at once, which is mostly all that is wanted; returns how much."""
        try:  # as _call() does it
            done = os.preadv(self.fd, (view,), offset)
        except (OSError, OverflowError) as error:
            raise self._error("read", error) from error
        self.bytes_read += done
        return done

    def _read_available(self, offset: int, view: memoryview) -> int:
        done = 0
        # Nothing was there when the file was measured; the largest offsets the kernel can't take.
        if offset >= self.size:
            return 0
        if len(view) >= _HOLE_MIN and self._is_hole(offset, len(view)):
            done = max(min(len(view), self.size - offset), 0)
            view[:done] = bytes(done)
        end = min(len(view), self.size - offset)
        while done < end:
            # Released at once: a view that an error keeps alive would keep the memory mapped.
            with view[done:end] as rest:
                count = self._call("read", os.preadv, [rest], offset + done)
            if count == 0:
                break
            done += count
        self.bytes_read += done
        return done

    def _is_hole(self, offset: int, size: int) -> bool:
        """Whether nothing is stored of these bytes, which then read as zeros.

        To read them would have the kernel take, and clear, a page for each.
        """
        start, stop = self._hole
        if not start <= offset < stop:
            start, stop = self._hole = offset, self._seek(offset, os.SEEK_DATA)
        return offset + size <= stop

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        self._hole = (0, 0)
        try:  # as _call() does it; there may be a million
            done = count = os.pwrite(self.fd, data, offset)
        except (OSError, OverflowError) as error:
            raise self._error("write", error) from error
        while done < len(data):
            if count == 0:
                raise HostError(f"could not write '{self.name}': nothing was taken")
            count = self._call("write", os.pwrite, data[done:], offset + done)
            done += count
        self.bytes_written += done

    def prepare_writes(self, end: int) -> bool:
        """See that writes up to `end` can be tried; return whether the file grows for them.

        HostError if they lie beyond the limit on the size of files, or the file cannot grow.
        """
        self.check_limit(end, state="")
        if end <= -(-self.size // SECTOR_SIZE) * SECTOR_SIZE:
            return False
        if self._end() != self.size:  # to extend it might be to cut off what is there now
            raise self._changed()
        self._hole = (0, 0)
        self._call("extend", os.ftruncate, end)
        return True

    def _changed(self) -> HostError:
        return HostError(f"another program has changed the size of '{self.name}' meanwhile")

    def cut_back(self) -> None:
        """Give the file the size that it had. HostError if that fails."""
        self._call("truncate", os.ftruncate, self.size)

    def give_back(self, ranges: Iterable[range], end: int | None) -> None:
        """End the file at `end`, and make holes of ranges of bytes before it. HostError."""
        if end is not None and end < self.size:
            self._call("truncate", os.ftruncate, end)
            self.size = end
        for part in ranges:
            self._call("make a hole in", _make_hole, part.start, len(part))

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make bytes zeros, from an offset to an end each, in ascending order.

        Holes stay holes: they take no room, and need no time.
        """
        start = stop = 0  # of the data found last; what was looked at before it is a hole
        for offset, end in ranges:
            at = offset
            while at < end:
                if at >= stop:
                    start = self._seek(at, os.SEEK_DATA)
                    stop = self._seek(start, os.SEEK_HOLE)
                last = min(stop, end)
                for piece in range(max(start, at), last, _PIECE):
                    self.write(piece, bytes(min(_PIECE, last - piece)))
                at = last

    def _end(self) -> int:
        """The size of the file or block device as it is now, in bytes. HostError."""
        while True:
            try:
                return self._call("measure", os.lseek, 0, os.SEEK_END)
            except HostError as error:
                # Unlike most of os, lseek() is not repeated after a signal.
                if not isinstance(error.__cause__, InterruptedError):
                    raise

    def _seek(self, offset: int, how: int) -> int:
        """Where the next data or hole from `offset` on begins (lseek(2)); _FAR if there is none.

        Where that cannot be told, as on block devices, all counts as data.
        """
        try:
            return os.lseek(self.fd, offset, how)
        except OSError as error:
            return _FAR if error.errno == errno.ENXIO or how == os.SEEK_HOLE else offset

    def barrier(self) -> None:
        """What was written before reaches the disk before what is written after."""
        self._call("flush", os.fdatasync)

    def _call(self, verb: str, function: Callable[..., T], *arguments: object) -> T:
        """Call a function of os on the descriptor."""
        try:
            return function(self.fd, *arguments)
        except (OSError, OverflowError) as error:
            raise self._error(verb, error) from error

    def _error(self, verb: str, error: OSError | OverflowError) -> HostError:
        if isinstance(error, OverflowError):  # of an offset that the kernel does not know
            error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return _failed(self.name, verb, error)


def _make_hole(fd: int, offset: int, size: int) -> int:
    return syscall(_SYS_FALLOCATE, fd, _PUNCH_HOLE_KEEP_SIZE, offset, size)


def _measure(
    fd: int, name: str, *, is_limited: bool, is_to_change: bool
) -> tuple[int, int, bool, int]:
    """Return the size, the bytes allocated, whether it is a block device, and a limit. HostError.

    Stat does not know the size of a block device. With `is_limited` the limit is the process's own
    on the size of files, which cuts a write off wherever it lies, even within a sector. It is asked
    for here because a confined process cannot ask any more.
    """
    try:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            limit = _limit_of_files() if is_limited else UNLIMITED
            return status.st_size, status.st_blocks * 512, False, limit
        if kind == stat.S_IFBLK:
            if is_to_change:
                _check_device(fd, name)
            return os.lseek(fd, 0, os.SEEK_END), 0, True, UNLIMITED
    except OSError as error:
        raise _failed(name, "measure", error) from error
    raise HostError(f"'{name}' is {_KINDS.get(kind, 'no file')}, not an image file or block device")


def _limit_of_files() -> int:
    """How large a file may become, in bytes. HostError."""
    try:
        return get_limits(_RLIMIT_FSIZE)[0]
    except OSError as error:
        why = reason_of_denied(error, "prlimit64")
        raise HostError(f"could not ask for the limit of file sizes: {why}") from error


def _check_device(fd: int, name: str) -> None:
    """HostError if the block device is read-only, which the kernel lets it be opened with."""
    from fcntl import ioctl

    if any(ioctl(fd, _BLKROGET, bytes(4))):
        raise HostError(
            f"'{name}' is a read-only block device, and nothing was written; make it "
            "writable (lvchange -prw, blockdev --setrw, losetup without -r), or amend a copy"
        )


def _open_error(name: str, error: OSError) -> HostError:
    if error.errno == errno.EISDIR:
        return HostError(f"could not open '{name}': it is a directory, not an image file")
    if error.errno == errno.ENXIO:
        return HostError(f"could not open '{name}': it is a socket or a missing device")
    if error.errno == errno.EPERM:  # which no mode of the file is answered with
        why = "where lsattr shows that it is immutable (i) or append-only (a), use chattr -i -a"
        return HostError(f"could not open '{name}': {error.strerror}; {why}")
    return HostError(f"could not open '{name}': {reason_of(error)}")


def _failed(name: str, verb: str, error: OSError) -> HostError:
    return HostError(f"could not {verb} '{name}': {error.strerror}")


def _open(path: str | bytes, flags: int) -> int:
    """Open an image; its access time stays as it is if the process may have that (open(2)).

    O_NONBLOCK: to open a FIFO or a device must not wait for anybody.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK
    with StreamsKept():
        try:
            descriptor = os.open(path, flags | os.O_NOATIME)
        except PermissionError:  # the file is another user's, or it may not be opened at all
            descriptor = os.open(path, flags)
        return raise_above_streams(descriptor)
