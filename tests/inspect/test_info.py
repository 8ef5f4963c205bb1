"""Test side: `instar info` says what qemu-img says, and opens nothing that the image names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import process_time
from typing import Any

import pytest

import instar
from instar.vmm.amend.messages import pack_config
from instar.vmm.image.image_file import ImageFile
from instar.vmm.machine import Machine
from instar.vmm.machine.payload import load_payload
from instar.vmm.qcow2.probe import parse_fixed_header
from instar.vmm.request.keywords import make_request
from tests.differential.generate import case_of
from tests.hostile.case import Case
from tests.hostile.catalogue import CASES as HOSTILE
from tests.support.forge import Bitmap, Data, Extension, Feature, Image, Snapshot
from tests.support.looks.information import ask_instar, unexplained
from tests.support.luks_headers import make_header
from tests.support.qemu import Qemu
from tests.support.speed import takes_longer

pytestmark = pytest.mark.kvm

COMMAND = [sys.executable, "-m", "instar"]
DATA_FILE = 0x44415441
SAMPLE = [case for case in HOSTILE if case.length is None][::25]
BACKED = Image(backing_file=b"/etc/hostname", backing_format=b"raw", clusters={0: Data(b"\x05")})
WITH_DATA_FILE = Image(
    extensions=(Extension(DATA_FILE, b"/etc/passwd"),),
    incompatible_features=4,
    snapshots=[Snapshot(name=b"before")],
)


def run(*arguments: str | Path, **keywords: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **keywords,
    )


@pytest.mark.parametrize("seed", range(24))
def test_each_field_of_qemu_img_is_told_as_qemu_img_tells_it(
    seed: int, tmp_path: Path, qemu_versions: tuple[Qemu, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed, tuple(qemu.version for qemu in qemu_versions))
    monkeypatch.chdir(tmp_path)
    image = case.program.make(tmp_path, qemu_versions)
    if image is None:
        return
    for qemu in (qemu_versions[0], qemu_versions[-1]):
        assert unexplained(qemu, Path(image.name)) == []


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_hostile_image_is_told_as_qemu_img_tells_it_or_for_a_reason_that_is_listed(
    case: Case, tmp_path: Path, qemu: Qemu
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    assert unexplained(qemu, image) == []


@pytest.mark.parametrize("case", HOSTILE[::5], ids=lambda case: case.name)
def test_hostile_image_ends_in_a_document_or_a_refusal_at_once(case: Case, tmp_path: Path) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    start = process_time()
    document, why = ask_instar(image)
    assert (document is None) == bool(why)
    assert not takes_longer(process_time() - start, 1.0)


def test_names_are_taken_apart_and_not_opened(tmp_path: Path) -> None:
    name = b'json:{"driver":"qcow2","file":{"driver":"nbd","host":"10.0.0.1","export":"x"}}'
    image = tmp_path / "t.qcow2"
    Image(backing_file=name).write(image)
    (reference,) = instar.info(image).references
    assert reference.role == "backing-file"
    assert reference.protocol == "json"
    assert reference.format is None
    assert reference.drivers == ("qcow2", "nbd")
    assert reference.names == ("10.0.0.1", "x")


def test_a_name_at_the_end_of_a_large_header_cluster_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    Image(cluster_bits=18, backing_file=b"x" * 1023, backing_file_offset=(1 << 18) - 1023).write(
        path
    )
    assert instar.info(path).backing_file == "x" * 1023


def test_a_backing_file_without_a_format_is_said_to_be_probed(tmp_path: Path) -> None:
    image = tmp_path / "t.qcow2"
    Image(backing_file=b"base").write(image)
    assert "base (by file, in a format that is probed)" in run("info", image).stdout


@pytest.mark.parametrize("image", [BACKED, WITH_DATA_FILE], ids=["backing file", "data file"])
def test_nothing_but_the_image_is_opened_and_that_is_read_only(
    image: Image, tmp_path: Path
) -> None:
    path, trace = tmp_path / "t.qcow2", tmp_path / "trace"
    image.write(path)
    os.utime(path, ns=(1, 1))
    before = path.read_bytes()
    strace = ["strace", "-f", "-e", "trace=openat,open,openat2,creat", "-o", str(trace)]
    subprocess.run([*strace, *COMMAND, "info", str(path)], capture_output=True, check=True)
    text = trace.read_text(errors="replace")
    assert "/etc/hostname" not in text
    assert "/etc/passwd" not in text
    (opened,) = (line for line in text.splitlines() if str(path) in line and " = -1" not in line)
    assert "O_RDONLY" in opened
    assert "O_RDWR" not in opened
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, 1)


def test_the_process_is_confined_before_the_image_is_read(tmp_path: Path) -> None:
    path, trace = tmp_path / "t.qcow2", tmp_path / "trace"
    WITH_DATA_FILE.write(path)
    strace = ["strace", "-f", "-o", str(trace)]
    command = [*strace, *COMMAND, "info", "--require-confinement", "--output=json", str(path)]
    subprocess.run(command, capture_output=True, check=True)
    confined = trace.read_text(errors="replace").partition("seccomp(")[2]
    assert "preadv" in confined
    calls = set(re.findall(r"^\d+ +(\w+)\(", confined, re.MULTILINE))
    assert calls.isdisjoint({"openat", "open", "pwrite64", "ftruncate", "fdatasync", "execve"})


def test_a_confined_reader_cannot_write_the_image(tmp_path: Path) -> None:
    code = """
