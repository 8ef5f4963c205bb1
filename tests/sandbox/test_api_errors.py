"""Test side: what a caller may do wrong, and what a file may be instead, is one clear error."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.sandbox.rogues import open_descriptors
from tests.support.forge import Image

TIME = "timeout is a number of seconds above 0 and below 1e6"
CACHES = "use none, off, writeback, writethrough, directsync or unsafe"
USAGE: dict[str, tuple[dict[str, Any], str]] = {
    "compat": ({"compat": "2.0"}, "Unknown compatibility level '2.0': use 0.10 (v2) or 1.1 (v3)"),
    "compat of nothing": (
        {"compat": ""},
        "Unknown compatibility level '': use 0.10 (v2) or 1.1 (v3)",
    ),
    "compat as a number": ({"compat": 1.1}, "compat is a str, such as '1.1', not 1.1"),
    "compat in a list": ({"compat": ["1.1"]}, "compat is a str, such as '1.1', not ['1.1']"),
    "cache in a list": ({"cache": []}, "cache is a str, not []"),
    "format as a number": ({"format": 2}, "format is a str, not 2"),
    "time in words": ({"timeout": "30"}, f"{TIME}, not '30'"),
    "no time at all": ({"timeout": None}, f"{TIME}, not None"),
    "cache": ({"cache": "slow"}, f"Invalid cache option: slow; {CACHES}"),
    "cache of nothing": ({"cache": ""}, f"Invalid cache option: ; {CACHES}"),
    "format": ({"format": "qcow3"}, "Unknown driver 'qcow3'; use qcow2"),
    "lazy": ({"lazy_refcounts": "on"}, "lazy_refcounts is None, True or False, not 'on'"),
    "lazy of two": ({"lazy_refcounts": 2}, "lazy_refcounts is None, True or False, not 2"),
    "no time": ({"timeout": 0}, f"{TIME}, not 0"),
    "negative time": ({"timeout": -1.5}, f"{TIME}, not -1.5"),
    "endless time": ({"timeout": float("inf")}, f"{TIME}, not inf"),
    "all too long": ({"timeout": 1e6}, f"{TIME}, not 1000000.0"),
    "a dry run of nothing": ({"dry_run": None}, "dry_run is True or False, not None"),
    "a dry run in words": ({"dry_run": "no"}, "dry_run is True or False, not 'no'"),
    "no number": ({"timeout": float("nan")}, f"{TIME}, not nan"),
}


CALLS: dict[str, Callable[..., Any]] = {
    "amend": partial(instar.amend, lazy_refcounts=True),
    "Sandbox": lambda _path, **how: instar.Sandbox(**how),
    "Sandbox.amend": lambda path, **how: instar.Sandbox().amend(path, lazy_refcounts=True, **how),
    "amend_many": lambda path, **how: [*instar.amend_many([path], lazy_refcounts=True, **how)],
    "resize": lambda path, **how: instar.resize(path, "1G", **how),
    "rebase_unsafe": lambda path, **how: instar.rebase_unsafe(path, "b", "raw", **how),
    "info": instar.info,
    "check": instar.check,
    "info_many": lambda path, **how: [*instar.info_many([path], **how)],
    "check_many": lambda path, **how: [*instar.check_many([path], **how)],
}
FLAGS = {
    "dry_run": ("amend", "Sandbox.amend", "amend_many", "resize", "rebase_unsafe"),
    "force_share": ("info", "check", "info_many", "check_many"),
    "reuse": ("amend_many",),
}
CALLBACKS = {
    "progress": ("amend", "Sandbox.amend", "resize", "rebase_unsafe", "check"),
    "debug": ("amend", "Sandbox.amend", "resize", "rebase_unsafe", "info", "check"),
}


@pytest.mark.parametrize("value", [None, "", "no", b"x", [], 1.5, 2], ids=repr)
@pytest.mark.parametrize(
    ("flag", "call"), [(flag, call) for flag, calls in FLAGS.items() for call in calls]
)
def test_what_is_on_or_off_is_nothing_else(path: Path, flag: str, call: str, value: object) -> None:
    Image().write(path)
    before = path.read_bytes()
    for isolation in ({}, {"isolation": "process"}):
        if isolation and call in ("Sandbox.amend", "amend_many"):
            continue
        with pytest.raises(instar.UsageError) as caught:
            CALLS[call](path, **{flag: value}, **isolation)
        assert str(caught.value) == f"{flag} is True or False, not {value!r:.60}"
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [1, "print", []], ids=repr)
@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name, calls in CALLBACKS.items() for call in calls]
)
def test_what_is_to_be_called_can_be_called(
    path: Path, name: str, call: str, value: object
) -> None:
    Image().write(path)
    before = path.read_bytes()
    with pytest.raises(instar.UsageError) as caught:
        CALLS[call](path, **{name: value})
    assert str(caught.value) == f"{name} is a function or None, not {value!r}"
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [0, 1, "amend", b"", {}], ids=repr)
@pytest.mark.parametrize("call", ["amend", "Sandbox", "resize", "rebase_unsafe", "info", "check"])
def test_a_payload_is_one(path: Path, call: str, value: object) -> None:
    Image().write(path)
    before = path.read_bytes()
    with pytest.raises(instar.UsageError) as caught:
        CALLS[call](path, payload=value)
    assert str(caught.value) == f"payload is a Payload or None, not {value!r}"
    assert path.read_bytes() == before


def packed_by(make: Any) -> bytes:
    """What this Python's own packer makes of a file."""
    packed = io.BytesIO()
    how = (
        {"mode": "w", "fileobj": packed} if make is tarfile.open else {"file": packed, "mode": "w"}
    )
    with make(**how) as archive:
        getattr(archive, "add" if make is tarfile.open else "write")(__file__)
    return packed.getvalue()


