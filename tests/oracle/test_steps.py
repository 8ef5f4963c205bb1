"""Options that take several steps, beside qemu-img: the same disk, snapshots, verdict. Test side.

What qemu-img refuses after its first steps it leaves half done; instar leaves it alone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.divergences import diverges
from tests.support.qemu import Qemu, all_versions, in_turn
from tests.support.recipe import make
from tests.support.verdicts import ACCEPTED, Request, ask_instar, ask_qemu

pytestmark = pytest.mark.kvm

DATA = "io -c 'write -P 1 0 1M' -c 'write -P 2 6M 1M' -c 'write -P 3 9M 1M' t.qcow2"
ZEROS = "io -c 'write -z 1M 128k' -c 'write -z -u 6M 64k' t.qcow2"
SNAPSHOTS = f"{DATA}\nsnapshot -c one t.qcow2\nio -c 'write -P 4 6M 64k' t.qcow2"
RECIPES = {
    "version 2": f"create -o compat=0.10 t.qcow2 10M\n{DATA}",
    "version 2, snapshots": f"create -o compat=0.10 t.qcow2 10M\n{SNAPSHOTS}",
    "version 2, backed": "write b.raw data 2097152\n"
    f"create -o compat=0.10 -b b.raw -F raw t.qcow2 10M\n{DATA}",
    "version 3": f"create -o compat=1.1 t.qcow2 10M\n{DATA}",
    "version 3, lazy": f"create -o compat=1.1,lazy_refcounts=on t.qcow2 10M\n{DATA}",
    "version 3, snapshots": f"create -o compat=1.1 t.qcow2 10M\n{SNAPSHOTS}",
    "version 3, zeros": f"create -o compat=1.1,cluster_size=4k t.qcow2 10M\n{DATA}\n{ZEROS}",
    "version 3, compressed": "create -o compat=1.1 t.qcow2 10M\n"
    "io -c 'write -c -P 5 0 64k' -c 'write -c -P 6 9M 64k' t.qcow2",
}
OPTIONS = (
    "compat=1.1,size=20M",
    "compat=1.1,lazy_refcounts=on,size=21M",
    "compat=1.1,lazy_refcounts=off,size=10M",
    "lazy_refcounts=on,size=30M",
    "compat=0.10,size=20M",
    "compat=0.10,lazy_refcounts=off,size=40M",
    "compat=0.10,lazy_refcounts=on,size=40M",
    "compat=0.10,size=10M",
)
SHRINKING = ("compat=1.1,size=7M", "compat=0.10,size=6400k", "lazy_refcounts=on,size=512")
CONFIRMING = ("compat=1.1,size=20M,backing_file=b.raw,backing_fmt=raw",)
PRESENT, LAZY = "compat=0.10,size=10M", "compat=0.10,lazy_refcounts=on,size=40M"
UNKNOWN = ("backing_file_may_be_longer", "grow_over_backing_v2", "changed")
OTHERWISE = {
    ("version 2, snapshots", PRESENT): ("present_size_is_a_no_op", "noop", "refused"),
    ("version 2, backed", "compat=0.10,size=20M"): UNKNOWN,
    ("version 2, backed", "compat=0.10,lazy_refcounts=off,size=40M"): UNKNOWN,
    ("version 3, lazy", LAZY): ("lazy_on_with_downgrade", "lazy_needs_v3", "changed"),
}
"""Where the verdicts differ: the divergence's name, what instar says, and what qemu-img says."""


@dataclass(frozen=True)
class Shrinking(Request):
    """An amend that may shrink the disk, as qemu-img's may."""

    @property
    def keywords(self) -> dict[str, Any]:
        return {**super().keywords, "shrink": True}


