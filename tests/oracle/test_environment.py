"""Around the image: links, locks, permissions, standard output, one amend after another. Test side.

The cases of the table of qemu's behaviour that are more than an image and a request.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import instar
from tests.oracle.compare import header
from tests.support.divergences import diverges
from tests.support.forge import parse_feature_name_table
from tests.support.qemu import Qemu
from tests.support.recipe import make, working_directory
from tests.support.verdicts import Request, amend_by_qemu, ask_instar, ask_qemu, copy, fingerprint

pytestmark = pytest.mark.kvm

LAZY_ON = Request(lazy_refcounts=True)
UP, DOWN = Request(compat="1.1"), Request(compat="0.10")
NOBODY = 65534


@pytest.fixture
def image(tmp_path: Path, qemu: Qemu) -> Path:
    """An empty image of version 3."""
    return make(qemu, tmp_path, "create t.qcow2 64M")


@contextmanager
def opened_by(qemu: Qemu, path: Path, *flags: str) -> Iterator[None]:
    """Let qemu-io have a file open for a while."""
    command = (str(qemu.directory / "qemu-io"), *flags, str(path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"length\n")
        process.stdin.flush()
        assert process.stdout.readline()  # by now it has the file
        yield


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Be a user without any rights, in a folder that is open to all."""
    folder.chmod(0o777)
    before = os.getresuid()
    with working_directory(folder):
        if before[1] == 0:
            os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield
        finally:
            os.setresuid(*before)


def test_a_name_with_a_protocol_is_a_path_all_the_same(image: Path, each_qemu: Qemu) -> None:
    assert diverges("names_are_paths").is_in(each_qemu.number)
    with working_directory(image.parent):
        name = f"file:{image.name}"
        with pytest.raises(instar.HostError, match=f"^could not open '{name}': No such file"):
            instar.amend(name, compat="0.10")
        each_qemu.img("amend", "-o", "compat=0.10", name)
        assert header(image)["version"] == 2
        image.rename(name)
        assert instar.amend(name, compat="1.1").action == "amended"


@pytest.mark.parametrize("flags", [(), ("-r",)], ids=["writer", "reader"])
def test_an_image_in_use_is_refused_as_qemu_refuses_it(
    image: Path, flags: tuple[str, ...], each_qemu: Qemu
) -> None:
    before = fingerprint(image)
    with opened_by(each_qemu, image, *flags):
        with pytest.raises(instar.ImageLocked, match='Failed to get "write" lock'):
            ask_instar(image, LAZY_ON)
        run = amend_by_qemu(each_qemu, image, LAZY_ON)
    assert run.status == 1
    assert 'Failed to get "write" lock' in run.stderr
    assert fingerprint(image) == before


def test_a_reader_that_shares_does_not_stop_an_amend(image: Path, each_qemu: Qemu) -> None:
    with opened_by(each_qemu, image, "-r", "-U"):
        assert ask_instar(image, LAZY_ON) == "amended"
        assert ask_qemu(each_qemu, image, Request(lazy_refcounts=False)) == "changed"


def test_a_backing_file_in_use_does_not_matter(tmp_path: Path, each_qemu: Qemu) -> None:
    recipe = "create b.qcow2 64M; create -b b.qcow2 -F qcow2 t.qcow2"
    image = make(each_qemu, tmp_path, recipe.replace(";", "\n"))
    with opened_by(each_qemu, tmp_path / "b.qcow2"):
        assert amend_by_qemu(each_qemu, copy(image, "theirs.qcow2"), LAZY_ON).status == 1
        assert ask_instar(image, LAZY_ON) == "amended"
    diverges("backing_file_not_opened")


@pytest.mark.parametrize("mode", [0o444, 0o000], ids=["read-only", "closed"])
def test_without_permission_it_is_refused_as_qemu_refuses_it(
    image: Path, mode: int, each_qemu: Qemu
) -> None:
    before = fingerprint(image)
    image.chmod(mode)
    with nobody(image.parent):
        with pytest.raises(instar.HostError, match="Permission denied"):
            instar.amend(image.name, lazy_refcounts=True)
        # Somebody's own copy of qemu may be closed to nobody.
        if os.access(each_qemu.directory / "qemu-img", os.X_OK):
            run = amend_by_qemu(each_qemu, Path(image.name), LAZY_ON)
            assert run.status == 1
            assert "Permission denied" in run.stderr
    image.chmod(0o644)
    assert fingerprint(image) == before


