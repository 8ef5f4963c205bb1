"""Test side: an image file is a regular file or a block device, and each other thing is named."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from instar.vmm.base.errors import HostError, InstarError, UsageError
from instar.vmm.image import budgets
from instar.vmm.image.budgets import WORK_FACTOR, WORK_MIN
from instar.vmm.image.image_file import ImageFile
from tests.support.sparse import stored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"0123456789")
    return path


def open_image(path: Path | str | bytes, *, writable: bool = True) -> ImageFile:
    return ImageFile.open(str(path) if isinstance(path, Path) else path, writable=writable)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def error_of(path: Path | str | bytes, *, writable: bool = True) -> str:
    before = open_descriptors()
    with pytest.raises(HostError) as caught:
        open_image(path, writable=writable)
    assert open_descriptors() == before
    assert str(caught.value).isprintable()
    return str(caught.value)


def fail_to_close(_fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class TestOpening:
    @pytest.mark.parametrize("writable", [True, False])
    def test_a_regular_file_is_opened(self, path: Path, writable: bool) -> None:
        with open_image(path, writable=writable) as image:
            assert (image.size, image.name) == (10, str(path))

    def test_the_size_of_a_block_device_is_where_it_ends(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A block device needs root and a free loop device; its stat says 0 bytes.
        status = os.stat_result((stat.S_IFBLK | 0o600, *[0] * 9))
        monkeypatch.setattr(os, "fstat", lambda _fd: status)
        monkeypatch.setattr(fcntl, "ioctl", lambda *_: bytes(4))
        with open_image(path) as image:
            assert (image.size, image.is_device) == (10, True)

    @pytest.mark.parametrize("writable", [True, False])
    def test_reading_leaves_the_access_time_alone(self, path: Path, writable: bool) -> None:
        os.utime(path, (1, 1))  # so old that any read would count
        with open_image(path, writable=writable) as image:
            assert image.read(0, 10) == b"0123456789"
        assert path.stat().st_atime == 1
        assert path.read_bytes()
        assert path.stat().st_atime > 1, "this file system keeps no access times: proves nothing"

    def test_another_users_file_is_opened_all_the_same(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.open

        def open_as_another(name: str, flags: int, *rest: int) -> int:
            if flags & os.O_NOATIME:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            return real(name, flags, *rest)

        monkeypatch.setattr(os, "open", open_as_another)
        with open_image(path) as image:
            assert image.read(0, 10) == b"0123456789"

    def test_a_symbolic_link_is_followed(self, path: Path) -> None:
        link = path.with_name("link")
        link.symlink_to(path.name)
        with open_image(link) as image:
            assert (image.size, image.name) == (10, str(link))

    def test_a_name_may_be_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        name = os.fsencode(tmp_path) + b"/\xff\xfe"
        Path(os.fsdecode(name)).write_bytes(b"abc")
        with open_image(name) as image:
            assert (image.size, os.fsencode(image.name)) == (3, name)

    def test_the_descriptor_is_not_inherited(self, path: Path) -> None:
        with open_image(path) as image:
            assert not os.get_inheritable(image.fd)

    def test_nothing_counts_as_read_or_written_of_one_that_was_received(self, path: Path) -> None:
        image = ImageFile.received(os.open(path, os.O_RDWR), "image", 0, WORK_MIN)
        assert (image.bytes_read, image.bytes_written, image.allocated) == (0, 0, 0)
        image.close()

    def test_closing_closes_the_descriptor(self, path: Path) -> None:
        with open_image(path) as image:
            fd = image.fd
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    @pytest.mark.parametrize("written", [False, True])
    def test_a_failing_close_counts_if_something_was_written(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
    ) -> None:
        for image in (
            open_image(path),
            ImageFile.received(os.open(path, os.O_RDWR), "image", 0, WORK_MIN),
        ):
            if written:
                image.write(0, b"x")
            with monkeypatch.context() as patch:
                patch.setattr(os, "close", fail_to_close)
                if written:
                    with pytest.raises(HostError, match="could not close"):
                        image.close()
                else:
                    image.close()
            os.close(image.fd)

    def test_what_is_not_to_be_written_cannot_be(self, path: Path) -> None:
        message = r"^could not write '.*image': "
        with (
            open_image(path, writable=False) as image,
            pytest.raises(HostError, match=message),
        ):
            image.write(0, b"x")
        assert path.read_bytes() == b"0123456789"

    def test_opening_changes_no_time(self, path: Path) -> None:
        before = path.stat()
        with open_image(path):
            pass
        assert path.stat().st_mtime_ns == before.st_mtime_ns


class TestWork:
    def test_it_is_allowed_for_what_is_stored_not_for_holes(self, path: Path) -> None:
        with path.open("r+b") as stream:
            stream.truncate(15 << 40)
            stream.seek(1 << 40)
            stream.write(b"x" * (1 << 20))
        size = stored(path)
        assert 1 << 20 <= size < 2 << 20
        with open_image(path) as image:
            assert image.work_max == WORK_MIN + WORK_FACTOR * size
            assert image.stored == size

    @pytest.mark.parametrize(
        ("work_max", "stored"),
        [
            *((0, 0), (WORK_MIN - 1, 0), (WORK_MIN, 0), (WORK_MIN + WORK_FACTOR - 1, 0)),
            *((WORK_MIN + WORK_FACTOR, 1), (WORK_MIN + (5 << 40), 5 << 30)),
        ],
    )
    def test_what_is_stored_is_told_by_it(self, path: Path, work_max: int, stored: int) -> None:
        with ImageFile.received(os.open(path, os.O_RDWR), "image", 0, work_max) as image:
            assert image.stored == stored

    def test_a_file_system_that_counts_no_blocks_has_no_holes(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status = os.fstat

        def fstat(fd: int) -> os.stat_result:
            counted = status(fd)
            return os.stat_result([*counted[:10]], {"st_blocks": 0})

        monkeypatch.setattr(os, "fstat", fstat)
        with open_image(path) as image:
            assert image.work_max == WORK_MIN + WORK_FACTOR * 10

    def test_it_fits_the_config(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budgets, "WORK_FACTOR", 1 << 60)
        with open_image(path) as image:
            assert image.work_max == (1 << 64) - 1


class TestWhatIsNoImageFile:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        assert error_of(missing) == f"could not open '{missing}': No such file or directory"

    def test_a_file_that_an_attribute_protects(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: object) -> NoReturn:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "open", refuse)
        assert error_of(path) == (
            f"could not open '{path}': Operation not permitted; where lsattr shows that it is "
            "immutable (i) or append-only (a), use chattr -i -a"
        )

    def test_a_file_below_a_file(self, path: Path) -> None:
        assert error_of(path / "below").endswith(": Not a directory")

    def test_a_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to("loop")
        assert "symbolic links" in error_of(tmp_path / "loop")

    def test_a_name_that_is_too_long(self, tmp_path: Path) -> None:
        assert error_of(tmp_path / ("x" * 5000)).endswith(": File name too long")

    @pytest.mark.parametrize("writable", [True, False])
    def test_a_directory(self, tmp_path: Path, writable: bool) -> None:
        assert "a directory, not an image file" in error_of(tmp_path, writable=writable)

    @pytest.mark.parametrize("writable", [True, False])
    def test_a_fifo_that_nobody_else_has_open(self, tmp_path: Path, writable: bool) -> None:
        os.mkfifo(tmp_path / "fifo")
        message = error_of(tmp_path / "fifo", writable=writable)
        assert message.endswith("is a FIFO, not an image file or block device")

    @pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
    def test_a_character_device(self, device: str) -> None:
        expected = f"'{device}' is a character device, not an image file or block device"
        assert error_of(device) == expected

    def test_a_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
            assert error_of("socket").endswith("it is a socket or a missing device")

    def test_an_empty_name_is_the_callers_fault(self) -> None:
        for name in ("", b""):
            with pytest.raises(UsageError, match=r"^the file name is empty; name an image file$"):
                open_image(name)

    def test_a_nul_byte_in_the_name_is_the_callers_fault(self) -> None:
        for name in ("a\0b", b"a\0b"):
            with pytest.raises(UsageError, match=r"^the file name holds a NUL byte"):
                open_image(name)

    def test_a_name_that_no_file_can_have_is_an_error_of_ours(self) -> None:
        with pytest.raises(InstarError):
            open_image("\ud800")


class TestReading:
    def test_a_read_ends_with_the_file(self, path: Path) -> None:
        with open_image(path) as image:
            assert image.read(2, 3) == b"234"
            assert image.read(8, 100) == b"89"
            assert image.read(10, 1) == b""
            assert image.read(1 << 40, 5) == b""
            assert image.bytes_read == 5

    def test_a_view_is_filled_with_zeros_behind_the_end(self, path: Path) -> None:
        with open_image(path) as image:
            buffer = bytearray(b"\xff" * 8)
            image.read_into(6, memoryview(buffer))
            assert buffer == b"6789\0\0\0\0"
            image.read_into(100, memoryview(buffer))
            assert buffer == bytes(8)

    def test_short_reads_are_continued(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, whole_into = os.pread, os.preadv

        def a_byte_at_a_time(fd: int, _size: int, offset: int) -> bytes:
            return whole(fd, 1, offset)

        def a_byte_into(fd: int, buffers: list[memoryview], offset: int) -> int:
            return whole_into(fd, [buffers[0][:1]], offset)

        monkeypatch.setattr(os, "pread", a_byte_at_a_time)
        monkeypatch.setattr(os, "preadv", a_byte_into)
        with open_image(path) as image:
            assert image.read(0, 20) == b"0123456789"
            assert image.bytes_read == 10
            buffer = bytearray(b"\xff" * 12)
            image.read_into(0, memoryview(buffer))
            assert buffer == b"0123456789\0\0"

    def test_a_file_that_was_cut_meanwhile_ends_where_it_ends(self, path: Path) -> None:
        with open_image(path) as image:
            os.truncate(path, 4)
            assert image.read(0, 10) == b"0123"
            assert image.read(6, 2) == b""
            assert image.bytes_read == 4

    def test_an_error_is_the_hosts(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("pread", "preadv"):
            monkeypatch.setattr(os, name, failing(errno.EIO))
        message = r"^could not read '.*': Input/output error$"
        with open_image(path) as image:
            with pytest.raises(HostError, match=message):
                image.read(0, 1)
            with pytest.raises(HostError, match=message):
                image.read_into(0, memoryview(bytearray(1)))


class TestWriting:
    def test_bytes_go_where_they_belong(self, path: Path) -> None:
        with open_image(path) as image:
            image.write(3, b"abc")
            image.barrier()
            assert image.bytes_written == 3
        assert path.read_bytes() == b"012abc6789"

    def test_short_writes_are_continued(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = os.pwrite

        def a_byte_at_a_time(fd: int, data: bytes, offset: int) -> int:
            return whole(fd, data[:1], offset)

        monkeypatch.setattr(os, "pwrite", a_byte_at_a_time)
        with open_image(path) as image:
            image.write(0, b"abcdef")
        assert path.read_bytes() == b"abcdef6789"

    @pytest.mark.parametrize(
        ("number", "words"), [(errno.ENOSPC, "No space left on device"), (errno.EIO, "Input")]
    )
    def test_an_error_is_the_hosts(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
    ) -> None:
        monkeypatch.setattr(os, "pwrite", failing(number))
        monkeypatch.setattr(os, "fdatasync", failing(number))
        with open_image(path) as image:
            with pytest.raises(HostError, match=f"^could not write '.*': {words}"):
                image.write(0, b"x")
            with pytest.raises(HostError, match=f"^could not flush '.*': {words}"):
                image.barrier()


class TestHoles:
    MIB = 1 << 20

    @pytest.fixture
    def sparse(self, path: Path) -> Path:
        """Data in the second MiB, and 100 bytes behind the fourth."""
        with path.open("wb") as stream:
            for at, size in ((self.MIB, self.MIB), (4 * self.MIB, 100)):
                stream.seek(at)
                stream.write(b"x" * size)
        return path

    @pytest.mark.parametrize("size", [512, 1 << 15, 1 << 17, MIB, 3 * MIB])
    def test_reading_is_the_same_with_holes(self, sparse: Path, size: int) -> None:
        whole = sparse.read_bytes()
        with open_image(sparse) as image:
            for order in (1, -1):  # also back into a hole that was left
                for at in range(0, 5 * self.MIB, 1 << 15)[::order]:
                    assert image.read(at, size) == whole[at : at + size]
                    buffer = bytearray(b"e" * size)
                    image.read_into(at, memoryview(buffer))
                    assert bytes(buffer) == whole[at : at + size].ljust(size, b"\0")

    def test_a_hole_is_not_read(self, sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = []
        whole = os.pread

        def counted(fd: int, size: int, offset: int) -> bytes:
            reads.append(offset)
            return whole(fd, size, offset)

        with open_image(sparse) as image:
            monkeypatch.setattr(os, "pread", counted)
            for at in range(0, 4 * self.MIB, 1 << 17):
                image.read(at, 1 << 17)
            assert reads == list(range(self.MIB, 2 * self.MIB, 1 << 17))
            assert image.bytes_read == 4 * self.MIB

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
    def test_where_holes_cannot_be_told_all_is_read(
        self, sparse: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        whole = sparse.read_bytes()
        with open_image(sparse) as image:
            monkeypatch.setattr(os, "lseek", failing(number))
            assert image.read(0, 5 * self.MIB) == whole


class TestZeroing:
    def test_data_become_zeros_and_holes_stay_holes(self, path: Path) -> None:
        with path.open("wb") as stream:
            stream.truncate(64 << 20)
            stream.seek(1 << 20)
            stream.write(b"x" * (3 << 20))
        with open_image(path) as image:
            image.zero([(512, 48 << 20)])
            assert 3 << 20 <= image.bytes_written < 4 << 20
            assert image.read(0, 64 << 20) == bytes(64 << 20)
        assert stored(path) < 5 << 20

    def test_only_the_range_is_zeroed(self, path: Path) -> None:
        with open_image(path) as image:
            image.zero([(2, 7)])
        assert path.read_bytes() == b"01" + bytes(5) + b"789"

    def test_it_is_written_in_pieces(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.write_bytes(b"x" * (5 << 20))
        sizes = []
        whole = os.pwrite

        def measured(fd: int, data: bytes, offset: int) -> int:
            sizes.append(len(data))
            return whole(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", measured)
        with open_image(path) as image:
            image.zero([(512, (4 << 20) + 512)])
        assert max(sizes) == 1 << 20
        assert path.read_bytes() == b"x" * 512 + bytes(4 << 20) + b"x" * ((1 << 20) - 512)

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
    def test_where_holes_cannot_be_told_all_is_written(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        with open_image(path) as image:
            monkeypatch.setattr(os, "lseek", failing(number))
            image.zero([(2, 7)])
            assert image.bytes_written == 5
        assert path.read_bytes() == b"01" + bytes(5) + b"789"

    def test_many_ranges_take_few_looks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mib = 1 << 20
        with path.open("wb") as stream:
            stream.truncate(64 * mib)
            for at in (8, 32):
                stream.seek(at * mib)
                stream.write(b"x" * mib)
        looks = []
        whole = os.lseek

        def counted(fd: int, offset: int, how: int) -> int:
            looks.append(how)
            return whole(fd, offset, how)

        with open_image(path) as image:
            monkeypatch.setattr(os, "lseek", counted)
            image.zero((at, at + 4096) for at in range(0, 64 * mib, 8192))
            assert image.bytes_written == mib
            assert len(looks) == 6  # two parts, each with its end, and that there is no other
            assert image.read(8 * mib, mib) == (bytes(4096) + b"x" * 4096) * 128


class TestGrowing:
    def test_a_file_grows_for_writes_and_can_be_cut_back(self, path: Path) -> None:
        with open_image(path) as image:
            assert not image.prepare_writes(512)
            assert path.stat().st_size == 10
            assert image.prepare_writes(1024)
            assert path.stat().st_size == 1024
            image.cut_back()
        assert path.read_bytes() == b"0123456789"

    def test_a_file_that_another_program_has_extended_is_not_cut(self, path: Path) -> None:
        with open_image(path) as image:
            os.truncate(path, 4096)
            with pytest.raises(HostError, match=r"^another program has changed the size of '"):
                image.prepare_writes(1024)
            assert path.stat().st_size == 4096

    def test_the_size_is_that_of_when_the_file_is_locked(self, path: Path) -> None:
        with open_image(path) as image:
            os.truncate(path, 4096)
            assert image.lock() is None
            assert image.size == 4096

    def test_the_limit_on_the_size_of_files_is_kept_from_the_start(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("instar.vmm.image.image_file.get_limits", lambda _: (1000, 1000))
        told = r"the file size limit of 1000 bytes \(ulimit -f\) is too low"
        with open_image(path) as image:
            with pytest.raises(HostError, match=rf"^{told} for '{path}'$"):
                image.prepare_writes(1024)
            assert path.stat().st_size == 10

    def test_what_it_may_grow_by_is_kept(self, path: Path) -> None:
        with ImageFile.open(str(path), writable=True, max_growth=7) as image:
            assert (image.max_growth, image.is_device) == (7, False)


def failing(number: int) -> object:
    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_what_lies_beyond_the_largest_file_reads_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * 1000)
    with ImageFile.open(str(path), writable=True) as image:
        for offset in ((1 << 63) - 512, 1 << 63, 1 << 64):
            assert image.read(offset, 512) == b""
            view = memoryview(bytearray(b"y" * 512))
            image.read_into(offset, view)
            assert bytes(view) == bytes(512)
        with pytest.raises(HostError, match=r"^could not extend '.*': File too large$"):
            image.prepare_writes(1 << 64)
