"""On random images instar does as qemu-img does, or differs on purpose. Test side."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.differential.campaign import _Totals, names_of_all, run_and_print, run_seed, smallest
from tests.differential.found import FOUND
from tests.differential.generate import Case, case_of
from tests.differential.requests import Facts, facts_of, size
from tests.differential.run import run_case
from tests.differential.shrink import script
from tests.support import judge, verdicts
from tests.support import qemu as oracle
from tests.support.divergences import DIVERGENCES
from tests.support.forge import Bitmap, Data, Image, Snapshot, ZeroAllocated, parse_bitmaps
from tests.support.program import Program
from tests.support.project import ROOT
from tests.support.qemu import Qemu
from tests.support.verdicts import Request

SAMPLE = (*range(72), *range(96, 104))  # clusters of 2 MiB are among the last
AT_ONCE = 8
SYMPTOMS = ("instar refuses: ", *(f"qemu {verb}" for verb in ("refuses: ", "crashes", "breaks: ")))
COMPARED = ("info: ", "contents: active", "contents: snapshot", "check: ", "qemu writes: ")
PLAIN = Image(size=1 << 17, clusters={0: Data(b"five")})
DATA = Program("11.1.3", (("t.qcow2", PLAIN),))
MARKED = Program("11.1.3", (("t.qcow2", replace(PLAIN, bitmaps=[Bitmap(name=b"b0", dirty=(0,))])),))

pytestmark = pytest.mark.usefixtures("qemu_versions")


@pytest.mark.kvm
@pytest.mark.parametrize("first", SAMPLE[::AT_ONCE])
def test_random_images_bring_no_difference_that_is_not_listed(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        assert (seed, run_seed(seed).findings) == (seed, [])


@pytest.mark.kvm
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_not_found_again(name: str) -> None:
    case = FOUND[name]
    if case.judge not in names_of_all():
        case = replace(case, judge=oracle.newest().version)
    tally = run_case(case)
    assert tally.findings == []
    assert tally.requests == len(case.requests)


def test_a_seed_is_the_same_case_every_time() -> None:
    versions = ("5.2.0", "7.2.22", "11.1.3")
    assert [case_of(seed, versions) for seed in SAMPLE] == [
        case_of(seed, versions) for seed in SAMPLE
    ]


def test_the_sample_meets_every_version_every_cluster_size_and_both_tools() -> None:
    cases = [case_of(seed, names_of_all()) for seed in SAMPLE]
    assert {case.judge for case in cases} == set(names_of_all())
    forged = {image.cluster_bits for case in cases for _, image in case.program.forged}
    steps = " ".join(step for case in cases for step in case.program.steps)
    created = {bits for bits in range(9, 22) if f"cluster_size={1 << bits}," in steps}
    assert forged | created == set(range(9, 22))
    for word in ("snapshot", "bitmap", "zstd", "write -z", "discard", "write -c", "luks", "instar"):
        assert word in steps
    assert "poke set size" in steps


def test_the_sample_asks_for_every_option_alone_and_in_chains() -> None:
    asked = [words for seed in SAMPLE for words in case_of(seed, names_of_all()).requests]
    requests = [Request.parse(words) for words in asked]
    widths = {request.others.get("refcount_bits") for request in requests}
    assert widths >= {1, 2, 4, 8, 16, 32, 64}
    names = [str(request.others.get("backing_file", "")) for request in requests]
    assert min(map(len, filter(None, names))) < 10
    assert max(map(len, names)) > 1000
    counts = {request.arguments[-1].count("=") for request in requests if request.verb == "amend"}
    assert counts >= {1, 2, 3, 4, 5}
    words = " ".join(asked)
    for part in (
        "resize --shrink +",
        "resize --shrink -",
        "data_file=",
        "data_file_raw=off",
        "rebase -b ''",
    ):
        assert part in words


def test_sizes_lie_at_boundaries_and_a_sector_from_them() -> None:
    rng = random.Random(0)  # noqa: S311 - reproducible, not secret
    facts = Facts(16, 10 << 16, extended=False, backing=None, data_file=False, below=0)
    sizes = {size(rng, facts) for _ in range(4000)}
    for unit in (1 << 16, facts.mapped):
        boundary = (facts.size // unit + 1) * unit
        assert {boundary - 512, boundary, boundary + 512} <= sizes


def test_a_disk_that_qemu_fills_with_zeros_gains_little() -> None:
    rng = random.Random(0)  # noqa: S311 - reproducible, not secret
    program = Program("", (("t.qcow2", replace(PLAIN, cluster_bits=21, size=48 << 20)),))
    facts = facts_of(replace(program, steps=(f"write b.raw r {72 << 20}",)))
    assert max(size(rng, facts, old=True) for _ in range(1000)) <= (48 + 64) << 20
    most = max(size(rng, facts) for _ in range(1000))
    assert 512 << 30 <= most <= (48 << 20) + (512 << 30)
    short = facts_of(replace(program, steps=(f"write b.raw r {48 << 20}",)))
    assert max(size(rng, short, old=True) for _ in range(1000)) > 20 << 40


@pytest.mark.kvm
def test_qemu_fills_no_memory_with_zeros(qemu: Qemu, tmp_path: Path) -> None:
    image = Image(cluster_bits=21, size=48 << 20, backing_file=b"b.raw", backing_format=b"raw")
    program = Program(newest(), (("t.qcow2", image),), (f"write b.raw r {72 << 20}",))
    requests = ("compat=0.10,size=549755813888", "size=549755813888")
    tally = run_case(Case(program, requests, qemu.version), tmp_path)
    assert dict(tally.verdicts) == {"growth / gave up for size": 1, "amended / accepted": 1}
    assert tally.findings == []
    assert not [*tmp_path.iterdir()]


@pytest.mark.kvm
def test_qemu_makes_a_data_file_as_long_as_the_disk() -> None:
    program = Program(newest(), (("t.qcow2", replace(PLAIN, data_file=b"d.raw")),))
    tally = run_case(Case(program, ("size=549755813888",), newest()))
    assert dict(tally.verdicts) == {"size_data_file / accepted": 1}
    assert tally.findings == []


def meddler(meddle: Callable[[Path], None], *, on: str) -> Callable[[Path, Request], Any]:
    """An instar that does something else to the file when it has come to a verdict."""

    def amend(path: Path, request: Request) -> instar.AmendResult:
        try:
            result = verdicts.amend(path, request)
        except instar.ImageRejected:
            if on == "refused":
                meddle(path)
            raise
        if on == result.action:
            meddle(path)
        return result

    return amend


def change_data(path: Path) -> None:
    at = path.read_bytes().index(b"fivefive")
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"six!")


def leak_a_cluster(path: Path) -> None:
    """A new cluster at the end is counted, and nothing refers to it."""
    end = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(end + (1 << 16))
        stream.seek(48)
        table = int.from_bytes(stream.read(8), "big")
        stream.seek(table)
        block = int.from_bytes(stream.read(8), "big")
        stream.seek(block + 2 * (end >> 16))
        stream.write(b"\0\1")


def forget_what_was_asked(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(80)
        stream.write(bytes(8))


def forget_the_size(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(24)
        stream.write((1 << 17).to_bytes(8, "big"))


def change_a_bitmap(path: Path) -> None:
    """Of the one bitmap there is, a bit behind the first."""
    table = parse_bitmaps(path.read_bytes())[0].bitmap_table_offset
    with path.open("r+b") as stream:
        stream.seek(table)
        data = int.from_bytes(stream.read(8), "big")
        stream.seek(data)
        stream.write(b"\x03")


def touch(path: Path) -> None:
    os.utime(path)


def cut(path: Path) -> None:
    os.truncate(path, 0)


FAULTS = [
    ("compat=1.1", "noop", touch, "rule: untouched"),
    ("lazy_refcounts=on,compat=0.10", "refused", change_data, "rule: untouched"),
    ("lazy_refcounts=on", "amended", change_data, "rule: contents stay"),
    ("lazy_refcounts=on", "amended", leak_a_cluster, "rule: no worse than before"),
    ("lazy_refcounts=on", "amended", forget_what_was_asked, "rule: it is as asked"),
    ("lazy_refcounts=on", "amended", cut, "rule: the second time"),
    ("size=1048576", "amended", change_data, "rule: contents stay"),
    ("resize +512", "amended", leak_a_cluster, "rule: no worse than before"),
    ("resize --shrink -65536", "amended", forget_the_size, "rule: it is as asked"),
    ("--shrink size=65536", "amended", forget_the_size, "rule: contents stay"),
    ("refcount_bits=64", "amended", change_data, "rule: contents stay"),
    ("size=196608,lazy_refcounts=on", "amended", change_a_bitmap, "rule: bitmaps stay"),
]


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("request_", "verdict", "fault", "rule"),
    FAULTS,
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_fault_of_instar_is_found(
    request_: str,
    verdict: str,
    fault: Callable[[Path], None],
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge, "amend", meddler(fault, on=verdict))
    program = MARKED if fault is change_a_bitmap else DATA
    findings = run_case(Case(program, (request_,), oracle.newest().version)).findings
    assert any(text.startswith(rule) for _, text in findings), findings


@pytest.mark.kvm
def test_a_refusal_without_a_ground_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = instar.Refusal("downgrade_bitmaps", 28, "", 0, "", {})

    def refuse(path: Path, request: Request) -> instar.AmendResult:
        raise instar.ImageRejected((refusal,))

    monkeypatch.setattr(judge, "amend", refuse)
    found = [text for _, text in run_case(Case(DATA, ("compat=0.10",), newest())).findings]
    assert found[0] == "rule: refusals have a ground -- downgrade_bitmaps"


def newest() -> str:
    return oracle.newest().version


@pytest.mark.kvm
def test_a_difference_is_a_finding_as_soon_as_the_registry_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = replace(FOUND["qemu reads the name of a data file that no image has"], judge=newest())
    assert run_case(case).divergences == {"data_file_extension_kept": 2, "no_op_writes_nothing": 1}
    monkeypatch.setattr(judge, "DIVERGENCES", ())
    findings = [text.partition(" -- ")[0] for _, text in run_case(case).findings]
    info = "info: format-specific.data.data-file"
    assert findings == ["qemu writes: noop", info, info]


def test_a_qemu_that_does_not_end_sets_amends_aside_and_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = judge.Trial.judge

    def judge_or_wait(trial: judge.Trial) -> judge.Judgement:
        if trial._request.compat == "0.10":
            raise oracle.QemuTimeout("no end")
        return judged(trial)

    monkeypatch.setattr(judge.Trial, "judge", judge_or_wait)
    tally = run_case(Case(DATA, ("compat=1.1", "compat=0.10", "size=1G"), newest()))
    assert (tally.requests, tally.set_aside, tally.findings) == (1, 2, [])
    totals = _Totals(0)
    totals.add(0, tally)
    totals.add(1, tally)
    totals.print_all(stopped=False)
    assert "set aside, as qemu-img took too long: 4\n" in capsys.readouterr().out


def test_the_registry_lists_only_symptoms_that_the_judge_knows() -> None:
    for entry in DIVERGENCES:
        for symptom in entry.symptoms:
            assert symptom.startswith((*SYMPTOMS, *COMPARED)), entry.name


@pytest.mark.parametrize(
    ("versions", "old", "new"),
    [("all", True, True), ("5.2", True, False), ("7.2 and later", False, True)],
)
def test_an_entry_counts_for_its_versions(versions: str, old: bool, new: bool) -> None:
    entry = replace(DIVERGENCES[0], versions=versions)
    assert [entry.is_in(version) for version in ((5, 2, 0), (7, 2, 18), (11, 1, 3))] == [
        old,
        new,
        new,
    ]


@pytest.mark.kvm
def test_a_finding_is_made_small_and_its_script_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    image = Image(
        size=1 << 18,
        clusters={0: Data(b"x"), 1: ZeroAllocated(b"x"), 2: Data(b"y")},
        lazy_refcounts=True,
        snapshots=[Snapshot(name=b"s", clusters={0: Data(b"x")})],
    )
    steps = ("poke ext 44415441 ghost.raw", "write other.raw a 512", "io -c 'read 0 512' t.qcow2")
    case = Case(Program(newest(), (("t.qcow2", image),), steps), ("compat=1.1",), newest())
    monkeypatch.setattr(judge, "DIVERGENCES", ())
    small = smallest(case, *run_case(case).findings[-1])
    assert small.program.steps == steps[:1]
    assert small.program.forged == (("t.qcow2", Image(size=1 << 18)),)
    exec(script(small), {})  # noqa: S102 - what somebody who reads a finding does
    assert "info: format-specific.data.data-file" in capfd.readouterr().out


@pytest.mark.kvm
def test_a_campaign_says_what_it_compared(capsys: pytest.CaptureFixture[str], qemu: Qemu) -> None:
    assert run_and_print(0, 20, 1, (qemu.version,)) == 0
    printed = capsys.readouterr().out
    assert " amends, seeds 0 to " in printed
    assert ", 0 findings\n" in printed
    assert run_and_print(0, 20, 1, ("1.2.3",)) == 2
    assert (ROOT / "scripts" / "differential_fuzz").is_file()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> number - 1 & 1)


def folder_of(pid: int) -> Path:
    """The folder of a campaign, as the process has it that is to remove it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    (line,) = [line.split(b"\0") for line in lines if line.startswith(b"sh\0")]
    return Path(os.fsdecode(line[-2]))


@contextmanager
def campaign() -> Iterator[subprocess.Popen[str]]:
    """A campaign without an end that has begun, in a session of its own."""
    words = ["--seed", "0", "--runs", "1000000", "--jobs", "1"]
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "differential_fuzz", *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        while not catches(started.pid, signal.SIGTERM):  # the last that it takes care of
            time.sleep(0.05)
        yield started


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_campaign_that_is_stopped_says_how_far_it_came(number: signal.Signals) -> None:
    with campaign() as stopped:
        folder = folder_of(stopped.pid)
        assert folder.is_dir()
        os.killpg(stopped.pid, number)
        printed, _ = stopped.communicate(timeout=300)
    assert stopped.returncode == 2
    assert printed.startswith("stopped before its end\n")
    assert " amends, seeds 0 to " in printed
    assert ", 0 findings\n" in printed
    assert not folder.exists()


@pytest.mark.kvm
def test_a_campaign_that_is_killed_leaves_no_files_and_no_processes() -> None:
    with campaign() as killed:
        folder = folder_of(killed.pid)
        while not [*folder.iterdir()]:
            time.sleep(0.05)
        killed.kill()
        killed.communicate(timeout=60)  # until all that have its stdout are gone
    assert not folder.exists()
