"""What an amend does not mean to change stays as it is, around the image too. Test side."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.cases import DOWNGRADE, LAZY_OFF, LAZY_ON, UPGRADE, Case
from tests.crash.recorder import Write, instar, record, replay
from tests.support.sparse import settle, stored

pytestmark = pytest.mark.kvm

CASES = (
    Case(UPGRADE, "extensions and long name", 21),
    Case(UPGRADE, "overlay", 20),
    Case(DOWNGRADE, "long name at the end", 21),
    Case(LAZY_ON, "bare", 19),
    Case(LAZY_OFF, "overlay", 18),
)
BLOCK = 65536
"""No file system that tests run on allocates in larger blocks."""
NOBODY = 65534


@dataclass
class Amended:
    """An image that has been amended, and what was so before."""

    image: Path
    data: bytes
    status: os.stat_result
    holes: list[range]
    writes: list[Write]


def holes_in(path: Path) -> list[range]:
    """The parts of a file that take no room on the disk."""
    found: list[range] = []
    with path.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            start = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            try:
                at = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                at = size
            if start < at:
                found.append(range(start, at))
    return found


def blocks(spans: list[range]) -> set[int]:
    """The blocks that lie in these parts altogether."""
    return {n for s in spans for n in range(-(-s.start // BLOCK), s.stop // BLOCK)}


def prepare(case: Case, folder: Path) -> Path:
    """The image with a hole wherever it is all zeros."""
    path = case.write(folder)
    data = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), BLOCK):
            part = data[at : at + BLOCK]
            if part.count(0) < len(part):
                file.seek(at)
                file.write(part)
    return path


@pytest.fixture(params=CASES, ids=str)
def amended(request: pytest.FixtureRequest, tmp_path: Path) -> Amended:
    case: Case = request.param
    image = prepare(case, tmp_path)
    image.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(image, NOBODY, NOBODY)
    os.link(image, tmp_path / "another name")
    settle(image)
    data, status, holes = image.read_bytes(), image.stat(), holes_in(image)
    recording = record(instar("-o", case.transition.options), image)
    assert recording.run.status == 0, recording.run.stderr
    assert image.read_bytes() == replay(data, recording.operations) != data
    writes = [step for step in recording.operations if isinstance(step, Write)]
    return Amended(image, data, status, holes, writes)


def test_owner_mode_size_inode_and_links_stay(amended: Amended) -> None:
    now = amended.image.stat()
    for field in ("st_uid", "st_gid", "st_mode", "st_size", "st_ino", "st_dev", "st_nlink"):
        assert getattr(now, field) == getattr(amended.status, field), field
    assert amended.image.samefile(amended.image.with_name("another name"))


def test_nothing_is_left_beside_the_image(amended: Amended) -> None:
    kinds = {path.name for path in amended.image.parent.iterdir() if not path.is_dir()}
    backing = {name for name in kinds if name.startswith("0000.")}
    assert kinds - backing == {"image.qcow2", "another name"}


def test_holes_stay_holes(amended: Amended) -> None:
    written = {
        block
        for write in amended.writes
        for block in range(write.offset // BLOCK, (write.offset + len(write.data) - 1) // BLOCK + 1)
    }
    holes = blocks(amended.holes)
    assert holes
    assert holes - written <= blocks(holes_in(amended.image))


def test_no_more_is_allocated_than_what_is_written(amended: Amended) -> None:
    granule = amended.status.st_blksize
    room = sum(len(write.data) + 2 * granule for write in amended.writes)
    assert stored(amended.image) - amended.status.st_blocks * 512 <= room


def test_extended_attributes_stay(tmp_path: Path) -> None:
    image = prepare(CASES[1], tmp_path)
    try:
        os.setxattr(image, "user.instar.test", b"kept")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes: {error.strerror}")
    before = {name: os.getxattr(image, name) for name in os.listxattr(image)}
    recording = record(instar("-o", CASES[1].transition.options), image)
    assert recording.run.status == 0
    assert {name: os.getxattr(image, name) for name in os.listxattr(image)} == before
