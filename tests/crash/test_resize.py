"""A crash while the size changes leaves the old disk or the new one, and leaks at most. Test side.

Writes and barriers are those of the real command. Every state is read by the forge, layer by layer,
and its refcounts counted; qemu-img looks at some of them, in its newest and its oldest version.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

import instar as package
from instar import HostError, UsageError
from tests.crash.alike import chosen_states, damage
from tests.crash.recorder import instar, record, replay
from tests.crash.test_failing_functions import Injector, failing
from tests.support import qemu as oracle
from tests.support.disks import disk, snapshots, with_size
from tests.support.forge import Bitmap, Compressed, Data, Image, Snapshot, Subclusters, Zero
from tests.support.forge.audit import faults
from tests.support.forge.reader import Reader

pytestmark = pytest.mark.kvm

ASKED_OF_QEMU = 4
STEP = 5
"""Of the states that are chosen, every so many are looked at."""
SMALL = 9
LAYERS = Image(
    cluster_bits=SMALL,
    size=200 << SMALL,
    clusters={n: Data(b"d") for n in range(0, 200, 3)} | {7: Compressed(b"c"), 100: Zero()},
    snapshots=[Snapshot(name=b"one", clusters={n: Data(b"d") for n in range(0, 200, 6)})],
)
BACKED = Image(
    cluster_bits=SMALL, size=80 << SMALL, backing_file=b"b.raw", clusters={3: Data(b"d")}
)
SUBCLUSTERS = Image(
    cluster_bits=14,
    size=8 << 14,
    extended_l2=True,
    clusters={0: Data(b"d"), 5: Subclusters({0: Data(b"x"), 9: Data(b"y"), 20: Zero()})},
)
BITMAPS = Image(
    cluster_bits=SMALL,
    size=200 << SMALL,
    clusters={n: Data(b"d") for n in range(0, 200, 3)},
    bitmaps=[Bitmap(name=b"b", dirty=[1], granularity_bits=9), Bitmap(name=b"c")],
)
CASES = {
    "shrink, and drop bitmaps": (BITMAPS.build(), 70 << SMALL),
    "grow, and drop bitmaps": (BITMAPS.build(), 20 << 20),
    "shrink": (LAYERS.build(), 70 << SMALL),
    "shrink to a table's end": (LAYERS.build(), 64 << SMALL),
    "shrink within a cluster": (LAYERS.build(), (90 << SMALL) - 512),
    "grow": (LAYERS.build(), 20 << 20),
    "grow over what hides": (with_size(LAYERS.build(), (81 << SMALL) - 512), 400 << SMALL),
    "grow over a backing file": (BACKED.build(), 200 << SMALL),
    "grow within a subcluster": (with_size(SUBCLUSTERS.build(), (5 << 14) + 512), 6 << 14),
}


@pytest.mark.parametrize("name", CASES)
def test_a_crash_leaves_the_old_disk_or_the_new_one(name: str, tmp_path: Path) -> None:
    before, size = CASES[name]
    image, state = tmp_path / "t.qcow2", tmp_path / "state.qcow2"
    image.write_bytes(before)
    (tmp_path / "b.raw").write_bytes(b"data" * (64 << SMALL))
    recording = record(instar("-o", f"size={size}", "--shrink", "--drop-bitmaps"), image)
    assert recording.run.status == 0, recording.run.stderr
    after = image.read_bytes()
    assert replay(before, recording.operations) == after
    assert faults(Reader(after)) == []
    old, others = disk(before), snapshots(before)
    new = old[:size].ljust(size, b"\0")
    met = set()
    states = [*chosen_states(before, recording.operations)]
    for number, data in enumerate([*states[:-1:STEP], after]):
        assert damage(data) == []
        assert disk(data) in (old, new)
        assert snapshots(data) == others
        met.add(len(disk(data)))
        if number < ASKED_OF_QEMU or data == after:
            state.write_bytes(data)
            for qemu in (oracle.oldest(), oracle.newest()):
                check = qemu.check(state)
                assert not check.errors
                assert not check.corruptions
    assert met == {len(old), len(new)}


ERRORS = (errno.EIO, errno.ENOSPC)


@pytest.mark.parametrize("name", ["shrink", "grow over what hides"])
def test_a_call_that_fails_leaves_the_old_disk_or_the_new_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call on the image it is; what is left may have leaked clusters, and says so."""
    before, size = CASES[name]
    image = tmp_path / "t.qcow2"
    old, others = disk(before), snapshots(before)
    new = old[:size].ljust(size, b"\0")
    injector = Injector(image, monkeypatch)
    image.write_bytes(before)
    injector.arm(None, None)
    instar_resize(image, size)
    calls = len(injector.calls)
    met = set()
    for at in range(calls):
        for number in ERRORS:
            image.write_bytes(before)
            injector.arm(at, failing(number))
            with suppress(HostError, UsageError):
                instar_resize(image, size)
            data = image.read_bytes()
            assert damage(data) == []
            assert disk(data) in (old, new)
            assert snapshots(data) == others
            met.add(len(disk(data)))
    assert met == {len(old), len(new)}


def instar_resize(image: Path, size: int) -> None:
    package.resize(image, size, shrink=True)
