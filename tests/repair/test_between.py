"""Between the checks and the repair of `instar check -r` anybody may take the image. Test side.

Each of the three locks it for itself, and the repair counts anew: what a check found before is
told, and nothing is written by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from instar.vmm.cli.check import _look
from instar.vmm.cli.children import Step, carry_out
from instar.vmm.cli.mend import mend_each
from instar.vmm.image.image_file import ImageFile
from tests.repair.repairing import losses
from tests.support import qemu as oracle
from tests.support.forge import Data, Image, Snapshot

pytestmark = pytest.mark.kvm

IMAGE = Image(
    cluster_bits=9,
    size=64 << 9,
    clusters={0: Data(b"a"), 3: Data(b"b")},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
    dirty=True,
)
CheckAndMend = Callable[[Path, Callable[[], object]], dict[str, Any]]
DATA = IMAGE.regions()["data[0]"].start >> 9
LOW = replace(IMAGE, refcounts={DATA: 0})


@pytest.fixture
def check_and_mend() -> CheckAndMend:
    """Do what `instar check -r all` does; something happens after the first of its checks."""

    def act(image: Path, meanwhile: Callable[[], object]) -> dict[str, Any]:
        events = iter((meanwhile,))

        check = partial(_look, flags={}, timeout=30.0, confine=None, shows_progress=False)
        mend = mend_each(check, {"repair": "all"}, 30.0)

        def steps(name: str) -> Generator[Step, dict[str, Any], dict[str, Any]]:
            inner = mend(name)
            step = next(inner)
            while True:
                document = yield step
                next(events, lambda: None)()
                try:
                    step = inner.send(document)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]

        (told,) = carry_out([str(image)], steps, jobs=1, timeout=30.0)
        assert next(events, None) is None
        return told

    return act


def test_what_another_program_has_repaired_meanwhile_is_not_written(
    check_and_mend: CheckAndMend, tmp_path: Path
) -> None:
    image, theirs = tmp_path / "t.qcow2", tmp_path / "theirs.qcow2"
    LOW.write(image)

    def repair_and_write() -> None:
        qemu = oracle.newest()
        qemu.img("check", "-q", "-r", "all", str(image), accept=(0, 1, 2, 3))
        qemu.io(image, "write -P 7 5k 3k")
        shutil.copyfile(image, theirs)

    told = check_and_mend(image, repair_and_write)
    assert told["repair"]["action"] == "noop"
    assert image.read_bytes() == theirs.read_bytes()


def test_what_another_program_has_written_meanwhile_is_counted(
    check_and_mend: CheckAndMend, tmp_path: Path
) -> None:
    image, theirs = tmp_path / "t.qcow2", tmp_path / "theirs.qcow2"
    LOW.write(image)

    def write_and_damage() -> None:
        qemu = oracle.newest()
        qemu.img("check", "-q", "-r", "all", str(image), accept=(0, 1, 2, 3))
        qemu.snapshot(image, "-c", "new")
        qemu.io(image, "write -P 7 5k 3k")
        data = bytearray(image.read_bytes())
        block = int.from_bytes(data[int.from_bytes(data[48:56], "big") :][:8], "big")
        data[block + 2 * DATA : block + 2 * DATA + 2] = bytes(2)
        data[79] |= 1
        image.write_bytes(data)
        shutil.copyfile(image, theirs)

    told = check_and_mend(image, write_and_damage)
    assert told["repair"]["action"] == "amended"
    assert told["exit-status"] == 0
    assert losses(theirs, image, (oracle.newest(), oracle.oldest())) == []


def test_another_image_of_the_same_name_is_judged_for_itself(
    check_and_mend: CheckAndMend, tmp_path: Path
) -> None:
    image, other = tmp_path / "t.qcow2", tmp_path / "other.qcow2"
    LOW.write(image)
    replace(IMAGE, dirty=False, clusters={9: Data(b"z")}).write(other)
    before = other.read_bytes()
    told = check_and_mend(image, lambda: other.replace(image))
    assert told["repair"]["action"] == "noop"
    assert image.read_bytes() == before


def test_an_image_that_is_in_use_by_then_is_not_repaired(
    check_and_mend: CheckAndMend, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    replace(LOW, dirty=False).write(image)
    before = image.read_bytes()
    with ImageFile.open(str(image), writable=True) as user:
        told = check_and_mend(image, user.lock)
    assert told["error"]["kind"] == "ImageLocked"
    assert image.read_bytes() == before
