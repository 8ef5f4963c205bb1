"""Host side: info and check with isolation="process" end as without, whatever a child says."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar import abi
from instar.vmm.fleet import isolation, look
from instar.vmm.fleet.look_child import END, HEADER
from instar.vmm.machine.payload import load_payload
from tests.confinement.test_isolation import SAMPLE, rights
from tests.support.forge import Bitmap, Image
from tests.support.process import run
from tests.support.sparse import settle

IMAGES = {
    "sound": replace(SAMPLE, bitmaps=[Bitmap(name=b"one")]),
    "backed": replace(SAMPLE, backing_file=b"/etc/hostname", backing_format=b"raw"),
    "leaked": replace(SAMPLE, refcounts={3: 2}),
    "dirty": replace(SAMPLE, dirty=True, incompatible_features=1 << 40),
    "header": Image(patches=[(20, (99).to_bytes(4, "big"))]),
    "L1 table": Image(patches=[(40, (1 << 40).to_bytes(8, "big"))]),
    "vmdk": Image(patches=[(0, b"KDMV")]),
}
LOOKS: dict[str, Any] = {"info": instar.info, "check": instar.check}


def outcome(call: Any, path: Path, **keywords: Any) -> Any:
    """What a call returns, or what it raises."""
    try:
        return call(path, **keywords)
    except instar.ImageRejected as error:
        return error.refusals
    except instar.InstarError as error:
        return type(error), str(error)


@pytest.mark.kvm
@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("command", LOOKS)
def test_what_is_found_is_what_this_process_finds(command: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    IMAGES[name].write(path)
    settle(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    inside = outcome(LOOKS[command], path)
    assert outcome(LOOKS[command], path, isolation="process") == inside
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.kvm
@pytest.mark.parametrize("how", [None, "process"])
@pytest.mark.parametrize("extent", ["leaks", "all"])
def test_many_are_repaired_in_either_way(extent: Any, how: Any, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("leaked", "sound", "dirty", "missing")]
    for path in paths[:3]:
        replace(IMAGES[path.name], incompatible_features=0).write(path)
    found = [*instar.check_many(paths, repair=extent, isolation=how)]
    assert [one.result and one.result.exit_status for one in found] == [0, 0, 0, None]
    assert [one.unwrap().leaks_fixed for one in found[:3]] == [1, 0, 0]
    assert not any(one.unwrap().is_dirty for one in found[:3])
    assert isinstance(found[3].error, instar.HostError)


@pytest.mark.kvm
def test_progress_comes_through(tmp_path: Path) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    seen: list[list[tuple[int, int]]] = [[], []]
    for how, told in zip((None, "process"), seen, strict=True):
        instar.check(path, isolation=how, progress=lambda *step, told=told: told.append(step))  # type: ignore[arg-type]
    assert seen[0] == seen[1] != []


@pytest.mark.kvm
def test_the_caller_keeps_its_rights_and_the_child_is_confined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    before = rights()
    instar.info(path, isolation="process")
    assert rights() == before
    patch = "import os; os.preadv = lambda *_: open('/dev/null'); "
    monkeypatch.setattr(isolation, "_START", isolation._START + patch)
    with pytest.raises(instar.HostError, match=r"could not read .*: Function not implemented"):
        instar.info(path, isolation="process")


@pytest.mark.kvm
def test_the_child_has_a_descriptor_that_it_cannot_write_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    code = "import json, sys, os; os.pwrite(json.load(sys.stdin)['fd'], b'x', 0)"
    play(monkeypatch, code)
    before = path.read_bytes()
    with pytest.raises(instar.HostError, match="without an outcome"):
        instar.info(path, isolation="process")
    assert path.read_bytes() == before


WRITES = {
    "write": "os.pwrite, b'x', 0",
    "truncate": "os.ftruncate, 0",
    "allocate": "os.posix_fallocate, 0, 512",
    "flush": "os.fdatasync",
}


@pytest.mark.kvm
@pytest.mark.parametrize("call", WRITES)
def test_no_look_has_a_system_call_that_writes(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the descriptor alone they would fail in other words, and a flush would not fail."""
    path = tmp_path / "image"
    SAMPLE.write(path)
    read_into = f"lambda image, *_: image._call('read', {WRITES[call]})"
    patch = f"import os, instar.vmm.image.image_file as i; i.ImageFile.read_into = {read_into}; "
    for command in LOOKS:
        done = run(command, path, patch=patch)
        assert (done.returncode, "Function not implemented" in done.stderr) == (1, True)
    monkeypatch.setattr(isolation, "_START", isolation._START + patch)
    for look_at in LOOKS.values():
        with pytest.raises(instar.HostError, match=r"could not read .*: Function not implemented"):
            look_at(path, isolation="process")