def test_an_immutable_image_is_refused_as_qemu_refuses_it(image: Path, each_qemu: Qemu) -> None:
    if not set_immutable(image, True):
        pytest.skip("no right to make a file immutable, or no such file system")
    try:
        with pytest.raises(instar.HostError, match="Operation not permitted"):
            ask_instar(image, LAZY_ON)
        assert "Operation not permitted" in amend_by_qemu(each_qemu, image, LAZY_ON).stderr
    finally:
        assert set_immutable(image, False)


def set_immutable(path: Path, immutable: bool) -> bool:
    """Do what `chattr +i` or `chattr -i` does; return whether it is allowed, and possible, here."""
    get_flags, set_flags, immutable_flag = 0x80086601, 0x40086602, 0x10  # linux/fs.h, FS_IOC_*
    with path.open("rb") as file:
        try:
            (flags,) = struct.unpack("i", fcntl.ioctl(file, get_flags, bytes(4)))
            flags = flags | immutable_flag if immutable else flags & ~immutable_flag
            fcntl.ioctl(file, set_flags, struct.pack("i", flags))
        except OSError:
            return False
    return True


def test_a_symbolic_link_is_followed(image: Path, each_qemu: Qemu) -> None:
    link = image.with_name("link")
    link.symlink_to(image.name)
    assert ask_instar(link, LAZY_ON) == "amended"
    assert each_qemu.info(image)["format-specific"]["data"]["lazy-refcounts"]
    assert ask_qemu(each_qemu, link, Request(lazy_refcounts=False)) == "changed"
    assert link.is_symlink()


def test_an_image_elsewhere_finds_its_backing_file(tmp_path: Path, qemu: Qemu) -> None:
    recipe = "create b.qcow2 64M\ncreate -o compat=0.10 -b b.qcow2 -F qcow2 t.qcow2"
    image = make(qemu, tmp_path, recipe)
    (tmp_path / "z").mkdir()
    with working_directory(tmp_path / "z"):
        assert ask_instar(Path("../t.qcow2"), UP) == "amended"
    assert qemu.compare(image, tmp_path / "b.qcow2")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_standard_output_does_not_make_an_amend_fail(
    image: Path, redirection: str, each_qemu: Qemu
) -> None:
    ours, theirs = image, copy(image, "theirs.qcow2")
    flags = "-p -o lazy_refcounts=on"
    for command, path in (
        (f"{sys.executable} -m instar.vmm", ours),
        (str(each_qemu.directory / "qemu-img"), theirs),
    ):
        shell = f'{command} amend {flags} "$0" {redirection}'
        subprocess.run(["sh", "-c", shell, str(path)], check=True)
        assert header(path)["compatible_features"] == 1


def test_up_and_down_again_says_the_same(tmp_path: Path, each_qemu: Qemu) -> None:
    recipe = "create -o compat=0.10 t.qcow2 64M\npoke ext 11111111 one\npoke ext 22222222 two"
    image = make(each_qemu, tmp_path, recipe)
    before = header(image)
    for request in (UP, DOWN):
        assert ask_instar(image, request) == "amended"
    assert header(image) == before


def test_down_and_up_again_says_the_same(tmp_path: Path, each_qemu: Qemu) -> None:
    recipe = "create t.qcow2 64M\npoke ext 11111111 one\npoke ext 22222222 two"
    image = make(each_qemu, tmp_path, recipe)
    before = header(image)
    for request in (DOWN, UP):
        assert ask_instar(image, request) == "amended"
    assert header(image) == before
    assert each_qemu.check(image).clean


def test_an_upgrade_adds_no_feature_names(tmp_path: Path, each_qemu: Qemu) -> None:
    image = make(each_qemu, tmp_path, "create -o compat=0.10 t.qcow2 64M")
    theirs = copy(image, "theirs.qcow2")
    assert ask_instar(image, UP) == "amended"
    assert ask_qemu(each_qemu, theirs, UP) == "changed"
    diverges("feature_names_not_added")
    assert parse_feature_name_table(image.read_bytes()) == []
    assert parse_feature_name_table(theirs.read_bytes()) != []


def test_an_image_with_bitmaps_stays_what_it_is(tmp_path: Path, each_qemu: Qemu) -> None:
    image = make(each_qemu, tmp_path, "create t.qcow2 64M\nbitmap --add t.qcow2 b0")
    assert ask_instar(image, DOWN) == "downgrade_bitmaps"
    assert ask_instar(image, UP) == "noop"
    theirs = copy(image, "theirs.qcow2")
    assert ask_qemu(each_qemu, theirs, DOWN) == "changed"
    assert ask_qemu(each_qemu, theirs, UP) == "changed"
    diverges("bitmaps_block")
    assert not each_qemu.check(theirs).clean
    assert each_qemu.check(image).clean
