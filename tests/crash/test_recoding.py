"""A crash while refcounts get another width: nothing is lost, and nothing leaks. Test side.

Writes and barriers are those of the real command. Of every state the refcounts are counted, and the
layers read; some of them qemu-img looks at too, in its newest and its oldest version.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.alike import chosen_states, visible
from tests.crash.recorder import instar, record, replay, strace
from tests.support import qemu as oracle
from tests.support.forge import Image, Snapshot
from tests.support.forge.audit import faults
from tests.support.forge.clusters import Cluster, Data
from tests.support.forge.reader import Reader
from tests.support.qemu import Qemu
from tests.support.recipe import make

pytestmark = pytest.mark.kvm

ASKED_OF_QEMU = 6

_MANY: dict[int, Cluster] = {n: Data(b"%d" % n) for n in range(900)}
_FORGED = Image(cluster_bits=9, size=1000 << 9, clusters=_MANY)
FORGED = {
    "many blocks": (_FORGED, 64),
    "one block of many": (replace(_FORGED, refcount_order=6), 1),
    "4 KiB, lazy refcounts": (Image(cluster_bits=12, lazy_refcounts=True, clusters=_MANY), 8),
    "a snapshot": (
        Image(cluster_bits=9, size=1 << 16, clusters=_MANY, snapshots=[Snapshot(name=b"s")]),
        32,
    ),
    "64 KiB": (Image(clusters={0: Data(b"a"), 9: Data(b"b")}), 64),
    "2 MiB": (Image(cluster_bits=21, clusters={}), 2),
}
_FORGED_SMALL = "create -o cluster_size=512 t.qcow2 64k; io -c 'write -P 1 0 30k' t.qcow2;"
RECIPES = {
    "snapshots": (f"{_FORGED_SMALL} snapshot -c one t.qcow2; io -c 'write -P 2 4k 9k' t.qcow2", 4),
    "bitmaps": (f"{_FORGED_SMALL} bitmap --add t.qcow2 b0; io -c 'write -P 2 4k 9k' t.qcow2", 1),
}


def build(name: str, folder: Path) -> tuple[Path, int]:
    """The image of this name, and how many bits are asked for."""
    if name in RECIPES:
        recipe, bits = RECIPES[name]
        return make(oracle.newest(), folder, recipe.replace(";", "\n")), bits
    description, bits = FORGED[name]
    image = folder / "t.qcow2"
    description.write(image)
    return image, bits


def assert_whole(qemu: Qemu, image: Path, original: Path) -> None:
    check = qemu.check(image)
    assert (check.errors, check.corruptions, check.leaks) == (0, 0, 0)
    assert qemu.compare(image, original)


@pytest.mark.parametrize("name", [*FORGED, *RECIPES])
def test_a_crash_while_refcounts_are_written_anew_leaks_nothing(name: str, tmp_path: Path) -> None:
    image, bits = build(name, tmp_path)
    before = image.read_bytes()
    contents = visible(before, b"") if len(before) < 4 << 20 else None
    assert faults(Reader(before)) == []
    recording = record(instar("-o", f"refcount_bits={bits}"), image)
    assert recording.run.status == 0, recording.run.stderr
    after = image.read_bytes()
    assert replay(before, recording.operations).ljust(len(after), b"\0") == after
    assert 1 << Reader(after).header.refcount_order == bits
    original, state = tmp_path / "original.qcow2", tmp_path / "state.qcow2"
    original.write_bytes(before)
    files = [*chosen_states(before, recording.operations), after]
    for data in files:
        assert faults(Reader(data)) == []
        assert contents is None or visible(data, b"") == contents
    for number in range(0, len(files), -(-len(files) // ASKED_OF_QEMU)):
        state.write_bytes(files[number])
        for qemu in (oracle.newest(), oracle.oldest()):
            assert_whole(qemu, state, original)


def test_the_harness_sees_refcounts_that_are_written_in_one_go(tmp_path: Path) -> None:
    image, bits = build("many blocks", tmp_path)
    before = image.read_bytes()
    recording = record(instar("-t", "unsafe", "-o", f"refcount_bits={bits}"), image)
    assert recording.run.status == 0
    broken = 0
    for data in chosen_states(before, recording.operations):
        try:
            broken += bool(faults(Reader(data)))
        except Exception:  # unreadable in whatever way
            broken += 1
    assert broken > 0


FAILURES = [
    (call, error, when)
    for call, errors, times in (
        ("pwrite64", ("ENOSPC", "EIO"), 2),
        ("fdatasync", ("EIO",), 2),
        ("ftruncate", ("ENOSPC",), 1),
    )
    for error in errors
    for when in range(1, times + 1)
]


@pytest.mark.parametrize(("call", "error", "when"), FAILURES)
def test_a_call_that_fails_leaves_the_old_image_or_the_new_one(
    call: str, error: str, when: int, tmp_path: Path
) -> None:
    image, bits = build("many blocks", tmp_path)
    before = image.read_bytes()
    command = [*instar("-o", f"refcount_bits={bits}"), str(image)]
    _, run = strace(command, [call], "-e", f"inject={call}:error={error}:when={when}")
    after = image.read_bytes()
    assert run.status == 1
    assert run.stderr.count("\n") == 1
    assert faults(Reader(after)) == []
    assert visible(after, b"") == visible(before, b"")
    if "reads as before" in run.stderr:
        assert after == before, "not cut back"
    else:
        assert "may be amended or not" in run.stderr


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "ftruncate"])
@pytest.mark.parametrize("when", [1, 2])
def test_a_kill_in_any_phase_leaves_no_leak(call: str, when: int, tmp_path: Path) -> None:
    image, bits = build("many blocks", tmp_path)
    before = image.read_bytes()
    command = [*instar("-o", f"refcount_bits={bits}"), str(image)]
    strace(command, [call], "-e", f"inject={call}:signal=KILL:when={when}")
    after = image.read_bytes()
    assert faults(Reader(after)) == []
    assert visible(after, b"") == visible(before, b"")
    assert Reader(after).header.refcount_order in (4, 6)
