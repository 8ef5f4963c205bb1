"""Test side: instar and qemu keep out of each other's way, both ways, by qemu's own locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import instar
from instar.vmm.image import locks
from tests.locking.users import INSTAR, hold_open, locked_bytes, serve, strace_locks
from tests.support.forge import Data, Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.qemu import Qemu

TAKEN = {100, 101, 103, 201, 203}

pytestmark = pytest.mark.kvm


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A version 3 image with data."""
    path = tmp_path / "disk.qcow2"
    Image(clusters={0: Data(b"\x05")}).write(path)
    return path


def pause_amend(image: Path) -> tuple[threading.Thread, threading.Event, threading.Event]:
    """Start an amend that stops in its sandbox until the second event is set."""
    inside, go_on = threading.Event(), threading.Event()

    def stop(_text: str) -> None:
        inside.set()
        go_on.wait(20)

    thread = threading.Thread(
        target=instar.amend, args=(image,), kwargs={"lazy_refcounts": True, "debug": stop}
    )
    thread.start()
    assert inside.wait(20)
    return thread, inside, go_on


@pytest.mark.parametrize("arguments", [(), ("-r",)], ids=["writer", "reader"])
def test_image_open_in_qemu_io_is_refused_in_qemus_words(
    image: Path, boundary_qemu: Qemu, arguments: tuple[str, ...]
) -> None:
    before = image.read_bytes(), image.stat().st_mtime_ns
    with (
        hold_open(boundary_qemu, image, *arguments),
        pytest.raises(instar.ImageLocked) as refused,
    ):
        instar.amend(image, lazy_refcounts=True)
    assert 'Failed to get "write" lock' in str(refused.value)
    assert f"Is another process using the image [{image}]?" in str(refused.value)
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before


def test_reader_that_shares_the_image_does_not_stop_amend(image: Path, boundary_qemu: Qemu) -> None:
    with hold_open(boundary_qemu, image, "-r", "-U"):
        assert instar.amend(image, lazy_refcounts=True).action == "amended"


def test_image_served_by_qemu_nbd_is_refused(image: Path, boundary_qemu: Qemu) -> None:
    with serve(boundary_qemu, image), pytest.raises(instar.ImageLocked):
        instar.amend(image, lazy_refcounts=True)