def assert_alike(
    qemu: Qemu, image: Path, request: Request, otherwise: tuple[str, str, str] | None
) -> None:
    """Instar's verdict is qemu-img's, and if both amend, so is all that can be read."""
    original = Path(shutil.copyfile(image, image.with_name("original.qcow2")))
    theirs = Path(shutil.copyfile(image, image.with_name("theirs.qcow2")))
    ours, other = ask_instar(image, request), ask_qemu(qemu, theirs, request)
    if otherwise:
        diverges(otherwise[0])
        assert (ours, other) == otherwise[1:]
        return
    assert (ours in ACCEPTED) == (not other.startswith("refused")), (ours, other)
    if ours not in ACCEPTED:
        if other == "refused, changed":
            diverges("earlier_steps_stay")
        return
    check = qemu.check(image)
    assert (check.clean, check.leaks, check.errors) == (True, 0, 0), check.text
    assert qemu.compare(image, theirs, strict=False)
    mine, its = qemu.info(image), qemu.info(theirs)
    for key in ("virtual-size", "backing-filename", "backing-filename-format"):
        assert mine.get(key) == its.get(key)
    levels = [info["format-specific"]["data"] for info in (mine, its)]
    for key in ("compat", "lazy-refcounts", "refcount-bits"):
        assert levels[0].get(key) == levels[1].get(key)
    for line in qemu.snapshot(original, "-l").splitlines()[2:]:
        applied = [Path(shutil.copyfile(path, f"{path}.one")) for path in (original, image)]
        for path in applied:
            qemu.snapshot(path, "-a", line.split()[1])
        assert qemu.compare(*applied)
    before = image.read_bytes()
    assert ask_instar(image, request) == "noop"
    assert image.read_bytes() == before


@pytest.mark.parametrize(("name", "qemu"), in_turn(RECIPES), ids=str)
def test_options_of_several_steps_do_what_qemu_img_does(
    name: str, qemu: Qemu, tmp_path: Path
) -> None:
    image = make(qemu, tmp_path, RECIPES[name])
    plain = image.read_bytes()
    for options in OPTIONS + SHRINKING + CONFIRMING * ("backed" in name):
        image.write_bytes(plain)
        assert_alike(qemu, image, Shrinking.parse(options), OTHERWISE.get((name, options)))


SMALL = "create -o cluster_size=4k"
WIDTHS = {
    "version 2, snapshots": (
        f"{SMALL},compat=0.10 t.qcow2 10M\n{SNAPSHOTS}",
        (
            "compat=1.1,refcount_bits=8,size=20M",
            "compat=1.1,refcount_bits=64,lazy_refcounts=on",
            "compat=1.1,refcount_bits=1",
            "refcount_bits=8,size=20M",
        ),
    ),
    "version 2, backed": (
        f"write b.raw data 2097152\n{SMALL},compat=0.10 -b b.raw -F raw t.qcow2 10M\n{DATA}",
        (
            "compat=1.1,lazy_refcounts=on,refcount_bits=32,size=20M,"
            "backing_file=b.raw,backing_fmt=raw",
        ),
    ),
    "8 bits, lazy": (
        f"{SMALL},compat=1.1,refcount_bits=8,lazy_refcounts=on t.qcow2 10M\n{DATA}\n{ZEROS}",
        (
            "compat=0.10,refcount_bits=16",
            "compat=0.10,refcount_bits=16,lazy_refcounts=off,size=20M",
            "compat=0.10,refcount_bits=16,size=7M",
            "compat=0.10,size=20M",
            "compat=0.10,refcount_bits=8",
            "refcount_bits=16,lazy_refcounts=off,size=6400k",
        ),
    ),
}


def chosen_versions() -> list[Qemu]:
    """The oldest, the newest, and one of 7.2: to change a width takes qemu-img long."""
    found = all_versions()
    middle = [qemu for qemu in found if qemu.number[:2] == (7, 2)]
    return list(dict.fromkeys([*found[:1], *middle[-1:], *found[-1:]]))


@pytest.mark.parametrize("qemu", chosen_versions(), ids=str)
@pytest.mark.parametrize("name", WIDTHS)
def test_a_width_changes_with_an_upgrade_and_before_a_downgrade(
    qemu: Qemu, name: str, tmp_path: Path
) -> None:
    recipe, combinations = WIDTHS[name]
    image = make(qemu, tmp_path, recipe)
    plain = image.read_bytes()
    for options in combinations:
        image.write_bytes(plain)
        assert_alike(qemu, image, Shrinking.parse(options), None)
