"""Test side: `instar check` counts what qemu-img check counts, and what that overlooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest

import instar
from instar.vmm.image.image_file import ImageFile
from instar.vmm.inspect import check_image
from instar.vmm.inspect.check import CheckFrames, ram_for
from instar.vmm.inspect.looker import Looker
from tests.differential.generate import case_of
from tests.hostile.case import Case
from tests.hostile.catalogue import CASES as HOSTILE
from tests.support.forge import Compressed, Data, Extension, Image, Snapshot, parse_header
from tests.support.looks.checking import differences
from tests.support.looks.damage import damage
from tests.support.looks.divergences import CHECK, explain
from tests.support.qemu import Qemu
from tests.support.speed import takes_longer

pytestmark = pytest.mark.kvm

COMMAND = [sys.executable, "-m", "instar", "check"]
# qemu-img takes minutes for the others.
LIGHT = [case for case in HOSTILE if case.length is None and case.patches is None][::20]
# Every seventh, and all that has ever taken long.
SOME = [
    case
    for number, case in enumerate(HOSTILE)
    if number % 7 == 0 or "32 MiB" in case.name or "65536 snapshots" in case.name
]
SOUND = Image(
    clusters={0: Data(b"\x05"), 1: Compressed(b"text"), 3: Data(b"\x06")},
    snapshots=[Snapshot(name=b"one", clusters={0: Data(b"\x04")})],
)
REFCOUNTS = Image(cluster_bits=12, size=1 << 20, clusters={0: Data(b"\x05"), 2: Data(b"\x06")})


def unexplained(qemu: Qemu, image: Path) -> list[str]:
    """How the two differ, but for what the registry holds."""
    found, names = differences(qemu, image)
    return [one for one in found if explain(one, names, CHECK) is None]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("seed", range(200, 224))
def test_numbers_and_status_are_those_of_qemu_img(
    seed: int, tmp_path: Path, qemu_versions: tuple[Qemu, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed, tuple(qemu.version for qemu in qemu_versions))
    monkeypatch.chdir(tmp_path)
    image = case.program.make(tmp_path, qemu_versions)
    if image is not None:
        assert unexplained(qemu_versions[-1], Path(image.name)) == []


@pytest.mark.parametrize("case", LIGHT, ids=lambda case: case.name)
def test_hostile_image_is_counted_as_qemu_img_counts_it(
    case: Case, tmp_path: Path, qemu: Qemu
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    assert unexplained(qemu, image) == []


@pytest.mark.parametrize("operation", ["info", "check"])
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_hostile_image_has_its_verdict_in_a_second(
    case: Case, operation: str, tmp_path: Path
) -> None:
    image = tmp_path / "t.qcow2"
    case.write(image)
    look = instar.info_many if operation == "info" else instar.check_many
    start = process_time()
    (outcome,) = look([image])
    assert not takes_longer(process_time() - start, 1.0)
    assert outcome.error is None or isinstance(outcome.error, instar.ImageRejected)


@pytest.mark.parametrize(
    ("delta", "status", "name"),
    [(0, 0, ""), (1, 3, "cluster_leaked"), (-1, 2, "cluster_refcount")],
)
def test_a_refcount_that_is_off_by_one_is_found_by_its_cluster(
    delta: int, status: int, name: str, tmp_path: Path, qemu: Qemu
) -> None:
    path = tmp_path / "t.qcow2"
    cluster = REFCOUNTS.regions()["l1_table"].start >> 12 if delta else 0
    refcounts = {cluster: 1 + delta} if delta else {}
    replace(REFCOUNTS, refcounts=refcounts).write(path)
    assert unexplained(qemu, path) == []
    result = instar.check(path)
    assert result.exit_status == status
    found = [one.detail["cluster"] for one in result.findings if one.name == name]
    assert found == ([cluster] if delta else [])
    assert run("--quiet", path).returncode == status


def test_an_l2_table_that_is_data_too_is_found_though_its_refcount_counts_both(
    tmp_path: Path, qemu: Qemu
) -> None:
    path = tmp_path / "t.qcow2"
    table = REFCOUNTS.regions()["l2_table[0]"]
    entry = table.start.to_bytes(8, "big")
    patches = [(table.start + 8 * 5, entry)]
    replace(REFCOUNTS, refcounts={table.start >> 12: 2}, patches=patches).write(path)
    result = instar.check(path)
    assert [one.name for one in result.findings if one.counts_as == "overlaps"] == ["overlap"]
    assert "\n1 cluster has two uses that exclude each other.\n" in run(path).stdout
    assert result.exit_status == 2
    assert not any("overlap" in one for one in differences(qemu, path)[0])


@pytest.mark.parametrize("order", range(7))
def test_refcounts_of_every_width_are_compared(order: int, tmp_path: Path, qemu: Qemu) -> None:
    path = tmp_path / "t.qcow2"
    image = replace(REFCOUNTS, refcount_order=order)
    image.write(path)
    assert instar.check(path).exit_status == 0
    replace(image, refcounts={3: 0}).write(path)
    assert unexplained(qemu, path) == []
    assert instar.check(path).exit_status == 2


def check_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[instar.CheckResult]:
    """A check in one window, and one in as many as the least RAM makes of it."""
    whole = instar.check(path)
    monkeypatch.setattr("instar.vmm.inspect.ram_for", lambda _image: 0)
    parted = instar.check(path)
    assert parted.vm_exits > whole.vm_exits
    return [replace(one, vm_exits=0) for one in (whole, parted)]


def in_any_order(result: instar.CheckResult) -> instar.CheckResult:
    """As the flags of a window are compared right after its refcounts."""
    return replace(result, findings=tuple(sorted(result.findings, key=repr)))


def test_an_image_larger_than_a_window_is_counted_in_several(
    tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two MiB of RAM have room for less than a hundred thousand clusters: here are more."""
    path = tmp_path / "t.qcow2"
    qemu.create(path, "1G", cluster_size="512")
    qemu.io(path, "write -z 0 32M", "write 100M 16M", "write 900M 64M")
    qemu.snapshot(path, "-c", "one")
    qemu.io(path, "write 100M 1M")
    whole, parted = check_in_parts(path, monkeypatch)
    assert parted == whole
    assert unexplained(qemu, path) == []


