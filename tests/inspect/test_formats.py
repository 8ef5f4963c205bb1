"""Test side: files that real programs made are recognised, and no second signature goes unseen."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import gpt_image.disk
import gpt_image.partition
import pycdlib
import pytest
import zstandard

import instar
from instar.vmm.inspect.formats import NEAR_SIZE, recognise
from tests.support.forge import Data, Image
from tests.support.looks.information import unexplained
from tests.support.qemu import Qemu

DATA = b"some text\n" * 100
SECRET = ("--object", "secret,id=s,data=x")
LUKS = ("-o", "key-secret=s,iter-time=10")
CREATED: dict[str, tuple[str, tuple[str, ...]]] = {  # by what follows -f: options; the format
    "raw": ("raw", ()),
    "vmdk": ("vmdk", ()),
    "vmdk monolithicFlat": ("vmdk", ("-o", "subformat=monolithicFlat")),
    "vmdk twoGbMaxExtentSparse": ("vmdk", ("-o", "subformat=twoGbMaxExtentSparse")),
    "vmdk twoGbMaxExtentFlat": ("vmdk", ("-o", "subformat=twoGbMaxExtentFlat")),
    "vmdk streamOptimized": ("vmdk", ("-o", "subformat=streamOptimized")),
    "vpc": ("vpc", ()),
    "vhdx": ("vhdx", ()),
    "vhdx fixed": ("vhdx", ("-o", "subformat=fixed")),
    "vdi": ("vdi", ()),
    "vdi static": ("vdi", ("-o", "static=on")),
    "qed": ("qed", ()),
    "qcow": ("qcow", ()),
    "parallels": ("parallels", ()),
    "luks": ("luks", (*SECRET, *LUKS)),
}


@pytest.mark.parametrize("name", CREATED)
def test_an_image_that_qemu_img_made_is_what_it_says(name: str, tmp_path: Path, qemu: Qemu) -> None:
    form, flags = CREATED[name]
    path = tmp_path / "image"
    qemu.img("create", "-q", "-f", form, *flags, str(path), "4M")
    info = instar.info(path)
    assert (info.format, info.contents, info.payload_sha256) == (form, (), None)
    assert info.format in qemu.img("info", str(path)).stdout
    assert instar.Policy().violations(info)
    with pytest.raises(instar.ImageRejected, match="not qcow2, as format says"):
        instar.info(path, format="qcow2")


@pytest.mark.parametrize("name", [*CREATED, "vpc fixed"])
def test_what_is_told_of_any_format_is_what_qemu_tells(
    name: str, tmp_path: Path, oldest_qemu: Qemu, qemu: Qemu
) -> None:
    """But for what the registry holds."""
    form, flags = CREATED.get(name, ("vpc", ("-o", "subformat=fixed")))
    for writer in (oldest_qemu, qemu):
        command = ("create", "-q", "-f", form, *flags, f"{tmp_path}/{writer.version}", "5000000")
        made = writer.img(*command, accept=(0, 1))
        assert made.ok or "Unknown file format 'parallels'" in made.stderr
    for path in tmp_path.iterdir():
        assert unexplained(qemu, path) == []


def test_a_fixed_vhd_whose_signature_is_at_its_end_is_one(tmp_path: Path, qemu: Qemu) -> None:
    """A probe takes it for raw; the guest of such a disk may have written another footer."""
    path = tmp_path / "image"
    qemu.img("create", "-q", "-f", "vpc", "-o", "subformat=fixed", str(path), "4M")
    assert instar.info(path).format == "vpc"


def in_archive(make: Callable[..., tarfile.TarFile | zipfile.ZipFile]) -> bytes:
    packed = io.BytesIO()
    how: dict[str, object] = (
        {"fileobj": packed, "mode": "w"} if make is tarfile.open else {"file": packed, "mode": "w"}
    )
    with make(**how) as archive:
        getattr(archive, "add" if make is tarfile.open else "write")(__file__)
    return packed.getvalue()


def make_iso() -> bytes:
    iso, written = pycdlib.PyCdlib(), io.BytesIO()
    iso.new()
    iso.add_fp(io.BytesIO(DATA), len(DATA), "/DATA.;1")
    iso.write_fp(written)
    iso.close()
    return written.getvalue()


def make_gpt(path: Path) -> bytes:
    disk = gpt_image.disk.Disk(str(path))
    disk.create(1 << 20)
    one = gpt_image.partition.Partition(
        "one", 1 << 18, gpt_image.partition.PartitionType.LINUX_FILE_SYSTEM.value
    )
    disk.table.partitions.add(one)
    disk.commit()
    return path.read_bytes()


PACKED: dict[str, Callable[[Path], bytes]] = {
    "gzip": lambda _: gzip.compress(DATA),
    "xz": lambda _: lzma.compress(DATA),
    "bzip2": lambda _: bz2.compress(DATA),
    "zstd": lambda _: zstandard.compress(DATA),
    "tar": lambda _: in_archive(tarfile.open),
    "zip": lambda _: in_archive(zipfile.ZipFile),
    "iso": lambda _: make_iso(),
    "mbr gpt": make_gpt,
    "mbr": lambda path: make_gpt(path)[:512] + bytes(1 << 19),
    "": lambda _: DATA,
}


@pytest.mark.parametrize("contents", PACKED)
def test_what_is_no_image_is_raw_and_said_to_be_what_it_is(contents: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(PACKED[contents](tmp_path / "made"))
    info = instar.info(path)
    assert (info.format, [*info.contents]) == ("raw", contents.split())
    raw = instar.Policy(formats=("raw",))
    assert [one.name for one in raw.violations(info)] == (["contents"] if contents else [])
    assert run("--safe", path) == 1


def run(*arguments: str | Path) -> int:
    command = [sys.executable, "-m", "instar", "info", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.kvm
def test_a_disk_image_that_is_a_cd_too_is_refused(tmp_path: Path, qemu: Qemu) -> None:
    """Both are whole: the file system lies in the slack of a header cluster of 2 MiB."""
    path = tmp_path / "both"
    qemu.create(path, "64M", cluster_size="2M")
    iso = make_iso()
    with path.open("r+b") as file:
        file.seek(32768)
        file.write(iso[32768:])
    assert qemu.check(path).clean
    read = pycdlib.PyCdlib()
    read.open(str(path))
    assert read.get_record(iso_path="/DATA.;1").get_data_length() == len(DATA)
    read.close()
    info = instar.info(path)
    assert (info.format, info.contents, info.problems) == ("qcow2", ("iso",), ())
    assert [(one.name, one.by_host) for one in instar.Policy().violations(info)] == [
        ("contents", True)
    ]
    assert run("--safe", path) == 1


@pytest.mark.parametrize(
    ("version", "form"), [(0, "raw"), (1, "qcow"), (2, "qcow2"), (3, "qcow2"), (4, "qcow2")]
)
def test_a_qcow2_image_is_one_in_any_version_but_the_first(version: int, form: str) -> None:
    data = bytearray(Image().build())
    data[4:8] = version.to_bytes(4, "big")
    found = recognise(
        bytes(data[:NEAR_SIZE]), lambda at, size: bytes(data[at : at + size]), 1 << 20
    )
    assert found == (form, ())


@pytest.mark.parametrize("before", [0, 1, 489, 490, 491, 5000])
def test_the_end_of_a_file_is_looked_at_however_short_it_is(before: int) -> None:
    for form, contents, end in (
        ("raw", ("zip",), b"PK\5\6" + bytes(18)),
        ("dmg", (), b"koly" + bytes(508)),
        ("vpc", (), b"conectix" + bytes(504)),
        ("raw", ("zip",), b"PK\5\6" + bytes(19)),
        ("raw", (), b"PK\5\6" + bytes(17)),
        ("raw", (), b"PK\5\6" + bytes(8) + b"\xfe\xff\xff\xff" + bytes(6)),
        ("dmg", (), b"koly" + bytes(1020)),
        ("raw", (), b"koly" + bytes(1021)),
    ):
        data = bytes(before) + end
        read = lambda at, size, data=data: data[at : at + size]  # noqa: E731
        found = recognise(data[:NEAR_SIZE], read, len(data))
        assert found == (form, contents), end


# What is put where; negative places are from the end, which is behind `more` bytes.
PLACES = {
    "mbr": [(510, b"\x55\xaa")],
    "mbr gpt": [(510, b"\x55\xaa"), (512, b"EFI PART")],
    "gpt": [(4096, b"EFI PART")],
    "gpt, its copy": [(-512, b"EFI PART")],
    "gpt, its copy in sectors of 4096 bytes": [(-4096, b"EFI PART")],
    "tar": [(257, b"ustar")],
    "iso": [(32769, b"CD001")],
    "iso, High Sierra": [(32777, b"CDROM")],
    "udf": [(32769, b"BEA01")],
    "udf, for booting": [(32769, b"BOOT2")],
    "vpc": [(-512, b"conectix")],
    "vpc, of 511 bytes": [(-511, b"conectix")],
    "vpc, cut": [(-88, b"conectix")],
    "dmg": [(-512, b"koly")],
    "dmg, and more": [(-1023, b"koly")],
    "zip": [(-22, b"PK\5\6")],
    "zip, with a comment": [(-65557, b"PK\5\6")],
}


@pytest.mark.kvm
@pytest.mark.parametrize("contents", PLACES)
def test_another_signature_in_an_image_is_seen_wherever_its_readers_look(
    contents: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    Image(clusters={0: Data(b"\x05")}).write(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for place, signature in PLACES[contents]:
            file.seek(place if place >= 0 else size + place)
            file.write(signature)
    info = instar.info(path)
    assert (info.format, [*info.contents]) == ("qcow2", contents.partition(",")[0].split())
    assert run("--safe", path) == 1


@pytest.mark.kvm
@pytest.mark.parametrize("kept", [8, 88, 500, 511, 512])
def test_a_footer_that_qemu_reads_is_seen_however_short_it_is_cut(
    kept: int, tmp_path: Path, qemu: Qemu
) -> None:
    """qemu takes a file to be as long as whole sectors, and reads zeros after its end."""
    made, path = tmp_path / "made", tmp_path / "image"
    qemu.img("create", "-q", "-f", "vpc", "-o", "subformat=fixed", str(made), "1M")
    footer = made.read_bytes()[-512:]
    image = Image(clusters={0: Data(b"\x05")}).build()
    path.write_bytes(image.ljust(1 << 20, b"\0") + footer[:kept])
    info = instar.info(path)
    opens = qemu.img("info", "-f", "vpc", str(path), accept=(0, 1)).status == 0
    assert opens or kept == 8
    assert (info.format, info.contents) == ("qcow2", ("vpc",))
    assert run("--safe", path) == 1


@pytest.mark.kvm
@pytest.mark.parametrize("comment", [b"", b"hello", b"c" * 65535])
def test_an_image_that_is_a_zip_file_too_is_refused(comment: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image(clusters={0: Data(b"\x05")}).write(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", "y")
        archive.comment = comment
    assert zipfile.is_zipfile(path)
    assert instar.info(path).contents == ("zip",)
    assert run("--safe", path) == 1


@pytest.mark.kvm
@pytest.mark.parametrize("ahead", [1, 512, 4096, 65536])
def test_a_qcow2_image_further_on_in_a_file_is_none(ahead: int, tmp_path: Path, qemu: Qemu) -> None:
    path = tmp_path / "image"
    whole = Image(clusters={0: Data(b"\x05")}, backing_file=b"/etc/passwd").build()
    path.write_bytes(bytes(ahead) + whole)
    assert instar.info(path).format == "raw"
    assert "file format: raw" in qemu.img("info", str(path)).stdout
    assert run("--safe", path) == 1


TEXTS = {
    b"version=1\n": True,
    b"version=2\r\n": True,
    b"version=3\n": True,
    b"# x\n  \r\n#\n \nversion=1\n": True,
    b"# \0\nversion=1\n": True,
    b"#" + b"a" * 500 + b"\nversion=1\n": True,
    b"#" + b"a" * 501 + b"\nversion=1\n": False,
    b"version=4\n": False,
    b"\nversion=1\n": False,
    b" version=1\n": False,
    b"version=1": False,
    b"Version=1\n": False,
    b"# x\n\r\nversion=1\n": False,
}


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_text_that_qemu_takes_for_a_vmdk_is_not_raw(
    text: bytes, tmp_path: Path, each_qemu: Qemu
) -> None:
    """Such a text names other files, which a probe opens."""
    path = tmp_path / "image"
    path.write_bytes(text.ljust(4096, b"\0"))
    info = instar.info(path)
    probed = each_qemu.img("info", str(path), accept=(0, 1))
    assert ("VMDK" in probed.stderr) is TEXTS[text]
    assert info.format == ("vmdk" if TEXTS[text] else "raw")
    assert run("--safe", path) == 1
