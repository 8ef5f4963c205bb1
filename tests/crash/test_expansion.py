"""A crash while zero clusters are expanded, or snapshots completed: reads as before. Test side.

Writes and barriers are those of the real command. Every state is read by the forge, layer by layer,
and its refcounts counted; some of them qemu-img looks at too, in its newest and its oldest version.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.alike import assert_reads_alike, chosen_states, damage, visible
from tests.crash.recorder import instar, record, replay
from tests.support import qemu as oracle
from tests.support.forge import Image, Snapshot, Zero, ZeroAllocated
from tests.support.forge.audit import faults
from tests.support.forge.clusters import Cluster, Data
from tests.support.forge.reader import Reader
from tests.support.recipe import make

pytestmark = pytest.mark.kvm

ASKED_OF_QEMU = 8

SMALL = "create -o compat=1.1,cluster_size=512"
BACKED = f"write b.raw data 2048; {SMALL} -b b.raw -F raw t.qcow2 32k;"
DATA = "io -c 'write -P 1 0 8k' t.qcow2;"
SHARED = (
    f"{SMALL} t.qcow2 32k; {DATA} snapshot -c one t.qcow2; io -c 'write -z 0 4k' t.qcow2;"
    "snapshot -c two t.qcow2; io -c 'write -z 4k 2k' -c 'write -P 3 6k 1k' t.qcow2"
)
RECIPES = {
    "plain": f"{SMALL} t.qcow2 32k; {DATA} io -c 'write -z 0 2k' -c 'write -z -u 4k 3k' t.qcow2",
    "backed": f"{BACKED} {DATA} io -c 'write -z 0 2k' -c 'write -z -u 10k 3k' t.qcow2",
    "snapshot shares data": SHARED,
    "backed, snapshot shares data": SHARED.replace(f"{SMALL} t.qcow2 32k;", BACKED),
    "snapshot shares tables": (
        f"{BACKED} {DATA} io -c 'write -z -u 2k 4k' t.qcow2; snapshot -c one t.qcow2;"
        "snapshot -c two t.qcow2; io -c 'write -P 9 20k 1k' t.qcow2"
    ),
    "active shares data with a snapshot's zeros": (
        f"{SMALL} t.qcow2 32k; {DATA} snapshot -c one t.qcow2; io -c 'write -z 0 4k' t.qcow2;"
        "snapshot -c two t.qcow2; snapshot -a one t.qcow2; snapshot -d one t.qcow2"
    ),
    "bitmaps": (
        f"{SMALL} t.qcow2 32k; {DATA} bitmap --add t.qcow2 b0; bitmap --add t.qcow2 b1;"
        "io -c 'write -P 4 0 2k' -c 'write -z 9k 1k' t.qcow2"
    ),
}
_MANY: dict[int, Cluster] = dict.fromkeys(range(700), Zero())
FORGED = {
    "refcount blocks are added": Image(
        cluster_bits=9, size=700 << 9, backing_file=b"b.raw", clusters=_MANY
    ),
    "the refcount table moves": Image(
        cluster_bits=9,
        size=700 << 9,
        backing_file=b"b.raw",
        clusters={**_MANY, 5: ZeroAllocated(b"\x01")},
        holes=range(60 * 256, 64 * 256),
    ),
    "snapshots lack extra data": Image(
        version=2,
        cluster_bits=9,
        size=1 << 14,
        clusters={0: Data(b"a")},
        snapshots=[
            Snapshot(name=b"n" * 60, extra_data_size=0),
            Snapshot(name=b"s", clusters={0: Data(b"b")}, extra_data_size=8),
        ],
    ),
}


def build(name: str, folder: Path) -> Path:
    """The image of this name, with its backing file."""
    if name in RECIPES:
        return make(oracle.newest(), folder, RECIPES[name].replace(";", "\n"))
    (folder / "b.raw").write_bytes(b"data" * 2048)
    image = folder / "t.qcow2"
    FORGED[name].write(image)
    return image


@pytest.mark.parametrize("name", [*RECIPES, *FORGED])
def test_a_crash_within_an_expansion_leaves_what_reads_as_before(name: str, tmp_path: Path) -> None:
    image = build(name, tmp_path)
    before = image.read_bytes()
    backing = (tmp_path / "b.raw").read_bytes() if (tmp_path / "b.raw").exists() else b""
    backing = backing if Reader(before).header.backing_file_offset else b""
    contents = visible(before, backing)
    level = "1.1" if Reader(before).header.version == 2 else "0.10"
    recording = record(instar("--drop-bitmaps", "-o", f"compat={level}"), image)
    assert recording.run.status == 0, recording.run.stderr
    after = image.read_bytes()
    assert replay(before, recording.operations) == after
    assert faults(Reader(after)) == []
    original, state = tmp_path / "original.qcow2", tmp_path / "state.qcow2"
    original.write_bytes(before)
    files = list(chosen_states(before, recording.operations))
    for data in files:
        assert visible(data, backing) == contents
        assert damage(data) == []
    for number in range(0, len(files), -(-len(files) // ASKED_OF_QEMU)):
        state.write_bytes(files[number])
        for qemu in (oracle.newest(), oracle.oldest()):
            assert_reads_alike(qemu, state, original, len(contents) - 1)


def test_the_harness_sees_an_expansion_that_is_written_in_one_go(tmp_path: Path) -> None:
    image = build("backed", tmp_path)
    before, backing = image.read_bytes(), (tmp_path / "b.raw").read_bytes()
    contents = visible(before, backing)
    recording = record(instar("-t", "unsafe", "-o", "compat=0.10"), image)
    assert recording.run.status == 0
    broken = 0
    for data in chosen_states(before, recording.operations):
        try:
            broken += visible(data, backing) != contents or bool(damage(data))
        except Exception:  # unreadable in whatever way
            broken += 1
    assert broken > 0
