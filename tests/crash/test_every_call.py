"""A kill or an error at any call that changes the file leaves a whole image. Test side.

For sizes, names and a chain: compat is in test_failing_calls.py, refcount_bits in test_recoding.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.crash.alike import damage
from tests.crash.recorder import instar, trace
from tests.support.disks import disk, snapshots, with_size
from tests.support.forge import Compressed, Data, Image, Snapshot, Zero
from tests.support.forge.audit import faults
from tests.support.forge.reader import Reader

pytestmark = pytest.mark.kvm

BITS = 9
LAYERS = Image(
    cluster_bits=BITS,
    size=200 << BITS,
    clusters={n: Data(b"d") for n in range(0, 200, 3)} | {7: Compressed(b"c"), 100: Zero()},
    snapshots=[Snapshot(name=b"one", clusters={n: Data(b"d") for n in range(0, 200, 6)})],
)
NAMED = Image(clusters={3: Data(b"d")}, backing_file=b"old.raw", backing_format=b"raw")
LONG = "n" * 900
SHRINK, GROW = f"size={70 << BITS}", f"size={400 << BITS}"
RENAME = ("--change-backing", "-o", f"backing_file={LONG},backing_fmt=qcow2")
CASES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "shrink": (LAYERS.build(), ("--shrink", "-o", SHRINK)),
    "grow over what hides": (with_size(LAYERS.build(), (81 << BITS) - 512), ("-o", GROW)),
    "a name": (NAMED.build(), RENAME),
    "a chain": (LAYERS.build(), ("--shrink", "-o", f"refcount_bits=32,lazy_refcounts=on,{SHRINK}")),
}
NAMES = ("pwrite64", "fdatasync", "ftruncate", "fallocate")
FAULTS = {"KILL": "signal=KILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


def state(data: bytes) -> tuple[object, ...]:
    """What the image is: the disk, the snapshots, and what options change of the header."""
    header = Reader(data).header
    name = data[header.backing_file_offset :][: header.backing_file_size]
    return disk(data), snapshots(data), header.refcount_order, header.compatible_features, name


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_a_fault_at_any_call_leaves_the_old_image_or_the_new_one(
    name: str, fault: str, tmp_path: Path
) -> None:
    before, options = CASES[name]
    image = tmp_path / "t.qcow2"
    image.write_bytes(before)
    command = [*instar(*options), str(image)]
    calls, run = trace(command, image, NAMES, "-s", "0")
    assert run.status == 0, run.stderr
    old, new = state(before), state(image.read_bytes())
    states = {"old": old, "new": new}
    if name == "a chain":  # or the one after its first step, which changes the header
        states["between"] = (*old[:2], *new[2:])
    assert faults(Reader(image.read_bytes())) == []
    met = set()
    for call in calls:
        if call.name == "openat":
            continue
        image.write_bytes(before)
        inject = f"inject={call.name}:{FAULTS[fault]}:when={call.number}"
        _, ended = trace(command, image, NAMES, "-s", "0", "-e", inject)
        data = image.read_bytes()
        assert damage(data) == []
        found = next(word for word, known in states.items() if known == state(data))
        met.add(found)
        if fault == "KILL":
            assert ended.status == -signal.SIGKILL
        elif call.name == "fallocate" or ended.status == 0:
            assert found == "new"  # room that is not given back is a warning
            assert "still takes the room" in ended.stderr
        else:
            assert ended.stderr.count("\n") == 1
            known = ("reads as before", "may be amended or not", "image is amended", "steps done")
            assert any(words in ended.stderr for words in known)
            assert found == "old" or "reads as before" not in ended.stderr or name == "a chain"
    assert met >= {"old", "new"}
