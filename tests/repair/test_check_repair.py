"""Test side: `instar check -r` and instar.check(repair=...) mend what qemu-img mends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.image import image_file
from tests.repair.repairing import losses, refusal_of
from tests.support import qemu as oracle
from tests.support.forge import Bitmap, Compressed, Data, Extension, Image, Snapshot
from tests.support.forge.clusters import RawEntry
from tests.support.qemu import Qemu
from tests.support.verdicts import fingerprint

pytestmark = pytest.mark.kvm

VERSIONS = oracle.all_versions()
IMAGE = Image(
    cluster_bits=9,
    size=64 << 9,
    clusters={0: Data(b"a"), 3: Data(b"b"), 4: Compressed(b"c" * 30)},
    snapshots=[Snapshot(name=b"s", clusters={0: Data(b"other")})],
)
PLACES = {name: place.start >> 9 for name, place in IMAGE.regions().items()}
A, B = PLACES["data[0]"], PLACES["data[3]"]
IMAGES = {
    "leaks": replace(IMAGE, refcounts={A: 3, PLACES["l1_table"]: 2}),
    "dirty leaks": replace(IMAGE, dirty=True, refcounts={A: 3}),
    "too low": replace(IMAGE, refcounts={A: 0}),
    "both": replace(IMAGE, refcounts={A: 0, B: 2}),
    "flags": IMAGE,
    "dirty": replace(IMAGE, dirty=True),
    "no refcount": replace(IMAGE, refcounts=dict.fromkeys(range(60), 0)),
    "sound": IMAGE,
    "version 2": replace(IMAGE, version=2, refcounts={A: 0, B: 2}),
}


def write(name: str, folder: Path) -> Path:
    image = folder / "t.qcow2"
    IMAGES[name].write(image)
    if name == "flags":
        data = bytearray(image.read_bytes())
        data[PLACES["l2_table[0]"] << 9] ^= 0x80
        data[PLACES["l1_table"] << 9] ^= 0x80
        image.write_bytes(data)
    return image


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("instar"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8", timeout=60)


def qemu_repairs(qemu: Qemu, image: Path, extent: str) -> dict[str, Any]:
    run = qemu.img("check", "--output=json", "-f", "qcow2", "-r", extent, str(image))
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("extent", ["leaks", "all"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_repair_mends_what_qemu_mends_and_says_so(name: str, extent: str, tmp_path: Path) -> None:
    image = write(name, tmp_path)
    theirs, original = tmp_path / "theirs.qcow2", tmp_path / "original.qcow2"
    for copy in (theirs, original):
        shutil.copyfile(image, copy)
    done = run("check", "-r", extent, "--output", "json", image)
    document = json.loads(done.stdout)
    left = extent == "leaks" and name in ("too low", "both", "no refcount", "version 2")
    assert done.returncode == document["exit-status"] == (2 if left else 0), done.stderr
    if left:  # of which qemu-img says that it would have to write all refcounts anew
        assert not document.get("leaks")
        assert oracle.newest().compare(original, image)
        return
    assert losses(original, image, VERSIONS) == []
    wanted = qemu_repairs(oracle.newest(), theirs, extent)
    for key in ("leaks-fixed", "allocated-clusters", "check-errors"):
        assert document.get(key, 0) == wanted.get(key, 0), key
    # Flags that a wrong refcount contradicted count too; qemu mends the refcounts before it looks.
    assert document.get("corruptions-fixed", 0) >= wanted.get("corruptions-fixed", 0)
    assert not image.read_bytes()[79] & 1


@pytest.mark.parametrize("name", IMAGES)
def test_the_library_does_what_the_command_does(name: str, tmp_path: Path) -> None:
    image = write(name, tmp_path)
    other = tmp_path / "other.qcow2"
    shutil.copyfile(image, other)
    result = instar.check(image, repair="all")
    document = json.loads(run("check", "-r", "all", "--output", "json", other).stdout)
    assert image.read_bytes() == other.read_bytes()
    assert result.exit_status == 0
    assert result.leaks_fixed == document.get("leaks-fixed", 0)
    assert result.corruptions_fixed == document.get("corruptions-fixed", 0)


@pytest.mark.parametrize("qemu", VERSIONS, ids=str)
def test_snapshots_beside_bitmaps_are_kept_which_qemu_img_loses(qemu: Qemu, tmp_path: Path) -> None:
    image = replace(IMAGES["leaks"], bitmaps=[Bitmap(name=b"b")])
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    for path in (ours, theirs):
        image.write(path)
    assert instar.check(ours, repair="all").exit_status == 0
    qemu_repairs(qemu, theirs, "all")
    assert [one.name for one in instar.info(ours).snapshots] == ["s"]
    assert instar.info(theirs).snapshots == ()


@pytest.mark.parametrize("qemu", VERSIONS, ids=str)
def test_data_that_are_compressed_data_too_stay_both_whoever_writes_afterwards(
    qemu: Qemu, tmp_path: Path
) -> None:
    """With a refcount of 2, and without the flag, a writer takes another cluster."""
    image = tmp_path / "t.qcow2"
    packer = zlib.compressobj(wbits=-12)
    packed = packer.compress(b"z" * 512) + packer.flush()
    named = (1 << 62 | A << 9).to_bytes(8, "big")
    patches = [("l2_table[0]", 8 * 5, named), ("data[0]", 0, packed)]
    replace(IMAGE, snapshots=[], dirty=True, patches=patches).write(image)
    assert instar.check(image).corruptions > 0
    done = run("check", "-r", "all", image)
    assert (done.returncode, instar.check(image).overlaps) == (0, 0)
    assert qemu.check(image).clean
    qemu.io(image, "read -P 0x7a 2560 512", "write -P 1 0 512", "read -P 0x7a 2560 512")
    qemu.io(image, "write -P 2 2560 512", "read -P 1 0 512")
    assert qemu.check(image).clean


@pytest.mark.parametrize("extent", ["leaks", "all"])
def test_a_repair_that_cannot_be_does_not_advise_itself(extent: str, tmp_path: Path) -> None:
    image = tmp_path / "t.qcow2"
    plain = Image(cluster_bits=9, size=64 << 9, clusters={0: Data(b"a"), 3: Data(b"b")})
    at = plain.regions()["l2_table[0]"].start
    entry = (1 << 63 | at).to_bytes(8, "big")
    replace(plain, patches=[("l2_table[0]", 8 * 5, entry)]).write(image)
    before = image.read_bytes()
    done = run("check", "-r", extent, image)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"the cluster at {at:#x} is used twice, as an L2 table and as data, and a repair would "
        "have to guess which use is right; copy the image with qemu-img convert"
    )
    assert image.read_bytes() == before


def test_a_repair_of_nothing_but_a_mark_says_so(tmp_path: Path) -> None:
    image = tmp_path / "t.qcow2"
    IMAGES["dirty"].write(image)
    said = "The image is no longer marked dirty.\n\n"
    done = run("check", "-r", "all", image)
    assert done.stdout.startswith(said + "No errors were found on the image.\n")
    assert said not in run("check", "-r", "all", image).stdout


def test_people_read_what_qemu_img_says(tmp_path: Path) -> None:
    done = run("check", "-r", "all", write("both", tmp_path))
    assert done.stdout.startswith(
        "The following inconsistencies were found and repaired:\n\n"
        "    1 leaked clusters\n    3 corruptions\n\n"
        "Double checking the fixed image now...\n"
        "No errors were found on the image.\n"
    )
    assert done.stderr.count("\n") == 4


def test_a_sound_image_is_not_written(tmp_path: Path) -> None:
    image = write("sound", tmp_path)
    before, time = image.read_bytes(), image.stat().st_mtime_ns
    for extent in ("leaks", "all"):
        assert run("check", "-r", extent, image).returncode == 0
        assert instar.check(image, repair=extent).exit_status == 0
    assert (image.read_bytes(), image.stat().st_mtime_ns) == (before, time)


def test_a_dry_run_writes_nothing_and_says_how_much_it_would(tmp_path: Path) -> None:
    image = write("both", tmp_path)
    before, time = image.read_bytes(), image.stat().st_mtime_ns
    done = run("check", "-r", "all", "--dry-run", "--output", "json", image)
    document = json.loads(done.stdout)
    assert done.returncode == 2
    assert (image.read_bytes(), image.stat().st_mtime_ns) == (before, time)
    assert document["repair"]["dry-run"]
    wet = json.loads(run("check", "-r", "all", "--output", "json", image).stdout)
    assert document["repair"]["bytes-written"] == wet["repair"]["bytes-written"] > 0


REFUSED = {
    "repair_entry": replace(IMAGE, clusters={0: RawEntry(1 << 63 | 1 << 40)}),
    "repair_extension": replace(IMAGE, refcounts={A: 2}, extensions=(Extension(0x1111, b"?"),)),
    "corrupt": replace(IMAGE, corrupt=True, refcounts={A: 2}),
    "corrupt, and nothing else": replace(IMAGE, corrupt=True),
}


@pytest.mark.parametrize("extent", ["leaks", "all"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_and_not_touched(case: str, extent: Any, tmp_path: Path) -> None:
    image = tmp_path / "t.qcow2"
    REFUSED[case].write(image)
    reason = case.partition(",")[0]
    assert refusal_of(image, lambda path: instar.check(path, repair=extent)) == reason
    before, time = image.read_bytes(), image.stat().st_mtime_ns
    done = run("check", "-r", extent, image)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert (image.read_bytes(), image.stat().st_mtime_ns) == (before, time)


def test_leaks_are_not_told_from_a_damaged_refcount_table(tmp_path: Path) -> None:
    image = write("leaks", tmp_path)
    data = bytearray(image.read_bytes())
    table = PLACES["refcount_table"] << 9
    data[table : table + 8] = (1 << 40).to_bytes(8, "big")
    image.write_bytes(data)
    assert refusal_of(image, lambda path: instar.check(path, repair="leaks")) == "repair_refcounts"
    assert instar.check(image, repair="all").exit_status == 0


def test_many_images_are_repaired_by_the_command(tmp_path: Path) -> None:
    images = []
    for number, name in enumerate(IMAGES):
        image = tmp_path / f"{number}.qcow2"
        IMAGES[name].write(image)
        images.append(image)
    done = run("check", "-r", "all", "--jobs", "2", "--output", "json", *images)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["filename"] for one in documents] == [str(image) for image in images]
    assert done.returncode == 0
    assert all(oracle.newest().check(image).clean for image in images)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("-r", "some"), "-r expects 'leaks' or 'all', not 'some'"),
        (("-r", "all", "-U"), "--force-share"),
        (("-r", "all", "--debug"), "--debug"),
        (("--dry-run",), "give -r leaks or -r all too"),
        (("--max-growth", "1G"), "give -r leaks or -r all too"),
        (("-r", "all", "--max-growth", "x"), "max-growth"),
    ],
)
def test_flags_that_make_no_sense_are_one_line(
    arguments: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    image = write("leaks", tmp_path)
    done = run("check", *arguments, image)
    assert done.returncode in (1, 2)
    assert fault in done.stderr
    assert done.stderr.count("\n") == 1
    with pytest.raises(instar.UsageError):
        instar.check(image, repair="some")  # type: ignore[arg-type]
    with pytest.raises(instar.UsageError):
        instar.check(image, repair="all", force_share=True)


def test_a_repair_that_needs_room_keeps_to_its_limit(tmp_path: Path) -> None:
    image = write("too low", tmp_path)
    act = lambda path: instar.check(path, repair="all", max_growth=512)  # noqa: E731
    assert refusal_of(image, act) == "growth"
    assert run("check", "-r", "all", "--max-growth", "512", image).returncode == 1
    assert run("check", "-r", "all", "--max-growth", "64k", image).returncode == 0


@pytest.mark.parametrize("how", ["check", "amend"])
def test_a_repair_that_finds_no_room_on_a_block_device_says_so(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = image_file._measure

    def claim_device(fd: int, name: str, **how: bool) -> tuple[int, int, bool, int]:
        size, allocated, _, limit = measure(fd, name, **how)
        return size, allocated, True, limit

    image = tmp_path / "t.qcow2"
    replace(IMAGES["too low"], dirty=True).write(image)
    before = fingerprint(image)
    monkeypatch.setattr(image_file, "_measure", claim_device)
    repair: Callable[[], object] = {
        "check": lambda: instar.check(image, repair="all"),
        "amend": lambda: instar.amend(image, repair=True),
    }[how]
    with pytest.raises(instar.ImageRejected) as caught:
        repair()
    (refusal,) = caught.value.refusals
    assert refusal.name == "device_full"
    assert refusal.message == (
        f"up to {refusal.detail['needed']} bytes of new clusters are needed, and the block device "
        f"of {image.stat().st_size} bytes has no room for them; enlarge the device"
    )
    assert fingerprint(image) == before


@pytest.mark.parametrize("kind", ["nothing", "missing", "directory", "raw", "empty"])
def test_what_is_no_image_is_told_as_a_check_tells_it(kind: str, tmp_path: Path) -> None:
    name = "" if kind == "nothing" else str(tmp_path / "x")
    if kind == "directory":
        Path(name).mkdir()
    elif kind in ("raw", "empty"):
        Path(name).write_bytes(bytes(4096 if kind == "raw" else 0))
    checked, repaired = run("check", name), run("check", "-r", "all", name)
    assert checked.stderr.count("\n") == 1
    assert (repaired.returncode, repaired.stderr) == (checked.returncode, checked.stderr)


def test_a_snapshot_that_lacks_a_part_of_its_entry_stays_and_is_told(tmp_path: Path) -> None:
    image, original = tmp_path / "t.qcow2", tmp_path / "original.qcow2"
    replace(
        IMAGE, snapshots=[Snapshot(name=b"s", extra_data_size=8)], refcounts={A: 0, B: 9}
    ).write(image)
    shutil.copyfile(image, original)
    result = instar.check(image, repair="all")
    assert [one.name for one in result.findings] == ["snapshot_incomplete"]
    assert result.exit_status == 2
    assert oracle.newest().compare(original, image)


def _refuse_to_count(image: Path, clusters: int) -> dict[str, int]:
    """Make a file of so many clusters of the image; the numbers of the one reason to refuse it."""
    head, size = image.read_bytes(), image.stat().st_size
    os.truncate(image, clusters << 9)
    time = image.stat().st_mtime_ns
    with pytest.raises(instar.ImageRejected) as caught:
        instar.check(image, repair="all")
    (refusal,) = caught.value.refusals
    assert refusal.name == "repair_too_large"
    assert image.stat().st_mtime_ns == time
    with image.open("rb") as file:
        assert file.read(size) == head
    os.truncate(image, size)
    return dict(refusal.detail)


@pytest.mark.parametrize(("order", "about"), [(4, 21 << 20), (6, 12 << 20)])
def test_what_cannot_be_counted_at_once_is_refused_with_how_much_can_be(
    order: int, about: int, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    replace(IMAGE, refcount_order=order, refcounts={A: 0}).write(image)
    found = _refuse_to_count(image, about + (1 << 20))
    assert found["clusters"] == about + (1 << 20)
    assert abs(found["most"] - about) < 1 << 19
    assert _refuse_to_count(image, found["most"]) == {**found, "clusters": found["most"]}
    os.truncate(image, found["most"] - 1 << 9)
    assert instar.check(image, repair="all").exit_status == 0


def test_a_check_after_a_repair_sees_what_was_written_to_a_hole(tmp_path: Path) -> None:
    image = Image(size=512 << 20)
    data, l1_table = bytearray(image.build()), image.regions()["l1_table"].start
    data[l1_table : l1_table + 8] = (1 << 63 | 100 << 16).to_bytes(8, "big")
    path = tmp_path / "t.qcow2"
    with path.open("wb") as file:
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                file.seek(at)
                file.write(data[at : at + 4096])
        file.truncate(16 << 20)
    result = instar.check(path, repair="all")
    assert (result.corruptions, result.leaks, result.findings) == (0, 0, ())
    assert result.corruptions_fixed
