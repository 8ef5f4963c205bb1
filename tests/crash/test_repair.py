"""A crash while an image is repaired: it reads as before, and stays dirty until right. Test side.

Writes and barriers are those of the real command. Of every state the layers are read; the switch is
one sector, before which the image is dirty as it was, and after which its refcounts are right.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.alike import chosen_states, damage, visible
from tests.crash.recorder import instar, record, replay, strace
from tests.support import qemu as oracle
from tests.support.forge import Data, Image, Snapshot
from tests.support.forge.audit import faults
from tests.support.forge.clusters import Cluster
from tests.support.forge.reader import Reader

pytestmark = pytest.mark.kvm

_MANY: dict[int, Cluster] = {n: Data(b"%d" % n) for n in range(300)}
_IMAGE = Image(
    cluster_bits=9,
    size=400 << 9,
    clusters=_MANY,
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
    dirty=True,
)
_LEAKED = dict.fromkeys((*range(40, 60), *range(250, 290)), 3)
IMAGES = {
    "no refcount at all": replace(_IMAGE, refcounts=dict.fromkeys(range(900), 0)),
    "too low and too high": replace(_IMAGE, refcounts={**_LEAKED, 61: 0, 62: 0}),
    "leaks": replace(_IMAGE, refcounts=_LEAKED),
    "64 KiB": Image(clusters={0: Data(b"a")}, dirty=True, refcounts=dict.fromkeys(range(9), 0)),
}
COMMANDS = {
    "repair": ("--repair",),
    "then an option": ("--repair", "-o", "lazy_refcounts=on"),
    "then a downgrade": ("--repair", "-o", "compat=0.10", "--drop-bitmaps"),
}


def is_dirty(data: bytes) -> bool:
    return data[7] == 3 and bool(data[79] & 1)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", IMAGES)
def test_a_crash_leaves_the_image_dirty_as_it_was_or_right(
    name: str, command: str, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    IMAGES[name].write(image)
    before = image.read_bytes()
    contents = visible(before, b"") if len(before) < 1 << 20 else None
    recording = record(instar(*COMMANDS[command]), image)
    assert recording.run.status == 0, recording.run.stderr
    after = image.read_bytes()
    assert replay(before, recording.operations).ljust(len(after), b"\0") == after
    original, state = tmp_path / "original.qcow2", tmp_path / "state.qcow2"
    original.write_bytes(before)
    files = [*chosen_states(before, recording.operations), after]
    for data in files:
        assert contents is None or visible(data, b"") == contents
        assert is_dirty(data) or damage(data) == []
    assert not is_dirty(after)
    assert faults(Reader(after)) == []
    for number in range(0, len(files), -(-len(files) // 6)):
        state.write_bytes(files[number])
        for qemu in (oracle.newest(), oracle.oldest()):
            assert qemu.compare(state, original)
            assert is_dirty(files[number]) or not qemu.check(state).corruptions


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "ftruncate"])
@pytest.mark.parametrize("when", [1, 2])
def test_a_kill_in_any_phase_leaves_the_image_dirty_or_right(
    call: str, when: int, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    IMAGES["no refcount at all"].write(image)
    before = image.read_bytes()
    command = [*instar("--repair"), str(image)]
    strace(command, [call], "-e", f"inject={call}:signal=KILL:when={when}")
    after = image.read_bytes()
    assert visible(after, b"") == visible(before, b"")
    assert is_dirty(after) or faults(Reader(after)) == []


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("when", [1, 2])
def test_a_write_that_fails_leaves_the_image_dirty_or_right(
    error: str, when: int, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    IMAGES["too low and too high"].write(image)
    before = image.read_bytes()
    command = [*instar("--repair"), str(image)]
    _, run = strace(command, ["pwrite64"], "-e", f"inject=pwrite64:error={error}:when={when}")
    after = image.read_bytes()
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert visible(after, b"") == visible(before, b"")
    assert is_dirty(after) or faults(Reader(after)) == []