def play(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the child be a process that runs `code` instead."""
    monkeypatch.setattr(isolation, "child_command", lambda _: [sys.executable, "-I", "-c", code])


def say(monkeypatch: pytest.MonkeyPatch, *frames: tuple[int, bytes], then: str = "") -> None:
    """Let the child be one that says this."""
    told = b"".join(HEADER.pack(kind, len(payload)) + payload for kind, payload in frames)
    play(monkeypatch, f"import os, time, sys; sys.stdout.buffer.write({told!r}); {then}")


def end(document: Any) -> tuple[int, bytes]:
    return END, json.dumps(document).encode()


FAULT = {"kind": "GuestFault", "message": "no\x1b[31m"}
LIES: dict[str, tuple[tuple[tuple[int, bytes], ...], type[instar.InstarError], str]] = {
    "nothing": ((), instar.HostError, "without an outcome"),
    "no JSON": (((END, b"{"),), instar.HostError, "without an outcome"),
    "deep JSON": (((END, b"[" * 100_000),), instar.HostError, "without an outcome"),
    "a list": ((end([]),), instar.HostError, "without an outcome"),
    "no number": ((end({"vm_exits": "1"}),), instar.HostError, "without an outcome"),
    "no message": ((end({"error": {"kind": "x"}}),), instar.HostError, "without an outcome"),
    "a fault": ((end({"error": FAULT}),), instar.GuestFault, r"no\\x1b\[31m"),
    "a verdict": (
        (end({"error": {"kind": "ImageRejected", "message": "bad"}}),),
        instar.HostError,
        "bad",
    ),
    "no result": ((end({"vm_exits": 1}),), instar.GuestFault, "without a result"),
    "a frame": (((1, b"x"),), instar.GuestFault, "frame of type 1"),
    "a frame too large": (((17, bytes(4000)),), instar.GuestFault, "with 4000 bytes"),
    "a type": (((1 << 63, b"x"),), instar.GuestFault, "frame of type"),
}


@pytest.mark.parametrize("command", LOOKS)
@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_makes_no_sense_is_an_error(
    lie: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    frames, error, message = LIES[lie]
    say(monkeypatch, *frames)
    with pytest.raises(error, match=message):
        LOOKS[command](path, isolation="process")


FINDING = struct.Struct(abi.CheckFinding_FORMAT).pack(abi.CHECK_CLUSTER_LEAKED, 0, 7, 1, 0)
RESULT = struct.Struct(abi.CheckResult_FORMAT).pack(abi.CHECK_RESULT_MAGIC, *[0] * 11)


@pytest.mark.parametrize("after", [(abi.FRAME_CHECK, RESULT), (abi.FRAME_CHECK_FINDINGS, FINDING)])
def test_a_child_has_nothing_to_say_after_the_result(
    after: tuple[int, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    say(monkeypatch, (abi.FRAME_CHECK, RESULT), end({"vm_exits": 1}))
    assert instar.check(path, isolation="process").exit_status == 0
    say(monkeypatch, (abi.FRAME_CHECK, RESULT), after, end({"vm_exits": 1}))
    with pytest.raises(instar.GuestFault, match=f"frame of type {after[0]}"):
        instar.check(path, isolation="process")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), 11)", r"was killed \(Segmentation fault\)"),
        ("os.close(1); time.sleep(60)", "without an outcome"),
        ("sys.stdout.buffer.write(b'\\xff' * (4 << 20)); time.sleep(60)", "without an outcome"),
        ("time.sleep(60)", "did not end within 0.3 s"),
    ],
)
def test_a_child_that_dies_or_hangs_is_an_error(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    say(monkeypatch, then=code)
    monkeypatch.setattr(look, "MARGIN", 0.2)
    with pytest.raises(instar.HostError, match=message):
        instar.check(path, isolation="process", timeout=0.1 if "within" in message else 30)


@pytest.mark.kvm
def test_no_child_hides_what_the_policy_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what the guest says of a sound image, or names nothing where there is a name."""
    frames: list[tuple[int, bytes]] = []
    sound, backed = tmp_path / "sound", tmp_path / "backed"
    replace(SAMPLE, snapshots=()).write(sound)
    replace(IMAGES["backed"], snapshots=()).write(backed)
    real = look._frames

    def overhear(*arguments: Any) -> Any:
        for frame in real(*arguments):
            frames.append(frame)
            yield frame

    monkeypatch.setattr(look, "_frames", overhear)
    instar.info(sound, isolation="process")
    name = struct.pack("<II", abi.INFO_TEXT_BACKING_FILE, 0) + bytes(len("/etc/hostname"))
    heard = tuple(frames)
    say(monkeypatch, (abi.FRAME_INFO_TEXT, name), *heard)
    info = instar.info(backed, isolation="process")
    assert [(one.name, one.by_host) for one in instar.Policy().violations(info)] == [
        ("backing_file", True)
    ]
    assert [(one.role, one.name) for one in info.references] == [("backing-file", "")]
    say(monkeypatch, *heard)
    with pytest.raises(instar.GuestFault, match="does not tell a backing file"):
        instar.info(backed, isolation="process")


@pytest.mark.parametrize(
    "keywords",
    [
        {"isolation": "thread"},
        {"isolation": True},
        {"isolation": "process", "debug": print},
        {"isolation": "process", "payload": load_payload()},
    ],
)
@pytest.mark.parametrize("command", LOOKS)
def test_what_cannot_be_isolated_is_a_usage_error(command: str, keywords: dict[str, Any]) -> None:
    with pytest.raises(instar.UsageError, match="isolation"):
        LOOKS[command]("/no/such/file", **keywords)


@pytest.mark.parametrize("call", [instar.info_many, instar.check_many])
def test_arguments_of_many_are_checked_when_it_is_called(call: Any) -> None:
    with pytest.raises(instar.UsageError, match="isolation"):
        call([], isolation="thread")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"repair": "some"}, "of 'leaks' or of 'all'"),
        ({"repair": "all", "force_share": True}, "cannot be repaired"),
        ({"repair": "all", "max_growth": -1}, "max_growth"),
    ],
)
def test_repairs_of_many_are_checked_when_it_is_called(
    keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(instar.UsageError, match=message):
        instar.check_many([], **keywords)
