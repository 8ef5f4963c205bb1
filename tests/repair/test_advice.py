"""What a refusal advises is followed, to the letter: the image is then amended. Test side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.base.reasons import REASONS
from instar.vmm.cli.commands import CHECK, COMMANDS, REBASE, RESIZE
from instar.vmm.cli.flags import AMEND
from tests.support.forge import Bitmap, Data, Image, RawEntry, Snapshot, Zero, ZeroAllocated
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

INSTAR = Path(sys.executable).with_name("instar")
SMALL = Image(cluster_bits=9, size=64 << 9, clusters={0: Data(b"a"), 3: ZeroAllocated()})
WIDE = Image(size=1 << 20, clusters={0: Data(b"a"), 1: ZeroAllocated()})
SNAPSHOT = Snapshot(name=b"s", clusters={0: Data(b"b")})
KEPT = replace(WIDE, snapshots=[SNAPSHOT])
BACKED = replace(SMALL, backing_file=b"b", clusters={0: Zero()})
LOST = Image(bitmaps=[Bitmap(name=b"b0")])
FAR = 1 << 40
HELPS = re.compile(
    r"(instar|qemu-img) check -r all|instar amend (--repair|-o \S+)"
    r"|qemu-img bitmap --remove|qemu-img convert --salvage|(?<!-o )(?<!,)\b\w+=[\w.]+(?= too|$)"
)
FLAG = re.compile(r"(instar|qemu-img) (\w+)([^;,]*?)(--[a-z-]+)|(--[a-z-]+)")
REFUSED_BY = {
    **dict.fromkeys(("downgrade_bitmaps", "backing_change", "luks_iterations"), (AMEND,)),
    **dict.fromkeys(("shrink_not_allowed", "size_bitmaps", "bitmap_in_use"), (AMEND, RESIZE)),
    **dict.fromkeys(("grow_over_backing_v2", "grow_head_over_backing"), (AMEND, RESIZE)),
    "growth": (AMEND, RESIZE, CHECK),
    "change_limit": (AMEND, RESIZE),
}
"""Of reasons that are about some options only, the commands that can ask for these."""


def place(image: Image, region: str, offset: int = 0) -> int:
    """Where something of an image begins."""
    return image.regions()[region].start + offset


def patched(image: Image, offset: int, value: int, size: int = 8) -> Callable[[Path], object]:
    return replace(image, patches=[(offset, value.to_bytes(size, "big"))]).write


def uncounted(image: Image, region: str) -> Callable[[Path], object]:
    return replace(image, refcounts={place(image, region) >> image.cluster_bits: 0}).write


def _too_large(path: Path) -> None:
    """More clusters than can be counted at once, all but a few of which are holes."""
    replace(SMALL, dirty=True).write(path)
    os.truncate(path, 12 << 30)


@dataclass(frozen=True)
class Advice:
    """A reason, an image that is refused for it, and the command of its message that helps."""

    reason: str
    write: Callable[[Path], object]
    command: str
    asked: dict[str, Any] = field(default_factory=lambda: {"compat": "0.10"})


ALL, OURS = "qemu-img check -r all", "instar check -r all"
REPAIR, NOT_RAW = "instar amend --repair", "instar amend -o data_file_raw=off"
COPY, SALVAGE, REMOVE = (
    f"qemu-img {words}" for words in ("convert", "convert --salvage", "bitmap --remove")
)
DROP = {"compat": "0.10", "drop_bitmaps": True}
LAZY = {"lazy_refcounts": True}
TWO = {"size": 1 << 30}
ADVICE = {
    "dirty": Advice("dirty", replace(WIDE, dirty=True).write, REPAIR),
    "corrupt, sound": Advice("corrupt", replace(WIDE, corrupt=True).write, ALL),
    "corrupt, a leak": Advice("corrupt", replace(WIDE, corrupt=True, refcounts={2: 2}).write, ALL),
    "no refcount table": Advice("refcount_table", patched(WIDE, 56, 0, 4), ALL),
    "a snapshot's L1 table": Advice(
        "snapshot_table", patched(KEPT, place(KEPT, "snapshot_table"), 8), COPY
    ),
    "an L2 table between clusters": Advice(
        *("l2_table", patched(WIDE, place(WIDE, "l1_table"), 1 << 63 | 0x10200), SALVAGE)
    ),
    "an L2 entry between clusters": Advice(
        *("l2_entry", replace(WIDE, clusters={1: RawEntry(1 << 63 | 0x10200 | 1)}).write, SALVAGE)
    ),
    "an L2 entry beyond the end": Advice(
        *("l2_entry", replace(WIDE, clusters={1: RawEntry(1 << 63 | FAR | 1)}).write, SALVAGE)
    ),
    "a table that is not counted": Advice("refcount", uncounted(WIDE, "l2_table[0]"), OURS),
    "a free cluster holds the L1 table": Advice("overlap", uncounted(BACKED, "l1_table"), OURS),
    "a zero cluster that is another's": Advice(
        "refcount",
        patched(SMALL, place(SMALL, "l2_table[0]", 40), place(SMALL, "data[3]") | 1),
        OURS,
    ),
    "an L2 table that is data too": Advice(
        "overlap",
        patched(SMALL, place(SMALL, "l2_table[0]", 40), place(SMALL, "l2_table[0]")),
        COPY,
    ),
    "a bitmap directory of nothing": Advice(
        "bitmaps", patched(LOST, place(LOST, "bitmap_directory"), FAR), REMOVE, DROP
    ),
    "a downgrade with bitmaps": Advice("downgrade_bitmaps", LOST.write, REMOVE),
    "bitmaps of a disk that grows": Advice("size_bitmaps", LOST.write, REMOVE, {"size": FAR}),
    "a bitmap in use": Advice(
        "bitmap_in_use", Image(bitmaps=[Bitmap(name=b"b0", flags=1)]).write, REMOVE, {"size": FAR}
    ),
    "extra data of a snapshot": Advice(
        "snapshot_extra_data",
        replace(WIDE, snapshots=[replace(SNAPSHOT, extra_data_size=2000)]).write,
        ALL,
    ),
    "a snapshot without a size": Advice(
        "resize_snapshot_size",
        replace(WIDE, snapshots=[replace(SNAPSHOT, extra_data_size=8)]).write,
        *(ALL, TWO),
    ),
    "a width that version 2 lacks": Advice(
        *("refcount_bits_v2", replace(WIDE, version=2).write, "compat=1.1", {"refcount_bits": 8})
    ),
    "lazy refcounts in version 2": Advice(
        *("lazy_needs_v3", replace(WIDE, version=2).write, "compat=1.1", {"lazy_refcounts": True})
    ),
    "a downgrade of another width": Advice(
        "downgrade_refcount_width", replace(WIDE, refcount_order=3).write, "refcount_bits=16"
    ),
    "a downgrade to another width": Advice(
        *("downgrade_refcount_width", WIDE.write, "refcount_bits=16"),
        {"compat": "0.10", "refcount_bits": 8},
    ),
    "a backing file under a raw data file": Advice(
        "backing_raw",
        Image(data_file=b"d", data_file_raw=True).write,
        NOT_RAW,
        {"backing_file": "b", "backing_fmt": "raw", "change_backing": True},
    ),
    "an entry that names nothing": Advice(
        "repair_entry",
        replace(WIDE, dirty=True, clusters={1: RawEntry(1 << 63 | 0x10200)}).write,
        *(SALVAGE, {**LAZY, "repair": True}),
    ),
    "more clusters than can be counted": Advice(
        "repair_too_large", _too_large, ALL, {**LAZY, "repair": True}
    ),
}


def follow(command: str, image: Path, asked: dict[str, Any], qemu: Qemu) -> Path:
    """Do what a message says; returns the image that is to be amended then."""
    if command.startswith("instar amend"):
        done = subprocess.run([INSTAR, *command.split()[1:], image], check=False, timeout=60)
        assert done.returncode == 0
    elif "=" in command:
        key, _, value = command.partition("=")
        asked[key] = int(value) if value.isdecimal() else value
    elif command == OURS:
        done = subprocess.run([INSTAR, "check", "-r", "all", image], check=False, timeout=60)
        assert done.returncode == 0
    elif command == ALL:
        qemu.img("check", "-r", "all", "-f", "qcow2", str(image))
    elif command == REMOVE:
        qemu.img("bitmap", "--remove", "-f", "qcow2", str(image), "b0")
    else:
        copy = image.with_name("copy")
        flags = command.split()[2:]
        qemu.img("convert", *flags, "-f", "qcow2", "-O", "qcow2", str(image), str(copy))
        return copy
    return image


@pytest.mark.parametrize("name", ADVICE)
def test_who_does_what_a_refusal_advises_has_the_image_amended(
    name: str, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    advice = ADVICE[name]
    ours = not advice.command.startswith("qemu-img")
    for qemu in qemu_versions[-1:] if ours else (qemu_versions[0], qemu_versions[-1]):
        image, asked = tmp_path / "t.qcow2", dict(advice.asked)
        advice.write(image)
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(image, **asked)
        (refusal,) = caught.value.refusals
        assert refusal.name == advice.reason
        assert advice.command in refusal.message
        image = follow(advice.command, image, asked, qemu)
        assert instar.amend(image, **asked).action in ("amended", "no-op")


def test_every_repair_that_a_message_names_is_tried() -> None:
    told = {
        (name, command[0])
        for name, _, message in REASONS.values()
        for command in HELPS.finditer(message)
    }
    tried = {(advice.reason, advice.command) for advice in ADVICE.values()}
    assert told - tried == {("repair_refcounts", OURS)}  # by test_check_repair


def test_a_flag_that_a_message_names_is_one_of_each_command_that_refuses_so() -> None:
    named = {command.name: {f"--{flag.name}" for flag in command.flags} for command in COMMANDS}
    seen = 0
    for name, _, message in REASONS.values():
        for program, command, _, flag, alone in FLAG.findall(message):
            seen += 1
            if alone:
                commands = REFUSED_BY.get(name, (AMEND, REBASE, RESIZE))
                assert all(alone in named[command.name] for command in commands), (name, alone)
            elif program == "instar":
                assert flag in named[command], (name, flag)
    assert seen > 10
