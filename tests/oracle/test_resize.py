"""`instar resize` beside `qemu-img resize`: the same disk, snapshots and verdict. Test side."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import instar
from tests.support.disks import snapshots
from tests.support.divergences import diverges
from tests.support.process import command
from tests.support.qemu import Qemu, all_versions, in_turn, newest
from tests.support.recipe import make, working_directory

pytestmark = pytest.mark.kvm

DATA = "io -c 'write -P 1 0 1M' -c 'write -P 2 20M 3M' -c 'write -P 3 63M 1M' t.qcow2"
RECIPES = {
    "plain": f"create t.qcow2 64M\n{DATA}",
    "version 2": f"create -o compat=0.10 t.qcow2 64M\n{DATA}",
    "small clusters": f"create -o cluster_size=4k t.qcow2 64M\n{DATA}",
    "large clusters": f"create -o cluster_size=2M t.qcow2 64M\n{DATA}",
    "snapshots": f"create t.qcow2 64M\n{DATA}\nsnapshot -c one t.qcow2\n"
    "io -c 'write -P 4 21M 1M' -c 'write -z 63M 64k' t.qcow2\nsnapshot -c two t.qcow2",
    "compressed": "create t.qcow2 64M\n"
    "io -c 'write -c -P 5 0 64k' -c 'write -c -P 6 64k 64k' -c 'write -c -P 7 30M 64k' t.qcow2",
    "zeros": f"create t.qcow2 64M\n{DATA}\nio -c 'write -z 20M 1M' -c 'write -z -u 40M 2M' t.qcow2",
}
EXTENDED = f"create -o extended_l2=on t.qcow2 64M\n{DATA}\nio -c 'write -P 8 40M 6k' t.qcow2"
SIZES = ("64M", "512", "20M", "21M", "67108352", "65M", "10G", "1T")


def disk(qemu: Qemu, image: Path, raw: Path, size: int) -> Path:
    """The disk as a file of so many bytes, cut or extended by zeros."""
    qemu.img("convert", "-q", "-f", "qcow2", "-O", "raw", str(image), str(raw))
    with raw.open("r+b") as file:
        file.truncate(size)
    return raw


def assert_resized(qemu: Qemu, image: Path, size: str) -> None:
    """As the old disk, cut or extended; snapshots as before; clean; and a second time a no-op."""
    original = shutil.copyfile(image, image.with_name("original.qcow2"))
    theirs = shutil.copyfile(image, image.with_name("theirs.qcow2"))
    result = instar.resize(image, size, shrink=True)
    qemu.img("resize", "-q", "-f", "qcow2", "--shrink", str(theirs), size)
    told = result.options["size"]
    assert isinstance(told, int)
    assert qemu.info(image)["virtual-size"] == told == qemu.info(theirs)["virtual-size"]
    check = qemu.check(image)
    assert (check.clean, check.leaks, check.errors) == (True, 0, 0), check.text
    raw = disk(qemu, original, image.with_name("disk.raw"), told)
    compare = ("compare", "-q", "-s", "-f", "qcow2", "-F", "raw", str(image), str(raw))
    if told < 1 << 31:
        assert qemu.img(*compare[:2], *compare[3:], accept=(0, 1)).ok
    names = [line.split()[1] for line in qemu.snapshot(original, "-l").splitlines()[2:]]
    if told >= 1 << 40:  # where qemu-img takes seconds to go back to one
        assert snapshots(image.read_bytes()) == snapshots(original.read_bytes())
        names = []
    for name in names:  # qemu-img reads one in place as if its disk had the image's size
        applied = [shutil.copyfile(path, f"{path}.{name}") for path in (original, image)]
        for path in applied:
            qemu.snapshot(Path(path), "-a", name)
        assert qemu.compare(Path(applied[0]), Path(applied[1]))
    before = image.read_bytes()
    assert instar.resize(image, told).action == "noop"
    assert image.read_bytes() == before


@pytest.mark.parametrize(("name", "qemu"), in_turn(RECIPES), ids=str)
def test_a_disk_gets_any_size(name: str, qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, RECIPES[name])
    plain = image.read_bytes()
    for size in SIZES if qemu in (newest(), all_versions()[0]) else SIZES[2:6]:
        image.write_bytes(plain)
        assert_resized(qemu, image, size)


def test_subclusters_get_any_size(tmp_path: Path) -> None:
    image = make(newest(), tmp_path, EXTENDED)
    plain = image.read_bytes()
    for size in (*SIZES, "41945088"):
        image.write_bytes(plain)
        assert_resized(newest(), image, size)


@pytest.mark.parametrize("qemu", all_versions(), ids=str)
def test_what_a_shrink_left_does_not_come_back(qemu: Qemu, tmp_path: Path) -> None:
    """qemu-img resize shows it again: what is behind the end of the last cluster stays there."""
    image = make(qemu, tmp_path, "create t.qcow2 1M\nio -c 'write -P 9 0 1M' t.qcow2")
    qemu.img("resize", "-q", "-f", "qcow2", "--shrink", str(image), "100k")
    theirs = shutil.copyfile(image, tmp_path / "theirs.qcow2")
    instar.resize(image, "1M")
    qemu.io(image, "read -P 9 0 100k", "read -P 0 100k 924k")
    qemu.img("resize", "-q", "-f", "qcow2", str(theirs), "1M")
    qemu.io(theirs, "read -P 9 100k 28k")
    assert diverges("hidden_data_stays_hidden").is_in(qemu.number)


@pytest.mark.parametrize("qemu", all_versions(), ids=str)
def test_the_command_tells_of_a_resize_as_qemu_img_does(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create t.qcow2 2M")
    other = shutil.copyfile(image, tmp_path / "other.qcow2")
    for size, quiet in (("4M", ()), ("4M", ()), ("5M", ("-q",))):
        theirs = qemu.img("resize", "-f", "qcow2", *quiet, str(other), size)
        assert run("resize", *quiet, str(image), size) == theirs.stdout
    assert run("resize", "--dry-run", str(image), "6M").startswith(f"{image}: would become")
    assert "Image resized." not in run("resize", "--output=json", str(image), "6M")
    assert run("resize", str(image), str(other), "7M") == ""


def run(*arguments: str) -> str:
    """What the command prints when it has done so."""
    line = command(*arguments)
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("qemu", all_versions(), ids=str)
def test_a_smaller_disk_has_to_be_allowed(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create t.qcow2 2M\nio -c 'write -P 9 1M 1M' t.qcow2")
    before = image.read_bytes()
    with pytest.raises(instar.ImageRejected, match="allow it with --shrink"):
        instar.amend(image, size=1 << 20)
    assert image.read_bytes() == before
    qemu.amend(image, size="1M")
    assert diverges("shrink_wants_asking").is_in(qemu.number)


@pytest.mark.parametrize("qemu", all_versions(), ids=str)
def test_the_present_size_is_no_reason_to_refuse(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create -o compat=0.10 t.qcow2 2M\nsnapshot -c s t.qcow2")
    assert instar.amend(image, size=2 << 20).action == "noop"
    with pytest.raises(instar.ImageRejected, match="version 2 that has snapshots"):
        instar.amend(image, size=4 << 20)
    assert not qemu.amend(image, check=False, size="2M").ok
    assert diverges("present_size_is_a_no_op").is_in(qemu.number)
    assert len(instar.amend(image, compat="1.1", size=4 << 20).steps) == 2
    assert qemu.check(image).clean


@pytest.mark.parametrize("qemu", all_versions(), ids=str)
def test_a_longer_backing_file_does_not_show(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create base.qcow2 20M\nio -c 'write -P 7 0 20M' base.qcow2\n"
        "create -b base.qcow2 -F qcow2 t.qcow2 10M"
    )
    image = make(qemu, tmp_path, recipe)
    plain = image.read_bytes()
    for backing_size in (None, 20 << 20):
        image.write_bytes(plain)
        instar.resize(image, "2G", backing_size=backing_size)
        assert qemu.check(image).clean
        qemu.io(image, "read -P 7 0 10M", "read -P 0 10M 20M", "read -P 0 2047M 1M")


def test_no_file_that_an_image_names_is_opened_or_cut(tmp_path: Path) -> None:
    """qemu-img amend -o size cuts the data file, whatever file the image says that is."""
    image = make(newest(), tmp_path, "create -o data_file=copy t.qcow2 8k")
    victim = tmp_path / "prey"
    victim.write_bytes(b"precious" * 1024)
    data = image.read_bytes().replace(b"copy", b"prey")
    image.write_bytes(data)
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-o", str(trace), "-e", "trace=%file,ftruncate"]
    for verb in (["resize", str(image), "512"], ["amend", "-o", "size=1M", str(image)]):
        done = subprocess.run(
            [*strace, *command(verb[0], "--shrink", *verb[1:])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "keeps its data in another file" in done.stderr
        assert "prey" not in trace.read_text()
        assert "ftruncate" not in trace.read_text()
    assert victim.read_bytes() == b"precious" * 1024
    assert image.read_bytes() == data
    with working_directory(tmp_path):  # by which qemu goes where an image has a plain name
        newest().amend(Path(image.name), size="512")
    assert victim.stat().st_size == 512
    assert diverges("data_file_not_resized").is_in(newest().number)
