"""A crash while an image is repaired: it reads as before, and stays dirty until right. Test side.

Writes and barriers are those of the real command. Of every state the layers are read; the switch is
one sector, before which the image is dirty as it was, and after which its refcounts are right.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import instar
from tests.crash.alike import chosen_states, damage, visible
from tests.crash.recorder import instar as amend
from tests.crash.recorder import record, replay, strace
from tests.support import qemu as oracle
from tests.support.forge import Bitmap, Data, Image, Snapshot
from tests.support.forge.audit import counted_refcounts, faults, stored_refcounts
from tests.support.forge.clusters import Cluster
from tests.support.forge.reader import Reader
from tests.support.layers import Layers

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
    recording = record(amend(*COMMANDS[command]), image)
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
    command = [*amend("--repair"), str(image)]
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
    command = [*amend("--repair"), str(image)]
    _, run = strace(command, ["pwrite64"], "-e", f"inject=pwrite64:error={error}:when={when}")
    after = image.read_bytes()
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert visible(after, b"") == visible(before, b"")
    assert is_dirty(after) or faults(Reader(after)) == []


SMALL = Image(
    cluster_bits=9,
    size=64 << 9,
    clusters={0: Data(b"a"), 3: Data(b"b")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
)
MARKED = replace(SMALL, bitmaps=[Bitmap(name=b"b", dirty=(0, 3), granularity_bits=9)])
PLACES = {name: place.start >> 9 for name, place in MARKED.regions().items()}
NONE = dict.fromkeys(range(60), 0)
CHECK = [amend()[0], "check"]
CHECKED = {
    "no refcount": replace(SMALL, refcounts=NONE),
    "no refcount, dirty": replace(SMALL, refcounts=NONE, dirty=True),
    "leaks alone": replace(SMALL, refcounts={3: 3, 4: 2, 20: 1}),
    "bitmaps": replace(MARKED, refcounts=NONE),
    "bitmaps, too low and leaks": replace(
        MARKED, refcounts={PLACES["data[0]"]: 0, PLACES["bitmap[0].data[0]"]: 0, 55: 3}
    ),
    "no refcount block": replace(
        SMALL, patches=[(SMALL.regions()["refcount_table"].start, bytes(8))]
    ),
    "flags": replace(SMALL, patches=[(SMALL.regions()["l1_table"].start, bytes(1))]),
    "LUKS": replace(
        SMALL,
        crypt_method=2,
        crypto_header=bytes(2048),
        refcounts={PLACES["data[3]"]: 0, 20: 0, 21: 2},
    ),
}


def missing(data: bytes) -> set[int]:
    """Clusters with more users than their refcounts count."""
    reader = Reader(data)
    stored = stored_refcounts(reader)
    return {n for n, count in counted_refcounts(reader).items() if stored.get(n, 0) < count}


@pytest.mark.parametrize("extent", ["leaks", "all"])
@pytest.mark.parametrize("name", CHECKED)
def test_a_crash_of_check_r_leaves_what_can_be_repaired_and_reads_as_before(
    name: str, extent: str, tmp_path: Path
) -> None:
    image, state = tmp_path / "t.qcow2", tmp_path / "state.qcow2"
    CHECKED[name].write(image)
    has_bitmaps, is_encrypted = bool(CHECKED[name].bitmaps), bool(CHECKED[name].crypt_method)
    before, bitmaps = image.read_bytes(), has_bitmaps and Layers.open(image).bitmaps()
    contents = visible(before, b"")
    recording = record([*CHECK, "-r", extent, str(image)], image)
    assert recording.run.status in (0, 2), recording.run.stderr
    files = [*chosen_states(before, recording.operations)]
    assert len(files) > 1 or extent == "leaks"
    assert files[-1].ljust(image.stat().st_size, b"\0") == image.read_bytes()
    for number, data in enumerate(files):
        assert visible(data, b"") == contents
        state.write_bytes(data)
        assert not has_bitmaps or Layers.open(state).bitmaps() == bitmaps
        found = instar.check(state)
        assert (found.overlaps, found.check_errors) == (0, 0) or name == "no refcount block"
        assert missing(data) <= missing(before)
        repaired = instar.check(state, repair="all")
        assert (repaired.exit_status, repaired.is_dirty) == (0, False)
        assert visible(state.read_bytes(), b"") == contents
        # qemu-img loses all snapshots of an image that has bitmaps too, and wants the key.
        if number % -(-len(files) // 5) == 0 and not (has_bitmaps or is_encrypted):
            state.write_bytes(data)
            oracle.newest().img("check", "-q", "-r", "all", str(state), accept=(0, 1, 2, 3))
            assert oracle.newest().check(state).clean
            assert visible(state.read_bytes(), b"") == contents
