"""Test side: `make bench`, info and check beside qemu-img and oslo.utils, and what is noticed.

oslo.utils is the dependency group `bench`: pip install --group bench.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_common import ROW, ROW_OF_CALLS, Contender, measure, plain_image, print_table

import instar
from instar.vmm.inspect import inspect_image
from instar.vmm.inspect.looker import Looker
from tests.support.dense import Dense
from tests.support.forge import Data, Extension, Image

DATA_FILE = 0x44415441
L1, SNAPSHOTS = 40, 60  # offsets in the header: the place of the L1 table, how many snapshots
HOSTILE = {
    "a sound image": Image(clusters={0: Data(b"\x05")}),
    "a backing file": Image(backing_file=b"/etc/passwd", backing_format=b"raw"),
    "a backing file, by json: and nbd": Image(
        backing_file=b'json:{"driver":"nbd","host":"10.0.0.1","export":"x"}'
    ),
    "a data file": Image(
        extensions=(Extension(DATA_FILE, b"/etc/passwd"),), incompatible_features=4
    ),
    "a data file's name without its bit": Image(extensions=(Extension(DATA_FILE, b"/etc/passwd"),)),
    "an unknown feature": Image(incompatible_features=1 << 40),
    "marked dirty": Image(dirty=True),
    "marked corrupt": Image(corrupt=True),
    "an L1 table outside the file": Image(patches=[(L1, (1 << 40).to_bytes(8, "big"))]),
    "65,536 snapshots, and no table": Image(patches=[(SNAPSHOTS, (65536).to_bytes(4, "big"))]),
    "a disk of 1 PiB": Image(size=1 << 50, cluster_bits=21),
    "an ISO file system too": Image(patches=[(32769, b"CD001")]),
    "a partition table too": Image(patches=[(510, b"\x55\xaa"), (512, b"EFI PART")]),
    "a VMDK's text": Image(patches=[(0, b"# x\nversion=1\n".ljust(512, b"\0"))]),
}


def compare_looks(folder: Path, qemu_img: Path, rounds: int) -> dict[str, float]:
    """Time infos, checks and a repair; show what is noticed. Returns medians in seconds."""
    other = _load_inspector()
    medians = _compare_infos(folder, qemu_img, rounds, other)
    _compare_checks(folder, qemu_img, max(rounds // 20, 3))
    _show_notices(folder, qemu_img, other)
    return medians


def _load_inspector() -> Any:
    """oslo.utils's module, or None where it is not installed."""
    try:
        module = importlib.import_module("oslo_utils.imageutils.format_inspector")
    except ImportError:
        return None
    module.LOG.setLevel("CRITICAL")
    return module


def _compare_infos(folder: Path, qemu_img: Path, rounds: int, other: Any) -> dict[str, float]:
    path = plain_image(folder / "looked-at")
    with Looker("info") as looker:
        looker.keep()

        def in_a_row(_: int) -> None:
            for _ in range(ROW):
                inspect_image(path, looker)

        contenders: dict[str, Contender] = {
            "instar.info(...), a kept machine": lambda _: inspect_image(path, looker),
            ROW_OF_CALLS: in_a_row,
            "instar.info(...), a fresh machine": lambda _: instar.info(path),
            "qemu-img info": lambda _: subprocess.run(
                [qemu_img, "info", "--output=json", path], check=True, stdout=subprocess.DEVNULL
            ),
        }
        if other:
            contenders["format_inspector, in this process"] = lambda _: other.detect_file_format(
                str(path)
            ).safety_check()
        medians = measure(contenders, rounds)
    medians[ROW_OF_CALLS] /= ROW
    qemu = medians["qemu-img info"]
    rows = {n: f"{m * 1e3:7.2f} ms {m / qemu:6.3f} x qemu-img" for n, m in medians.items()}
    print_table(f"One info, medians of {rounds} rounds", rows)
    return medians


def _compare_checks(folder: Path, qemu_img: Path, rounds: int) -> None:
    path = folder / "checked"
    rows = {}
    for name, dense in {
        "check of 1 TiB, 128 MiB of L2 tables": Dense(1 << 40, 16, 0),
        "check of 8 GiB in clusters of 4 KiB": Dense(1 << 33, 12, 0),
        "check of 64 GiB, 100 snapshots": Dense(1 << 36, 16, 0, 100),
    }.items():
        dense.write(path)
        rows[name] = _race(
            lambda: instar.check(path),
            lambda: subprocess.run([qemu_img, "check", "-q", path], check=True),
            rounds,
        )
    Dense(1 << 34, 16, 200).write(path)
    rows["check -r all of 16 GiB, nothing to mend"] = _race(
        lambda: instar.check(path, repair="all"),
        lambda: subprocess.run([qemu_img, "check", "-q", "-r", "all", path], check=True),
        rounds,
    )
    _kill_a_writer(folder / "killed", qemu_img)
    rows["check -r all of 16 GiB, refcounts of 512 clusters"] = _race(
        lambda: instar.check(path, repair="all"),
        lambda: subprocess.run(
            [qemu_img, "check", "-q", "-r", "all", path], check=True, stderr=subprocess.DEVNULL
        ),
        rounds,
        lambda: shutil.copyfile(folder / "killed", path),
    )
    print_table(f"Checks, best of {rounds}", rows)
    (folder / "killed").unlink()
    path.unlink()


def _kill_a_writer(path: Path, qemu_img: Path) -> None:
    """Leave an image as a crash leaves it: dirty, and few of its lazy refcounts written."""
    how = ["-q", "-f", "qcow2", "-o", "lazy_refcounts=on", str(path), "16G"]
    subprocess.run([str(qemu_img), "create", *how], check=True)
    writes = [f"write -P 1 {number * 32}M 64k" for number in range(512)]
    commands = [part for write in (*writes, "abort") for part in ("-c", write)]
    command = [str(qemu_img.with_name("qemu-io")), *commands, str(path)]
    subprocess.run(command, check=False, capture_output=True)
    if not path.read_bytes()[79] & 1:
        raise SystemExit("the writer that was to be killed has closed its image")


def _race(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
) -> str:
    best = [float("inf")] * 2
    for _ in range(rounds):
        for number, call in enumerate((ours, theirs)):
            prepare()
            start = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - start)
    mine, other = best
    return f"instar {mine * 1e3:8.1f} ms   qemu-img {other * 1e3:8.1f} ms   {other / mine:5.1f} x"


def _show_notices(folder: Path, qemu_img: Path, other: Any) -> None:
    """Which reasons not to open an image each of them gives."""
    path, rows = folder / "hostile", {}
    for name, image in HOSTILE.items():
        image.write(path)
        opened = subprocess.run([qemu_img, "info", path], check=False, capture_output=True)
        told = [_ours(path), _theirs(other, path) if other else "not installed"]
        told.append("fails" if opened.returncode else "opens it")
        rows[name] = "   ".join(f"{text:42}" for text in told).rstrip()
    print_table("What is noticed: instar.Policy(); oslo.utils; qemu-img info", rows)


def _ours(path: Path) -> str:
    try:
        found = instar.Policy().violations(instar.info(path))
    except instar.ImageRejected as error:
        return ", ".join(refusal.name for refusal in error.refusals)
    return ", ".join(dict.fromkeys(one.name for one in found)) or "-"


def _theirs(other: Any, path: Path) -> str:
    try:
        inspector = other.detect_file_format(str(path))
        inspector.safety_check()
    except other.SafetyCheckFailed as error:
        return ", ".join(error.failures)
    except other.ImageFormatError:
        return "more than one format"
    return "-" if str(inspector) == "qcow2" else f"format {inspector}"