def test_a_window_may_begin_anywhere_in_a_refcount_block(
    tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block counts half a million clusters, and a window has less than a hundred thousand."""
    path = tmp_path / "t.qcow2"
    qemu.create(path, "8G", refcount_bits="1", preallocation="metadata")
    with path.open("r+b") as file:
        file.seek(parse_header(file.read(4096)).refcount_table_offset)
        block = int.from_bytes(file.read(8), "big")
        for at in range(1, 16384, 1000):
            file.seek(block + at)
            file.write(b"\x7f")
    whole, parted = check_in_parts(path, monkeypatch)
    assert whole.corruptions >= 16
    assert in_any_order(parted) == in_any_order(whole)


def test_each_finding_is_told_once_in_however_many_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with a cluster is told in its window, and all else in the first one."""
    path = tmp_path / "t.qcow2"
    first, copied = 100_000, 1 << 63  # a cluster behind the first window, and its flag
    image = Image(
        cluster_bits=10,
        size=512 << 10,
        refcount_order=1,
        clusters={n: Data(b"d") for n in range(0, 512, 128)},
        holes=range(1, first),
        extensions=[Extension(0x11111111, b"x" * 800)],
    )
    regions = {name: region.start for name, region in image.regions().items()}
    data, l1_table, table = first << 10, regions["l1_table"], regions["l2_table[0]"]
    blocks, last = regions["refcount_table"], regions["refcount_block[24]"]
    words = {
        l1_table + 8: regions["l2_table[1]"],  # not flagged
        l1_table + 16: regions["l2_table[2]"] | copied | 1,  # reserved
        l1_table + 24: regions["l2_table[3]"] + 512 | copied,  # within a cluster
        table: data,  # not flagged
        **{table + 8 * n: data + 1024 | copied for n in range(1, 5)},  # one user too many
        table + 40: regions["l2_table[1]"] | copied,
        table + 48: data | copied | 2,  # reserved
        table + 56: data + 512 | copied,  # within a cluster
        table + 64: copied | 1 << 62 | 600,  # compressed
        table + 72: copied | 1 << 40,  # after the end
        blocks: last,  # a second time
        blocks + 8: 1 << 40,  # after the end
        blocks + 16: last + 1,  # reserved
        blocks + 8 * 25: last + 512,  # within a cluster
    }
    patches = [(at, word.to_bytes(8, "big")) for at, word in words.items()]
    replace(image, patches=patches, refcounts={first + 2: 0, first + 20: 1}).write(path)
    os.truncate(path, 25 * 4096 + 5 << 10)
    whole, parted = check_in_parts(path, monkeypatch)
    assert in_any_order(parted) == in_any_order(whole)
    assert {one.name for one in whole.findings} == {
        *("refcount_overflow", "block_refcount", "cluster_refcount", "cluster_leaked"),
        *("l2_table_copied", "cluster_copied", "block_unreadable", "overlap"),
        *("region_outside", "cluster_unaligned", "compressed_copied", "l1_reserved", "l2_reserved"),
        *("l2_table_unaligned", "block_outside", "block_reserved", "block_unaligned"),
    }


@pytest.mark.parametrize("fields", [{"dirty": True}, {"corrupt": True}])
def test_a_dirty_or_corrupt_image_is_checked_all_the_same(
    fields: dict[str, bool], tmp_path: Path, qemu: Qemu
) -> None:
    path = tmp_path / "t.qcow2"
    replace(SOUND, **fields).write(path)  # type: ignore[arg-type]
    result = instar.check(path)
    assert result.image_end_offset
    assert (result.is_dirty, result.is_corrupt) == ("dirty" in fields, "corrupt" in fields)
    assert unexplained(qemu, path) == []


def test_of_many_images_the_worst_counts(tmp_path: Path) -> None:
    sound, leaked, corrupt = (tmp_path / f"{name}.qcow2" for name in "abc")
    REFCOUNTS.write(sound)
    replace(REFCOUNTS, refcounts={3: 2}).write(leaked)
    replace(REFCOUNTS, refcounts={3: 0}).write(corrupt)
    done = run("--output=json", "--jobs=2", sound, leaked, corrupt)
    statuses = [json.loads(line)["exit-status"] for line in done.stdout.splitlines()]
    assert statuses == [0, 3, 2]
    assert done.returncode == 2
    assert run("--quiet", sound, leaked).returncode == 3
    assert run(sound, tmp_path / "none").returncode == 1
    outcomes = list(instar.check_many([sound, leaked]))
    assert [outcome.unwrap().exit_status for outcome in outcomes] == [0, 3]


def test_of_many_images_each_finding_names_its_own(tmp_path: Path) -> None:
    sound, leaked, corrupt = (tmp_path / f"{name}.qcow2" for name in "abc")
    REFCOUNTS.write(sound)
    replace(REFCOUNTS, refcounts={3: 2}).write(leaked)
    replace(REFCOUNTS, refcounts={3: 0}).write(corrupt)
    lines = [
        f"Leaked: '{leaked}': cluster 3 has 1 user and refcount 2",
        f"ERROR: '{corrupt}': cluster 3 has 1 user and refcount 0",
    ]
    for flags in (["--quiet"], ["--jobs=3"], ["--quiet", "-r", "leaks"]):
        assert run(*flags, sound, leaked, corrupt).stderr.splitlines()[: len(lines)] == lines
        replace(REFCOUNTS, refcounts={3: 2}).write(leaked)
    alone = run("--quiet", leaked).stderr
    assert alone == "Leaked: cluster 3 has 1 user and refcount 2\n"


@pytest.mark.parametrize("command", ["info", "check"])
def test_an_image_that_fails_leaves_no_line_on_stdout(command: str, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    SOUND.write(sound)
    line: list[str | Path] = [*COMMAND[:-1], command, tmp_path / "none", sound]
    line += [tmp_path / "none", sound]
    told = subprocess.run(line, capture_output=True, text=True, check=False).stdout
    first, second = told.split("\n\nimage: " if command == "check" else "\n\n", 1)
    assert first.startswith("image: ")
    assert first.count("\n") == second.strip().count("\n")
    assert told.endswith("\n")
    assert not told.endswith("\n\n")


@pytest.mark.parametrize("command", ["info", "check"])
def test_more_jobs_than_files_may_be_open_wait_for_each_other(command: str, tmp_path: Path) -> None:
    images = [tmp_path / str(number) for number in range(40)]
    for image in images:
        SOUND.write(image)
    start = ["prlimit", "--nofile=30", "--", *COMMAND[:-1], command, "--jobs=40"]
    done = subprocess.run([*start, *images], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_qcow2_image_is_refused_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t.vmdk"
    path.write_bytes(b"KDMV" + bytes(600))
    done = run(path)
    assert done.returncode == 1
    assert "vmdk" in done.stderr


@pytest.mark.parametrize("seed", [*range(700, 730), 22583, 27881, 28263])
def test_damaged_tables_are_counted_as_qemu_img_counts_them(
    seed: int, tmp_path: Path, qemu_versions: tuple[Qemu, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed, tuple(qemu.version for qemu in qemu_versions))
    monkeypatch.chdir(tmp_path)
    image = case.program.make(tmp_path, qemu_versions)
    if image is not None and damage(image, seed):
        assert unexplained(qemu_versions[-1], Path(image.name)) == []


@pytest.mark.parametrize("cluster", range(64))
def test_a_flag_that_is_wrong_is_found_wherever_it_is(
    cluster: int, tmp_path: Path, qemu: Qemu
) -> None:
    """Flags are compared four clusters at once, and told in another pass."""
    path = tmp_path / "t.qcow2"
    image = replace(REFCOUNTS, clusters={n: Data(bytes([n])) for n in range(64)})
    image.write(path)
    table = image.regions()["l2_table[0]"].start
    with path.open("r+b") as file:
        file.seek(table + 8 * cluster)
        first = file.read(1)[0]
        file.seek(table + 8 * cluster)
        file.write(bytes([first ^ 0x80]))
    assert unexplained(qemu, path) == []
    result = instar.check(path)
    assert [one.name for one in result.findings] == ["cluster_copied"]
    assert (result.corruptions, result.exit_status) == (1, 2)


@pytest.mark.parametrize("wrong", [[], [1], [3], [1, 2, 3]])
def test_in_a_data_file_each_cluster_has_the_flag(
    wrong: list[int], tmp_path: Path, qemu: Qemu
) -> None:
    """Without it the first one, at offset 0, would be none."""
    path = tmp_path / "t.qcow2"
    clusters = {n: Data(b"d") for n in range(4)}
    image = Image(cluster_bits=12, size=1 << 14, data_file=b"d.raw", clusters=clusters)
    image.write(path)
    (tmp_path / "d.raw").write_bytes(bytes(1 << 14))
    table = image.regions()["l2_table[0]"].start
    with path.open("r+b") as file:
        for entry in wrong:
            file.seek(table + 8 * entry)
            file.write(b"\0")
    assert [one.name for one in instar.check(path).findings] == ["cluster_copied"] * len(wrong)
    assert unexplained(qemu, path) == []


@pytest.mark.parametrize("stored", [0, 1, 2])
def test_a_flag_of_a_cluster_after_the_end_is_compared_with_its_refcount(
    stored: int, tmp_path: Path, qemu: Qemu
) -> None:
    path = tmp_path / "t.qcow2"
    table = REFCOUNTS.regions()["l2_table[0]"].start
    REFCOUNTS.write(path)
    after = (path.stat().st_size >> 12) + 20
    entry = (after << 12).to_bytes(8, "big")
    replace(REFCOUNTS, patches=[(table + 40, entry)]).write(path)
    with path.open("r+b") as file:
        file.seek(REFCOUNTS.regions()["refcount_block[0]"].start + 2 * after)
        file.write(stored.to_bytes(2, "big"))
    assert unexplained(qemu, path) == []
    names = {one.name for one in instar.check(path).findings}
    assert ("cluster_copied" in names) == (stored == 1)


def test_a_sound_image_is_read_once(tmp_path: Path) -> None:
    """The second walk is for images in which a flag is wrong."""
    path = tmp_path / "t.qcow2"
    image = replace(REFCOUNTS, size=64 << 20, clusters={512 * n: Data(b"\x05") for n in range(32)})
    image.write(path)
    once = instar.check(path).vm_exits
    table = image.regions()["l2_table[0]"].start
    with path.open("r+b") as file:
        file.seek(table)
        file.write(b"\0")  # the flag
    assert instar.check(path).vm_exits > once
    assert instar.check(path).exit_status == 2


@pytest.mark.parametrize(("each", "is_enough"), [(100, False), (210, True)])
def test_a_cluster_that_is_data_and_no_more_costs_a_check_little(
    each: int, is_enough: bool, tmp_path: Path
) -> None:
    """Nearly all clusters are such, and others cost twice as much."""
    path, count = tmp_path / "t.qcow2", 8192
    clusters = {n: Data(b"d") for n in range(count)}
    replace(REFCOUNTS, cluster_bits=9, size=count << 9, clusters=clusters).write(path)
    frames = CheckFrames()
    rest = (1 << 20) + (10 << 16)  # the latter for the L1 table
    with Looker("check") as looker, ImageFile.open(str(path), writable=False) as image:
        looker.look(image, frames.receive, 10.0, work_max=rest + count * each)
    assert (not frames.refusals) == is_enough


def test_memory_is_as_large_as_the_image_asks_for_and_no_larger_than_64_mib(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.qcow2"
    sizes = {}
    for bits in (9, 16):
        for size in (1 << 20, 1 << 30, 1 << 40, 1 << 43):
            replace(REFCOUNTS, cluster_bits=bits, size=1 << 16, clusters={}).write(path)
            os.truncate(path, size)
            with ImageFile.open(str(path), writable=False, is_to_change=False) as image:
                sizes[bits, size] = ram_for(image) >> 20
    assert sizes == {
        (9, 1 << 20): 2,
        (9, 1 << 30): 8,
        (9, 1 << 40): 64,
        (9, 1 << 43): 64,
        (16, 1 << 20): 2,
        (16, 1 << 30): 2,
        (16, 1 << 40): 50,
        (16, 1 << 43): 64,
    }


def test_progress_is_told_as_references_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    replace(REFCOUNTS, size=64 << 20).write(path)
    seen: list[tuple[int, int]] = []
    with Looker("check") as looker:
        check_image(path, looker, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 32) for n in range(1, 33)]
    assert " (100.00/100%)\n" in run("-p", path).stdout
    assert "%" not in run("-p", "--quiet", path).stdout + run("-p", "--output=json", path).stdout
    assert "(2/2 images)" in run("-p", path, path).stdout


@pytest.mark.parametrize(
    "case",
    [case for case in HOSTILE if "header's offset is 2^" in case.name and not case.reason],
    ids=lambda case: case.name,
)
def test_a_luks_header_beyond_the_end_of_the_file_is_a_corruption(
    tmp_path: Path, case: Case
) -> None:
    image = tmp_path / "i"
    case.write(image)
    found = [finding.name for finding in instar.check(image).findings]
    assert found[0] == "region_outside"
    before = image.read_bytes()
    with pytest.raises(instar.ImageRejected):
        instar.check(image, repair="all")
    assert image.read_bytes() == before
