"""Test side: where an image may be: behind links, on block devices, under a name that changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import instar
from tests.support.forge import Data, Image, Snapshot
from tests.support.looks import checking, information
from tests.support.looks.damage import damage
from tests.support.looks.divergences import CHECK, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

BLKROGET = 0x125E  # linux/fs.h

AMENDS: tuple[dict[str, object], ...] = (
    {"compat": "0.10"},
    {"compat": "1.1"},
    {"lazy_refcounts": True},
)


def make_image(path: Path, **fields: Any) -> Path:
    """An image with data and a snapshot."""
    Image(
        clusters={0: Data(b"\x05"), 3: Data(b"\x06")},
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"\x04")})],
        **fields,
    ).write(path)
    return path


@contextlib.contextmanager
def loop_device(path: Path, *flags: str) -> Iterator[Path | None]:
    """A loop device on `path`, or None where this machine has none to give."""
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    made = losetup and subprocess.run(
        [losetup, "--find", "--show", *flags, path], capture_output=True, text=True, check=False
    )
    if not losetup or not made or made.returncode:
        yield None
        return
    try:
        yield Path(made.stdout.strip())
    finally:
        subprocess.run([losetup, "--detach", made.stdout.strip()], check=True)


@pytest.fixture
def device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> Iterator[Path]:
    """An image on a loop device; where there is none, on a file that claims to be a device."""
    path = make_image(tmp_path / "volume")
    os.truncate(path, 8 << 20)
    with loop_device(path) as loop:
        record_property("device", "loop device" if loop else "stand-in")
        print("runs on a", "loop device" if loop else "stand-in")
        if loop is None:
            claim_block_device(monkeypatch, path, read_only=False)
        yield loop or path


@pytest.fixture
def read_only_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> Iterator[Path]:
    """The same, but for the device being read-only."""
    path = make_image(tmp_path / "volume")
    os.truncate(path, 8 << 20)
    with loop_device(path, "--read-only") as loop:
        record_property("device", "loop device" if loop else "stand-in")
        if loop is None:
            claim_block_device(monkeypatch, path, read_only=True)
        yield loop or path


def claim_block_device(monkeypatch: pytest.MonkeyPatch, path: Path, *, read_only: bool) -> None:
    """Have the file `path`, and no other, be a block device to os.fstat() and fcntl.ioctl()."""
    real, device = os.fstat, path.stat()
    answer = int(read_only).to_bytes(4, "little")

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if not os.path.samestat(status, device):
            return status
        return os.stat_result((stat.S_IFBLK | 0o600, *status[1:6], 0, *status[7:10]))

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(fcntl, "ioctl", lambda _fd, request, _: {BLKROGET: answer}[request])


def test_block_device_is_amended_in_place(device: Path, qemu: Qemu, tmp_path: Path) -> None:
    original = tmp_path / "original.qcow2"
    original.write_bytes(device.read_bytes())
    for options in AMENDS:
        assert instar.amend(device, **options).action == "amended"  # type: ignore[arg-type]
        assert qemu.check(device).clean
        assert qemu.compare(device, original)
        assert qemu.compare_snapshot(device, original, "s")
    assert qemu.info(device)["format-specific"]["data"]["lazy-refcounts"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("how", [instar.amend, instar.Sandbox().amend], ids=["fresh", "kept"])
def test_a_read_only_block_device_is_refused_before_anything_is_planned(
    read_only_device: Path, how: Callable[..., instar.AmendResult], dry_run: bool
) -> None:
    before = read_only_device.read_bytes()

    def plans(_text: str) -> None:
        raise AssertionError("the sandbox was run")

    with pytest.raises(instar.HostError) as caught:
        how(read_only_device, compat="0.10", dry_run=dry_run, debug=plans)
    assert str(caught.value).startswith(
        f"'{read_only_device}' is a read-only block device, and nothing was written; "
    )
    assert read_only_device.read_bytes() == before


def test_a_batch_names_a_read_only_block_device(read_only_device: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.qcow2")
    first, second = instar.amend_many([read_only_device, image], compat="0.10")
    assert "read-only block device" in str(first.error)
    assert second.result is not None


def test_info_tells_of_a_block_device_what_qemu_tells(device: Path, each_qemu: Qemu) -> None:
    found = information.unexplained(each_qemu, device)
    is_loop = device.is_block_device()  # qemu takes a stand-in for the file that it is
    assert [one for one in found if is_loop or not one.startswith("/children")] == []


@pytest.mark.parametrize("seed", [None, *range(6)])
def test_check_counts_on_a_block_device_as_qemu_counts(
    device: Path, seed: int | None, qemu: Qemu
) -> None:
    assert seed is None or damage(device, seed)
    found, names = checking.differences(qemu, device)
    assert [one for one in found if explain(one, names, CHECK) is None] == []


@pytest.mark.parametrize("extent", [None, "leaks", "all"], ids=["dirty", "leaks", "all"])
def test_a_block_device_is_repaired_as_a_file_is(
    device: Path, extent: Literal["leaks", "all"] | None, qemu: Qemu, tmp_path: Path
) -> None:
    wrong = {0: 2} if extent == "leaks" else {0: 2, 4: 0}
    original, file = tmp_path / "original.qcow2", tmp_path / "file.qcow2"
    make_image(original, refcounts=wrong, dirty=extent is None)
    os.truncate(original, 8 << 20)
    shutil.copyfile(original, file)
    device.write_bytes(original.read_bytes())
    for path in (device, file):
        assert not qemu.check(path).clean
        if extent is None:
            assert instar.amend(path, repair=True).action == "amended"
        else:
            assert instar.check(path, repair=extent).exit_status == 0
        assert qemu.check(path).clean
        assert qemu.compare(path, original)
        assert qemu.compare_snapshot(path, original, "s")


def test_a_read_only_block_device_is_looked_at_and_not_repaired(read_only_device: Path) -> None:
    before = read_only_device.read_bytes()
    assert instar.info(read_only_device).is_device
    assert instar.check(read_only_device).exit_status == 0
    with pytest.raises(instar.HostError, match="is a read-only block device, and nothing was"):
        instar.amend(read_only_device, repair=True)
    assert read_only_device.read_bytes() == before


def test_symbolic_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.qcow2")
    link = tmp_path / "link"
    link.symlink_to(image.name)
    assert instar.amend(link, compat="0.10").action == "amended"
    assert link.is_symlink()
    assert instar.amend(image, compat="0.10").action == "noop"


def test_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(instar.HostError, match="No such file"):
        instar.amend(tmp_path / "link", compat="0.10")


def test_file_swapped_in_after_the_open_is_not_touched(tmp_path: Path) -> None:
    path, kept = make_image(tmp_path / "disk.qcow2"), tmp_path / "kept.qcow2"
    other = make_image(tmp_path / "other.qcow2")
    before = other.read_bytes()

    def swap(_text: str) -> None:
        path.rename(kept)
        other.rename(path)

    instar.amend(path, compat="0.10", debug=swap)
    assert path.read_bytes() == before
    assert instar.amend(kept, compat="0.10").action == "noop"