def test_qemu_is_refused_while_instar_works(image: Path, boundary_qemu: Qemu) -> None:
    thread, _inside, go_on = pause_amend(image)
    try:
        for tool, *arguments in (
            ("qemu-img", "amend", "-o", "compat=0.10", str(image)),
            ("qemu-img", "info", str(image)),
            ("qemu-io", "-c", "read 0 512", str(image)),
        ):
            done = subprocess.run(
                [boundary_qemu.directory / tool, *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1, (tool, done)
            assert "lock" in done.stderr
    finally:
        go_on.set()
        thread.join(20)
    assert instar.amend(image, lazy_refcounts=True).action == "noop"


def test_second_instar_on_an_image_is_refused(image: Path) -> None:
    thread, _inside, go_on = pause_amend(image)
    try:
        with pytest.raises(instar.ImageLocked):
            instar.amend(image, compat="0.10")
    finally:
        go_on.set()
        thread.join(20)


def test_locks_are_exactly_those_of_qemu_img_amend(image: Path, boundary_qemu: Qemu) -> None:
    ours = strace_locks([*INSTAR, "amend", "-o", "lazy_refcounts=on", str(image)])
    theirs = strace_locks(
        [str(boundary_qemu.directory / "qemu-img"), "amend", "-o", "compat=1.1", str(image)]
    )
    assert ours == theirs
    assert {byte for call, _kind, byte in ours if call == "F_OFD_SETLK"} == {
        100,
        101,
        103,
        201,
        203,
    }


@pytest.mark.parametrize(
    "arguments",
    [("info",), ("info", "-U"), ("check",), ("check", "-r", "leaks")],
    ids=" ".join,
)
def test_locks_of_looks_and_repairs_are_exactly_those_of_qemu_img(
    arguments: tuple[str, ...], image: Path, boundary_qemu: Qemu
) -> None:
    """The checks before and after a repair take no others; a check with -U has none, qemu's one."""
    harm = {"refcounts": {2: 2}} if "-r" in arguments else {}
    taken = []
    for command in ([str(boundary_qemu.directory / "qemu-img")], INSTAR):
        Image(clusters={0: Data(b"\x05")}, **harm).write(image)  # type: ignore[arg-type]
        taken.append(set(strace_locks([*command, *arguments, str(image)])))
    assert taken[0] == taken[1]
    assert bool(taken[0]) is ("-U" not in arguments)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_another_thread_forked_meanwhile_keeps_no_lock(image: Path) -> None:
    thread, _, go_on = pause_amend(image)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.read(reader, 1)  # holds a copy of the descriptor until then
        os._exit(0)
    try:
        go_on.set()
        thread.join(20)
        assert instar.amend(image, lazy_refcounts=False).action == "amended"
    finally:
        os.close(writer)
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_locks_are_held_until_the_last_flush(image: Path) -> None:
    thread, _inside, go_on = pause_amend(image)
    try:
        assert locked_bytes(image) == TAKEN
    finally:
        go_on.set()
        thread.join(20)
    assert locked_bytes(image) == set()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_gives_a_warning_and_the_amend_goes_on(
    image: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_arguments: object) -> bytes:
        raise OSError(code, "no locks")

    monkeypatch.setattr(locks, "fcntl", fail)
    result = instar.amend(image, lazy_refcounts=True)
    assert result.action == "amended"
    assert len(result.warnings) == 1
    assert "cannot be locked" in result.warnings[0]


def test_byte_range_lock_of_another_program_is_refused(image: Path) -> None:
    with image.open("r+b") as other:
        fcntl.lockf(other, fcntl.LOCK_EX, 1, 101)
        done = subprocess.run(
            [*INSTAR, "amend", "-o", "lazy_refcounts=on", str(image)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "lock" in done.stderr
    assert done.stderr.count("\n") == 1


def before_the_first_lock(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have another program come to its end after instar opened the image, and before it locks."""
    left = [act]

    def lock_after(*arguments: object) -> object:
        while left:
            left.pop()()
        return fcntl.fcntl(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(locks, "fcntl", lock_after)


def grow_by_sandbox(image: Path) -> None:
    with instar.Sandbox() as sandbox:
        sandbox.amend(image, size=4 << 30)


@pytest.mark.parametrize(
    "act",
    [
        lambda image: instar.amend(image, size=4 << 30),
        grow_by_sandbox,
        lambda image: instar.check(image, repair="all"),
        instar.check,
    ],
    ids=["amend", "sandbox", "repair", "check"],
)
def test_what_another_program_wrote_until_the_image_is_locked_is_kept(
    tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]
) -> None:
    image = tmp_path / "disk.qcow2"
    qemu.create(image, "1M", cluster_size="4k")
    qemu.io(image, "write -P 1 0 64k")

    def write_on() -> None:
        # What is freed is the first place for new tables, in the middle of what is in use.
        qemu.io(image, "write -P 2 64k 64k", "write -P 3 128k 128k", "discard 64k 16k")

    before_the_first_lock(monkeypatch, write_on)
    result = act(image)
    if isinstance(result, instar.CheckResult):
        assert result.exit_status == 0
    assert qemu.check(image).clean
    qemu.io(image, "read -P 1 0 64k", "read -P 0 64k 16k", "read -P 3 128k 128k")


@pytest.mark.parametrize("extent", ["leaks", "all"])
def test_an_image_that_qemu_uses_is_not_repaired(image: Path, qemu: Qemu, extent: str) -> None:
    before = image.read_bytes(), image.stat().st_mtime_ns
    with serve(qemu, image):
        with pytest.raises(instar.ImageLocked):
            instar.check(image, repair=extent)  # type: ignore[arg-type]
        command = [*INSTAR, "amend", "--repair", str(image)]
        refused = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert refused.returncode == 1
        assert b"lock" in refused.stderr
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before
