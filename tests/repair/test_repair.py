"""Test side: a dirty image is made clean, and every version of qemu reads it as before."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import instar
from tests.repair.crashed import crash_a_writer
from tests.repair.repairing import losses, refusal_of
from tests.support import qemu as oracle
from tests.support.forge import Data, Image, Snapshot
from tests.support.forge.clusters import RawEntry
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

VERSIONS = oracle.all_versions()


def abort_a_writer(qemu: Qemu, image: Path, *writes: str, **options: str) -> None:
    """Leave an image dirty as QEMU's iotest 039 does: qemu-io ends by abort() after a flush."""
    qemu.create(image, "128M", lazy_refcounts="on", **options)
    asked = [part for write in (*writes, "flush", "abort") for part in ("-c", write)]
    subprocess.run(
        [qemu.directory / "qemu-io", "-f", "qcow2", *asked, image],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert image.read_bytes()[79] & 1


@pytest.mark.parametrize("qemu", VERSIONS, ids=str)
def test_an_image_of_iotest_039_gets_clean(qemu: Qemu, tmp_path: Path) -> None:
    image, original = tmp_path / "t.qcow2", tmp_path / "original.qcow2"
    abort_a_writer(qemu, image, "write -P 0x5a 0 512")
    shutil.copyfile(image, original)
    assert not qemu.check(image).clean
    result = instar.amend(image, repair=True)
    assert result.atomic
    fields = {change.field: (change.before, change.after) for change in result.changes}
    assert fields["incompatible_features"] == (1, 0)
    assert losses(original, image, VERSIONS) == []
    qemu.io(image, "read -P 0x5a 0 512", "write -P 0x5b 64M 1M", "read -P 0x5b 64M 1M")
    assert qemu.check(image).clean


# What iotest 061 does to a dirty image, and more: an amend that repairs it first.
OPTIONS: dict[str, dict[str, str | bool | int]] = {
    "lazy_refcounts=off": {"lazy_refcounts": False},
    "compat=0.10": {"compat": "0.10"},
    "compat=1.1": {"compat": "1.1"},
    "refcount_bits=64": {"refcount_bits": 64},
    "size=256M": {"size": 256 << 20},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_image_of_iotest_061_is_repaired_and_then_amended_as_qemu_does(
    option: str, tmp_path: Path
) -> None:
    qemu = oracle.newest()
    image, theirs, original = (tmp_path / name for name in ("t", "theirs", "original"))
    abort_a_writer(qemu, image, "write -P 0x2a 0 128k", "write -P 7 100M 1M")
    for copy in (theirs, original):
        shutil.copyfile(image, copy)
    instar.amend(image, repair=True, **OPTIONS[option])  # type: ignore[arg-type]
    qemu.img("amend", "-f", "qcow2", "-o", option, str(theirs))
    assert qemu.compare(image, theirs, strict=True)
    assert qemu.info(image) == qemu.info(theirs)
    for version in VERSIONS:
        assert version.check(image).clean


@pytest.mark.parametrize("seed", range(24))
def test_the_image_of_a_writer_that_was_killed_gets_clean(seed: int, tmp_path: Path) -> None:
    image = crash_a_writer(seed, tmp_path, VERSIONS[seed % len(VERSIONS)])
    original = tmp_path / "original.qcow2"
    shutil.copyfile(image, original)
    was_dirty = image.read_bytes()[79] & 1
    result = instar.amend(image, repair=True)
    assert result.action == ("amended" if was_dirty else "noop")
    if was_dirty:
        assert losses(original, image, (VERSIONS[0], VERSIONS[-1])) == []


@pytest.mark.parametrize("cluster_bits", [9, 16, 21])
def test_an_image_without_a_single_refcount_gets_them_all(
    cluster_bits: int, tmp_path: Path
) -> None:
    image, original = tmp_path / "t.qcow2", tmp_path / "original.qcow2"
    clusters = {n: Data(b"%d" % n) for n in range(0, 20, 3)}
    Image(
        cluster_bits=cluster_bits,
        size=64 << cluster_bits,
        clusters=clusters,
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
        dirty=True,
        refcounts=dict.fromkeys(range(400), 0),
    ).write(image)
    shutil.copyfile(image, original)
    instar.amend(image, repair=True)
    assert losses(original, image, VERSIONS) == []


def dirty(path: Path, **fields: object) -> Path:
    """A small dirty image in which a refcount is too low."""
    description = {"clusters": {0: Data(b"a"), 3: Data(b"b")}, "refcounts": {4: 0}, **fields}
    Image(cluster_bits=9, size=64 << 9, dirty=True, **description).write(path)  # type: ignore[arg-type]
    return path


def test_without_repair_a_dirty_image_is_refused_and_not_touched(tmp_path: Path) -> None:
    image = dirty(tmp_path / "t.qcow2")
    assert refusal_of(image, lambda path: instar.amend(path, lazy_refcounts=True)) == "dirty"


def _repair(path: Path) -> object:
    return instar.amend(path, repair=True, lazy_refcounts=True)


@pytest.mark.parametrize(
    ("fields", "reason", "act"),
    [
        ({"clusters": {0: RawEntry(1 << 63 | 1 << 40)}}, "repair_entry", _repair),
        ({"corrupt": True}, "corrupt", _repair),
        ({}, "growth", lambda path: instar.amend(path, repair=True, max_growth=0)),
    ],
)
def test_a_repair_that_is_refused_leaves_bytes_and_times(
    fields: dict[str, object], reason: str, act: Callable[[Path], object], tmp_path: Path
) -> None:
    image = dirty(tmp_path / "t.qcow2", **fields)
    assert refusal_of(image, act) == reason


def test_a_later_step_that_is_refused_leaves_the_image_dirty(tmp_path: Path) -> None:
    image = dirty(tmp_path / "t.qcow2")

    def shrink(path: Path) -> object:
        return instar.amend(path, repair=True, size=512)

    assert refusal_of(image, shrink) == "shrink_not_allowed"


def test_a_dry_run_says_what_a_repair_would_change(tmp_path: Path) -> None:
    image = dirty(tmp_path / "t.qcow2")
    before = image.read_bytes()
    dry = instar.amend(image, repair=True, dry_run=True)
    assert image.read_bytes() == before
    wet = instar.amend(image, repair=True)
    assert (dry.changes, dry.bytes_written) == (wet.changes, wet.bytes_written)


def test_a_step_of_its_own_is_told_before_the_others(tmp_path: Path) -> None:
    image = dirty(tmp_path / "t.qcow2")
    result = instar.amend(image, repair=True, lazy_refcounts=True)
    assert len(result.steps) == 2
    assert {change.field for change in result.steps[1].changes} == {"compatible_features"}
    assert result.lazy_refcounts


def test_many_images_are_repaired_in_one_machine(tmp_path: Path) -> None:
    images = [dirty(tmp_path / f"{n}.qcow2") for n in range(3)]
    clean = tmp_path / "clean.qcow2"
    Image().write(clean)
    outcomes = list(instar.amend_many([*images, clean], repair=True))
    assert [one.unwrap().action for one in outcomes] == ["amended"] * 3 + ["noop"]
    assert all(oracle.newest().check(image).clean for image in images)
    with instar.Sandbox() as sandbox:
        again = dirty(tmp_path / "again.qcow2")
        assert sandbox.amend(clean, lazy_refcounts=True).action == "amended"
        assert sandbox.amend(again, repair=True).action == "amended"
        assert sandbox.amend(clean, lazy_refcounts=False).action == "amended"