import os, sys
from instar.vmm.confine import Descriptors, confine
image = os.open(sys.argv[1], os.O_RDWR)
confine(Descriptors(image, 4096, 0, read_only=True))
for act in (lambda: os.pwrite(image, b"x", 0), lambda: os.ftruncate(image, 0)):
    try:
        act()
    except OSError as error:
        os.write(1, f"{error.errno} ".encode())
os._exit(0)
"""
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert done.stdout == b"38 38 "
    assert path.read_bytes() == bytes(4096)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (BACKED, "backing_file"),
        (Image(backing_file=b"nbd:unix:/x"), "backing_file"),
        (WITH_DATA_FILE, "data_file"),
        (Image(incompatible_features=1 << 40), "unknown_features"),
        (Image(dirty=True), "dirty"),
        (Image(corrupt=True), "dirty"),
        (Image(size=1 << 50, cluster_bits=21), "virtual_size"),
        (Image(patches=[(40, (1 << 40).to_bytes(8, "big"))]), "outside"),
        (Image(patches=[(36, (1 << 16).to_bytes(4, "big"))]), "outside"),
        (Image(patches=[(32769, b"CD001")]), "contents"),
        (Image(patches=[(32769, b"NSR03")]), "contents"),
    ],
)
def test_safe_refuses_by_default_and_by_the_hosts_own_reading(
    image: Image, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    image.write(path)
    violations = instar.Policy().violations(instar.info(path))
    assert name in [one.name for one in violations if one.by_host]
    done = run("info", "--safe", "--output=json", path)
    assert done.returncode == 1
    assert name in [one["name"] for one in json.loads(done.stdout)["violations"]]


def test_safe_takes_an_image_that_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    Image(clusters={0: Data(b"\x05")}, bitmaps=[Bitmap(name=b"one")]).write(path)
    assert run("info", "--safe", path).returncode == 0


def test_a_policy_takes_what_it_is_told_to_take(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    BACKED.write(path)
    assert instar.Policy(backing_file=True).violations(instar.info(path)) == ()
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + b"EFI PART")
    policy = instar.Policy(formats=("raw",), contents=("mbr", "gpt"))
    assert policy.violations(instar.info(raw)) == ()


def test_a_disk_that_is_too_large_is_told_with_the_largest_one(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    Image(size=1 << 21).write(path)
    (violation,) = instar.Policy(max_virtual_size=1 << 20).violations(instar.info(path))
    expected = "the virtual size is 2097152 bytes, and at most 1048576 are accepted"
    assert violation.message == expected


def test_a_policy_takes_formats_whose_size_is_not_known_if_any_size_will_do(tmp_path: Path) -> None:
    path = tmp_path / "t.vmdk"
    path.write_bytes(b"KDMV" + bytes(1020))
    info = instar.info(path)
    assert (info.format, info.virtual_size) == ("vmdk", None)
    (violation,) = instar.Policy(formats=("vmdk",)).violations(info)
    assert violation.name == "virtual_size"
    assert instar.Policy(formats=("vmdk",), max_virtual_size=None).violations(info) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("formats", "qcow2"),  # in which qcow is found too
        ("contents", "gpt"),
        ("formats", None),
        ("formats", (b"qcow2",)),
        ("backing_file", "no"),
        ("data_file", None),
        ("dirty", "off"),
        ("max_virtual_size", "16T"),
        ("max_virtual_size", -1),
        ("max_virtual_size", 16e12),
        ("max_virtual_size", True),
    ],
)
def test_a_policy_of_other_types_takes_no_image(tmp_path: Path, field: str, value: Any) -> None:
    path = tmp_path / "t.qcow2"
    Image().write(path)
    info = instar.info(path)
    assert instar.Policy().violations(info) == ()
    with pytest.raises(instar.UsageError, match=f"^{field} (is|are) "):
        instar.Policy(**{field: value}).violations(info)


@pytest.mark.parametrize("info", ["t.qcow2", None, {"format": "qcow2"}])
def test_what_a_policy_judges_is_what_a_look_returned(info: Any) -> None:
    with pytest.raises(instar.UsageError, match=r"^info is what instar\.info\(\) returns, not "):
        instar.Policy().violations(info)


@pytest.mark.parametrize("cluster", [1, 2])
def test_a_luks_header_is_told_wherever_it_is_after_the_header_cluster(
    tmp_path: Path, cluster: int
) -> None:
    path = tmp_path / "i"
    header = make_header("xts-plain64", 64, "sha256")
    holes = range(1, cluster)
    Image(crypt_method=2, crypto_header=header, holes=holes).write(path)
    assert path.read_bytes()[cluster << 16 :].startswith(header[:592])
    encrypt = instar.info(path).details["encrypt"]
    assert isinstance(encrypt, dict)
    assert encrypt["format"] == "luks"


@pytest.mark.parametrize(
    ("contents", "form", "others"),
    [
        (b"KDMV", "vmdk", []),
        (b"conectix", "vpc", []),
        (b"vhdxfile", "vhdx", []),
        (bytes(64) + b"\x7f\x10\xda\xbe", "vdi", []),
        (b"QED\0", "qed", []),
        (b"LUKS\xba\xbe", "luks", []),
        (bytes(32769) + b"CD001", "raw", ["iso"]),
        (bytes(32769) + b"BEA01", "raw", ["udf"]),
        (bytes(32769) + b"NSR02", "raw", ["udf"]),
        (bytes(32769) + b"NSR03", "raw", ["udf"]),
        (bytes(510) + b"\x55\xaa", "raw", ["mbr"]),
        (bytes(510) + b"\x55\xaaEFI PART", "raw", ["mbr", "gpt"]),
        (b"\x1f\x8b", "raw", ["gzip"]),
        (b"\xfd7zXZ\0", "raw", ["xz"]),
        (b"\x28\xb5\x2f\xfd", "raw", ["zstd"]),
        (b"BZh", "raw", ["bzip2"]),
        (b"PK\3\4", "raw", ["zip"]),
        (bytes(257) + b"ustar", "raw", ["tar"]),
        (b"", "raw", []),
    ],
)
def test_other_formats_are_recognised_and_not_looked_into(
    contents: bytes, form: str, others: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents.ljust(600, b"\0") if contents else b"")
    info = instar.info(path)
    assert (info.format, [*info.contents], info.payload_sha256) == (form, others, None)


@pytest.mark.parametrize("size", [0, 3, 511, 512])
def test_a_file_too_short_for_the_format_it_must_have_is_named_for_what_it_is(
    size: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.info(path, format="qcow2")
    assert [refusal.name for refusal in caught.value.refusals] == ["not_qcow2"]


def test_unknown_features_are_told_by_the_names_that_the_image_gives_them(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    names = [Feature(0, 40, b"frobnication"), Feature(1, 5, b"known to none")]
    Image(incompatible_features=1 << 40, feature_name_table=names).write(path)
    (feature,) = instar.info(path).unknown_features
    assert (feature.kind, feature.bit, feature.name) == ("incompatible", 40, "frobnication")


def test_a_writer_is_respected_unless_force_share_says_otherwise(
    tmp_path: Path, qemu: Qemu
) -> None:
    path = tmp_path / "t.qcow2"
    Image(clusters={0: Data(b"\x05")}).write(path)
    io = [str(qemu.directory / "qemu-io"), "-f", "qcow2", str(path)]
    with subprocess.Popen(io, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.read(1)  # it has the image by the time of its prompt
        done = run("info", path)
        assert done.returncode == 1
        assert 'Failed to get shared "write" lock' in done.stderr
        for command in ("info", "check"):
            assert run(command, path).stderr.endswith("? With -U it is looked at all the same\n")
        assert "-U" not in run("check", "-r", "all", path).stderr  # which no repair goes with
        assert run("info", "-U", path).returncode == 0
        writer.stdin.close()


def test_readers_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    BACKED.write(path)
    with ThreadPoolExecutor(4) as executor:
        outcomes = list(instar.info_many([path] * 40, executor=executor, chunk_size=5))
    assert [outcome.unwrap().backing_file for outcome in outcomes] == ["/etc/hostname"] * 40


def test_many_images_are_told_in_order_and_failures_among_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.qcow2" for number in range(5)]
    for path in paths[:4]:
        BACKED.write(path)
    paths[1].write_bytes(b"QFI\xfb\0\0\0\x09" + bytes(600))
    done = run("info", "--output=json", "--jobs=3", *paths)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["filename"] for document in documents] == [*map(str, paths)]
    assert ["error" in document for document in documents] == [False, True, False, False, True]
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2


def test_a_guest_that_writes_is_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    BACKED.write(path)
    before = path.read_bytes()
    head = parse_fixed_header(before[:512])
    assert head is not None
    request = make_request({"lazy_refcounts": True})
    with (
        Machine(load_payload("amend")) as machine,
        ImageFile.open(str(path), writable=False) as image,
    ):
        size, work = image.size, image.work_max
        config = pack_config(head, request, size, work, progress=False, debug=False)
        with pytest.raises(instar.GuestFault, match="may only read"):
            machine.run(image, config, 10, lambda _kind, _payload: None, read_only=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format=nonsense",), "Unknown driver 'nonsense'"),
        (("--format=vmdk",), "this is a qcow2 image; not vmdk, as -f says"),
        (("--max-virtual-size=many",), "expected a size"),
        (("--null",), "--null is about"),
    ],
)
def test_bad_input_gets_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    BACKED.write(path)
    done = run("info", *arguments, path)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "command", [("info", "-f", "qcow2"), ("check",), ("amend", "-o", "lazy_refcounts=on")]
)
@pytest.mark.parametrize("size", [4, 7])
def test_the_magic_without_a_version_is_no_qcow2_image(
    command: tuple[str, ...], size: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    path.write_bytes(b"QFI\xfb\0\0\0\3"[:size])
    done = run(*command, path)
    assert done.returncode in (1, 63)  # of a check, what cannot be checked
    assert f"this is a file of {size} bytes, too short for any image; " in done.stderr
    assert done.stderr.count("\n") == 1
