"""What QEMU's own tests of amend and of sizes hold qemu-img to, instar is held to. Test side.

The tests are QEMU's iotests 061, 082, 112, 244, 261 and 271; a test here says which it is after.
The requests are theirs, the checks are ours: what is read, qemu-img check, and the fields. Messages
have words of our own; a smaller disk has to be allowed, and so has a repair.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.support.divergences import diverges
from tests.support.forge import parse_extensions
from tests.support.forge.layout import EXTENSION_DATA_FILE as DATA_FILE
from tests.support.poke import poke
from tests.support.process import command
from tests.support.qemu import Qemu, newest, oldest
from tests.support.recipe import make, working_directory
from tests.support.verdicts import fingerprint

pytestmark = pytest.mark.kvm

QEMUS = pytest.mark.parametrize("qemu", [oldest(), newest()], ids=str)


def assert_clean(qemu: Qemu, image: Path) -> None:
    check = qemu.check(image)
    assert (check.clean, check.leaks) == (True, 0), check.text


def assert_refused(image: Path, *names: str, **options: Any) -> None:
    """All these reasons are named, and nothing is touched."""
    before = fingerprint(image)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(image, **options)
    assert {refusal.name for refusal in caught.value.refusals} == set(names)
    assert fingerprint(image) == before


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


@QEMUS
@pytest.mark.parametrize("lazy", [False, True])
def test_061_zero_clusters_are_expanded(qemu: Qemu, lazy: bool, tmp_path: Path) -> None:
    options = f"compat=1.1,lazy_refcounts={'on' if lazy else 'off'}"
    image = make(
        qemu, tmp_path, f"create -o {options} t.qcow2 64M\nio -c 'write -z 0 128k' t.qcow2"
    )
    assert instar.amend(image, compat="0.10").compat == "0.10"
    qemu.io(image, "read -P 0 0 128k")
    assert_clean(qemu, image)


@QEMUS
def test_061_a_dirty_image_is_repaired_once_that_is_asked_for(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create -o compat=1.1,lazy_refcounts=on t.qcow2 64M\n"
        "crash -c 'write -P 0x2a 0 128k' -c flush"
    )
    image = make(qemu, tmp_path, recipe)
    for options in ({"compat": "0.10"}, {"lazy_refcounts": False}):
        copy = Path(shutil.copyfile(image, tmp_path / "copy.qcow2"))
        assert_refused(copy, "dirty", **options)
        instar.amend(copy, repair=True, **options)
        qemu.io(copy, "read -P 0x2a 0 128k")
        assert_clean(qemu, copy)
    assert diverges("dirty_refused").is_in(qemu.number)


@QEMUS
def test_061_unknown_compatible_and_autoclear_bits_go(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create -o compat=1.1 t.qcow2 64M")
    poke(image, "or", "compatible_features", str(1 << 42))
    poke(image, "or", "autoclear_features", str(1 << 42))
    instar.amend(image, compat="0.10")
    assert_clean(qemu, image)
    assert qemu.info(image)["format-specific"]["data"]["compat"] == "0.10"


@QEMUS
def test_061_an_upgrade_and_a_larger_disk_at_once(qemu: Qemu, tmp_path: Path) -> None:
    recipe = "create -o compat=0.10 t.qcow2 64M\nio -c 'write -P 0x2a 42M 64k' t.qcow2"
    image = make(qemu, tmp_path, recipe)
    instar.amend(image, compat="1.1", lazy_refcounts=True, size=128 << 20)
    info = qemu.info(image)
    assert info["virtual-size"] == 128 << 20
    assert info["format-specific"]["data"]["lazy-refcounts"]
    qemu.io(image, "read -P 0x2a 42M 64k", "read -P 0 64M 64M")
    assert_clean(qemu, image)


@QEMUS
def test_061_snapshots_of_other_sizes_and_a_downgrade(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create -o compat=1.1 t.qcow2 64M\nio -c 'write -P 1 24M 64k' t.qcow2\n"
        "snapshot -c foo t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    instar.resize(image, "128M")
    qemu.snapshot(image, "-c", "bar")
    instar.resize(image, "32M", shrink=True)
    assert_refused(image, "downgrade_snapshot_size", compat="0.10")
    assert_clean(qemu, image)
    for name, size in (("bar", 128 << 20), ("foo", 64 << 20)):
        qemu.snapshot(image, "-a", name)
        assert qemu.info(image)["virtual-size"] == size
        qemu.io(image, "read -P 1 24M 64k")
    qemu.snapshot(image, "-d", "bar")
    assert instar.amend(image, compat="0.10").action == "amended"
    assert_refused(image, "resize_v2_snapshots", size=128 << 20)
    assert_clean(qemu, image)


@pytest.mark.parametrize(
    "options",
    [
        *("compat=0.42", "foo=bar", "cluster_size=32k", "preallocation=on", "encryption=on"),
        *("lazy_refcounts=sometimes", "compression_type=zstd", "extended_l2=on"),
    ],
)
def test_061_082_271_what_cannot_be_amended_is_a_usage_error(options: str, tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 64M")
    before = fingerprint(image)
    done = run("amend", "-o", options, str(image))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert fingerprint(image) == before


@QEMUS
def test_061_lazy_refcounts_need_the_later_version(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create -o compat=0.10 t.qcow2 64M")
    assert_refused(image, "lazy_needs_v3", lazy_refcounts=True)
    image = make(qemu, tmp_path, "create -o compat=1.1 t.qcow2 64M")
    assert_refused(image, "lazy_needs_v3", compat="0.10", lazy_refcounts=True)
    instar.amend(image, compat="0.10", lazy_refcounts=False)
    assert_clean(qemu, image)


@QEMUS
def test_061_what_is_not_named_stays(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create -o compat=1.1,lazy_refcounts=on t.qcow2 64M")
    instar.amend(image, size=65 << 20)
    assert qemu.info(image)["format-specific"]["data"]["lazy-refcounts"]
    assert instar.amend(image, compat="1.1").action == "noop"


@QEMUS
def test_061_zero_clusters_of_snapshots_are_expanded_too(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create -o compat=1.1,cluster_size=64k t.qcow2 64M\nio -c 'write -z 0 128k' t.qcow2\n"
        "snapshot -c foo t.qcow2\nio -c 'write -P 0x2a 0 64k' t.qcow2\nsnapshot -c bar t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    done = run("amend", "-p", "-o", "compat=0.10", str(image))
    assert (done.returncode, "(100.00/100%)" in done.stdout) == (0, True)
    assert_clean(qemu, image)
    qemu.io(image, "read -P 0x2a 0 64k", "read -P 0 64k 64k")
    qemu.snapshot(image, "-a", "foo")
    qemu.io(image, "read -P 0 0 128k")


@QEMUS
def test_061_zeros_over_a_backing_file_hide_it_after_a_downgrade(
    qemu: Qemu, tmp_path: Path
) -> None:
    recipe = (
        "create b.qcow2 64M\nio -c 'write -P 0x2a 0 128k' -c 'read -P 0 128k 62M' b.qcow2\n"
        "create -o compat=1.1 -b b.qcow2 -F qcow2 t.qcow2 64M\nio -c 'write -z 0 128k' t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    instar.amend(image, compat="0.10")
    with working_directory(tmp_path):
        qemu.io(image, "read -P 0 0 64M")
    assert_clean(qemu, image)


@QEMUS
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_061_zeros_in_a_table_that_a_snapshot_shares_or_had_are_expanded(
    qemu: Qemu, backed: bool, written: bool, tmp_path: Path
) -> None:
    below = "-b b.qcow2 -F qcow2 " if backed else ""
    recipe = (
        "create b.qcow2 64M\nio -c 'write -P 0x2a 0 128k' b.qcow2\n"
        f"create -o compat=1.1 {below}t.qcow2 64M\nio -c 'write -z 0 64k' t.qcow2\n"
        "snapshot -c foo t.qcow2"
    )
    if written:
        recipe += "\nio -c 'write -P 0x42 0 128k' t.qcow2"
    image = make(qemu, tmp_path, recipe)
    assert instar.amend(image, compat="0.10").action == "amended"
    assert_clean(qemu, image)
    old = ("read -P 0 0 64k", f"read -P {0x2A if backed else 0} 64k 64k")
    with working_directory(tmp_path):
        qemu.io(image, *(("read -P 0x42 0 128k",) if written else old))
        qemu.snapshot(image, "-a", "foo")
        assert_clean(qemu, image)
        qemu.io(image, *old)


@QEMUS
def test_061_zeros_of_a_full_disk_are_expanded(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create -o compat=1.1 t.qcow2 64M\nio -c 'write -P 0x2a 0 64M' -c 'write -z 0 64M' t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    instar.amend(image, compat="0.10")
    qemu.io(image, "read -P 0 0 64M")
    assert_clean(qemu, image)


@QEMUS
def test_061_no_amend_gives_an_image_a_backing_file_and_a_rebase_does(
    qemu: Qemu, tmp_path: Path
) -> None:
    recipe = "create b.qcow2 64M\nio -c 'write -P 0x2a 0 128k' b.qcow2\ncreate t.qcow2 64M"
    image = make(qemu, tmp_path, recipe)
    assert_refused(image, "backing_change", backing_file="b.qcow2", backing_fmt="qcow2")
    done = run("rebase", "-u", "-b", "b.qcow2", "-F", "qcow2", str(image))
    assert done.returncode == 0, done.stderr
    assert instar.amend(image, backing_file="b.qcow2", backing_fmt="qcow2").action == "noop"
    with working_directory(tmp_path):
        qemu.io(image, "read -P 0x2a 0 128k")
    assert_clean(qemu, image)


def test_061_a_data_file_may_be_named_where_the_image_names_another(tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create -o data_file=d.raw t.qcow2 64M")
    with working_directory(tmp_path):
        instar.amend(image, data_file="foo")
        named = f"data-file.filename=d.raw,file.filename={image}"
        done = run("amend", "-o", "data_file=", "--image-opts", named)
        assert done.returncode == 0, done.stderr
        newest().img("info", "--image-opts", named)
    assert_refused(image, "data_file_raw", data_file_raw=True)


@QEMUS
def test_061_the_backing_file_is_confirmed_and_nothing_else(qemu: Qemu, tmp_path: Path) -> None:
    recipe = "create b.qcow2 64M\ncreate -b b.qcow2 -F qcow2 t.qcow2 64M"
    image = make(qemu, tmp_path, recipe)
    result = instar.amend(image, lazy_refcounts=True, backing_file="b.qcow2", backing_fmt="qcow2")
    assert result.action == "amended"
    assert_refused(image, "backing_change", backing_file="c.qcow2", backing_fmt="qcow2")
    assert_refused(image, "backing_change", backing_fmt="raw")


@QEMUS
def test_061_244_the_name_of_a_data_file_changes_and_goes(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create t.qcow2 1M")
    assert_refused(image, "no_data_file", data_file="d.raw")
    assert_refused(image, "data_file_raw", data_file_raw=True)
    image = make(qemu, tmp_path, "create -o data_file=d.raw,data_file_raw=on t.qcow2 1M")
    with working_directory(tmp_path):
        qemu.io(image, "write -P 5 0 64k")
        Path("d.raw").rename("e.raw")
        # The old one is missing, and nobody looks.
        assert instar.amend(image, data_file="e.raw").action == "amended"
        qemu.io(image, "read -P 5 0 64k")
        assert qemu.info(image)["format-specific"]["data"]["data-file"] == "e.raw"
        assert instar.amend(image, data_file="").options["data_file"] is None
        named = f"driver=qcow2,file.filename={image},data-file.filename=e.raw"
        qemu.run("qemu-io", "--image-opts", "-c", "read -P 5 0 64k", named)
        assert instar.amend(image, data_file="e.raw", data_file_raw=False).action == "amended"
        assert not qemu.info(image)["format-specific"]["data"]["data-file-raw"]
    assert_refused(image, "downgrade_data_file", compat="0.10")


@QEMUS
@pytest.mark.parametrize("name", ["blkdebug::d.raw", 'json:{"filename":"d.raw"}'])
def test_244_a_data_file_may_have_any_name_that_qemu_takes(
    qemu: Qemu, name: str, tmp_path: Path
) -> None:
    image = make(qemu, tmp_path, "create -o data_file=d.raw t.qcow2 1M")
    theirs = Path(shutil.copyfile(image, tmp_path / "theirs.qcow2"))
    with working_directory(tmp_path):
        assert instar.amend(image, data_file=name).action == "amended"
        qemu.img("amend", "-f", "qcow2", "-o", f"data_file={name}", str(theirs))
    for amended in (image, theirs):
        (named,) = [one for one in parse_extensions(amended.read_bytes()) if one.type == DATA_FILE]
        assert named.data == name.encode()


@QEMUS
def test_082_a_size_comes_with_other_options_in_any_way_to_give_them(
    qemu: Qemu, tmp_path: Path
) -> None:
    image = make(qemu, tmp_path, "create -o compat=1.1 t.qcow2 128M")
    for flags, lazy, size in (
        (("-o", "lazy_refcounts=on,size=132M"), True, 132),
        (("-o", "size=148M"), True, 148),
        (("-o", "lazy_refcounts=off", "-o", "lazy_refcounts=on", "-o", "size=150M"), True, 150),
        (("-o", "lazy_refcounts=on,size=152M", "-o", "lazy_refcounts=off"), False, 152),
        (("-o", "size=8M", "-o", "lazy_refcounts=on", "-o", "size=154M"), True, 154),
        (("-o", "size=4M,size=156M"), True, 156),
        (("-f", "foo", "-f", "qcow2", "-o", "lazy_refcounts=off"), False, 156),
    ):
        done = run("amend", "-f", "qcow2", *flags, str(image))
        assert done.returncode == 0, done.stderr
        info = qemu.info(image)
        assert info["virtual-size"] == size << 20
        assert info["format-specific"]["data"]["lazy-refcounts"] == lazy
    assert_clean(qemu, image)


@pytest.mark.parametrize(
    "flags",
    [
        ("-o", "help"),
        ("-o", "?"),
        ("-o", "size=140M,help"),
        ("-o", "help,size=140M"),
        ("-o", "size=140M", "-o", "help"),
        ("-o", "cluster_size=4k,help"),
        ("-o", "?,cluster_size=4k"),
        ("-o", "cluster_size=4k", "-o", "?"),
        ("-o", "help", "-o", "cluster_size=4k"),
    ],
)
def test_082_help_anywhere_opens_nothing(flags: tuple[str, ...], tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 128M")
    before = fingerprint(image)
    done = run("amend", "-f", "qcow2", *flags, str(image))
    assert done.returncode == 0
    for option in ("compat", "lazy_refcounts", "refcount_bits", "size", "data_file"):
        assert option in done.stdout
    assert fingerprint(image) == before


def test_082_help_needs_neither_a_format_nor_a_file() -> None:
    ours, theirs = run("amend", "-o", "help"), newest().img("amend", "-o", "help", accept=(1,))
    assert (ours.returncode, ours.stdout) == (0, run("amend", "-f", "qcow2", "-o", "help").stdout)
    assert theirs.stderr.startswith("qemu-img: Expecting one image file name")
    assert diverges("help_needs_no_file").is_in(newest().number)


@pytest.mark.parametrize("form", ["bochs", "raw", "foo"])
def test_082_there_is_no_help_for_a_format_that_cannot_be_amended(form: str) -> None:
    theirs = newest().img("amend", "-f", form, "-o", "help", accept=(1,))
    ours = run("amend", "-f", form, "-o", "help")
    assert ours.returncode == (2 if form == "foo" else 1)  # a usage error, and a refusal
    assert (ours.stdout, theirs.stdout) == ("", "")
    if form != "foo":
        assert ours.stderr.removeprefix("instar: ") == theirs.stderr.removeprefix("qemu-img: ")


def test_082_a_backing_file_that_is_not_there_goes_without_a_write(tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 128M")
    before = fingerprint(image)
    assert run("rebase", "-u", "-b", "", "-f", "qcow2", str(image)).returncode == 0
    assert fingerprint(image) == before


@pytest.mark.parametrize("flags", [("-o", "backing_file=b,,help"), ("-o", "backing_file=b,,?")])
def test_082_a_doubled_comma_is_part_of_a_name(flags: tuple[str, ...], tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 128M")
    done = run("amend", "-f", "qcow2", *flags, str(image))
    assert done.returncode == 1
    assert "backing" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("-o", "backing_file=b,", "-o", "help"),
        ("-o", "backing_file=b", "-o", ",help"),
        ("-o", "backing_file=b", "-o", ",,", "-o", "help"),
    ],
)
def test_082_commas_do_not_join_lists(flags: tuple[str, ...], tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 128M")
    before = fingerprint(image)
    done = run("amend", "-f", "qcow2", *flags, str(image))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid option list" in done.stderr
    assert fingerprint(image) == before


@pytest.mark.parametrize("width", ["0", "3", "7", "65", "128", "-1", "garbage"])
def test_112_a_width_is_a_power_of_two_of_up_to_64(width: str, tmp_path: Path) -> None:
    image = make(newest(), tmp_path, "create t.qcow2 64M")
    before = fingerprint(image)
    assert run("amend", "-o", f"refcount_bits={width}", str(image)).returncode == 2
    assert fingerprint(image) == before


@QEMUS
def test_112_the_first_version_has_16_bits(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create -o compat=0.10 t.qcow2 64M")
    assert instar.amend(image, refcount_bits=16).action == "noop"
    for width in (1, 64):
        assert_refused(image, "refcount_bits_v2", refcount_bits=width)
    instar.amend(image, compat="1.1", refcount_bits=64)
    assert_clean(qemu, image)
    assert_refused(image, "downgrade_refcount_width", compat="0.10")
    instar.amend(image, compat="0.10", refcount_bits=16)
    assert_clean(qemu, image)
    instar.amend(image, compat="1.1")
    assert qemu.info(image)["format-specific"]["data"]["refcount-bits"] == 16
    assert_refused(image, "downgrade_refcount_width", compat="0.10", refcount_bits=32)


@QEMUS
def test_112_from_width_to_width_all_is_read(qemu: Qemu, tmp_path: Path) -> None:
    recipe = "create -o refcount_bits=1 t.qcow2 16M\nio -c 'write -P 7 0 16M' t.qcow2"
    image = make(qemu, tmp_path, recipe)
    for width in (64, 1, 2, 4, 8, 16, 32, 64, 16):
        assert instar.amend(image, refcount_bits=width).options["refcount_bits"] == width
        assert qemu.info(image)["format-specific"]["data"]["refcount-bits"] == width
        qemu.io(image, "read -P 7 0 16M")
        assert_clean(qemu, image)


@QEMUS
def test_112_what_a_snapshot_shares_does_not_fit_one_bit(qemu: Qemu, tmp_path: Path) -> None:
    recipe = "create t.qcow2 64M\nio -c 'write -P 7 0 1M' t.qcow2\nsnapshot -c foo t.qcow2"
    image = make(qemu, tmp_path, recipe)
    assert_refused(image, "refcount_overflow", refcount_bits=1)
    instar.amend(image, refcount_bits=2)
    qemu.snapshot(image, "-c", "bar")
    assert_refused(image, "refcount_overflow", refcount_bits=1)
    assert_clean(qemu, image)


@QEMUS
def test_112_a_wider_refcount_lets_check_mend_what_one_bit_cannot_count(
    qemu: Qemu, tmp_path: Path
) -> None:
    recipe = "create -o refcount_bits=1 t.qcow2 64M\nio -c 'write 0 64k' t.qcow2"
    image = make(qemu, tmp_path, recipe)
    data = bytearray(image.read_bytes())
    first = data[0x40000:0x40008]
    assert any(first)
    data[0x40008:0x40010] = first  # the next cluster of the disk is the same one
    image.write_bytes(data)
    instar.amend(image, refcount_bits=2)
    assert qemu.info(image)["format-specific"]["data"]["refcount-bits"] == 2
    instar.check(image, repair="all")
    assert_clean(qemu, image)


@QEMUS
def test_112_refcounts_that_need_another_block_for_themselves(qemu: Qemu, tmp_path: Path) -> None:
    recipe = (
        "create -o refcount_bits=1,cluster_size=512 t.qcow2 64k\n"
        f"io -c 'write -P 9 0 {58 * 512}' t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    done = run("amend", "-p", "-o", "refcount_bits=64", str(image))
    assert (done.returncode, "(100.00/100%)" in done.stdout) == (0, True)
    assert qemu.info(image)["format-specific"]["data"]["refcount-bits"] == 64
    qemu.io(image, f"read -P 9 0 {58 * 512}")
    assert_clean(qemu, image)


@QEMUS
@pytest.mark.parametrize("extra", [0, 8, 16, 24, 40, 42])
def test_261_an_upgrade_completes_what_snapshots_say(
    qemu: Qemu, extra: int, tmp_path: Path
) -> None:
    recipe = (
        "create -o compat=0.10 t.qcow2 64M\nio -c 'write -P 1 0 64k' t.qcow2\n"
        f"snapshot -c a t.qcow2\nsnapshot -c b t.qcow2\npoke snapshot-extra {extra}"
    )
    image = make(qemu, tmp_path, recipe)
    instar.amend(image, compat="1.1")
    assert_clean(qemu, image)
    assert [line.split()[1] for line in qemu.snapshot(image, "-l").splitlines()[2:]] == ["a", "b"]
    qemu.snapshot(image, "-a", "b")
    qemu.io(image, "read -P 1 0 64k")


@QEMUS
@pytest.mark.parametrize("extra", [0, 8])
@pytest.mark.parametrize("options", ["lazy_refcounts=on", "compat=0.10", "refcount_bits=32"])
def test_261_incomplete_snapshots_of_version_3_are_taken_as_qemu_takes_them(
    qemu: Qemu, extra: int, options: str, tmp_path: Path
) -> None:
    recipe = (
        "create -o compat=1.1 t.qcow2 64M\nio -c 'write -P 1 0 64k' t.qcow2\n"
        f"snapshot -c a t.qcow2\nsnapshot -c b t.qcow2\npoke snapshot-extra {extra}"
    )
    image = make(qemu, tmp_path, recipe)
    theirs = Path(shutil.copyfile(image, tmp_path / "theirs.qcow2"))
    before = qemu.check(image)
    assert qemu.img("amend", "-f", "qcow2", "-o", options, str(theirs)).ok
    done = run("amend", "-o", options, str(image))
    assert done.returncode == 0, done.stderr
    after, by_qemu = qemu.check(image), qemu.check(theirs)
    assert after.corruptions <= min(before.corruptions, by_qemu.corruptions)
    assert after.leaks == 0
    qemu.snapshot(image, "-a", "b")
    qemu.io(image, "read -P 1 0 64k")


@QEMUS
def test_261_more_snapshots_than_any_program_makes_are_refused(qemu: Qemu, tmp_path: Path) -> None:
    image = make(qemu, tmp_path, "create t.qcow2 64M\nsnapshot -c a t.qcow2")
    poke(image, "set", "nb_snapshots", str(65537))
    for options in ("compat=0.10", "lazy_refcounts=on", "size=128M"):
        before = fingerprint(image)
        done = run("amend", "-o", options, str(image))
        assert done.returncode == 1
        assert "snapshot table" in done.stderr
        assert fingerprint(image) == before
        assert not qemu.img("amend", "-f", "qcow2", "-o", options, str(image), accept=(1,)).ok


def test_261_more_extra_data_than_any_program_writes_is_refused(tmp_path: Path) -> None:
    recipe = "create -o compat=0.10 t.qcow2 64M\nsnapshot -c a t.qcow2\npoke snapshot-extra 1040"
    image = make(newest(), tmp_path, recipe)
    assert_refused(image, "snapshot_extra_data", compat="1.1")


@QEMUS
def test_271_extended_entries_stay_what_they_are(qemu: Qemu, tmp_path: Path) -> None:
    recipe = "create -o extended_l2=on t.qcow2 1M\nio -c 'write -P 5 0 700k' t.qcow2"
    image = make(qemu, tmp_path, recipe)
    assert_refused(image, "downgrade_extended_l2", compat="0.10")
    for size, kept in (("600k", 600), ("596k", 596), ("1M", 596), ("2G", 596), ("512k", 512)):
        instar.resize(image, size, shrink=True)
        qemu.io(image, f"read -P 5 0 {kept}k")
        if size in ("1M", "2G"):
            qemu.io(image, f"read -P 0 {kept}k {1024 - kept}k")
        assert_clean(qemu, image)
    instar.amend(image, refcount_bits=64, lazy_refcounts=True)
    assert_clean(qemu, image)


@QEMUS
@pytest.mark.parametrize("below", [512, 528, 2048])
@pytest.mark.parametrize("size", [529, 1024, 1568, 1920, 2176])
def test_271_subclusters_hide_a_backing_file_in_what_a_disk_gains(
    qemu: Qemu, below: int, size: int, tmp_path: Path
) -> None:
    """The disk ends within a cluster, and within a subcluster of it when it has grown."""
    recipe = (
        f"write b.raw r {below << 10}\n"
        "create -o extended_l2=on -b b.raw -F raw t.qcow2 528k\n"
        "io -c 'write -P 5 256k 1k' -c 'write -P 6 514k 2k' t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    instar.resize(image, f"{size}k")
    with working_directory(tmp_path):
        assert_clean(qemu, image)
        last = min(below, 528)
        shown = [
            *("read -P 0x72 0 256k", "read -P 5 256k 1k", "read -P 0x72 257k 255k"),
            *(["read -P 0x72 516k 12k"] if last > 516 else []),
            *("read -P 6 514k 2k", f"read -P 0 528k {size - 528}k"),
        ]
        qemu.io(image, *shown)
