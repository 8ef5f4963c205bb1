"""Test side: a rebase beside that of qemu-img: the disk reads the same, and all is sound."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import instar
from tests.support.divergences import diverges
from tests.support.qemu import Qemu
from tests.support.recipe import working_directory
from tests.support.verdicts import fingerprint

pytestmark = pytest.mark.kvm

KINDS = {
    "version 2": {"compat": "0.10"},
    "version 3": {"compat": "1.1"},
    "small clusters": {"compat": "1.1", "cluster_size": "512"},
    "large clusters": {"compat": "1.1", "cluster_size": "2M"},
    "narrow refcounts": {"compat": "1.1", "refcount_bits": "1"},
}


@pytest.fixture(params=KINDS, ids=str)
def image(request: pytest.FixtureRequest, tmp_path: Path, qemu_versions: tuple[Qemu, ...]) -> Path:
    """An image with data over a backing file, of which there is a copy under another name."""
    qemu, path = qemu_versions[-1], tmp_path / "t.qcow2"
    qemu.create(tmp_path / "old.qcow2", "8M")
    qemu.io(tmp_path / "old.qcow2", "write -P 9 0 4M")
    shutil.copyfile(tmp_path / "old.qcow2", tmp_path / "new.qcow2")
    with working_directory(tmp_path):
        qemu.create(path, None, "-b", "old.qcow2", "-F", "qcow2", **KINDS[request.param])
        qemu.io(path, "write -P 5 1M 192k", "write -P 6 7M 64k")
    return path


def test_a_disk_over_a_copy_of_its_backing_file_reads_as_before(
    image: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    before = Path(shutil.copyfile(image, image.with_name("before.qcow2")))
    first = image.read_bytes()
    assert instar.rebase_unsafe(image, "new.qcow2", "qcow2").atomic
    for qemu in qemu_versions:
        theirs = Path(shutil.copyfile(before, image.with_name("theirs.qcow2")))
        qemu.img("rebase", "-u", "-b", "new.qcow2", "-F", "qcow2", str(theirs))
        assert qemu.check(image).clean
        assert qemu.compare(before, image, strict=True)
        assert qemu.compare(theirs, image, strict=True)
        names = ("backing-filename", "backing-filename-format", "virtual-size", "cluster-size")
        assert [qemu.info(image)[name] for name in names] == [
            qemu.info(theirs)[name] for name in names
        ]
    state = fingerprint(image)
    assert instar.rebase_unsafe(image, "new.qcow2", "qcow2").action == "noop"
    assert fingerprint(image) == state
    assert instar.rebase_unsafe(image, "old.qcow2", "qcow2").action == "amended"
    assert qemu_versions[-1].compare(before, image, strict=True)
    cluster = 1 << int.from_bytes(first[20:24], "big")
    assert image.read_bytes()[cluster:] == first[cluster:]


def test_without_a_backing_file_what_was_read_from_it_reads_as_zeros(
    image: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    theirs = Path(shutil.copyfile(image, image.with_name("theirs.qcow2")))
    assert instar.rebase_unsafe(image, "").options["backing_file"] is None
    qemu_versions[0].img("rebase", "-u", "-b", "", str(theirs))
    for qemu in qemu_versions:
        assert qemu.check(image).clean
        assert qemu.compare(theirs, image, strict=True)
        assert "backing-filename" not in qemu.info(image)


def test_an_image_that_is_its_own_backing_file_is_of_no_use(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    assert diverges("backing_itself_refused").is_in(qemu_versions[0].number)
    path = tmp_path / "t.qcow2"
    for qemu in qemu_versions:
        qemu.create(path, "1M")
        with pytest.raises(instar.ImageRejected):
            instar.rebase_unsafe(path, "t.qcow2", "qcow2")
        qemu.img("rebase", "-u", "-b", "t.qcow2", "-F", "qcow2", str(path))
        assert qemu.info(path)["backing-filename"] == path.name