SIGNATURES = {
    b"KDMV": "a vmdk image",
    b"COWD": "a vmdk image",
    b"# Disk DescriptorFile\n": "a vmdk descriptor",
    b"conectix": "a vhd (vpc) image",
    b"vhdxfile": "a vhdx image",
    b"LUKS\xba\xbe": "a luks volume",
    b"QED\0": "a qed image",
    b"WithoutFreeSpace": "a parallels image",
    b"WithouFreSpacExt": "a parallels image",
    b"Bochs Virtual HD Image": "a bochs image",
    bytes(64) + b"\x7f\x10\xda\xbe": "a vdi image",
    gzip.compress(b"", mtime=0): "a file packed by gzip (.gz), to be unpacked first",
    lzma.compress(b""): "a file packed by xz (.xz), to be unpacked first",
    bz2.compress(b""): "a file packed by bzip2 (.bz2), to be unpacked first",
    b"\x28\xb5\x2f\xfd": "a file packed by zstd (.zst), to be unpacked first",
    b"\x04\x22\x4d\x18": "a file packed by lz4 (.lz4), to be unpacked first",
    b"7z\xbc\xaf\x27\x1c": "a file packed by 7-Zip (.7z), to be unpacked first",
    packed_by(tarfile.open): "a file packed by tar, to be unpacked first",
    packed_by(zipfile.ZipFile): "a file packed by zip, to be unpacked first",
    b"#!/bin/sh\n": "a raw image, or no image at all",
    b"QFI\xfa": "a raw image, or no image at all",
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE)
def test_a_wrong_argument_is_a_usage_error_before_the_file_is_looked_at(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(instar.UsageError) as caught:
        instar.amend(tmp_path / "missing", **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("path", ["", b"", "a\0b", b"a\0b"])
def test_a_name_that_is_none_is_a_usage_error(path: Any) -> None:
    with pytest.raises(instar.UsageError, match=r"^the file name "):
        instar.amend(path, compat="1.1")


def test_another_format_is_rejected_before_the_file_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(instar.ImageRejected, match="Format driver 'raw' does not support"):
        instar.amend(tmp_path / "missing", format="raw")


@pytest.mark.parametrize(
    ("function", "arguments", "purpose"),
    [
        (instar.rebase_unsafe, ("new", "raw"), "rebase"),
        (instar.resize, (1 << 30,), "resizing in a sandbox"),
        (instar.resize, ("1G",), "resizing in a sandbox"),
    ],
)
def test_another_format_is_said_not_to_support_what_the_function_does(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], purpose: str
) -> None:
    with pytest.raises(instar.ImageRejected, match=f"^Format driver 'raw' .* support {purpose}$"):
        function(tmp_path / "missing", *arguments, format="raw")


@pytest.mark.parametrize("dry_run", [False, True])
class TestWhatIsNoFile:
    def error_of(self, path: Path | str, dry_run: bool) -> str:
        before = open_descriptors()
        with pytest.raises(instar.HostError) as caught:
            instar.amend(path, compat="1.1", dry_run=dry_run)
        assert open_descriptors() == before
        assert str(caught.value).isprintable()
        return str(caught.value)

    def test_a_missing_file(self, path: Path, dry_run: bool) -> None:
        expected = f"could not open '{path}': No such file or directory"
        assert self.error_of(path, dry_run) == expected

    def test_a_directory(self, tmp_path: Path, dry_run: bool) -> None:
        assert "a directory, not an image file" in self.error_of(tmp_path, dry_run)

    def test_a_fifo(self, path: Path, dry_run: bool) -> None:
        os.mkfifo(path)
        assert "a FIFO, not an image file" in self.error_of(path, dry_run)

    def test_a_character_device(self, dry_run: bool) -> None:
        assert "a character device, not an image" in self.error_of("/dev/null", dry_run)


@pytest.mark.kvm
class TestOtherImages:
    def rejections_of(self, path: Path) -> tuple[instar.Refusal, ...]:
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, compat="1.1")
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        return caught.value.refusals

    def rejection_of(self, path: Path) -> instar.Refusal:
        (refusal,) = self.rejections_of(path)
        return refusal

    @pytest.mark.parametrize(("head", "name"), SIGNATURES.items(), ids=range(len(SIGNATURES)))
    def test_an_image_of_another_kind_is_named(self, path: Path, head: bytes, name: str) -> None:
        path.write_bytes(head.ljust(4096, b"\0"))
        refusal = self.rejection_of(path)
        more = ", and with -f luks the keyslots of this" if name == "a luks volume" else ""
        assert refusal.message == f"this is {name}; only qcow2 images can be amended{more}"
        assert refusal.code == "UNSUPPORTED_FORMAT"

    def test_what_cannot_be_done_with_another_image_is_what_was_asked_for(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        raw = "this is a raw image, or no image at all; only qcow2 images can be"
        with pytest.raises(instar.ImageRejected, match=f"^{raw} resized$"):
            instar.resize(path, "1G")
        with pytest.raises(instar.ImageRejected, match=f"^{raw} rebased$"):
            instar.rebase_unsafe(path, "")

    def test_keyslots_are_no_business_of_a_resize_or_a_rebase(self, path: Path) -> None:
        path.write_bytes(b"LUKS\xba\xbe".ljust(4096, b"\0"))
        with pytest.raises(instar.ImageRejected) as resized:
            instar.resize(path, "+1G")
        with pytest.raises(instar.ImageRejected) as rebased:
            instar.rebase_unsafe(path, "new", "raw")
        luks = "this is a luks volume; only qcow2 images can be"
        assert [str(caught.value) for caught in (resized, rebased)] == [
            f"{luks} resized",
            f"{luks} rebased",
        ]

    def test_a_vhd_is_known_by_its_footer(self, path: Path) -> None:
        path.write_bytes(bytes(4096) + b"conectix".ljust(512, b"\0"))
        assert "a vhd (vpc) image" in self.rejection_of(path).message

    @pytest.mark.parametrize("size", [0, 1, 3, 71])
    def test_a_short_file_is_called_short(self, path: Path, size: int) -> None:
        path.write_bytes(bytes(size))
        told = f"{size} byte{'s' * (size > 1)}"
        expected = f"this is a file of {told}, too short for any image" if size else "empty"
        assert expected in self.rejection_of(path).message

    @pytest.mark.parametrize("size", [8, 71, 72, 103, 104, 511, 512, 4095, 0x10000])
    def test_a_qcow2_image_that_is_cut_short_is_rejected(self, path: Path, size: int) -> None:
        path.write_bytes(Image().build()[:size])
        assert {refusal.code for refusal in self.rejections_of(path)} == {"PARSE_FAILED"}

    @pytest.mark.parametrize("version", [0, 4, 0xFFFFFFFF])
    def test_another_version_is_named(self, path: Path, version: int) -> None:
        Image(header={"version": version}).write(path)
        assert f"qcow2 version {version} is not supported" in self.rejection_of(path).message

    def test_the_first_version_is_named(self, path: Path) -> None:
        Image(header={"version": 1}).write(path)
        assert "version 1" in self.rejection_of(path).message


@pytest.mark.parametrize("paths", ["xy", b"xy", Path("xy")], ids=["str", "bytes", "path"])
def test_one_name_is_not_taken_for_many(paths: Any) -> None:
    with pytest.raises(instar.UsageError, match=r"^paths are several, such as a list; for one "):
        instar.amend_many(paths, compat="1.1")


def test_what_is_no_list_of_paths_is_refused() -> None:
    with pytest.raises(instar.UsageError, match=r"^paths are an iterable, not 7$"):
        instar.amend_many(7, compat="1.1")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, None])
def test_a_count_of_pieces_is_a_positive_number(count: Any) -> None:
    for name in ("chunk_size", "chunks"):
        with pytest.raises(instar.UsageError, match=r"^chunk_size and chunks are positive"):
            instar.amend_many([], compat="1.1", **{name: count})


@pytest.mark.parametrize("executor", [7, "threads", instar.Sandbox])
def test_what_is_no_executor_is_refused(executor: Any) -> None:
    with pytest.raises(instar.UsageError, match=r"^executor is a concurrent.futures.Executor, not"):
        instar.amend_many([], compat="1.1", executor=executor)


@pytest.mark.kvm
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_sandbox_is_not_copied(duplicate: Any, used: bool, path: Path) -> None:
    Image().write(path)
    with instar.Sandbox() as sandbox:
        if used:
            sandbox.amend(path, lazy_refcounts=True)
        with pytest.raises(instar.UsageError, match=r"^a Sandbox cannot be copied or pickled; "):
            duplicate(sandbox)
        assert sandbox.amend(path, lazy_refcounts=False).compat == "1.1"  # it works as before
