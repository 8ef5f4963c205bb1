"""Test side: what a change of the size sets free goes back to the file system, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.image import image_file
from tests.support import qemu as oracle
from tests.support.disks import disk, snapshots
from tests.support.forge import Data, Image, Reader, Snapshot
from tests.support.forge.audit import faults
from tests.support.recipe import make
from tests.support.sparse import stored

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

BITS = 12
CLUSTERS = {n: Data(b"d") for n in range(700)}
PLAIN = Image(cluster_bits=BITS, size=1024 << BITS, clusters=CLUSTERS)
SHARED = Image(
    cluster_bits=BITS,
    size=1024 << BITS,
    clusters=CLUSTERS,
    snapshots=[Snapshot(name=b"s", clusters={n: Data(b"d") for n in range(0, 700, 2)})],
)
AT_A_TABLES_END, WITHIN_A_TABLE = 512 << BITS, 100 << BITS


@pytest.mark.parametrize("image", [PLAIN, SHARED], ids=["alone", "with a snapshot"])
@pytest.mark.parametrize("size", [AT_A_TABLES_END, WITHIN_A_TABLE])
def test_a_smaller_disk_takes_less_room_and_reads_the_same(
    image: Image, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    image.write(path)
    before, room = path.read_bytes(), stored(path)
    dropped = sum(size >> BITS <= n < 700 for n in CLUSTERS)
    kept = sum(size >> BITS <= n for n in range(0, 700, 2)) if image is SHARED else 0
    assert instar.resize(path, size, shrink=True).warnings == ()
    after = path.read_bytes()
    assert disk(after) == disk(before)[:size]
    assert snapshots(after) == snapshots(before)
    assert faults(Reader(after)) == []
    assert room - stored(path) >= (dropped - kept - 4) << BITS  # but for the new tables


@pytest.mark.parametrize("qemu", [oracle.oldest(), oracle.newest()], ids=str)
def test_a_file_whose_end_is_set_free_ends_where_qemu_img_ends_it(
    qemu: oracle.Qemu, tmp_path: Path
) -> None:
    create = "create t.qcow2 1G\nio -c 'write 0 1M' -c 'write 600M 8M' t.qcow2"
    sizes = []
    for tool in ("qemu-img", "instar"):
        folder = tmp_path / tool
        folder.mkdir()
        image = make(qemu, folder, create)
        if tool == "instar":
            instar.resize(image, "512M", shrink=True)
        else:
            qemu.run("qemu-img", "resize", "--shrink", str(image), "512M")
        check = qemu.check(image)
        assert (check.errors, check.corruptions, check.leaks) == (0, 0, 0)
        sizes.append(image.stat().st_size)
    assert sizes[0] == sizes[1] < 2 << 20


def test_what_counts_as_free_without_having_been_set_free_stays(tmp_path: Path) -> None:
    """It may be the data of a disk whose refcounts are wrong."""
    path = tmp_path / "t.qcow2"
    data = PLAIN.build() + b"precious" * 512
    path.write_bytes(data)
    instar.resize(path, AT_A_TABLES_END, shrink=True)
    after = path.read_bytes()
    assert len(after) == len(data)
    assert after.endswith(b"precious" * 512)


@pytest.mark.parametrize("size", [AT_A_TABLES_END, WITHIN_A_TABLE])
@pytest.mark.parametrize("image", [PLAIN, SHARED], ids=["alone", "with a snapshot"])
def test_what_is_given_back_is_told_before_by_a_dry_run(
    image: Image, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    image.write(path)
    before = path.read_bytes()
    told = instar.resize(path, size, shrink=True, dry_run=True)
    assert path.read_bytes() == before
    done = instar.resize(path, size, shrink=True)
    assert vars(done) == {**vars(told), "dry_run": False}
    after = path.read_bytes()
    holes = [part for part in told.ranges if part.phase == 6]
    assert holes
    assert all(part.zeroes for part in holes)
    assert not any(any(after[part.offset : part.offset + part.length]) for part in holes)
    assert (told.file_end or len(after)) == len(after)
    assert told.file_end is None  # what is at the end stays


def test_of_a_chain_the_step_that_gives_back_tells_it(tmp_path: Path) -> None:
    create = "create t.qcow2 1G\nio -c 'write 0 1M' -c 'write 600M 8M' t.qcow2"
    path = make(oracle.newest(), tmp_path, create)
    asked: dict[str, Any] = {"size": 512 << 20, "shrink": True, "lazy_refcounts": True}
    told = instar.amend(path, **asked, dry_run=True)
    assert [step.file_end is not None for step in told.steps] == [False, True]
    assert told.file_end == told.steps[1].file_end
    instar.amend(path, **asked)
    assert path.stat().st_size == told.file_end


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_that_takes_nothing_back_is_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "t.qcow2"
    PLAIN.write(path)
    old = disk(path.read_bytes())
    monkeypatch.setattr(image_file, "_make_hole", fail)
    result = instar.resize(path, WITHIN_A_TABLE, shrink=True)
    assert result.warnings == (
        f"could not make a hole in '{path}': {os.strerror(number)}; the image is amended, and "
        "still takes the room that was set free",
    )
    assert disk(path.read_bytes()) == old[:WITHIN_A_TABLE]


@pytest.mark.parametrize("request_", [{"dry_run": True}, {"cache": "unsafe"}], ids=str)
def test_a_dry_run_gives_nothing_back_and_what_is_not_flushed_does(
    request_: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    PLAIN.write(path)
    before, room = path.read_bytes(), stored(path)
    instar.resize(path, AT_A_TABLES_END, shrink=True, **request_)  # type: ignore[arg-type]
    assert (path.read_bytes() == before) == ("dry_run" in request_)
    assert (stored(path) < room) == ("dry_run" not in request_)


def test_a_step_that_follows_finds_the_holes(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    PLAIN.write(path)
    before, room = path.read_bytes(), stored(path)
    instar.amend(path, size=AT_A_TABLES_END, compat="0.10", shrink=True)
    after = path.read_bytes()
    assert Reader(after).header.version == 2
    assert disk(after) == disk(before)[:AT_A_TABLES_END]
    assert faults(Reader(after)) == []
    assert stored(path) < room
