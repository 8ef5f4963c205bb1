"""Test side: the oracle's own tests. What judges instar must itself notice what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.support import qemu as oracle
from tests.support.project import ROOT
from tests.support.qemu import Qemu, QemuError

pytestmark = pytest.mark.any_python  # a tool of the tests

CLUSTER = 65536


@pytest.fixture
def image(tmp_path: Path, qemu: Qemu) -> Path:
    path = tmp_path / "image.qcow2"
    qemu.create(path, "8M", compat="1.1", lazy_refcounts="on")
    qemu.io(path, "write -P 1 0 64k")
    return path


def copy_of(path: Path) -> Path:
    copy = path.with_name("copy.qcow2")
    copy.write_bytes(path.read_bytes())
    return copy


def test_each_version_runs_and_is_the_version_it_says(each_qemu: Qemu) -> None:
    assert f"version {each_qemu.version}" in each_qemu.img("--version").stdout
    assert f"version {each_qemu.version}" in each_qemu.run("qemu-io", "--version").stdout


def test_versions_are_sorted_as_numbers() -> None:
    numbers = [version.number for version in oracle.all_versions()]
    assert numbers == sorted(numbers)
    assert oracle.oldest().number == numbers[0]
    assert oracle.newest().number == numbers[-1]
    assert Qemu("10.0.2", Path()).number > Qemu("7.2.22", Path()).number


def test_each_version_makes_amends_and_describes_an_image(each_qemu: Qemu, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    each_qemu.create(path, "8M", compat="0.10")
    assert each_qemu.info(path)["format-specific"]["data"]["compat"] == "0.10"
    assert each_qemu.amend(path, compat="1.1", lazy_refcounts="on").ok
    data = each_qemu.info(path)["format-specific"]["data"]
    assert (data["compat"], data["lazy-refcounts"]) == ("1.1", True)
    assert each_qemu.check(path).clean


def test_all_versions_describe_an_image_in_the_same_words(
    image: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    keys = {frozenset(version.info(image)) for version in qemu_versions}
    assert len(keys) == 1


def test_info_keeps_the_backing_name_but_no_path(image: Path, qemu: Qemu, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    qemu.create(overlay, None, "-b", image.name, "-F", "qcow2")
    info = qemu.info(overlay)
    assert info["backing-filename"] == image.name
    assert str(tmp_path) not in json.dumps(info)
    assert info["dirty-flag"] is False


def test_info_keeps_snapshots_and_bitmaps(image: Path, qemu: Qemu) -> None:
    qemu.snapshot(image, "-c", "first")
    qemu.bitmap(image, "changed", "--add", "-g", "128k")
    info = qemu.info(image)
    assert [snapshot["name"] for snapshot in info["snapshots"]] == ["first"]
    bitmaps = info["format-specific"]["data"]["bitmaps"]
    assert [(bitmap["name"], bitmap["granularity"]) for bitmap in bitmaps] == [("changed", 131072)]


def test_a_refused_amend_raises_unless_it_is_asked_for(image: Path, qemu: Qemu) -> None:
    with pytest.raises(QemuError, match="nosuch"):
        qemu.amend(image, nosuch="1")
    refused = qemu.amend(image, check=False, nosuch="1")
    assert not refused.ok
    assert "nosuch" in refused.stderr


def test_check_counts_what_it_finds(image: Path, each_qemu: Qemu) -> None:
    table_offset = int.from_bytes(image.read_bytes()[48:56], "big")
    block_offset = int.from_bytes(image.read_bytes()[table_offset : table_offset + 8], "big")
    assert each_qemu.check(image).clean
    with image.open("r+b") as file:
        file.seek(block_offset)
        file.write(b"\0\2")  # the header cluster is used once
    leaky = each_qemu.check(image)
    assert (leaky.clean, leaky.leaks, leaky.corruptions) == (False, 1, 0)
    with image.open("r+b") as file:
        file.seek(block_offset)
        file.write(b"\0\0")
    broken = each_qemu.check(image)
    assert (broken.clean, broken.leaks) == (False, 0)
    assert broken.corruptions > 0
    assert broken.text


def test_check_of_what_cannot_be_opened_raises(each_qemu: Qemu, tmp_path: Path) -> None:
    (tmp_path / "not").write_bytes(b"\0" * CLUSTER)
    with pytest.raises(QemuError, match="qcow2"):
        each_qemu.check(tmp_path / "not")


def test_compare_sees_one_changed_byte(image: Path, each_qemu: Qemu) -> None:
    copy = copy_of(image)
    assert each_qemu.compare(image, copy)
    each_qemu.io(copy, "write -P 2 65535 1")
    assert not each_qemu.compare(image, copy)


def test_compare_ignores_allocation_unless_strict(image: Path, qemu: Qemu) -> None:
    copy = copy_of(image)
    qemu.io(copy, "write -P 0 1M 64k")
    assert qemu.compare(image, copy)
    assert not qemu.compare(image, copy, strict=True)


def test_compare_of_what_cannot_be_read_raises(image: Path, each_qemu: Qemu) -> None:
    copy = copy_of(image)
    with copy.open("r+b") as file:
        file.write(b"XXXX")
    with pytest.raises(QemuError, match="qcow2"):
        each_qemu.compare(image, copy)


def test_compare_snapshot_sees_what_compare_does_not(image: Path, each_qemu: Qemu) -> None:
    copy = copy_of(image)
    each_qemu.snapshot(image, "-c", "first")
    each_qemu.io(copy, "write -P 2 0 64k")
    each_qemu.snapshot(copy, "-c", "first")
    each_qemu.io(copy, "write -P 1 0 64k")
    assert each_qemu.compare(image, copy)
    assert not each_qemu.compare_snapshot(image, copy, "first")
    assert each_qemu.compare_snapshot(image, image, "first")


def test_convert_makes_a_raw_copy(image: Path, each_qemu: Qemu, tmp_path: Path) -> None:
    each_qemu.convert(image, tmp_path / "raw", to="raw")
    contents = (tmp_path / "raw").read_bytes()
    assert contents == b"\1" * CLUSTER + bytes(8 * 2**20 - CLUSTER)


def test_io_raises_if_a_pattern_is_not_there(image: Path, each_qemu: Qemu) -> None:
    assert "65536/65536" in each_qemu.io(image, "read -P 1 0 64k")
    with pytest.raises(QemuError, match="Pattern verification failed"):
        each_qemu.io(image, "read -P 2 0 64k")


def test_commas_in_a_value_stay_in_the_value(qemu: Qemu, tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    qemu.create(path, "8M", "-u", backing_file="a,b=c", backing_fmt="raw")
    assert qemu.info(path)["backing-filename"] == "a,b=c"


def test_a_program_that_does_not_end_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-img"
    program.write_text("#!/bin/sh\nexec sleep 60\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setattr(oracle, "TIMEOUT", 0.2)
    with pytest.raises(QemuError, match="no end after"):
        Qemu("0", tmp_path).img("--version")


def test_a_program_makes_no_file_longer_than_it_may(tmp_path: Path, qemu: Qemu) -> None:
    path = tmp_path / "image.raw"
    for longest, status in ((1 << 20, 1), (2 << 20, 0), (None, 0)):
        run = qemu.img("create", "-f", "raw", str(path), "2M", accept=(0, 1), longest=longest)
        assert (run.status, path.stat().st_size == 2 << 20) == (status, status == 0)
        path.unlink()


def test_a_missing_oracle_fails_and_says_what_to_run(tmp_path: Path) -> None:
    code = (
        "import os, pytest, sys; os.environ.update(INSTAR_QEMU='/nonexistent', PATH='');"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist',"
        " 'tests/unit/test_qemu_harness.py::test_each_version_runs_and_is_the_version_it_says']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "make qemu" in done.stdout


def test_kvm_tests_are_skipped_only_for_want_of_the_device() -> None:
    assert conftest.why_no_kvm("/dev/null") is None
    assert conftest.why_no_kvm("/nonexistent/kvm") == "/nonexistent/kvm: No such file or directory"
