"""Test side: where an image may be: behind links, on block devices, under a name that changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import instar
from tests.forge import Data, Image, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.qemu import Qemu

pytestmark = pytest.mark.kvm

AMENDS: tuple[dict[str, object], ...] = (
    {"compat": "0.10"},
    {"compat": "1.1"},
    {"lazy_refcounts": True},
)


def make_image(path: Path) -> Path:
    """An image with data and a snapshot."""
    Image(
        clusters={0: Data(b"\x05"), 3: Data(b"\x06")},
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"\x04")})],
    ).write(path)
    return path


@contextlib.contextmanager
def loop_device(path: Path) -> Iterator[Path | None]:
    """A loop device on `path`, or None where this machine has none to give."""
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    made = losetup and subprocess.run(
        [losetup, "--find", "--show", path], capture_output=True, text=True, check=False
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
            monkeypatch.setattr(os, "fstat", _claim_block_device(path))
        yield loop or path


def _claim_block_device(path: Path) -> Callable[[int], os.stat_result]:
    """An os.fstat() to which the file `path`, and no other, is a block device."""
    real, device = os.fstat, path.stat()

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        if not os.path.samestat(status, device):
            return status
        return os.stat_result((stat.S_IFBLK | 0o600, *status[1:6], 0, *status[7:10]))

    return fstat


def test_block_device_is_amended_in_place(device: Path, qemu: Qemu, tmp_path: Path) -> None:
    original = tmp_path / "original.qcow2"
    original.write_bytes(device.read_bytes())
    for options in AMENDS:
        assert instar.amend(device, **options).action == "amended"  # type: ignore[arg-type]
        assert qemu.check(device).clean
        assert qemu.compare(device, original)
        assert qemu.compare_snapshot(device, original, "s")
    assert qemu.info(device)["format-specific"]["data"]["lazy-refcounts"]


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
